//! Lives: host.
//! Called by: `classes` and `tables`, to ask the evaluator about an identity.
//! May touch: nothing.
//! Never: tells more about an identity than its key does, or the identities that share it would not be alike.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    identities::{Identities, Key, Owner, Subject},
    parts::Parts,
    space::Space,
    terms::Term,
};
use crate::{
    evaluate::{Member, NodeEnd, PeerEnd, peer_matches},
    model::{Labels, Peer, Resources},
};

/// What the stages before have found out about the ends.
#[derive(Clone, Copy)]
pub struct View<'v> {
    pub resources: &'v Resources,
    pub subjects: &'v Parts<Subject>,
    pub space: &'v Space,
    pub identities: &'v Identities,
}

impl<'v> View<'v> {
    /// An identity as the evaluator sees the other end.
    pub fn end(&self, identity: u32) -> Option<PeerEnd<'v>> {
        let key: &'v Key = self.identities.parts.key(identity)?;
        let nobody = PeerEnd { address: self.space.sample(key.region), services: &key.services, ..NOBODY };
        Some(match &key.owner {
            Owner::Entity(entity) => PeerEnd { entity: Some(*entity), ..nobody },
            Owner::Node { name, entity } => {
                let node = NodeEnd { name, labels: self.resources.node_labels(name) };
                PeerEnd { entity: Some(*entity), node: Some(node), ..nobody }
            }
            Owner::Behind { .. } => NOBODY,
            Owner::Workload { subject, .. } => PeerEnd { member: self.subject(*subject).map(member), ..nobody },
        })
    }

    /// Which of these identities a term matches.
    pub fn matching(&self, number: u32, term: &Term, among: &Index) -> Vec<u32> {
        let asked =
            |identity: &u32| self.end(*identity).is_some_and(|end| peer_matches(&term.peer, &term.namespace, &end));
        match &term.peer {
            Peer::Workloads { namespace_selector, .. } => {
                let homes = among.homes.iter().filter(|(name, identities)| match namespace_selector {
                    Some(selector) => selector.matches_namespace(name, self.namespace_labels(identities)),
                    None => ***name == *term.namespace,
                });
                homes.flat_map(|(_, identities)| identities).copied().filter(asked).collect()
            }
            Peer::IpBlock { .. } => {
                let regions = self.space.regions.iter().filter(|(_, blocks)| blocks.binary_search(&number).is_ok());
                let regions: BTreeSet<u32> = regions.map(|(region, _)| region).collect();
                let held = |identity: &u32| {
                    self.identities.parts.key(*identity).is_some_and(|key| regions.contains(&key.region))
                };
                among.all().filter(held).collect()
            }
            Peer::Entity { .. } | Peer::Nodes { .. } => among.others.iter().copied().filter(asked).collect(),
            Peer::Service { .. } => among.all().filter(asked).collect(),
            Peer::Unknown => Vec::new(),
        }
    }

    /// The namespace of an identity that is a workload.
    pub fn home(&self, identity: u32) -> Option<&'v str> {
        match self.identities.parts.key(identity)?.owner {
            Owner::Workload { subject, .. } => self.subject(subject).map(|subject| subject.namespace.as_str()),
            Owner::Entity(_) | Owner::Node { .. } | Owner::Behind { .. } => None,
        }
    }

    /// The labels of the namespace that these identities share.
    fn namespace_labels(&self, identities: &BTreeSet<u32>) -> Option<&'v Labels> {
        let end = identities.first().and_then(|first| self.end(*first))?;
        end.member?.namespace_labels
    }

    fn subject(&self, number: u32) -> Option<&'v Subject> {
        self.subjects.key(number).map(AsRef::as_ref)
    }
}

/// An end of which nothing is known: no peer matches it.
pub const NOBODY: PeerEnd<'static> =
    PeerEnd { member: None, address: None, entity: None, node: None, services: &[], itself: None };

fn member(subject: &Subject) -> Member<'_> {
    Member {
        namespace: &subject.namespace,
        namespace_labels: Some(&subject.namespace_labels),
        labels: &subject.labels,
        ports: &subject.ports,
    }
}

/// Identities by the namespace of their workloads, which is what terms ask for first.
#[derive(Clone, Debug, Default)]
pub struct Index {
    homes: BTreeMap<Arc<str>, BTreeSet<u32>>,
    others: BTreeSet<u32>,
}

impl Index {
    /// Takes an identity in, and gives back where it is now.
    pub fn add(&mut self, identity: u32, home: Option<&str>) -> Home {
        let Some(home) = home else {
            self.others.insert(identity);
            return Home::None;
        };
        let name = self.homes.get_key_value(home).map_or_else(|| Arc::from(home), |(name, _)| Arc::clone(name));
        self.homes.entry(Arc::clone(&name)).or_default().insert(identity);
        Home::Namespace(name)
    }

    /// Forgets an identity.
    pub fn remove(&mut self, identity: u32, home: &Home) {
        let Home::Namespace(name) = home else {
            self.others.remove(&identity);
            return;
        };
        if let Some(identities) = self.homes.get_mut(name) {
            identities.remove(&identity);
            if identities.is_empty() {
                self.homes.remove(name);
            }
        }
    }

    fn all(&self) -> impl Iterator<Item = u32> {
        self.homes.values().flatten().chain(&self.others).copied()
    }
}

/// Where an identity is in an index.
#[derive(Clone, Debug, Default)]
pub enum Home {
    /// Among those without a namespace, or nowhere.
    #[default]
    None,
    /// In a namespace.
    Namespace(Arc<str>),
}
