//! Lives: host.
//! Called by: `weirctl policy diff`.
//! May touch: nothing.
//! Never: reports a connection whose verdict stayed, or compares ends that are there on one side only.

use std::collections::{BTreeMap, BTreeSet};

use weir_common::verdict::Verdict;

use super::{
    Cause, PortSet, Reach, Run,
    names::{Named, Names},
    parties::Who,
    regions::boundaries,
};
use crate::{Context, evaluate::judge, model::Resources};

/// What is different between two states.
#[derive(Clone, Debug)]
pub struct Changes {
    /// Connections whose verdict changes.
    pub list: Vec<Change>,
    /// Workloads and nodes that only the old state has.
    pub only_old: Option<Named>,
    /// Workloads and nodes that only the new state has.
    pub only_new: Option<Named>,
    /// Pairs of ends that are on both sides.
    pub compared: usize,
    /// Pairs of which some connection passed before and is denied now.
    pub closed: usize,
    /// Pairs of which some connection was denied before and passes now.
    pub opened: usize,
}

/// Connections that change in the same way.
#[derive(Clone, Debug)]
pub struct Change {
    /// Who opens.
    pub from: Named,
    /// Who is called.
    pub to: Named,
    /// Each of those who open.
    pub from_ends: Vec<Who>,
    /// Each of those who are called.
    pub to_ends: Vec<Who>,
    /// How many pairs that is, less ends that call themselves and nodes that call their own pods.
    pub pairs: usize,
    /// Which protocols and ports.
    pub ports: PortSet,
    /// What was.
    pub was: Side,
    /// What is now.
    pub now: Side,
}

/// What one state says of a connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Side {
    /// The verdict.
    pub verdict: Verdict,
    /// The rules behind it: those that refuse, or all that let pass; empty: no policy has a say.
    pub causes: Vec<Cause>,
}

/// How connections of a pair change.
type How = (PortSet, Side, Side);

/// Which connections change from the old state to the new.
#[must_use]
pub fn changes(old: &Resources, new: &Resources, context: &Context) -> Changes {
    let mut edges = boundaries(old);
    edges.extend(boundaries(new));
    let (old, new) = (Reach::with(old, context, &edges, judge), Reach::with(new, context, &edges, judge));
    let both = Both::of(&old, &new);
    let names = Names::of(new.parties());
    let (mut list, mut totals) = (Vec::new(), Totals::default());
    for ((from, how), to) in both.merged(&mut totals) {
        let ends = |classes: &BTreeSet<usize>| -> Vec<usize> {
            let members = classes.iter().filter_map(|class| both.classes.get(*class));
            let mut ends: Vec<_> = members.flatten().map(|(_, new)| *new).collect();
            ends.sort_unstable();
            ends
        };
        let (from, to) = (ends(&from), ends(&to));
        let who = |ends: &[usize]| -> Vec<Who> {
            ends.iter().filter_map(|end| Some(new.parties().get(*end)?.who.clone())).collect()
        };
        let (ports, was, now) = how;
        list.push(Change {
            from: names.name(&from),
            to: names.name(&to),
            from_ends: who(&from),
            to_ends: who(&to),
            pairs: new.pairs(&from, &to),
            ports,
            was,
            now,
        });
    }
    list.sort_by(|a, b| (&a.to.long, &a.from.long, &a.ports).cmp(&(&b.to.long, &b.from.long, &b.ports)));
    Changes {
        list,
        only_old: only(&old, &new),
        only_new: only(&new, &old),
        compared: totals.compared,
        closed: totals.closed,
        opened: totals.opened,
    }
}

/// Workloads and nodes that the other side has not.
fn only(here: &Reach, there: &Reach) -> Option<Named> {
    let known: BTreeSet<_> = there.parties().iter().map(|party| &party.who).collect();
    let missing = here
        .parties()
        .iter()
        .enumerate()
        .filter(|(_, party)| matches!(party.who, Who::Workload(_) | Who::Node(_)) && !known.contains(&party.who));
    let missing: Vec<_> = missing.map(|(index, _)| index).collect();
    (!missing.is_empty()).then(|| Names::of(here.parties()).name(&missing))
}

#[derive(Default)]
struct Totals {
    compared: usize,
    closed: usize,
    opened: usize,
}

/// Ends of both sides, in classes that neither side tells apart.
struct Both<'r> {
    old: &'r Reach,
    new: &'r Reach,
    /// The places of each end on the old side and the new, by class.
    classes: Vec<Vec<(usize, usize)>>,
}

impl<'r> Both<'r> {
    fn of(old: &'r Reach, new: &'r Reach) -> Self {
        let places: BTreeMap<_, _> =
            old.parties().iter().enumerate().map(|(place, party)| (&party.who, place)).collect();
        let mut classes: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (place, party) in new.parties().iter().enumerate() {
            if let Some(before) = places.get(&party.who) {
                classes.entry((old.kind(*before), new.kind(place))).or_default().push((*before, place));
            }
        }
        Self { old, new, classes: classes.into_values().collect() }
    }

    /// Changes with all callers, and then all called ends, that share them.
    fn merged(&self, totals: &mut Totals) -> BTreeMap<(BTreeSet<usize>, How), BTreeSet<usize>> {
        let mut merged: BTreeMap<(BTreeSet<usize>, How), BTreeSet<usize>> = BTreeMap::new();
        for (to, called) in self.classes.iter().enumerate() {
            let mut callers: BTreeMap<How, BTreeSet<usize>> = BTreeMap::new();
            for (from, calling) in self.classes.iter().enumerate() {
                let pairs = self.pairs(calling, called);
                if pairs == 0 {
                    continue;
                }
                let found = self.between(calling, called);
                totals.add(pairs, &found);
                for how in found {
                    callers.entry(how).or_default().insert(from);
                }
            }
            for (how, from) in callers {
                merged.entry((from, how)).or_default().insert(to);
            }
        }
        merged
    }

    fn pairs(&self, from: &[(usize, usize)], to: &[(usize, usize)]) -> usize {
        let new = |ends: &[(usize, usize)]| ends.iter().map(|(_, new)| *new).collect::<Vec<_>>();
        self.new.pairs(&new(from), &new(to))
    }

    fn between(&self, from: &[(usize, usize)], to: &[(usize, usize)]) -> Vec<How> {
        let (Some((from, new_from)), Some((to, new_to))) = (from.first(), to.first()) else { return Vec::new() };
        let (before, after) = (self.old.pair(*from, *to), self.new.pair(*new_from, *new_to));
        let mut found: BTreeMap<(Side, Side), PortSet> = BTreeMap::new();
        let (mut before, mut after) = (before.runs().peekable(), after.runs().peekable());
        while let (Some(was), Some(now)) = (before.peek(), after.peek()) {
            let (first, last) = (was.first.max(now.first), was.last.min(now.last));
            if was.verdict() != now.verdict() {
                let sides = (self.old.side(was), self.new.side(now));
                found.entry(sides).or_default().push(first, last);
            }
            if was.last == last && now.last == last {
                before.next();
                after.next();
            } else if was.last == last {
                before.next();
            } else {
                after.next();
            }
        }
        found.into_iter().map(|((was, now), ports)| (ports, was, now)).collect()
    }
}

impl Totals {
    fn add(&mut self, pairs: usize, found: &[How]) {
        self.compared += pairs;
        let any = |wanted: fn(bool, bool) -> bool| {
            found.iter().any(|(_, was, now)| wanted(was.verdict.passes(), now.verdict.passes()))
        };
        self.closed += if any(|was, now| was && !now) { pairs } else { 0 };
        self.opened += if any(|was, now| !was && now) { pairs } else { 0 };
    }
}

impl Reach {
    /// What a run's verdict rests on.
    fn side(&self, run: &Run) -> Side {
        let verdict = run.verdict();
        let said = [run.egress, run.ingress].into_iter().flatten();
        let behind = said.filter(|said| said.verdict == verdict || verdict == Verdict::Allow);
        Side { verdict, causes: behind.filter_map(|said| self.cause(said).cloned()).collect() }
    }
}
