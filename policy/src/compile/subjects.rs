//! Lives: host.
//! Called by: `compile`, first.
//! May touch: nothing.
//! Never: tells workloads apart by labels that no selector looks at; per-replica labels make no identities.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    evaluate::{Bound, Member, bind},
    model::{Labels, Peer, Resource, Resources, Selector, Spec},
};

/// A namespace and the labels that matter: workloads that no selector can tell apart share it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    pub namespace: String,
    pub labels: Labels,
}

impl Subject {
    pub fn member(&self) -> Member<'_> {
        Member { namespace: &self.namespace, labels: &self.labels }
    }
}

/// Who is judged here, and by which policies.
pub struct Subjects<'a> {
    keys: BTreeSet<&'a str>,
    /// Policies of each set; the first is the set that no policy selects.
    pub sets: Vec<Vec<Bound<'a>>>,
    /// Set of each local subject.
    pub set_of: BTreeMap<Subject, usize>,
}

impl<'a> Subjects<'a> {
    pub fn of(resources: &'a Resources) -> Self {
        let mut subjects = Self { keys: relevant_keys(resources), sets: vec![Vec::new()], set_of: BTreeMap::new() };
        let local = resources.workloads().filter(|(_, workload)| workload.cgroup.is_some());
        let local: BTreeSet<_> = local.map(|(resource, _)| subjects.subject(resource)).collect();
        let mut by_policies: BTreeMap<Vec<usize>, (Vec<Bound<'a>>, Vec<Subject>)> = BTreeMap::new();
        for subject in local {
            let bound = bind(resources, &subject.member());
            let numbers = bound.iter().map(|bound| bound.number).collect();
            by_policies.entry(numbers).or_insert_with(|| (bound, Vec::new())).1.push(subject);
        }
        for (bound, members) in by_policies.into_values() {
            let set = if bound.is_empty() { 0 } else { subjects.sets.len() };
            if set != 0 {
                subjects.sets.push(bound);
            }
            subjects.set_of.extend(members.into_iter().map(|subject| (subject, set)));
        }
        subjects
    }

    /// The subject of a workload.
    pub fn subject(&self, resource: &Resource) -> Subject {
        let relevant = resource.labels().iter().filter(|(key, _)| self.keys.contains(key.as_str()));
        let labels = relevant.map(|(key, value)| (key.clone(), value.clone())).collect();
        Subject { namespace: resource.id().namespace.clone(), labels }
    }

    /// The policies that select somebody here, in order of id.
    pub fn policies(&self) -> Vec<Bound<'a>> {
        let all: BTreeMap<_, _> = self.sets.iter().flatten().map(|bound| (bound.number, *bound)).collect();
        all.into_values().collect()
    }
}

/// Every label key that some selector looks at.
fn relevant_keys(resources: &Resources) -> BTreeSet<&str> {
    let mut keys = BTreeSet::new();
    for resource in resources.iter() {
        for selector in selectors(resource) {
            keys.extend(selector.keys().map(String::as_str));
        }
    }
    keys
}

/// The selectors of a resource that look at workloads.
fn selectors(resource: &Resource) -> Vec<&Selector> {
    match resource.spec() {
        Spec::Workload(_) | Spec::AddressSet(_) => Vec::new(),
        Spec::RateLimit(limit) => limit.workload_selector.iter().collect(),
        Spec::Policy(policy) => {
            let peers = policy.ingress.iter().chain(&policy.egress).flat_map(|rule| &rule.peers);
            let of_peers = peers.filter_map(|peer| match peer {
                Peer::Workloads { workload_selector, .. } => workload_selector.as_ref(),
                Peer::IpBlock { .. } | Peer::Entity { .. } => None,
            });
            of_peers.chain([&policy.workload_selector]).collect()
        }
    }
}
