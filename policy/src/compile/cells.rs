//! Lives: host.
//! Called by: `compile`.
//! May touch: nothing.
//! Never: fills a cell with anything but the evaluator's answer.

use std::collections::BTreeMap;

use weir_common::{
    image::{Cell, SOCKET_MPTCP, SOCKET_RAW, SOCKET_SCTP, SetEntry},
    verdict::Direction,
};

use super::{
    atoms::Atoms,
    classes::{Classes, DIRECTIONS, Terms, Traits},
    faults::Problems,
    identities::Identities,
    rules::Numbering,
    subjects::{Set, Subjects},
};
use crate::{
    evaluate::{Bound, Outcome, RulePlace, isolating_sockets, judge, judge_unmatched, port_matches},
    model::Socket,
};

/// The sections that hold the judgements.
#[derive(Default)]
pub struct Cells {
    /// Two per set: ingress, egress.
    pub sets: Vec<SetEntry>,
    /// Port class by port row and atom.
    pub port_rows: Vec<u16>,
    /// Cells by set, direction, peer class and port class.
    pub cells: Vec<Cell>,
    rows: BTreeMap<Vec<u16>, u32>,
}

/// Most cells: 256 MiB.
const MAX_CELLS: usize = 1 << 26;

/// Things sorted into groups that are alike for one set and direction.
struct Groups {
    /// Group of each thing.
    of: Vec<u16>,
    /// One thing of each group.
    stands_for: Vec<usize>,
}

impl Groups {
    fn by<K: Ord>(keys: impl Iterator<Item = K>) -> Self {
        let mut groups = Self { of: Vec::new(), stands_for: Vec::new() };
        let mut known = BTreeMap::new();
        for (index, key) in keys.enumerate() {
            // There are no more groups than classes or atoms, and those are numbered with 16 bits.
            let next = u16::try_from(groups.stands_for.len()).unwrap_or(u16::MAX);
            let group = *known.entry(key).or_insert_with(|| {
                groups.stands_for.push(index);
                next
            });
            groups.of.push(group);
        }
        groups
    }
}

/// What the stages before have found out.
struct Known<'k, 'a> {
    terms: &'k Terms<'a>,
    classes: &'k Classes,
    identities: &'k Identities,
    atoms: &'k Atoms,
    numbering: &'k Numbering,
}

impl Cells {
    pub fn of<'a>(
        subjects: &Subjects<'a>,
        terms: &Terms<'a>,
        classes: &Classes,
        identities: &Identities,
        atoms: &Atoms,
        numbering: &Numbering,
        problems: &mut Problems,
    ) -> Self {
        let known = Known { terms, classes, identities, atoms, numbering };
        let mut cells = Self::default();
        for set in &subjects.sets {
            let sockets = socket_flags(&set.bound);
            for direction in DIRECTIONS {
                let entry = cells.direction(&known, set, direction);
                cells.sets.push(SetEntry { sockets, ..entry });
            }
            if cells.cells.len() > MAX_CELLS {
                let problem = format!("the verdicts of the policies take more than {MAX_CELLS} cells");
                problems.of_all(
                    problem,
                    "use fewer distinct peers and ports, or fewer policies that select different workloads",
                );
                break;
            }
        }
        if u16::try_from(subjects.sets.len()).is_err() {
            problems
                .of_all("workloads fall into more than 65535 policy sets".to_owned(), "use fewer distinct selectors");
        }
        cells
    }

    /// Judges one direction of a set, once per group of peers and group of ports.
    fn direction<'a>(&mut self, known: &Known<'_, 'a>, set: &Set<'a>, direction: Direction) -> SetEntry {
        let default = known.cell(&judge_unmatched(set.local(), direction), direction);
        let (peers, ports) = (known.peer_groups(set, direction), known.port_groups(set, direction));
        let mut rows = Vec::new();
        for class in &peers.stands_for {
            rows.push(known.row(set, direction, *class, &ports));
        }
        if rows.iter().flatten().all(|cell| *cell == default) {
            return SetEntry { default, ..SetEntry::default() };
        }
        let start = self.cells.len();
        for group in &peers.of {
            let row = rows.get(usize::from(*group)).map(Vec::as_slice).unwrap_or_default();
            self.cells.extend(row.iter().map(|cell| if *cell == default { Cell::ABSENT } else { *cell }));
        }
        SetEntry {
            cells: u32::try_from(start).unwrap_or(u32::MAX),
            port_row: self.port_row(ports.of),
            port_classes: u16::try_from(ports.stands_for.len()).unwrap_or(u16::MAX),
            sockets: 0,
            default,
        }
    }

    /// Where a port row stands; equal rows are kept once.
    fn port_row(&mut self, row: Vec<u16>) -> u32 {
        if let Some(start) = self.rows.get(&row) {
            return *start;
        }
        let start = u32::try_from(self.port_rows.len()).unwrap_or(u32::MAX);
        self.port_rows.extend(&row);
        self.rows.insert(row, start);
        start
    }
}

impl<'a> Known<'_, 'a> {
    /// Peer classes in groups that match the same peers of this set and direction.
    fn peer_groups(&self, set: &Set<'a>, direction: Direction) -> Groups {
        let named = self.terms.peers_of(set, direction);
        let asks_names = self.terms.asks_names(set, direction);
        let seen = |traits: &Traits| Traits {
            peers: traits.peers.iter().filter(|peer| named.contains(peer)).copied().collect(),
            ports: if asks_names { traits.ports.clone() } else { Vec::new() },
            own_node: traits.own_node.clone(),
        };
        Groups::by(self.classes.list.iter().map(|(traits, _)| seen(traits)))
    }

    /// Atoms in groups that match the same port entries of this set and direction.
    fn port_groups(&self, set: &Set<'a>, direction: Direction) -> Groups {
        let named = self.terms.ports_of(set, direction);
        let matched = |(protocol, port): &(_, u16)| -> Vec<bool> {
            named.iter().map(|entry| port_matches(entry, *protocol, *port)).collect()
        };
        Groups::by(self.atoms.stands_for.iter().map(matched))
    }

    /// The evaluator's answers for one group of peers.
    fn row(&self, set: &Set<'a>, direction: Direction, class: usize, ports: &Groups) -> Vec<Cell> {
        let identity = self.classes.list.get(class).and_then(|(_, identity)| self.identities.list.get(*identity));
        let Some(end) = identity.map(|identity| identity.end()) else { return Vec::new() };
        let ports = ports.stands_for.iter().filter_map(|atom| self.atoms.stands_for.get(*atom));
        ports
            .map(|(protocol, port)| self.cell(&judge(set.local(), direction, &end, *protocol, *port), direction))
            .collect()
    }

    fn cell(&self, outcome: &Outcome<'_>, direction: Direction) -> Cell {
        let rule =
            outcome.deciding.map_or(0, |deciding| self.numbering.rule(deciding.bound.id, direction, deciding.place));
        let cell = Cell::new(outcome.verdict, outcome.reason, rule);
        let deciding = outcome.deciding.and_then(|deciding| match deciding.place {
            RulePlace::At(index) => deciding.bound.policy.rules(direction).get(index),
            RulePlace::Default => None,
        });
        if deciding.is_some_and(|rule| !rule.log) { cell.quietly() } else { cell }
    }
}

fn socket_flags(set: &[Bound<'_>]) -> u16 {
    let flag = |socket| match socket {
        Socket::Raw => SOCKET_RAW,
        Socket::Sctp => SOCKET_SCTP,
        Socket::Mptcp => SOCKET_MPTCP,
    };
    match isolating_sockets(set) {
        None => SOCKET_RAW | SOCKET_SCTP | SOCKET_MPTCP,
        Some(sockets) => sockets.into_iter().fold(0, |flags, socket| flags | flag(socket)),
    }
}
