//! Lives: host.
//! Called by: `classes` and `tables`, to ask the evaluator about an identity.
//! May touch: nothing.
//! Never: tells more about an identity than its key does, or the identities that share it would not be alike.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    identities::{Identities, Key, Owner, Subject},
    parts::Parts,
    space::Space,
    terms::Term,
};
use crate::{
    evaluate::{Member, NodeEnd, PeerEnd, peer_matches},
    model::{Peer, Resources},
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
            Owner::Workload { subject, .. } => PeerEnd { member: self.subject(*subject).map(member), ..nobody },
        })
    }

    /// Which of these identities a term matches.
    pub fn matching(&self, number: u32, term: &Term, among: &Index<'v>) -> Vec<u32> {
        let asked =
            |identity: &u32| self.end(*identity).is_some_and(|end| peer_matches(&term.peer, &term.namespace, &end));
        match &term.peer {
            Peer::Workloads { namespace_selector, .. } => {
                let namespaces = among.namespaces.iter().filter(|(name, (subject, _))| match namespace_selector {
                    Some(selector) => selector.matches_namespace(name, Some(&subject.namespace_labels)),
                    None => **name == term.namespace,
                });
                namespaces.flat_map(|(_, (_, identities))| identities).copied().filter(asked).collect()
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

    /// These identities, sorted by what terms ask for first.
    pub fn index(&self, identities: impl Iterator<Item = u32>) -> Index<'v> {
        let mut index = Index { namespaces: BTreeMap::new(), others: Vec::new() };
        for identity in identities {
            let subject = self.identities.parts.key(identity).and_then(|key| match key.owner {
                Owner::Workload { subject, .. } => self.subject(subject),
                Owner::Entity(_) | Owner::Node { .. } => None,
            });
            match subject {
                Some(subject) => {
                    let entry = index.namespaces.entry(subject.namespace.as_str());
                    entry.or_insert_with(|| (subject, Vec::new())).1.push(identity);
                }
                None => index.others.push(identity),
            }
        }
        index
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

/// Identities by the namespace of their workloads, each with a subject of it, for its labels.
pub struct Index<'v> {
    namespaces: BTreeMap<&'v str, (&'v Subject, Vec<u32>)>,
    others: Vec<u32>,
}

impl Index<'_> {
    fn all(&self) -> impl Iterator<Item = u32> {
        self.namespaces.values().flat_map(|(_, identities)| identities).chain(&self.others).copied()
    }
}
