//! Lives: host.
//! Called by: `weirctl policy matrix`.
//! May touch: nothing.
//! Never: says of a whole group what holds for some of it only.

use std::collections::BTreeMap;

use super::{
    PortSet, Reach,
    names::{Named, Names},
    parties::{Party, Who},
};

/// What makes one row and column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupBy {
    /// Each end by itself.
    Each,
    /// Workloads of one namespace that no policy tells apart.
    Alike,
    /// The workloads of a namespace.
    Namespace,
    /// The workloads with one value of a label, their own or their namespace's.
    Label(String),
}

/// Ends that share a row and a column.
#[derive(Clone, Debug)]
pub struct Group {
    /// Their names together.
    pub name: Named,
    /// Their places among the parties.
    pub members: Vec<usize>,
    /// The members of each kind.
    kinds: BTreeMap<usize, Vec<usize>>,
}

/// What the ends of one group may open to those of another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// What passes between every two of them.
    pub every: PortSet,
    /// What passes between some of them.
    pub some: PortSet,
    /// What of that passes only because a policy is in audit mode.
    pub audited: PortSet,
    /// Whether policies have a say: there are two different ends, one of them a workload.
    pub judged: bool,
}

/// What an end is grouped by; the order is that of the rows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Workload(String, usize),
    Node(usize),
    Host,
    Outside(usize),
}

/// The ends in groups, workloads first.
#[must_use]
pub fn groups(reach: &Reach, by: &GroupBy) -> Vec<Group> {
    let names = Names::of(reach.parties());
    let outside = outside(reach);
    let mut members: BTreeMap<Key, Vec<usize>> = BTreeMap::new();
    for (index, party) in reach.parties().iter().enumerate() {
        members.entry(key(reach, &outside, by, index, party)).or_default().push(index);
    }
    let group = |(key, members): (Key, Vec<usize>)| {
        let mut kinds: BTreeMap<_, Vec<_>> = BTreeMap::new();
        members.iter().for_each(|member| kinds.entry(reach.kind(*member)).or_default().push(*member));
        let name = match (&key, by) {
            (Key::Workload(value, _), GroupBy::Namespace) => counted(value, value, members.len()),
            (Key::Workload(value, _), GroupBy::Label(key)) => match value.strip_prefix('=') {
                Some(value) => {
                    counted(&format!("{key}={value}"), &format!("workloads with {key}={value}"), members.len())
                }
                None => counted(&format!("no {key}"), &format!("workloads without {key}"), members.len()),
            },
            _ => names.name(&members),
        };
        Group { name, members, kinds }
    };
    members.into_iter().map(group).collect()
}

fn counted(short: &str, long: &str, count: usize) -> Named {
    Named { short: format!("{short} ({count})"), long: format!("{long} ({count})") }
}

fn key(reach: &Reach, outside: &BTreeMap<usize, usize>, by: &GroupBy, index: usize, party: &Party) -> Key {
    let apart = if *by == GroupBy::Each { index } else { reach.kind(index) };
    match (&party.who, by) {
        (Who::Workload(id), GroupBy::Each) => Key::Workload(id.namespace.clone(), index),
        (Who::Workload(id), GroupBy::Alike) => Key::Workload(id.namespace.clone(), apart),
        (Who::Workload(id), GroupBy::Namespace) => Key::Workload(id.namespace.clone(), 0),
        (Who::Workload(_), GroupBy::Label(key)) => {
            let value = party.labels.get(key).or_else(|| party.namespace_labels.get(key));
            Key::Workload(value.map(|value| format!("={value}")).unwrap_or_default(), 0)
        }
        (Who::Node(_), _) => Key::Node(apart),
        (Who::Host, _) => Key::Host,
        (Who::Outside(_), GroupBy::Each) => Key::Outside(index),
        (Who::Outside(_), _) => Key::Outside(outside.get(&reach.kind(index)).copied().unwrap_or_default()),
    }
}

/// For each kind of outside addresses the first that reaches, and is reached by, the same: policies often name many
/// prefixes and treat them alike.
fn outside(reach: &Reach) -> BTreeMap<usize, usize> {
    let mut known = BTreeMap::new();
    let mut first = BTreeMap::new();
    // A workload of each set, since kinds of one set answer alike.
    let locals: BTreeMap<_, _> =
        reach.sets.iter().enumerate().filter_map(|(kind, set)| Some(((*set)?, kind))).collect();
    for (index, party) in reach.parties().iter().enumerate() {
        let kind = reach.kind(index);
        if !matches!(party.who, Who::Outside(_)) || first.contains_key(&kind) {
            continue;
        }
        let toward = |local: &usize| {
            let (pair, back) = (reach.between(kind, *local), reach.between(*local, kind));
            (pair.passing(), pair.audited(), back.passing(), back.audited())
        };
        let row: Vec<_> = locals.values().map(toward).collect();
        first.insert(kind, *known.entry(row).or_insert(kind));
    }
    first
}

impl Reach {
    /// What the ends of one group may open to those of another.
    #[must_use]
    pub fn cell(&self, from: &Group, to: &Group) -> Cell {
        let mut cell: Option<Cell> = None;
        for (kind, members) in &from.kinds {
            for (other, others) in &to.kinds {
                let pair = self.between(*kind, *other);
                if !pair.is_judged() || self.pairs(members, others) == 0 {
                    continue;
                }
                let (passing, audited) = (pair.passing(), pair.audited());
                cell = Some(match cell {
                    None => Cell { every: passing.clone(), some: passing, audited, judged: true },
                    Some(before) => Cell {
                        every: before.every.intersection(&passing),
                        some: before.some.union(&passing),
                        audited: before.audited.union(&audited),
                        judged: true,
                    },
                });
            }
        }
        cell.unwrap_or_default()
    }
}
