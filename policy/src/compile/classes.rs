//! Lives: host.
//! Called by: `compile`.
//! May touch: nothing.
//! Never: compares rows of verdicts; ends are alike when they match the same peers that policies in force name.

use std::collections::{BTreeMap, BTreeSet};

use weir_common::verdict::Direction;

use super::{faults::Problems, identities::Identities, subjects::Subjects};
use crate::{
    evaluate::{Bound, peer_matches},
    model::{Peer, PortMatch, Rule},
};

/// Both directions, in the order of the tables.
pub const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// The peers and ports that policies in force name.
pub struct Terms<'a> {
    peers: Vec<(&'a str, &'a Peer)>,
    numbers: BTreeMap<(&'a str, &'a Peer), usize>,
    ports: BTreeSet<&'a PortMatch>,
}

/// The rules of a policy that count in a direction.
fn rules_in_force<'a>(bound: &Bound<'a>, direction: Direction) -> &'a [Rule] {
    if bound.policy.isolates(direction) { bound.policy.rules(direction) } else { &[] }
}

impl<'a> Terms<'a> {
    pub fn of(subjects: &Subjects<'a>) -> Self {
        let mut terms = Self { peers: Vec::new(), numbers: BTreeMap::new(), ports: BTreeSet::new() };
        for bound in subjects.policies() {
            for rule in DIRECTIONS.iter().flat_map(|direction| rules_in_force(&bound, *direction)) {
                terms.ports.extend(&rule.ports);
                for peer in &rule.peers {
                    terms.numbers.insert(term(&bound, peer), 0);
                }
            }
        }
        for (number, (key, slot)) in terms.numbers.iter_mut().enumerate() {
            *slot = number;
            terms.peers.push(*key);
        }
        terms
    }

    /// The port entries.
    pub fn ports(&self) -> impl Iterator<Item = &'a PortMatch> {
        self.ports.iter().copied()
    }

    /// The peers that one direction of a set names.
    pub fn peers_of(&self, set: &[Bound<'a>], direction: Direction) -> BTreeSet<usize> {
        let rules = set.iter().flat_map(|bound| rules_in_force(bound, direction).iter().map(move |rule| (bound, rule)));
        rules
            .flat_map(|(bound, rule)| {
                rule.peers.iter().filter_map(|peer| self.numbers.get(&term(bound, peer)).copied())
            })
            .collect()
    }

    /// The port entries that one direction of a set names.
    pub fn ports_of(&self, set: &[Bound<'a>], direction: Direction) -> BTreeSet<&'a PortMatch> {
        set.iter().flat_map(|bound| rules_in_force(bound, direction)).flat_map(|rule| &rule.ports).collect()
    }
}

/// A peer with the namespace it is read in, where that makes a difference.
fn term<'a>(bound: &Bound<'a>, peer: &'a Peer) -> (&'a str, &'a Peer) {
    match peer {
        Peer::Workloads { namespace_selector: None, .. } => (&bound.id.namespace, peer),
        Peer::Workloads { .. } | Peer::IpBlock { .. } | Peer::Entity { .. } => ("", peer),
    }
}

/// The peer classes of the node.
pub struct Classes {
    /// For each class the peers its identities match, ascending, and where in the list of identities one of them is.
    pub list: Vec<(Vec<usize>, usize)>,
    /// Class of each identity, in the order of the list of identities.
    pub of_identity: Vec<u16>,
}

impl Classes {
    /// The first class is that of the world, which is also what unknown numbers read as.
    pub fn of(terms: &Terms<'_>, identities: &Identities, problems: &mut Problems) -> Self {
        let mut classes = Self { list: Vec::new(), of_identity: Vec::new() };
        let mut known: BTreeMap<Vec<usize>, u16> = BTreeMap::new();
        for (index, identity) in identities.list.iter().enumerate() {
            let end = identity.end();
            let all = terms.peers.iter().enumerate();
            let matched: Vec<_> =
                all.filter(|(_, (namespace, peer))| peer_matches(peer, namespace, &end)).map(|(n, _)| n).collect();
            let Ok(next) = u16::try_from(classes.list.len()) else {
                problems.of_all(
                    "peers fall into more than 65536 classes".to_owned(),
                    "use fewer distinct peers in policies",
                );
                return classes;
            };
            let class = *known.entry(matched).or_insert_with_key(|matched| {
                classes.list.push((matched.clone(), index));
                next
            });
            classes.of_identity.push(class);
        }
        classes
    }
}
