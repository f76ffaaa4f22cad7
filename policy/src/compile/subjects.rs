//! Lives: host.
//! Called by: `compile`, first.
//! May touch: nothing.
//! Never: tells workloads apart by labels that no selector looks at; per-replica labels make no identities.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    evaluate::{Bound, Local, Member, bind},
    model::{ContainerPort, Labels, Peer, Resource, Resources, Selector, Spec, Timestamp, Workload},
};

/// What selectors and named ports can tell of a workload: workloads that no policy can tell apart share it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    pub namespace: String,
    namespace_labels: Labels,
    pub labels: Labels,
    /// Its ports that policies name.
    pub ports: Vec<ContainerPort>,
    /// Of a pod that runs here, its node.
    pub node: Option<String>,
}

impl Subject {
    pub fn member(&self) -> Member<'_> {
        Member {
            namespace: &self.namespace,
            namespace_labels: Some(&self.namespace_labels),
            labels: &self.labels,
            ports: &self.ports,
        }
    }
}

/// Local workloads that are judged alike.
#[derive(Clone, Debug, Default)]
pub struct Set<'a> {
    /// The policies that select them.
    pub bound: Vec<Bound<'a>>,
    /// Their ports that policies name.
    pub ports: Vec<ContainerPort>,
    /// Of pods, the node.
    pub node: Option<String>,
    now: Timestamp,
}

impl<'a> Set<'a> {
    /// The set as the evaluator asks it.
    pub fn local(&self) -> Local<'_, 'a> {
        Local { bound: &self.bound, ports: &self.ports, node: self.node.as_deref(), now: self.now }
    }
}

/// Who is judged here, and by which policies.
pub struct Subjects<'a> {
    keys: Keys<'a>,
    /// The first is the set that no policy selects.
    pub sets: Vec<Set<'a>>,
    /// Set of each local subject.
    pub set_of: BTreeMap<Subject, usize>,
}

impl<'a> Subjects<'a> {
    pub fn of(resources: &'a Resources, now: Timestamp) -> Self {
        let mut subjects = Self { keys: Keys::of(resources), sets: vec![Set::default()], set_of: BTreeMap::new() };
        let local = resources.workloads().filter(|(_, workload)| workload.cgroup.is_some());
        let local: BTreeSet<_> =
            local.map(|(resource, workload)| subjects.subject(resources, resource, workload)).collect();
        let mut alike: BTreeMap<_, (Set<'a>, Vec<Subject>)> = BTreeMap::new();
        for subject in local {
            let bound = bind(resources, &subject.member(), now);
            if bound.is_empty() {
                subjects.set_of.insert(subject, 0);
                continue;
            }
            let policies: Vec<_> = bound.iter().map(|bound| bound.id).collect();
            let (ports, node) = (subject.ports.clone(), subject.node.clone());
            let entry = alike.entry((policies, ports.clone(), node.clone()));
            entry.or_insert_with(|| (Set { bound, ports, node, now }, Vec::new())).1.push(subject);
        }
        for (set, members) in alike.into_values() {
            let number = subjects.sets.len();
            subjects.sets.push(set);
            subjects.set_of.extend(members.into_iter().map(|subject| (subject, number)));
        }
        subjects
    }

    /// The subject of a workload.
    pub fn subject(&self, resources: &Resources, resource: &Resource, workload: &Workload) -> Subject {
        let namespace = resource.id().namespace.clone();
        let ports = workload.ports.iter().filter(|port| self.keys.ports.contains(port.name.as_str()));
        Subject {
            namespace_labels: resources
                .namespace_labels(&namespace)
                .map(|labels| relevant(labels, &self.keys.of_namespaces))
                .unwrap_or_default(),
            labels: relevant(resource.labels(), &self.keys.of_workloads),
            ports: ports.cloned().collect(),
            node: workload.node.clone().filter(|_| workload.cgroup.is_some()),
            namespace,
        }
    }

    /// The policies that select somebody here, in order of id.
    pub fn policies(&self) -> Vec<Bound<'a>> {
        let bound = self.sets.iter().flat_map(|set| &set.bound);
        let all: BTreeMap<_, _> = bound.map(|bound| (bound.id, *bound)).collect();
        all.into_values().collect()
    }

    /// Whether pods of this node run here.
    pub fn is_here(&self, node: &str) -> bool {
        self.sets.iter().any(|set| set.node.as_deref() == Some(node))
    }
}

fn relevant(labels: &Labels, keys: &BTreeSet<&str>) -> Labels {
    let found = labels.iter().filter(|(key, _)| keys.contains(key.as_str()));
    found.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Every label key that some selector looks at, and every name of a port.
struct Keys<'a> {
    of_workloads: BTreeSet<&'a str>,
    of_namespaces: BTreeSet<&'a str>,
    ports: BTreeSet<&'a str>,
}

impl<'a> Keys<'a> {
    fn of(resources: &'a Resources) -> Self {
        let mut keys = Self { of_workloads: BTreeSet::new(), of_namespaces: BTreeSet::new(), ports: BTreeSet::new() };
        for resource in resources.iter() {
            let (workloads, namespaces) = selectors(resource);
            keys.of_workloads.extend(workloads.into_iter().flat_map(Selector::keys).map(String::as_str));
            keys.of_namespaces.extend(namespaces.into_iter().flat_map(Selector::keys).map(String::as_str));
        }
        for (_, policy) in resources.policies() {
            let rules = policy.ingress.iter().chain(&policy.egress);
            keys.ports.extend(rules.flat_map(|rule| &rule.named_ports).map(|port| port.name.as_str()));
        }
        keys
    }
}

/// The selectors of a resource that look at workloads, and those that look at namespaces.
fn selectors(resource: &Resource) -> (Vec<&Selector>, Vec<&Selector>) {
    let (mut workloads, mut namespaces) = (Vec::new(), Vec::new());
    match resource.spec() {
        Spec::Workload(_) | Spec::AddressSet(_) | Spec::Namespace | Spec::Node(_) => {}
        Spec::Service(_) | Spec::EndpointSlice(_) => {}
        Spec::RateLimit(limit) => workloads.extend(&limit.workload_selector),
        Spec::Policy(policy) => {
            workloads.push(&policy.workload_selector);
            namespaces.extend(&policy.namespaces);
            for peer in policy.ingress.iter().chain(&policy.egress).flat_map(|rule| &rule.peers) {
                if let Peer::Workloads { workload_selector, namespace_selector } = peer {
                    workloads.extend(workload_selector);
                    namespaces.extend(namespace_selector);
                }
            }
        }
    }
    (workloads, namespaces)
}
