//! Lives: host.
//! Called by: `reach`.
//! May touch: nothing.
//! Never: puts two ends into one kind that some policy tells apart, as the other end or as the one it selects.

use std::collections::BTreeMap;

use super::{
    parties::Party,
    terms::{Bits, Terms, either},
};
use crate::{
    Context,
    evaluate::{Bound, PeerEnd, bind, resolve},
    id::ResourceId,
    model::{ContainerPort, Resources, ServiceRef},
};

/// Ends in kinds.
pub struct Kinds<'a> {
    /// Kind of each party.
    pub kind_of: Vec<usize>,
    /// Every kind.
    pub kinds: Vec<Kind<'a>>,
}

/// Ends that no policy tells apart.
pub struct Kind<'a> {
    end: PeerEnd<'a>,
    services: Vec<ServiceRef>,
    /// The terms it matches.
    pub matches: Bits,
    /// The policies that select it; `None`: it is no workload, and none can.
    pub bound: Option<Vec<Bound<'a>>>,
    /// Its ports that policies know by name.
    pub ports: Vec<ContainerPort>,
    /// The terms that its policies name.
    pub named: Bits,
}

/// What tells kinds apart: terms matched, the policies that select it, ports by name.
type Key<'a> = (Bits, Option<Vec<&'a ResourceId>>, Vec<ContainerPort>);

impl Kind<'_> {
    /// One of them, as the other end.
    pub fn end(&self) -> PeerEnd<'_> {
        PeerEnd { services: &self.services, ..self.end }
    }
}

/// What selectors say of a workload, for all that have its namespace and labels.
#[derive(Clone)]
struct Selected<'a> {
    matches: Bits,
    bound: Vec<Bound<'a>>,
}

impl<'a> Kinds<'a> {
    pub fn of(resources: &'a Resources, context: &Context, parties: &'a [Party]) -> Self {
        let terms = Terms::of(resources, context.now);
        let mut selected = BTreeMap::new();
        let mut known: BTreeMap<Key<'_>, usize> = BTreeMap::new();
        let mut sorted = Self { kind_of: Vec::new(), kinds: Vec::new() };
        for party in parties {
            // Parties are made of what is there.
            let Ok(resolved) = resolve(resources, context, &party.end) else { continue };
            let bare = resolved.peer;
            let by_labels = bare.member.map(|member| {
                let key = (member.namespace, terms.seen(member.labels));
                let ask = || Selected { matches: terms.by_labels(&bare), bound: bind(resources, &member, context.now) };
                selected.entry(key).or_insert_with(ask).clone()
            });
            let services = terms.services(resources, resolved.resource, bare.address);
            let end = PeerEnd { services: &services, ..bare };
            let ports = terms.ports(end.member.map_or(&[], |member| member.ports));
            let others = terms.by_others(&end);
            let matches = by_labels.as_ref().map_or_else(|| others.clone(), |found| either(&found.matches, &others));
            let policies = by_labels.as_ref().map(|found| found.bound.iter().map(|bound| bound.id).collect());
            let next = sorted.kinds.len();
            let kind = *known.entry((matches.clone(), policies, ports.clone())).or_insert(next);
            if kind == next {
                let bound = by_labels.map(|found| found.bound);
                let policies = bound.iter().flatten().map(|bound| (bound.id.namespace.as_str(), bound.policy));
                let named = terms.named_by(policies);
                sorted.kinds.push(Kind { end: bare, services, matches, bound, ports, named });
            }
            sorted.kind_of.push(kind);
        }
        sorted
    }
}

/// Kinds that the same policies select, and whose own ports are the same where policies name them.
pub struct Sets {
    /// Set of each kind that is a workload's.
    pub of_kind: Vec<Option<usize>>,
    /// A kind of each set.
    pub stands_for: Vec<usize>,
}

pub fn sets(kinds: &[Kind<'_>]) -> Sets {
    let mut known = BTreeMap::new();
    let mut sets = Sets { of_kind: Vec::new(), stands_for: Vec::new() };
    for (index, kind) in kinds.iter().enumerate() {
        let set = kind.bound.as_ref().map(|bound| {
            let policies: Vec<_> = bound.iter().map(|bound| bound.id).collect();
            let next = sets.stands_for.len();
            let set = *known.entry((policies, &kind.ports)).or_insert(next);
            if set == next {
                sets.stands_for.push(index);
            }
            set
        });
        sets.of_kind.push(set);
    }
    sets
}
