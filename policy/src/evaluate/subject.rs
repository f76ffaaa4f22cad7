//! Lives: host. Whom a policy is about.
//! Called by: `explain` and `compile`, to find the policies of a workload; `warn`.
//! May touch: nothing.
//! Never: selects a pod in its host's network: those are no members of anything (`resolve`).

use weir_common::verdict::Direction;

use super::peer::Member;
use crate::{
    id::ResourceId,
    model::{Mode, Policy, Resources, Socket, Timestamp},
};

/// A policy that selects the workload in question.
#[derive(Clone, Copy, Debug)]
pub struct Bound<'a> {
    /// Its name; policies that agree in all else are asked in order of their names.
    pub id: &'a ResourceId,
    /// What it says.
    pub policy: &'a Policy,
}

/// The policies that select a workload, in order of id. One that has expired is as if it were not written.
pub fn bind<'a>(resources: &'a Resources, workload: &Member<'_>, now: Timestamp) -> Vec<Bound<'a>> {
    let in_force = resources.policies_about(workload.namespace).filter(|(_, policy)| policy.in_force(now));
    let selecting = in_force.filter(|(resource, policy)| selects(resource.id(), policy, workload));
    let mut bound: Vec<_> = selecting.map(|(resource, policy)| Bound { id: resource.id(), policy }).collect();
    bound.sort_by_key(|bound| bound.id);
    bound
}

/// Whether a policy is about a workload.
///
/// NetworkPolicy, `podSelector`: it is about the pods of its own namespace that the selector selects; an empty selector, or
/// none, selects all of them.
///
/// ClusterNetworkPolicy, `subject`: `namespaces` selects all pods of the namespaces with these labels, `pods` those of them
/// that have labels of their own; an empty selector selects every namespace or pod.
///
/// Native `Policy`: as NetworkPolicy; in the admin and baseline tiers `namespaceSelector` widens it as `subject` does.
pub fn selects(id: &ResourceId, policy: &Policy, workload: &Member<'_>) -> bool {
    let namespace = match &policy.namespaces {
        Some(selector) => selector.matches_namespace(workload.namespace, workload.namespace_labels),
        None => id.namespace == workload.namespace,
    };
    namespace && policy.workload_selector.matches(workload.labels)
}

/// The socket kinds a workload may open beside TCP and UDP for the sake of a direction; `None`: all, as nothing enforced isolates
/// it there.
pub fn isolating_sockets(bound: &[Bound<'_>], direction: Direction) -> Option<Vec<Socket>> {
    let enforced = || bound.iter().filter(|bound| bound.policy.mode == Mode::Enforce);
    let isolated = enforced().any(|bound| bound.policy.isolates(direction));
    isolated.then(|| enforced().flat_map(|bound| bound.policy.sockets.iter().copied()).collect())
}
