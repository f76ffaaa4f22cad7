//! Lives: host.
//! Called by: `compile`.
//! May touch: nothing.
//! Never: puts two ports into one atom that some port entry in force tells apart.

use std::collections::{BTreeMap, BTreeSet};

use weir_common::{
    addr::Protocol,
    image::{PORT_ENTRIES, last_port, port_index},
};

use super::faults::Problems;
use crate::{evaluate::port_matches, model::PortMatch};

/// The ports of the node in classes: ports of one atom are matched by the same port entries.
pub struct Atoms {
    /// Atom by [`port_index`].
    pub by_port: Vec<u16>,
    /// For each atom a port that stands for it.
    pub stands_for: Vec<(Protocol, u16)>,
}

impl Atoms {
    pub fn of<'a>(entries: impl Iterator<Item = &'a PortMatch>, problems: &mut Problems) -> Self {
        let entries: BTreeSet<&PortMatch> = entries.collect();
        let mut atoms = Self { by_port: vec![0; PORT_ENTRIES as usize], stands_for: Vec::new() };
        let mut known: BTreeMap<Vec<usize>, u16> = BTreeMap::new();
        for (protocol, first, last) in segments(&entries) {
            let matched = entries.iter().enumerate().filter(|(_, entry)| port_matches(entry, protocol, first));
            let matched: Vec<usize> = matched.map(|(index, _)| index).collect();
            let Ok(next) = u16::try_from(atoms.stands_for.len()) else {
                problems.of_all("ports fall into more than 65536 classes".to_owned(), "use fewer distinct ports");
                return atoms;
            };
            let atom = *known.entry(matched).or_insert_with(|| {
                atoms.stands_for.push((protocol, first));
                next
            });
            let (from, to) = (port_index(protocol, first) as usize, port_index(protocol, last) as usize);
            if let Some(slots) = atoms.by_port.get_mut(from..=to) {
                slots.fill(atom);
            }
        }
        atoms
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.stands_for.len()
    }
}

/// Runs of ports between the edges of entries; one run for each protocol without ports.
fn segments(entries: &BTreeSet<&PortMatch>) -> Vec<(Protocol, u16, u16)> {
    let mut segments = Vec::new();
    for protocol in (0..=u8::MAX).map(Protocol) {
        let last_port = last_port(protocol);
        let ports = entries.iter().filter(|entry| entry.protocol == protocol).filter_map(|entry| entry.ports);
        let edges = ports.flat_map(|(first, last)| [Some(first), last.checked_add(1)]).flatten();
        let starts: BTreeSet<u16> = edges.filter(|start| *start <= last_port).chain([0]).collect();
        let ends = starts.iter().skip(1).map(|start| start - 1).chain([last_port]);
        segments.extend(starts.iter().zip(ends).map(|(first, last)| (protocol, *first, last)));
    }
    segments
}
