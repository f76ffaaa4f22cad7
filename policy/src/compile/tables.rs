//! Lives: host.
//! Called by: `compiler`, last: for the sets whose policies have changed, and for classes that are new.
//! May touch: the sections of sets and cells.
//! Never: fills a cell with anything but the evaluator's answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use weir_common::{
    image::{Cell, SET_REFUSES, SOCKET_MPTCP, SOCKET_RAW, SOCKET_SCTP, Section, SetEntry},
    verdict::{Direction, Verdict},
};

use super::{
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
    evaluate::{
        Bound, Deciding, Itself, Local, OneWay, PeerEnd, Trial, isolating_sockets, judge_as, judge_unmatched, ways,
        worst,
    },
    model::{ContainerPort, Mode, PortMatch, Socket, Timestamp},
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
    pub unselected: Verdict,
    pub now: Timestamp,
}

impl<'s> Set<'s> {
    fn local(&self) -> Local<'_, 's> {
        Local {
            bound: self.bound,
            ports: &self.key.ports,
            node: self.key.node.as_deref(),
            unselected: self.unselected,
            now: self.now,
        }
    }

    /// The worst of ends behind a port of a service; of some it may be told that they are the workload itself.
    pub fn behind(
        &self,
        (trial, direction): TableKind,
        ends: impl Iterator<Item = (Behind, bool)>,
        source: &Source<'_>,
    ) -> Option<Cell> {
        let outcomes = ends.flat_map(|(behind, itself)| {
            let end = PeerEnd { itself: itself.then_some(Itself::ByService), ..source.end(behind.class) };
            let judge = move |way| judge_as(trial, self.local(), way, &end, behind.protocol, behind.port);
            ways(direction, &end).iter().map(move |way| (*way, judge(*way)))
        });
        worst(direction, outcomes).map(|(_, outcome)| cell(&outcome, direction, source.rules))
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

/// What tables are of: a direction, and the policies as they are or with staged ones enforced. Only sets with a staged policy have
/// tables of the second kind, which touch nothing of the first.
pub type TableKind = (Trial, Direction);

/// Every kind.
pub const KINDS: [TableKind; 4] = [
    (Trial::InForce, Direction::Ingress),
    (Trial::InForce, Direction::Egress),
    (Trial::Staged, Direction::Ingress),
    (Trial::Staged, Direction::Egress),
];

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
    /// By set and kind.
    tables: BTreeMap<(u32, TableKind), Table>,
    room: Room,
    /// Classes that a table has room for.
    height: usize,
    pub sets: Words,
    pub staged_sets: Words,
    pub cells: Words,
}

impl Tables {
    pub fn new() -> Self {
        let [sets, staged_sets, cells] = [Section::Sets, Section::StagedSets, Section::Cells].map(Words::of);
        Self { tables: BTreeMap::new(), room: Room::default(), height: 0, sets, staged_sets, cells }
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
        asked: Vec<(TableKind, Asked)>,
        terms: &mut Terms,
        ports: &mut PortRows,
    ) -> Result<(), TooManyPorts> {
        let old = KINDS.map(|kind| self.tables.remove(&(set, kind)));
        for (kind, asked) in asked {
            let held = asked.terms.into_iter().map(|term| terms.hold(term)).collect();
            for name in &asked.names {
                terms.relevant.name(name, true);
            }
            let of = Arc::new(asked.ports);
            let classes = ports.hold(&of)?;
            self.tables.insert((set, kind), Table::new(held, asked.names, of, classes, !asked.rules));
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
        for kind in KINDS {
            let Some(mut table) = self.tables.remove(&(set.number, kind)) else { continue };
            if only.is_none() {
                table.begin(set, kind, source.rules);
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
                    [] => table.row(set, kind, traits, || source.end(class), source.rules),
                    behind => table.row_behind(set, kind, behind, source),
                };
                let start = table.start + class as usize * row.len();
                for (place, cell) in (start..).zip(row.iter()) {
                    let cell = if *cell == table.default { Cell::ABSENT } else { *cell };
                    self.cells.set(place, u64::from(cell.0));
                }
                written += row.len();
            }
            self.tables.insert((set.number, kind), table);
        }
        written
    }

    /// Writes where each set's tables are.
    pub fn write_sets(&mut self, sets: usize, ports: &PortRows) {
        self.sets.truncate(sets * 2);
        // A set without staged policies has an entry that is absent, and no table to write it.
        let mut staged = vec![SetEntry::default(); if self.any_staged() { sets * 2 } else { 0 }];
        for ((set, (trial, direction)), table) in &self.tables {
            let place = (set * 2 + direction.index()) as usize;
            let entry = table.entry(ports);
            match trial {
                Trial::InForce => self.sets.set_wide(place, entry.to_words()),
                Trial::Staged => staged.get_mut(place).into_iter().for_each(|slot| *slot = entry),
            }
        }
        self.staged_sets.truncate(staged.len());
        for (place, entry) in staged.into_iter().enumerate() {
            self.staged_sets.set_wide(place, entry.to_words());
        }
    }

    /// Whether some set refuses.
    pub fn any_refusing(&self) -> bool {
        let mut in_force = self.tables.iter().filter(|((_, (trial, _)), _)| *trial == Trial::InForce);
        in_force.any(|(_, table)| table.sockets & SET_REFUSES != 0)
    }

    /// Whether some set has a staged policy.
    pub fn any_staged(&self) -> bool {
        self.tables.keys().any(|(_, (trial, _))| *trial == Trial::Staged)
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
    fn begin(&mut self, set: &Set<'_>, (trial, direction): TableKind, rules: &Rules) {
        self.default = cell(&(direction, judge_unmatched(trial, set.local(), direction)), direction, rules);
        self.sockets = flags(set.bound, direction);
        // Without rules only the node of a pod is told apart from the rest.
        let open = set.bound.is_empty() && set.unselected.passes();
        self.plain &= direction == Direction::Egress || set.key.node.is_none() || open;
        self.rows.clear();
    }

    fn size(&self, height: usize) -> usize {
        if self.plain { 0 } else { height * self.classes.stands_for.len() }
    }

    /// The cells of a class, one for each class of ports.
    fn row<'e>(
        &mut self,
        set: &Set<'_>,
        (trial, direction): TableKind,
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
            .map(|(protocol, port)| judge_as(trial, set.local(), direction, &end, *protocol, *port))
            .map(|outcome| cell(&(direction, outcome), direction, rules))
            .collect();
        self.rows.insert(seen, Arc::clone(&row));
        row
    }

    /// The cells of what is behind a port of a service, which is the worst of its ends whatever class of ports is asked about.
    /// Nothing comes from there: who called by a service's address has another.
    fn row_behind(&self, set: &Set<'_>, kind: TableKind, behind: &[Behind], source: &Source<'_>) -> Arc<[Cell]> {
        let ends = behind.iter().map(|behind| (*behind, false));
        let worst = if kind.1 == Direction::Egress { set.behind(kind, ends, source) } else { None };
        vec![worst.unwrap_or(self.default); self.classes.stands_for.len()].into()
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

fn cell((way, outcome): &OneWay<'_>, asked: Direction, rules: &Rules) -> Cell {
    let number = |deciding: Deciding<'_>| rules.number(deciding.bound.id, deciding.bound.policy, *way, deciding.place);
    let cell = Cell::new(outcome.verdict, outcome.reason, outcome.deciding.map_or(0, number));
    let cell = if outcome.refuses(asked) { cell.refusing() } else { cell };
    match outcome.deciding {
        Some(deciding) if !deciding.logs(*way) => cell.quietly(),
        Some(_) | None => cell,
    }
}

/// The kinds of sockets a direction leaves open, and whether it refuses.
fn flags(set: &[Bound<'_>], direction: Direction) -> u16 {
    let enforced = set.iter().filter(|bound| bound.policy.mode == Mode::Enforce);
    let refuses = direction == Direction::Ingress && enforced.into_iter().any(|bound| bound.policy.refuses());
    socket_flags(set, direction) | if refuses { SET_REFUSES } else { 0 }
}

fn socket_flags(set: &[Bound<'_>], direction: Direction) -> u16 {
    let flag = |socket| match socket {
        Socket::Raw => SOCKET_RAW,
        Socket::Sctp => SOCKET_SCTP,
        Socket::Mptcp => SOCKET_MPTCP,
    };
    match isolating_sockets(set, direction) {
        None => SOCKET_RAW | SOCKET_SCTP | SOCKET_MPTCP,
        Some(sockets) => sockets.into_iter().fold(0, |flags, socket| flags | flag(socket)),
    }
}
