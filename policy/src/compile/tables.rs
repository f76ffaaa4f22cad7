//! Lives: host.
//! Called by: `compiler`, last: for the sets whose policies have changed, and for classes that are new.
//! May touch: the sections of sets and cells.
//! Never: fills a cell with anything but the evaluator's answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use weir_common::{
    image::{Cell, SOCKET_MPTCP, SOCKET_RAW, SOCKET_SCTP, Section, SetEntry},
    verdict::Direction,
};

use super::{
    DIRECTIONS,
    classes::{Behind, Classes, NOBODY, Traits},
    faults::Problems,
    port_rows::{PortRows, TooManyPorts},
    ports::PortClasses,
    room::Room,
    rules::Rules,
    terms::{Asked, Terms},
    view::{self, View},
    words::Words,
};
use crate::{
    evaluate::{Bound, Local, Outcome, PeerEnd, isolating_sockets, judge, judge_unmatched, worst},
    model::{ContainerPort, PortMatch, Socket, Timestamp},
};

/// Most cells: 256 MiB.
const MAX_CELLS: usize = 1 << 26;

/// A set of local workloads that are judged alike.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SetKey {
    /// The policies that select them, by number.
    pub bound: Vec<u32>,
    /// Their ports that those policies name.
    pub ports: Vec<ContainerPort>,
    /// Of pods, the node.
    pub node: Option<String>,
}

/// The set of workloads that no policy selects.
pub const UNSELECTED: u32 = 0;

/// One set, with what its policies are.
pub struct Set<'s> {
    pub number: u32,
    pub key: &'s SetKey,
    pub bound: &'s [Bound<'s>],
    pub now: Timestamp,
}

impl<'s> Set<'s> {
    fn local(&self) -> Local<'_, 's> {
        Local { bound: self.bound, ports: &self.key.ports, node: self.key.node.as_deref(), now: self.now }
    }
}

/// What the stages before have found out.
pub struct Source<'s> {
    pub classes: &'s Classes,
    /// For each class an identity in it.
    pub samples: &'s [Option<u32>],
    pub view: View<'s>,
    pub rules: &'s Rules,
}

impl<'s> Source<'s> {
    /// An end that stands for a class.
    fn end(&self, class: u32) -> PeerEnd<'s> {
        let sample = self.samples.get(class as usize).copied().flatten().filter(|_| class != NOBODY);
        sample.and_then(|sample| self.view.end(sample)).unwrap_or(view::NOBODY)
    }
}

/// What a table can tell of a class: classes of which it can tell the same have the same cells.
type Seen = (Vec<u32>, Vec<ContainerPort>, bool);

/// One direction of a set.
#[derive(Clone, Debug)]
struct Table {
    terms: BTreeSet<u32>,
    names: BTreeSet<String>,
    ports: Arc<BTreeSet<PortMatch>>,
    classes: Arc<PortClasses>,
    default: Cell,
    sockets: u16,
    /// Whether every cell would be the default.
    plain: bool,
    start: usize,
    rows: BTreeMap<Seen, Arc<[Cell]>>,
}

/// The tables of every set.
#[derive(Clone, Debug)]
pub struct Tables {
    /// By set and direction.
    tables: BTreeMap<(u32, u32), Table>,
    room: Room,
    /// Classes that a table has room for.
    height: usize,
    pub sets: Words,
    pub cells: Words,
}

impl Tables {
    pub fn new() -> Self {
        let (sets, cells) = (Words::of(Section::Sets), Words::of(Section::Cells));
        Self { tables: BTreeMap::new(), room: Room::default(), height: 0, sets, cells }
    }

    /// The sets that ask what others call their ports, if they ask for one of these names.
    pub fn asking(&self, names: &BTreeSet<String>) -> BTreeSet<u32> {
        let asking = self.tables.iter().filter(|(_, table)| !table.names.is_disjoint(names));
        asking.map(|((set, _), _)| *set).collect()
    }

    /// Learns what a set asks about now. Its cells are filled later, when it is known who is out there.
    pub fn ask(
        &mut self,
        set: u32,
        asked: Option<[Asked; 2]>,
        terms: &mut Terms,
        ports: &mut PortRows,
    ) -> Result<(), TooManyPorts> {
        let old = DIRECTIONS.map(|direction| self.tables.remove(&(set, direction.index())));
        if let Some(asked) = asked {
            for (direction, asked) in DIRECTIONS.into_iter().zip(asked) {
                let held = asked.terms.into_iter().map(|term| terms.hold(term)).collect();
                for name in &asked.names {
                    terms.relevant.name(name, true);
                }
                let of = Arc::new(asked.ports);
                let classes = ports.hold(&of)?;
                self.tables.insert((set, direction.index()), Table::new(held, asked.names, of, classes, !asked.rules));
            }
        }
        for table in old.into_iter().flatten() {
            table.terms.iter().for_each(|term| terms.release(*term));
            table.names.iter().for_each(|name| terms.relevant.name(name, false));
            ports.release(&table.ports);
            self.room.give(table.start, table.size(self.height));
        }
        Ok(())
    }

    /// Makes room for every class. Tells whether all tables must be filled anew.
    pub fn make_room(&mut self, classes: usize) -> bool {
        if classes <= self.height {
            return false;
        }
        self.height = (classes + classes / 4).next_multiple_of(64);
        self.room = Room::default();
        self.cells.truncate(0);
        true
    }

    /// Fills the cells of these classes, or of all, in one set.
    pub fn fill(
        &mut self,
        set: &Set<'_>,
        only: Option<&BTreeSet<u32>>,
        source: &Source<'_>,
        problems: &mut Problems,
    ) -> usize {
        let mut written = 0;
        for direction in DIRECTIONS {
            let Some(mut table) = self.tables.remove(&(set.number, direction.index())) else { continue };
            if only.is_none() {
                table.begin(set, direction, source.rules);
                table.start = self.room.take(table.size(self.height));
                if self.room.end() > MAX_CELLS {
                    let problem = format!("the verdicts of the policies take more than {MAX_CELLS} cells");
                    let remedy =
                        "use fewer distinct peers and ports, or fewer policies that select different workloads";
                    problems.of_all(problem, remedy);
                    return written;
                }
                self.cells.reserve(table.start + table.size(self.height));
            }
            let wanted = |class: &u32| only.is_none_or(|only| only.contains(class));
            let (classes, plain) = (source.classes.parts.iter(), table.plain);
            for (class, traits) in classes.filter(|(class, _)| !plain && wanted(class)) {
                let row = match traits.behind.as_slice() {
                    [] => table.row(set, direction, traits, || source.end(class), source.rules),
                    behind => table.row_behind(set, direction, behind, source),
                };
                let start = table.start + class as usize * row.len();
                for (place, cell) in (start..).zip(row.iter()) {
                    let cell = if *cell == table.default { Cell::ABSENT } else { *cell };
                    self.cells.set(place, u64::from(cell.0));
                }
                written += row.len();
            }
            self.tables.insert((set.number, direction.index()), table);
        }
        written
    }

    /// Writes where each set's tables are.
    pub fn write_sets(&mut self, sets: usize, ports: &PortRows) {
        self.sets.truncate(sets * 2);
        for ((set, direction), table) in &self.tables {
            let entry = table.entry(ports);
            self.sets.set_wide((set * 2 + direction) as usize, entry.to_words());
        }
    }

    /// Cells that are in use.
    pub fn cells_in_use(&self) -> usize {
        self.tables.values().map(|table| table.size(self.height)).sum()
    }
}

impl Table {
    fn new(
        terms: BTreeSet<u32>,
        names: BTreeSet<String>,
        ports: Arc<BTreeSet<PortMatch>>,
        classes: Arc<PortClasses>,
        plain: bool,
    ) -> Self {
        let (default, rows) = (Cell::ABSENT, BTreeMap::new());
        Self { terms, names, ports, classes, default, sockets: 0, plain, start: 0, rows }
    }

    /// Forgets what policies said before.
    fn begin(&mut self, set: &Set<'_>, direction: Direction, rules: &Rules) {
        self.default = cell(&judge_unmatched(set.local(), direction), direction, rules);
        self.sockets = socket_flags(set.bound);
        // Without rules only the node of a pod is told apart from the rest.
        self.plain &= direction == Direction::Egress || set.key.node.is_none() || set.bound.is_empty();
        self.rows.clear();
    }

    fn size(&self, height: usize) -> usize {
        if self.plain { 0 } else { height * self.classes.stands_for.len() }
    }

    /// The cells of a class, one for each class of ports.
    fn row<'e>(
        &mut self,
        set: &Set<'_>,
        direction: Direction,
        traits: &Traits,
        end: impl Fn() -> PeerEnd<'e>,
        rules: &Rules,
    ) -> Arc<[Cell]> {
        let seen = self.seen(set, traits);
        if let Some(row) = self.rows.get(&seen) {
            return Arc::clone(row);
        }
        let end = end();
        let ports = self.classes.stands_for.iter();
        let row: Arc<[Cell]> = ports
            .map(|(protocol, port)| cell(&judge(set.local(), direction, &end, *protocol, *port), direction, rules))
            .collect();
        self.rows.insert(seen, Arc::clone(&row));
        row
    }

    /// The cells of what is behind a port of a service, which is the worst of its ends whatever class of ports is asked about.
    /// Nothing comes from there: who called by a service's address has another.
    fn row_behind(&self, set: &Set<'_>, direction: Direction, behind: &[Behind], source: &Source<'_>) -> Arc<[Cell]> {
        let outcomes = behind
            .iter()
            .map(|behind| judge(set.local(), direction, &source.end(behind.class), behind.protocol, behind.port));
        let worst = worst(outcomes).filter(|_| direction == Direction::Egress);
        let cell = worst.map_or(self.default, |(_, outcome)| cell(&outcome, direction, source.rules));
        vec![cell; self.classes.stands_for.len()].into()
    }

    fn seen(&self, set: &Set<'_>, traits: &Traits) -> Seen {
        let terms = traits.terms.iter().copied().filter(|term| self.terms.contains(term)).collect();
        let ports = if self.names.is_empty() { Vec::new() } else { traits.ports.clone() };
        (terms, ports, traits.own_node.is_some() && traits.own_node == set.key.node)
    }

    fn entry(&self, ports: &PortRows) -> SetEntry {
        let plain = SetEntry { sockets: self.sockets, default: self.default, ..SetEntry::default() };
        if self.plain {
            return plain;
        }
        SetEntry {
            // Fewer than MAX_CELLS, and than 65536 classes of ports, or nothing is compiled.
            cells: u32::try_from(self.start).unwrap_or(u32::MAX),
            port_row: ports.start(&self.ports),
            port_classes: u16::try_from(self.classes.stands_for.len()).unwrap_or(u16::MAX),
            ..plain
        }
    }
}

fn cell(outcome: &Outcome<'_>, direction: Direction, rules: &Rules) -> Cell {
    let rule = outcome
        .deciding
        .map_or(0, |deciding| rules.number(deciding.bound.id, deciding.bound.policy, direction, deciding.place));
    let cell = Cell::new(outcome.verdict, outcome.reason, rule);
    match outcome.deciding {
        Some(deciding) if !deciding.logs(direction) => cell.quietly(),
        Some(_) | None => cell,
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
