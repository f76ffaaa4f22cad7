//! Lives: host.
//! Called by: `compile`.
//! May touch: nothing.
//! Never: compares rows of verdicts; ends are alike when they match the same peers that policies in force name.

use std::collections::{BTreeMap, BTreeSet};

use weir_common::verdict::Direction;

use super::{
    faults::Problems,
    identities::Identities,
    subjects::{Set, Subjects},
};
use crate::{
    evaluate::{Bound, peer_matches},
    model::{ContainerPort, Peer, PortMatch, Resources, Rule},
};

/// Both directions, in the order of the tables.
pub const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// The peers and ports that policies in force name.
pub struct Terms<'a> {
    peers: Vec<(&'a str, &'a Peer)>,
    numbers: BTreeMap<(&'a str, &'a Peer), usize>,
    ports: BTreeSet<PortMatch>,
    /// What pods say that named ports are.
    named: BTreeMap<&'a str, BTreeSet<PortMatch>>,
}

/// The rules of a set that count in a direction, each with its policy.
fn rules_in_force<'a>(bound: &[Bound<'a>], direction: Direction) -> impl Iterator<Item = (Bound<'a>, &'a Rule)> {
    bound.iter().flat_map(move |bound| bound.policy.rules_in_force(direction).iter().map(move |rule| (*bound, rule)))
}

impl<'a> Terms<'a> {
    pub fn of(resources: &'a Resources, subjects: &Subjects<'a>) -> Self {
        let (numbers, ports, named) = (BTreeMap::new(), BTreeSet::new(), named(resources));
        let mut terms = Self { peers: Vec::new(), numbers, ports, named };
        let policies = subjects.policies();
        for (bound, rule) in DIRECTIONS.iter().flat_map(|direction| rules_in_force(&policies, *direction)) {
            let ports: Vec<_> = terms.ports_named_by(rule).collect();
            terms.ports.extend(ports);
            for peer in &rule.peers {
                terms.numbers.insert(term(&bound, peer), 0);
            }
        }
        for (number, (key, slot)) in terms.numbers.iter_mut().enumerate() {
            *slot = number;
            terms.peers.push(*key);
        }
        terms
    }

    /// The port entries.
    pub fn ports(&self) -> impl Iterator<Item = &PortMatch> {
        self.ports.iter()
    }

    /// The peers that one direction of a set names.
    pub fn peers_of(&self, set: &Set<'a>, direction: Direction) -> BTreeSet<usize> {
        let peers = rules_in_force(&set.bound, direction)
            .flat_map(|(bound, rule)| rule.peers.iter().map(move |peer| term(&bound, peer)));
        peers.filter_map(|term| self.numbers.get(&term).copied()).collect()
    }

    /// The port entries that one direction of a set names, itself or by the names of pods.
    pub fn ports_of(&self, set: &Set<'a>, direction: Direction) -> BTreeSet<PortMatch> {
        rules_in_force(&set.bound, direction).flat_map(|(_, rule)| self.ports_named_by(rule)).collect()
    }

    /// Whether what a peer calls its ports matters to one direction of a set.
    pub fn asks_names(&self, set: &Set<'a>, direction: Direction) -> bool {
        direction == Direction::Egress
            && rules_in_force(&set.bound, direction).any(|(_, rule)| !rule.named_ports.is_empty())
    }

    fn ports_named_by<'t>(&'t self, rule: &'t Rule) -> impl Iterator<Item = PortMatch> + use<'t, 'a> {
        let by_name = rule.named_ports.iter().filter_map(|port| self.named.get(port.name.as_str())).flatten();
        rule.ports.iter().chain(by_name).copied()
    }
}

/// For each name of a port what pods say it is.
fn named(resources: &Resources) -> BTreeMap<&str, BTreeSet<PortMatch>> {
    let mut named: BTreeMap<&str, BTreeSet<PortMatch>> = BTreeMap::new();
    for port in resources.workloads().flat_map(|(_, workload)| &workload.ports) {
        let entry = PortMatch { protocol: port.protocol, ports: Some((port.port, port.port)) };
        named.entry(&port.name).or_default().insert(entry);
    }
    named
}

/// A peer with the namespace it is read in, where that makes a difference.
fn term<'a>(bound: &Bound<'a>, peer: &'a Peer) -> (&'a str, &'a Peer) {
    match peer {
        Peer::Workloads { namespace_selector: None, .. } => (&bound.id.namespace, peer),
        Peer::Workloads { .. }
        | Peer::IpBlock { .. }
        | Peer::Entity { .. }
        | Peer::Nodes { .. }
        | Peer::Service { .. }
        | Peer::Unknown => ("", peer),
    }
}

/// What rules can tell of a peer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Traits {
    /// The peers of rules that it matches, ascending.
    pub peers: Vec<usize>,
    /// Its ports that policies name.
    pub ports: Vec<ContainerPort>,
    /// The node it is, if pods of it run here.
    pub own_node: Option<String>,
}

/// The peer classes of the node.
pub struct Classes {
    /// For each class what its identities have in common, and where in the list of identities one of them is.
    pub list: Vec<(Traits, usize)>,
    /// Class of each identity, in the order of the list of identities.
    pub of_identity: Vec<u16>,
}

impl Classes {
    /// The first class is that of the world, which is also what unknown numbers read as.
    pub fn of(terms: &Terms<'_>, subjects: &Subjects<'_>, identities: &Identities, problems: &mut Problems) -> Self {
        let mut classes = Self { list: Vec::new(), of_identity: Vec::new() };
        let mut known: BTreeMap<Traits, u16> = BTreeMap::new();
        for (index, identity) in identities.list.iter().enumerate() {
            let end = identity.end();
            let all = terms.peers.iter().enumerate();
            let peers =
                all.filter(|(_, (namespace, peer))| peer_matches(peer, namespace, &end)).map(|(n, _)| n).collect();
            let ports = end.member.map(|member| member.ports.to_vec()).unwrap_or_default();
            let own_node = end.node.map(|node| node.name.to_owned()).filter(|name| subjects.is_here(name));
            let Ok(next) = u16::try_from(classes.list.len()) else {
                problems.of_all(
                    "peers fall into more than 65536 classes".to_owned(),
                    "use fewer distinct peers in policies",
                );
                return classes;
            };
            let class = *known.entry(Traits { peers, ports, own_node }).or_insert_with_key(|traits| {
                classes.list.push((traits.clone(), index));
                next
            });
            classes.of_identity.push(class);
        }
        classes
    }
}
