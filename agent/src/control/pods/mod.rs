//! Lives: weir-agent, control. Which cgroups the pods of this node run in.
//! Called by: `apply`, for every pod of a request; `tick`, since directories come and go; `view` and `explain`.
//! May touch: directory names below the cgroup root; the state of `Control`, through `put_in_force`.
//! Never: changes what a user's document says: a place is the node's knowledge, and neither given back nor saved.
//!
//! ```text
//! Pod document ── nodeName is this node, has a UID ──► directory below cgroupRoot named after the UID?
//!                                                       yes: judged here, as the workload of that cgroup
//!                                                       no:  known by its addresses only, looked for every second
//! ```
//!
//! A pod in its node's network has no packets of its own to police: it counts as its node, and is never looked for.

mod directories;

pub(super) use directories::find;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use weir_policy::{Edit, Kind, Resource, ResourceId, Resources, Spec, Workload};

use super::{Control, change::Changed};
use crate::datapath::Datapath;

/// Pods named in one warning.
const NAMED: usize = 5;

/// The pods of this node, and the directories that were found for them.
pub struct Pods {
    node: String,
    root: PathBuf,
    /// UID by pod, of the pods in force that run here.
    here: BTreeMap<ResourceId, String>,
    /// Directory below the root, by UID.
    found: BTreeMap<String, String>,
    /// Directories that the last search for one that is missing has seen.
    searched: Vec<PathBuf>,
}

impl Pods {
    /// No pods yet.
    pub fn new(node: &str, root: PathBuf) -> Self {
        Self { node: node.to_owned(), root, here: BTreeMap::new(), found: BTreeMap::new(), searched: Vec::new() }
    }

    /// Whether the pod runs on this node with addresses of its own.
    fn is_here(&self, workload: &Workload) -> bool {
        !workload.host_network && workload.node.as_deref() == Some(self.node.as_str())
    }

    /// The UID by which to look for a resource; `None` for all but this node's pods.
    fn uid<'r>(&self, resource: &'r Resource) -> Option<&'r str> {
        let workload = pod(resource)?;
        self.is_here(workload).then_some(workload.uid.as_deref()).flatten()
    }

    /// The resources of a request, this node's pods in the cgroups they run in.
    pub fn place_all(&mut self, resources: Vec<Resource>, taken: &Resources) -> Vec<Resource> {
        // Where those in force are is the tick's to follow: a document that says the same must stay the same.
        let known: BTreeSet<&str> = self.here.values().map(String::as_str).collect();
        let uids = resources.iter().filter_map(|resource| self.uid(resource));
        let wanted: BTreeSet<String> = uids.filter(|uid| !known.contains(uid)).map(str::to_owned).collect();
        self.look(&wanted.iter().map(String::as_str).collect());
        let given = taken.of_kind(Kind::Workload).chain(&resources);
        let taken: BTreeSet<String> = given.filter_map(described).map(str::to_owned).collect();
        resources.into_iter().map(|resource| self.place(resource, &taken)).collect()
    }

    /// A resource in the cgroup it runs in, if that is this one's to find and no document of a workload names it.
    fn place(&self, resource: Resource, taken: &BTreeSet<String>) -> Resource {
        let Some(uid) = self.uid(&resource) else { return resource };
        let directory = self.found.get(uid).filter(|directory| !taken.contains(*directory)).cloned();
        resource.placed(directory.as_deref())
    }

    /// Looks for the directories of these UIDs: whether those known are still there, and where the others are.
    fn look(&mut self, wanted: &BTreeSet<&str>) {
        let root = &self.root;
        self.found.retain(|uid, directory| !wanted.contains(uid.as_str()) || root.join(directory).is_dir());
        let missing = wanted.iter().copied().filter(|uid| !self.found.contains_key(*uid)).collect();
        let (found, searched) = directories::find(root, &missing);
        self.found.extend(found);
        // Nobody waits for anything any more where all were found.
        self.searched = searched;
    }

    /// Where directories of pods that are missing may appear.
    pub fn searched(&mut self) -> Vec<PathBuf> {
        std::mem::take(&mut self.searched)
    }

    /// What has to change because directories appeared or are gone.
    fn moved(&mut self, resources: &Resources) -> Vec<Edit> {
        let here = self.here.clone();
        let wanted: BTreeSet<&str> = here.values().map(String::as_str).collect();
        self.look(&wanted);
        self.found.retain(|uid, _| wanted.contains(uid.as_str()));
        let taken = || resources.of_kind(Kind::Workload).filter_map(described).map(str::to_owned).collect();
        let changed = |resource: &&Resource| {
            let known = self.uid(resource).and_then(|uid| self.found.get(uid));
            pod(resource).is_some_and(|workload| workload.cgroup.as_ref() != known)
        };
        let candidates: Vec<_> = here.keys().filter_map(|id| resources.get(id)).filter(changed).collect();
        // Only now does it matter what the workloads' documents name.
        let taken = if candidates.is_empty() { BTreeSet::new() } else { taken() };
        let placed = candidates.into_iter().map(|old| (old, self.place(old.clone(), &taken)));
        placed.filter(|(old, new)| *old != new).map(|(_, new)| Edit::Put(new)).collect()
    }

    /// Takes over which pods are in force.
    pub fn note(&mut self, changes: &[Changed], resources: &Resources) {
        for change in changes {
            match resources.get(&change.id).and_then(|resource| self.uid(resource)) {
                Some(uid) => drop(self.here.insert(change.id.clone(), uid.to_owned())),
                None => drop(self.here.remove(&change.id)),
            }
        }
    }

    /// Why a pod of this node is not policed here (yet); `None` for any other resource.
    pub fn unplaced(&self, resource: &Resource) -> Option<String> {
        let workload = pod(resource).filter(|workload| self.is_here(workload) && workload.cgroup.is_none())?;
        Some(match &workload.uid {
            Some(uid) => format!("no directory below {} is named after its UID {uid} yet", self.root.display()),
            None => "its document has no metadata.uid to find its cgroup by".to_owned(),
        })
    }

    /// What is not enforced although its documents are here.
    pub fn warnings(&self, resources: &Resources) -> Vec<String> {
        let pods = || resources.of_kind(Kind::Pod).filter(|resource| self.unplaced(resource).is_some());
        let (waiting, nameless): (Vec<_>, Vec<_>) = pods().partition(|resource| self.uid(resource).is_some());
        let waiting = listed(&waiting).map(|names| {
            let root = self.root.display();
            format!(
                "pods of this node without a cgroup below {root} yet: {names}; policies that select them are enforced once a \
                 directory named after their UID is there"
            )
        });
        let nameless = listed(&nameless).map(|names| {
            format!(
                "pods of this node without metadata.uid: {names}; policies that select them are not enforced, because their \
                 cgroups are found by it; apply them as the API server gives them (kubectl get pods -o yaml)"
            )
        });
        [waiting, nameless, self.stranger(resources)].into_iter().flatten().collect()
    }

    /// Pods that all run elsewhere are in order on a node of the cluster; on a node the cluster does not know, the name is wrong.
    fn stranger(&self, resources: &Resources) -> Option<String> {
        let mut pods = resources.of_kind(Kind::Pod).filter_map(pod).peekable();
        pods.peek()?;
        let known = resources.get(&ResourceId::new(Kind::Node, "", &self.node)).is_some();
        let elsewhere = pods.all(|workload| workload.node.as_deref() != Some(self.node.as_str()));
        (elsewhere && !known).then(|| {
            format!(
                "none of the Pods runs on {node}, which this node is called, and no Node has that name: policies that select \
                 them are not enforced here; if they should be, set `node` in the agent's configuration to the node's name in \
                 the cluster",
                node = self.node
            )
        })
    }
}

impl<D: Datapath> Control<D> {
    /// Takes over cgroups of pods that appeared or are gone, in a generation of their own.
    pub(super) fn follow_pods(&mut self) {
        let edits = self.pods.moved(&self.force.resources);
        if edits.is_empty() {
            return;
        }
        tracing::info!(pods = edits.len(), "cgroups of pods have appeared or are gone");
        match self.force.compiler.apply_at(self.force.context.now, edits) {
            // A failure is logged where it happens; what differs is found again at the next tick.
            Ok(_) if self.put_in_force().is_ok() => drop(self.save()),
            Ok(_) => {}
            Err(faults) => {
                let fault = faults.first().map(ToString::to_string).unwrap_or_default();
                tracing::error!(faults = faults.len(), fault, "the policy does not fit the cgroups of pods");
            }
        }
    }
}

/// What a pod's document says.
fn pod(resource: &Resource) -> Option<&Workload> {
    let Spec::Workload(workload) = resource.spec() else { return None };
    (resource.id().kind == Kind::Pod).then_some(workload)
}

/// The cgroup a document of a workload names: a person's word goes before what is found.
fn described(resource: &Resource) -> Option<&str> {
    let Spec::Workload(workload) = resource.spec() else { return None };
    (resource.id().kind == Kind::Workload).then_some(workload.cgroup.as_deref()).flatten()
}

/// Their names, the first few; `None` when there are none.
fn listed(resources: &[&Resource]) -> Option<String> {
    let name = |resource: &&Resource| format!("{}/{}", resource.id().namespace, resource.id().name);
    let names: Vec<_> = resources.iter().take(NAMED).map(name).collect();
    let more = resources.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!names.is_empty()).then(|| names.join(", ") + &more)
}

#[cfg(test)]
mod tests;
