//! Lives: host.
//! Called by: `compiler`, once identities and terms are known.
//! May touch: nothing.
//! Never: compares rows of verdicts; ends are alike when they match the same peers that policies in force name.

use std::collections::{BTreeMap, BTreeSet};

use weir_common::addr::Protocol;

use super::{
    parts::{Group, Parts},
    terms::Terms,
    view::{Home, Index, View},
};
use crate::model::ContainerPort;

/// The class of ends that match no peer at all; also what numbers nobody has read as.
pub const NOBODY: u32 = 0;

/// What rules can tell of a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Traits {
    /// The terms it matches, ascending.
    pub terms: Vec<u32>,
    /// Its ports that policies name.
    pub ports: Vec<ContainerPort>,
    /// The node it is, if pods of it run here.
    pub own_node: Option<String>,
    /// What it stands for, if it is a port of a service that leads to ends that rules can tell apart; then nothing else is told.
    pub behind: Vec<Behind>,
}

/// Ends of one class, at one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Behind {
    pub class: u32,
    pub protocol: Protocol,
    pub port: u16,
}

/// The peer classes of the node.
#[derive(Clone, Debug)]
pub struct Classes {
    pub parts: Parts<Traits>,
    /// Class by identity.
    of: Vec<Option<u32>>,
    /// Where each identity is in the index.
    homes: Vec<Home>,
    index: Index,
}

/// What has changed.
#[derive(Debug, Default)]
pub struct Reclassed {
    /// Classes that are new or have other traits.
    pub classes: BTreeSet<u32>,
    /// Identities that are in another class, or gone.
    pub identities: BTreeSet<u32>,
}

impl Classes {
    pub fn new() -> Self {
        let mut parts = Parts::from(1);
        parts.pin(NOBODY, Traits::default());
        Self { parts, of: Vec::new(), homes: Vec::new(), index: Index::default() }
    }

    /// The class of an identity.
    pub fn of(&self, identity: u32) -> u32 {
        self.of.get(identity as usize).copied().flatten().unwrap_or(NOBODY)
    }

    /// For each class an identity in it.
    pub fn samples(&self) -> Vec<Option<u32>> {
        let mut samples = vec![None; self.parts.end()];
        for (identity, class) in (0..).zip(&self.of) {
            let slot = class.and_then(|class| samples.get_mut(class as usize));
            if let Some(slot) = slot {
                *slot = Some(identity);
            }
        }
        samples
    }

    /// Classes anew the identities that have changed, and all for the terms that have. `here`: nodes whose pods run here.
    pub fn update(
        &mut self,
        view: View<'_>,
        terms: &Terms,
        identities: &BTreeSet<u32>,
        here: &BTreeMap<String, usize>,
    ) -> Reclassed {
        self.settle(view, identities);
        let mut moves: BTreeMap<(Option<u32>, Option<Traits>), Vec<u32>> = BTreeMap::new();
        for (identity, traits) in traits_of(view, terms, identities, here) {
            moves.entry((self.of.get(identity as usize).copied().flatten(), traits)).or_default().push(identity);
        }
        self.follow_terms(view, terms, identities, &mut moves);
        let (mut groups, mut members) = (Vec::new(), Vec::new());
        for ((from, key), moved) in moves {
            // An identity that came and went leaves no trace.
            if from.is_some() || key.is_some() {
                groups.push(Group { from, key, size: moved.len() });
                members.push((from, moved));
            }
        }
        let rekeyed = self.parts.rekey(groups);
        let mut reclassed = Reclassed { classes: rekeyed.changed, identities: BTreeSet::new() };
        for ((from, moved), class) in members.into_iter().zip(rekeyed.parts) {
            if from == class {
                continue;
            }
            for identity in moved {
                self.put(identity, class);
                reclassed.identities.insert(identity);
            }
        }
        reclassed
    }

    /// Identities that are what they were, but match terms that have come, or did match some that are gone.
    fn follow_terms(
        &self,
        view: View<'_>,
        terms: &Terms,
        done: &BTreeSet<u32>,
        moves: &mut BTreeMap<(Option<u32>, Option<Traits>), Vec<u32>>,
    ) {
        if terms.touched.is_empty() {
            return;
        }
        let mut come: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (number, term) in terms.touched.iter().filter_map(|number| Some((*number, terms.parts.key(*number)?))) {
            for identity in view.matching(number, term, &self.index) {
                come.entry(identity).or_default().push(number);
            }
        }
        let old = self.parts.iter().filter(|(_, key)| key.terms.iter().any(|term| terms.touched.contains(term)));
        let old: BTreeSet<u32> = old.map(|(class, _)| class).collect();
        let mut alike: BTreeMap<(u32, &[u32]), Vec<u32>> = BTreeMap::new();
        for (identity, class) in (0..).zip(&self.of) {
            let Some(class) = class else { continue };
            let matched = come.get(&identity);
            if (matched.is_some() || old.contains(class)) && !done.contains(&identity) {
                alike.entry((*class, matched.map(Vec::as_slice).unwrap_or_default())).or_default().push(identity);
            }
        }
        for ((class, matched), identities) in alike {
            let Some(key) = self.parts.key(class) else { continue };
            let kept = key.terms.iter().filter(|term| !terms.touched.contains(term));
            let mut all: Vec<u32> = kept.chain(matched).copied().collect();
            all.sort_unstable();
            let traits = Traits { terms: all, ..Traits::clone(key) };
            moves.entry((Some(class), Some(traits))).or_default().extend(identities);
        }
    }

    /// Keeps the index: where the identities are that have come, gone, or are somebody else now.
    fn settle(&mut self, view: View<'_>, identities: &BTreeSet<u32>) {
        for identity in identities {
            let place = *identity as usize;
            if self.homes.len() <= place {
                self.homes.resize(place + 1, Home::None);
            }
            let Some(home) = self.homes.get_mut(place) else { continue };
            self.index.remove(*identity, home);
            *home = match view.end(*identity) {
                Some(_) => self.index.add(*identity, view.home(*identity)),
                None => Home::None,
            };
        }
    }

    /// Puts an identity into a class.
    pub fn put(&mut self, identity: u32, class: Option<u32>) {
        if self.of.len() <= identity as usize {
            self.of.resize(identity as usize + 1, None);
        }
        if let Some(slot) = self.of.get_mut(identity as usize) {
            *slot = class;
        }
    }
}

/// What rules can tell of each of these identities; `None` of those that are gone.
fn traits_of(
    view: View<'_>,
    terms: &Terms,
    identities: &BTreeSet<u32>,
    here: &BTreeMap<String, usize>,
) -> BTreeMap<u32, Option<Traits>> {
    let mut all: BTreeMap<u32, Option<Traits>> = BTreeMap::new();
    for identity in identities {
        let traits = view.end(*identity).map(|end| Traits {
            terms: Vec::new(),
            ports: end.member.map(|member| member.ports.to_vec()).unwrap_or_default(),
            own_node: end.node.map(|node| node.name.to_owned()).filter(|name| here.contains_key(name)),
            behind: Vec::new(),
        });
        all.insert(*identity, traits);
    }
    let mut index = Index::default();
    for (identity, _) in all.iter().filter(|(_, traits)| traits.is_some()) {
        index.add(*identity, view.home(*identity));
    }
    for (number, term) in terms.parts.iter() {
        for identity in view.matching(number, term, &index) {
            if let Some(Some(traits)) = all.get_mut(&identity) {
                traits.terms.push(number);
            }
        }
    }
    all
}
