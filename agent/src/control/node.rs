//! Lives: weir-agent, control.
//! Called by: `actor`, for the status that people ask for.
//! May touch: the managed tree, reading.
//! Never: judges; it tells what no policy selects.
//!
//! A pod in its node's network has no address of its own and counts as its node, and so does every process outside of a workload's
//! cgroup. Below the cgroup root the default for unknown workloads holds for their sockets; elsewhere nothing judges those.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use weir_policy::{ResourceId, Spec};

use super::{Control, pods};
use crate::{
    datapath::{AttachState, Datapath},
    kernel::unowned::{Unowned, unowned},
};

/// Something that has only what holds for the whole node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeOnly {
    /// The pod in the node's network; `None` for processes that no document speaks of.
    pub pod: Option<ResourceId>,
    /// Its cgroup below the root, "." for the root itself; `None` where there is none below it.
    pub cgroup: Option<String>,
    /// Processes in it now.
    pub processes: usize,
}

impl<D: Datapath> Control<D> {
    /// Pods of this node in its network, then the cgroups with processes of no workload.
    pub(super) fn node_only(&self) -> Vec<NodeOnly> {
        let guests = self.guests();
        let uids = guests.values().flatten().map(String::as_str).collect();
        let (places, _) = pods::find(&self.settings.cgroup_root, &uids);
        let root = &self.settings.cgroup_root;
        let place = |uid: &Option<String>| uid.as_ref().and_then(|uid| places.get(uid)).cloned();
        let mut owned = self.owned();
        owned.extend(places.values().map(|place| root.join(place)));
        let of_guest = |(pod, uid): (&ResourceId, &Option<String>)| {
            let cgroup = place(uid);
            let inside = cgroup.as_ref().map(|cgroup| unowned(&root.join(cgroup), &BTreeSet::new()));
            let processes = inside.iter().flatten().map(|unowned| unowned.processes).sum();
            NodeOnly { pod: Some(pod.clone()), cgroup, processes }
        };
        let of_none = |Unowned { path, processes }| {
            let cgroup = Some(if path.is_empty() { ".".to_owned() } else { path });
            NodeOnly { pod: None, cgroup, processes }
        };
        guests.iter().map(of_guest).chain(unowned(root, &owned).into_iter().map(of_none)).collect()
    }

    /// Pods of this node in its network, with the UID their cgroups are named after.
    fn guests(&self) -> BTreeMap<ResourceId, Option<String>> {
        let guest = |resource: &weir_policy::Resource| {
            let Spec::Workload(workload) = resource.spec() else { return None };
            let here = workload.host_network && workload.node.as_deref() == Some(self.settings.node.as_str());
            here.then(|| (resource.id().clone(), workload.uid.clone()))
        };
        self.force.resources.iter().filter_map(guest).collect()
    }

    /// Cgroups that somebody's programs are attached to, and the agent's own.
    fn owned(&self) -> BTreeSet<PathBuf> {
        let attached = self.observed.workloads.iter().filter(|workload| workload.state == AttachState::Attached);
        let attached: BTreeSet<&ResourceId> = attached.map(|workload| &workload.id).collect();
        let workloads = self.force.compiled.workloads.values().filter(|workload| attached.contains(&workload.id));
        let directories = workloads.filter_map(|workload| workload.cgroup.as_ref());
        let directories = directories.map(|cgroup| self.settings.cgroup_root.join(cgroup));
        directories.chain(self.observed.own.clone()).collect()
    }
}
