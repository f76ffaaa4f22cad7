//! Lives: host.
//! Called by: `tables`, for the port row of each direction of a set; `compiler`, once it is known which ports are asked about.
//! May touch: the sections of ports and port rows.
//! Never: writes a row twice for tables that ask about the same ports.
//!
//! ```text
//! protocol, port ─ PORTS ─► atom (classes of all entries of the node) ─ PORT_ROWS ─► port class (of one table's entries)
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use weir_common::image::{Section, port_index};

use super::{faults::Problems, ports::PortClasses, terms::count, words::Words};
use crate::model::PortMatch;

/// The atoms of the node, and a row for each set of port entries that some table or limit asks about.
#[derive(Clone, Debug)]
pub struct PortRows {
    rows: BTreeMap<Arc<BTreeSet<PortMatch>>, Row>,
    free: BTreeSet<u32>,
    end: u32,
    entries: BTreeMap<PortMatch, usize>,
    /// Whether `entries` has changed since the atoms were made.
    stale: bool,
    atoms: PortClasses,
    /// Atoms that a row has room for.
    stride: u32,
    pub ports: Words,
    pub words: Words,
}

#[derive(Clone, Debug)]
struct Row {
    number: u32,
    users: usize,
    classes: Arc<PortClasses>,
    written: bool,
}

/// There are more classes of ports than 16 bits number.
#[derive(Debug)]
pub struct TooManyPorts;

impl TooManyPorts {
    /// Says so.
    pub fn note(self, problems: &mut Problems) {
        problems.of_all("ports fall into more than 65536 classes".to_owned(), "use fewer distinct ports");
    }
}

impl PortRows {
    pub fn new() -> Self {
        Self {
            rows: BTreeMap::new(),
            free: BTreeSet::new(),
            end: 0,
            entries: BTreeMap::new(),
            stale: true,
            atoms: PortClasses::default(),
            stride: 0,
            ports: Words::of(Section::Ports),
            words: Words::of(Section::PortRows),
        }
    }

    /// One more table asks about these ports: the classes it tells apart.
    pub fn hold(&mut self, asked: &Arc<BTreeSet<PortMatch>>) -> Result<Arc<PortClasses>, TooManyPorts> {
        if let Some(row) = self.rows.get_mut(asked) {
            row.users += 1;
            return Ok(Arc::clone(&row.classes));
        }
        let classes = Arc::new(PortClasses::of(asked).ok_or(TooManyPorts)?);
        let number = self.free.pop_first().unwrap_or_else(|| {
            self.end += 1;
            self.end - 1
        });
        self.count(asked, true);
        let row = Row { number, users: 1, classes: Arc::clone(&classes), written: false };
        self.rows.insert(Arc::clone(asked), row);
        Ok(classes)
    }

    /// One table fewer asks about these ports.
    pub fn release(&mut self, asked: &Arc<BTreeSet<PortMatch>>) {
        let Some(row) = self.rows.get_mut(asked) else { return };
        row.users -= 1;
        if row.users == 0 {
            self.free.insert(row.number);
            self.rows.remove(asked);
            self.count(asked, false);
        }
    }

    /// Counts port entries that no table asks about, for the limits.
    pub fn count(&mut self, entries: &BTreeSet<PortMatch>, more: bool) {
        for entry in entries {
            self.stale |= count(&mut self.entries, *entry, more);
        }
    }

    /// Makes the atoms if the entries have changed, and writes the rows that have. Tells whether the atoms are new.
    pub fn write(&mut self) -> Result<bool, TooManyPorts> {
        let renewed = self.stale;
        if self.stale {
            self.atoms = PortClasses::of(&self.entries.keys().copied().collect()).ok_or(TooManyPorts)?;
            for (protocol, first, last, atom) in &self.atoms.runs {
                let (from, to) = (port_index(*protocol, *first), port_index(*protocol, *last));
                self.ports.fill(from as usize, to as usize, *atom);
            }
            let atoms = u32::try_from(self.atoms.stands_for.len()).unwrap_or(u32::MAX);
            if atoms > self.stride {
                self.stride = (atoms + atoms / 4).next_multiple_of(16);
            }
            self.rows.values_mut().for_each(|row| row.written = false);
            self.stale = false;
        }
        self.words.reserve((self.end * self.stride) as usize);
        for row in self.rows.values_mut().filter(|row| !row.written) {
            let first = row.number * self.stride;
            for (place, (protocol, port)) in (first..).zip(&self.atoms.stands_for) {
                self.words.set(place as usize, u64::from(row.classes.class(*protocol, *port)));
            }
            row.written = true;
        }
        Ok(renewed)
    }

    /// Where the row of these ports starts.
    pub fn start(&self, asked: &BTreeSet<PortMatch>) -> u32 {
        self.rows.get(asked).map_or(0, |row| row.number * self.stride)
    }

    /// A port of each atom.
    pub fn atoms(&self) -> &PortClasses {
        &self.atoms
    }

    /// Length of the rows of everything that is looked up by atom.
    pub const fn stride(&self) -> u32 {
        self.stride
    }
}
