//! Lives: host.
//! Called by: `kinds`.
//! May touch: nothing.
//! Never: tells ends apart by anything that no policy names.

use std::collections::{BTreeMap, BTreeSet};

use weir_common::addr::Addr;

use crate::{
    evaluate::{PeerEnd, is_behind, peer_matches},
    model::{ContainerPort, Labels, Peer, Policy, Resource, Resources, ServiceRef, Timestamp},
};

/// Everything that policies in force name.
#[derive(Default)]
pub struct Terms<'a> {
    /// Peers, each with the namespace of its policy where that matters.
    peers: BTreeMap<(&'a str, &'a Peer), usize>,
    /// Names of ports.
    port_names: BTreeSet<&'a str>,
    /// Keys of labels that select workloads.
    keys: BTreeSet<&'a str>,
    /// Services.
    services: BTreeSet<&'a ServiceRef>,
}

/// A set of terms: one bit for each.
pub type Bits = Vec<u64>;

impl<'a> Terms<'a> {
    pub fn of(resources: &'a Resources, now: Timestamp) -> Self {
        let mut terms = Self::default();
        for (resource, policy) in resources.policies().filter(|(_, policy)| policy.in_force(now)) {
            terms.keys.extend(policy.workload_selector.keys().map(String::as_str));
            for rule in policy.ingress.iter().chain(&policy.egress) {
                terms.port_names.extend(rule.named_ports.iter().map(|port| port.name.as_str()));
                for peer in &rule.peers {
                    let next = terms.peers.len();
                    terms.peers.entry(term(&resource.id().namespace, peer)).or_insert(next);
                    if let Peer::Workloads { workload_selector: Some(selector), .. } = peer {
                        terms.keys.extend(selector.keys().map(String::as_str));
                    } else if let Peer::Service { service } = peer {
                        terms.services.insert(service);
                    }
                }
            }
        }
        terms
    }

    /// The labels of a workload that policies look at.
    pub fn seen<'l>(&self, labels: &'l Labels) -> Vec<(&'l str, &'l str)> {
        let seen = labels.iter().filter(|(key, _)| self.keys.contains(key.as_str()));
        seen.map(|(key, value)| (key.as_str(), value.as_str())).collect()
    }

    /// The ports of a pod whose names policies use.
    pub fn ports(&self, ports: &[ContainerPort]) -> Vec<ContainerPort> {
        ports.iter().filter(|port| self.port_names.contains(port.name.as_str())).cloned().collect()
    }

    /// The services that an end is behind.
    pub fn services(
        &self,
        resources: &Resources,
        workload: Option<&Resource>,
        address: Option<Addr>,
    ) -> Vec<ServiceRef> {
        let behind = |name: &&&ServiceRef| is_behind(resources, name, workload, address.as_ref());
        self.services.iter().filter(behind).map(|name| (*name).clone()).collect()
    }

    /// The terms about labels and namespaces alone that an end matches.
    pub fn by_labels(&self, end: &PeerEnd<'_>) -> Bits {
        self.matching(end, |peer| matches!(peer, Peer::Workloads { .. }))
    }

    /// All other terms that an end matches.
    pub fn by_others(&self, end: &PeerEnd<'_>) -> Bits {
        self.matching(end, |peer| !matches!(peer, Peer::Workloads { .. }))
    }

    /// The terms that the rules of these policies name.
    pub fn named_by<'p>(&self, policies: impl Iterator<Item = (&'p str, &'p Policy)>) -> Bits
    where
        'a: 'p,
    {
        let mut bits = self.none();
        for (namespace, policy) in policies {
            for peer in policy.ingress.iter().chain(&policy.egress).flat_map(|rule| &rule.peers) {
                set(&mut bits, self.peers.get(&term(namespace, peer)).copied());
            }
        }
        bits
    }

    fn matching(&self, end: &PeerEnd<'_>, asked: impl Fn(&Peer) -> bool) -> Bits {
        let mut bits = self.none();
        for ((namespace, peer), number) in &self.peers {
            if asked(peer) && peer_matches(peer, namespace, end) {
                set(&mut bits, Some(*number));
            }
        }
        bits
    }

    fn none(&self) -> Bits {
        vec![0; self.peers.len().div_ceil(64)]
    }
}

/// A peer, with the namespace of its policy where that makes a difference.
const fn term<'t>(namespace: &'t str, peer: &'t Peer) -> (&'t str, &'t Peer) {
    if peer.is_read_in_its_namespace() { (namespace, peer) } else { ("", peer) }
}

fn set(bits: &mut Bits, number: Option<usize>) {
    if let Some(number) = number
        && let Some(word) = bits.get_mut(number / 64)
    {
        *word |= 1 << (number % 64);
    }
}

/// What is in both.
pub fn common(bits: &Bits, others: &Bits) -> Bits {
    bits.iter().zip(others).map(|(word, other)| word & other).collect()
}

/// What is in either.
pub fn either(bits: &Bits, others: &Bits) -> Bits {
    bits.iter().zip(others).map(|(word, other)| word | other).collect()
}
