//! Lives: host.
//! Called by: `compiler`, for every address and workload that policies may see differently now.
//! May touch: nothing.
//! Never: gives one number to ends that some rule could tell apart; a number stays while anything has it.

use std::collections::{BTreeMap, BTreeSet};

use weir_common::image::{FIRST_IDENTITY, reserved};

use super::{parts::Parts, space::OPEN, terms::Relevant};
use crate::{
    evaluate::Member,
    model::{ContainerPort, Entity, Labels, ServiceRef},
};

/// What selectors and named ports can tell of a workload: workloads that no policy in force here can tell apart share it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    pub namespace: String,
    pub namespace_labels: Labels,
    pub labels: Labels,
    /// Its ports that policies name.
    pub ports: Vec<ContainerPort>,
}

impl Subject {
    /// The part of a workload that matters.
    pub fn of(workload: &Member<'_>, relevant: &Relevant) -> Self {
        let ports = workload.ports.iter().filter(|port| relevant.names.contains_key(&port.name));
        let namespace_labels = workload.namespace_labels.map(|all| among(all, &relevant.namespaces));
        Self {
            namespace: workload.namespace.to_owned(),
            namespace_labels: namespace_labels.unwrap_or_default(),
            labels: among(workload.labels, &relevant.labels),
            ports: ports.cloned().collect(),
        }
    }
}

fn among(labels: &Labels, keys: &BTreeMap<String, usize>) -> Labels {
    // Walks the shorter of the two.
    if labels.len() < keys.len() {
        let found = labels.iter().filter(|(key, _)| keys.contains_key(*key));
        return found.map(|(key, value)| (key.clone(), value.clone())).collect();
    }
    keys.keys().filter_map(|key| labels.get(key).map(|value| (key.clone(), value.clone()))).collect()
}

/// What rules can tell about an end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Who it is.
    pub owner: Owner,
    /// The region of its address.
    pub region: u32,
    /// The services it is behind, of those that rules name.
    pub services: Vec<ServiceRef>,
}

/// Who an end is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// Nobody with labels.
    Entity(Entity),
    /// A machine of the cluster.
    Node {
        /// Its name.
        name: String,
        /// What it is besides.
        entity: Entity,
    },
    /// A workload.
    Workload {
        /// What selectors can tell of it.
        subject: u32,
        /// Those it is judged with, if it runs here; else 0.
        set: u32,
    },
    /// Several ends behind one port of a service, by the class that stands for them. No address has it.
    Behind {
        /// The class.
        class: u32,
    },
}

/// Every identity in use, by number.
#[derive(Clone, Debug)]
pub struct Identities {
    pub parts: Parts<Key>,
    /// Numbers that have come or gone since they were last taken.
    pub touched: BTreeSet<u32>,
    /// The identities of each subject.
    pub of_subject: BTreeMap<u32, BTreeSet<u32>>,
}

impl Identities {
    /// The two that are always there: the world, and this host, both in no block.
    pub fn new() -> Self {
        let mut parts = Parts::from(FIRST_IDENTITY);
        for (number, entity) in [(reserved::WORLD, Entity::World), (reserved::HOST, Entity::Host)] {
            parts.pin(number, Key { owner: Owner::Entity(entity), region: OPEN, services: Vec::new() });
        }
        let touched = BTreeSet::from([reserved::WORLD, reserved::HOST]);
        Self { parts, touched, of_subject: BTreeMap::new() }
    }

    /// One more address or workload with this key instead of the one it had.
    pub fn change(&mut self, old: Option<u32>, key: Option<Key>) -> Option<u32> {
        let new = key.map(|key| self.hold(key));
        if let Some(old) = old {
            self.release(old);
        }
        new
    }

    fn hold(&mut self, key: Key) -> u32 {
        let subject = subject_of(&key);
        let (number, new) = self.parts.hold(key);
        if new {
            self.touched.insert(number);
            if let Some(subject) = subject {
                self.of_subject.entry(subject).or_default().insert(number);
            }
        }
        number
    }

    fn release(&mut self, number: u32) {
        let subject = self.parts.key(number).and_then(|key| subject_of(key));
        if !self.parts.release(number) {
            return;
        }
        self.touched.insert(number);
        let Some(subject) = subject else { return };
        if let Some(numbers) = self.of_subject.get_mut(&subject) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.of_subject.remove(&subject);
            }
        }
    }
}

const fn subject_of(key: &Key) -> Option<u32> {
    match key.owner {
        Owner::Workload { subject, .. } => Some(subject),
        Owner::Entity(_) | Owner::Node { .. } | Owner::Behind { .. } => None,
    }
}
