//! Lives: host.
//! Called by: `compiler`, for the sets of local workloads whose policies have changed.
//! May touch: nothing.
//! Never: keeps a term that no policy in force here names; labels that only other policies look at make no identities.

use std::collections::{BTreeMap, BTreeSet};

use weir_common::verdict::Direction;

use super::parts::Parts;
use crate::{
    evaluate::{Bound, Trial},
    model::{ContainerPort, Peer, PortMatch, Rule, Selector, ServiceRef, Timestamp},
};

/// A peer as some rule names it, with the namespace it is read in where that makes a difference.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Term {
    pub namespace: String,
    pub peer: Peer,
}

impl Term {
    fn of(bound: &Bound<'_>, peer: &Peer) -> Self {
        let namespace = if peer.is_read_in_its_namespace() { bound.id.namespace.clone() } else { String::new() };
        Self { namespace, peer: peer.clone() }
    }
}

/// What one direction of a set of local workloads asks about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// The peers that its rules name.
    pub terms: BTreeSet<Term>,
    /// The ports that its rules name.
    pub ports: BTreeSet<PortMatch>,
    /// The names of ports that are the other end's to explain.
    pub names: BTreeSet<String>,
    /// Whether it has rules.
    pub rules: bool,
}

impl Asked {
    /// What the rules of these policies ask about on a trial. `own`: the ports of the workloads they select; `named`: what
    /// others say that named ports are.
    pub fn of(
        bound: &[Bound<'_>],
        (trial, direction): (Trial, Direction),
        now: Timestamp,
        own: &[ContainerPort],
        named: &NamedPorts,
    ) -> Self {
        let mut asked = Self::default();
        for (bound, rule) in rules_in_force(bound, trial, direction, now) {
            asked.rules = true;
            asked.terms.extend(rule.peers.iter().map(|peer| Term::of(&bound, peer)));
            asked.ports.extend(&rule.ports);
            for port in &rule.named_ports {
                match direction {
                    Direction::Ingress => {
                        asked.ports.extend(own.iter().filter(|known| known.name == port.name).map(entry));
                    }
                    Direction::Egress => {
                        asked.ports.extend(named.get(&port.name));
                        asked.names.insert(port.name.clone());
                    }
                }
            }
        }
        asked
    }
}

/// The rules that count on a trial and in a direction, each with its policy.
pub fn rules_in_force<'a>(
    bound: &[Bound<'a>],
    trial: Trial,
    direction: Direction,
    now: Timestamp,
) -> impl Iterator<Item = (Bound<'a>, &'a Rule)> {
    let heard = bound.iter().filter(move |bound| trial.hears(bound.policy.mode));
    heard.flat_map(move |bound| {
        let rules = bound.policy.rules_in_force(direction).iter();
        rules.filter(move |rule| rule.in_force(now)).map(move |rule| (*bound, rule))
    })
}

fn entry(port: &ContainerPort) -> PortMatch {
    PortMatch { protocol: port.protocol, ports: Some((port.port, port.port)) }
}

/// For each name of a port what pods say it is, and how many do.
#[derive(Clone, Debug, Default)]
pub struct NamedPorts(BTreeMap<String, BTreeMap<PortMatch, usize>>);

impl NamedPorts {
    /// What a name stands for.
    pub fn get(&self, name: &str) -> impl Iterator<Item = PortMatch> {
        self.0.get(name).into_iter().flat_map(BTreeMap::keys).copied()
    }

    /// One more pod, or one fewer, that says so. Tells whether the name stands for something else now.
    pub fn count(&mut self, port: &ContainerPort, more: bool) -> bool {
        let entries = self.0.entry(port.name.clone()).or_default();
        let changed = count(entries, entry(port), more);
        if entries.is_empty() {
            self.0.remove(&port.name);
        }
        changed
    }
}

/// Counts one more or one fewer. Tells whether the key is new or gone with it.
pub fn count<K: Ord>(counts: &mut BTreeMap<K, usize>, key: K, more: bool) -> bool {
    if more {
        let count = counts.entry(key).or_default();
        *count += 1;
        return *count == 1;
    }
    let Some(count) = counts.get_mut(&key) else { return false };
    *count -= 1;
    let gone = *count == 0;
    if gone {
        counts.remove(&key);
    }
    gone
}

/// Every term that is asked about here, and what it takes to answer.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The terms by number.
    pub parts: Parts<Term>,
    /// Numbers that have come or gone since they were last taken.
    pub touched: BTreeSet<u32>,
    /// Whether blocks of addresses are among them.
    pub changed_blocks: bool,
    /// What selectors look at.
    pub relevant: Relevant,
}

/// What selectors and rules look at; everything else about a workload is nobody's business.
#[derive(Clone, Debug, Default)]
pub struct Relevant {
    /// Label keys of workloads.
    pub labels: BTreeMap<String, usize>,
    /// Label keys of namespaces.
    pub namespaces: BTreeMap<String, usize>,
    /// Names of ports.
    pub names: BTreeMap<String, usize>,
    /// Services.
    pub services: BTreeMap<ServiceRef, usize>,
    /// Label keys of workloads that have come or gone since they were last taken.
    pub changed_labels: BTreeSet<String>,
    /// Names of ports likewise.
    pub changed_names: BTreeSet<String>,
    /// Whether label keys of namespaces have.
    pub changed_namespaces: bool,
    /// Services likewise.
    pub changed_services: BTreeSet<ServiceRef>,
}

impl Relevant {
    /// Counts a selector of workloads.
    pub fn workloads(&mut self, selector: &Selector, more: bool) {
        selector.keys().for_each(|key| self.label(key, more));
    }

    /// Counts a label of workloads.
    pub fn label(&mut self, key: &str, more: bool) {
        if count(&mut self.labels, key.to_owned(), more) {
            self.changed_labels.insert(key.to_owned());
        }
    }

    /// Counts the name of a port.
    pub fn name(&mut self, name: &str, more: bool) {
        if count(&mut self.names, name.to_owned(), more) {
            self.changed_names.insert(name.to_owned());
        }
    }

    fn term(&mut self, term: &Term, more: bool) {
        match &term.peer {
            Peer::Workloads { workload_selector, namespace_selector } => {
                workload_selector.iter().for_each(|selector| self.workloads(selector, more));
                for key in namespace_selector.iter().flat_map(Selector::keys) {
                    self.changed_namespaces |= count(&mut self.namespaces, key.clone(), more);
                }
            }
            Peer::Service { service } => {
                if count(&mut self.services, service.clone(), more) {
                    self.changed_services.insert(service.clone());
                }
            }
            Peer::IpBlock { .. } | Peer::Entity { .. } | Peer::Nodes { .. } | Peer::Unknown => {}
        }
    }
}

impl Terms {
    pub fn new() -> Self {
        Self { parts: Parts::from(0), touched: BTreeSet::new(), changed_blocks: false, relevant: Relevant::default() }
    }

    /// One more table asks about it.
    pub fn hold(&mut self, term: Term) -> u32 {
        let (number, new) = self.parts.hold(term.clone());
        if new {
            self.touch(number, &term, true);
        }
        number
    }

    /// One table fewer asks about it.
    pub fn release(&mut self, number: u32) {
        let Some(term) = self.parts.key(number).cloned() else { return };
        if self.parts.release(number) {
            self.touch(number, &term, false);
        }
    }

    fn touch(&mut self, number: u32, term: &Term, more: bool) {
        self.touched.insert(number);
        self.changed_blocks |= matches!(term.peer, Peer::IpBlock { .. });
        self.relevant.term(term, more);
    }
}
