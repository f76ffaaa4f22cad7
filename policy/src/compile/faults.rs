//! Lives: host.
//! Called by: every stage of the compiler.
//! May touch: the list of problems.
//! Never: names a problem without the document it can be mended in, when there is one.

use std::collections::BTreeMap;

use crate::{
    fault::{Fault, Place, shown},
    model::{Resource, Resources, ip},
};

/// Why the resources cannot be in force together.
#[derive(Default)]
pub struct Problems {
    list: Vec<Fault>,
}

impl Problems {
    /// Notes a problem of one document.
    pub fn of(&mut self, resource: &Resource, field: &str, value: &str, problem: String, remedy: &str) {
        let origin = resource.origin();
        self.add(&origin.source, origin.place, field, value, format!("{}: {problem}", resource.id()), remedy);
    }

    /// Notes a problem of all documents together.
    pub fn of_all(&mut self, problem: String, remedy: &str) {
        self.add("", Place::default(), "", "", problem, remedy);
    }

    fn add(&mut self, source: &str, place: Place, field: &str, value: &str, problem: String, remedy: &str) {
        self.list.push(Fault {
            source: source.to_owned(),
            line: place.line,
            column: place.column,
            field: field.to_owned(),
            value: shown(value),
            problem,
            remedy: remedy.to_owned(),
        });
    }

    /// Fails when there is a problem.
    pub fn none(self) -> Result<(), Vec<Fault>> {
        if self.list.is_empty() { Ok(()) } else { Err(self.list) }
    }
}

/// No two workloads may run in one cgroup, or have one address unless they are alike.
pub fn check_workloads(resources: &Resources, problems: &mut Problems) {
    let mut cgroups: BTreeMap<&str, &Resource> = BTreeMap::new();
    let mut owners: BTreeMap<_, &Resource> = BTreeMap::new();
    for (resource, workload) in resources.workloads() {
        if let Some(cgroup) = &workload.cgroup {
            match cgroups.get(cgroup.as_str()) {
                None => drop(cgroups.insert(cgroup, resource)),
                Some(other) => {
                    let problem = format!("its cgroup is already {}'s", other.id());
                    problems.of(resource, "spec.cgroup", cgroup, problem, "give each workload a cgroup of its own");
                }
            }
        }
        for (index, address) in workload.addresses.iter().enumerate() {
            let owner = owners.entry(*address).or_insert(resource);
            if owner.id().namespace != resource.id().namespace || owner.labels() != resource.labels() {
                let problem = format!("the address is already {}'s, which has other labels", owner.id());
                let (field, value) = (format!("spec.addresses[{index}]"), ip(*address).to_string());
                problems.of(
                    resource,
                    &field,
                    &value,
                    problem,
                    "remove the address from one of the two, or give both the same labels",
                );
            }
        }
    }
}
