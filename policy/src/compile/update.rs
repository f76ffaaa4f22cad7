//! Lives: host. One change, from its documents on: `bind`, `describe`, `identify` and `fill` are its stages, in this order.
//! Called by: `compiler`.
//! May touch: the compiler's state, stage by stage, in the order of the functions below.
//! Never: looks at a workload, address or policy that the change does not concern, if there is a way to know.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use weir_common::addr::Addr;

use super::{
    compiler::{Changed, Compiler, Touched},
    faults::Problems,
    tables::UNSELECTED,
    terms::count,
    workloads::Moved,
};
use crate::{
    evaluate::loopback,
    fault::Fault,
    id::ResourceId,
    model::{Resource, ServiceRef, Spec, Timestamp},
};

/// What a change concerns, as the stages find out.
#[derive(Default)]
pub(super) struct Work {
    pub moved: Moved,
    /// Namespaces whose labels have changed.
    pub namespaces: BTreeSet<String>,
    /// Machines whose labels or presence have.
    pub nodes: BTreeSet<String>,
    /// Policies that are new, gone, or say something else.
    pub policies: BTreeSet<u32>,
    /// Names of ports that stand for something else.
    pub names: BTreeSet<String>,
    /// Services that something else is behind.
    pub services: BTreeSet<ServiceRef>,
    /// Addresses of services that something else may be behind.
    pub fronts: BTreeSet<Addr>,
    /// Of those, and others whose ends have changed: what their ports lead to is settled.
    pub settled: BTreeSet<Addr>,
    /// Identities that stood for what is behind ports of services: one of those ports needs them no more.
    pub released: Vec<u32>,
    /// Addresses that have another identity.
    pub identified: BTreeSet<Addr>,
    /// Workloads that have another identity for themselves.
    pub renamed: BTreeSet<ResourceId>,
    /// Whether the ranges of pods have changed.
    pub ranges: bool,
    /// Whether the address space is split anew.
    pub split: bool,
    /// Whether rate limits have.
    pub limits: bool,
    /// Whether address sets have.
    pub address_sets: bool,
    /// Sets whose tables must be made anew.
    pub sets: BTreeSet<u32>,
    /// Workloads that have another subject or set.
    pub placed: BTreeSet<u32>,
    /// Subjects that selectors see differently.
    pub subjects: BTreeSet<u32>,
    pub touched: Touched,
}

impl Compiler {
    /// Takes a change over. `since`: the time before, when time has passed. An error leaves the state in pieces: the caller
    /// starts over.
    pub(super) fn update(
        &mut self,
        changed: &BTreeMap<ResourceId, Changed>,
        since: Option<Timestamp>,
    ) -> Result<Touched, Vec<Fault>> {
        let mut problems = Problems::default();
        let mut work = Work::default();
        if self.tables.sets.entries() == 0 {
            self.begin(&mut work);
        }
        self.documents(changed, &mut work);
        if let Some(since) = since.filter(|since| *since != self.context.now) {
            // A clock may be set back, too.
            let (from, to) = (since.min(self.context.now), since.max(self.context.now));
            let ends = self.policies.iter().filter(|(_, policy)| policy.expiries().any(|at| from < at && at <= to));
            work.policies.extend(ends.map(|(number, _)| number));
        }
        self.workloads.check(&work.moved, &mut problems);
        self.bind(&mut work);
        self.ask(&mut work).unwrap_or_else(|error| error.note(&mut problems));
        self.limit(&mut work, &mut problems);
        self.describe(&mut work);
        let split = self.split(&mut work);
        self.identify(&mut work);
        work.split = split;
        if split {
            self.fill_space();
        }
        problems.none()?;
        self.fill(work)
    }

    /// The very first change: this host is an address in use, and the set that nobody selects has its table.
    fn begin(&mut self, work: &mut Work) {
        for address in &self.context.host_addresses {
            if loopback().iter().all(|prefix| !prefix.contains(address)) {
                self.workloads.addresses.entry(*address).or_default().host = true;
                work.moved.addresses.insert(*address);
            }
        }
        work.sets.insert(UNSELECTED);
        work.ranges = true;
    }

    /// Takes over what the documents say themselves.
    fn documents(&mut self, changed: &BTreeMap<ResourceId, Changed>, work: &mut Work) {
        for (id, Changed { old, new }) in changed {
            let (old, new) = (old.as_ref(), new.as_ref());
            match new.or(old).map(|resource| resource.spec()) {
                Some(Spec::Workload(_)) => {
                    self.behind(id, work);
                    self.workload(old, new, work);
                }
                Some(Spec::Node(_)) => self.node(id, old, new, work),
                Some(Spec::Policy(_)) => {
                    let removed = new.is_none().then(|| self.policies.remove(id)).flatten();
                    work.policies.extend(removed.or_else(|| new.map(|new| self.policies.put(new))));
                }
                Some(Spec::RateLimit(_)) => {
                    work.limits = true;
                    replace(&mut self.rate_limits, id, new);
                }
                Some(Spec::AddressSet(_)) => {
                    work.address_sets = true;
                    replace(&mut self.address_sets, id, new);
                    if new.is_none() {
                        self.rules.remove(id);
                    }
                }
                Some(Spec::Namespace) => drop(work.namespaces.insert(id.name.clone())),
                Some(Spec::Service(_)) => {
                    work.services.insert(ServiceRef { namespace: id.namespace.clone(), name: id.name.clone() });
                }
                Some(Spec::EndpointSlice(_)) => {
                    let named = [old, new].into_iter().flatten().filter_map(|slice| {
                        let Spec::EndpointSlice(slice) = slice.spec() else { return None };
                        slice.service.clone()
                    });
                    work.services.extend(named);
                }
                None => {}
            }
        }
    }

    fn workload(&mut self, old: Option<&Arc<Resource>>, new: Option<&Arc<Resource>>, work: &mut Work) {
        for (resource, more) in [(new, true), (old, false)] {
            let Some(workload) = resource.and_then(|resource| resource.own_workload()) else { continue };
            for port in &workload.ports {
                if self.named.count(port, more) {
                    work.names.insert(port.name.clone());
                }
            }
            if let Some(node) = workload.node.as_ref().filter(|_| workload.cgroup.is_some())
                && count(&mut self.here, node.clone(), more)
            {
                work.nodes.insert(node.clone());
            }
        }
        self.workloads.replace(old, new, &mut work.moved);
    }

    fn node(&mut self, id: &ResourceId, old: Option<&Arc<Resource>>, new: Option<&Arc<Resource>>, work: &mut Work) {
        for (resource, more) in [(new, true), (old, false)] {
            let Some(Spec::Node(node)) = resource.map(|resource| resource.spec()) else { continue };
            for range in &node.pod_ranges {
                work.ranges |= count(&mut self.pod_ranges, *range, more);
            }
        }
        work.nodes.insert(id.name.clone());
        self.workloads.replace(old, new, &mut work.moved);
    }
}

fn replace(all: &mut BTreeMap<ResourceId, Arc<Resource>>, id: &ResourceId, new: Option<&Arc<Resource>>) {
    match new {
        Some(new) => drop(all.insert(id.clone(), Arc::clone(new))),
        None => drop(all.remove(id)),
    }
}
