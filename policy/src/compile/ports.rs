//! Lives: host.
//! Called by: `tables`, for the port classes of one direction of a set; `space` of ports, for those of the whole node.
//! May touch: nothing.
//! Never: puts two ports into one class that some port entry tells apart.

use std::collections::{BTreeMap, BTreeSet};

use weir_common::{addr::Protocol, image::last_port};

use crate::model::PortMatch;

/// All ports of all protocols in classes: ports of one class are matched by the same port entries. The class of a port is
/// a matter of the entries alone, so that equal entries give equal classes wherever they are asked about.
#[derive(Clone, Debug, Default)]
pub struct PortClasses {
    /// Runs of ports of one class, in order: protocol, first port, last port, class.
    pub runs: Vec<(Protocol, u16, u16, u16)>,
    /// For each class a port that stands for it.
    pub stands_for: Vec<(Protocol, u16)>,
}

impl PortClasses {
    /// The classes of these entries; `None` if there are more than 16 bits can number.
    pub fn of(entries: &BTreeSet<PortMatch>) -> Option<Self> {
        let mut classes = Self::default();
        let mut known: BTreeMap<Vec<usize>, u16> = BTreeMap::new();
        for protocol in (0..=u8::MAX).map(Protocol) {
            for (first, last, matched) in runs_of(protocol, entries) {
                let class = match known.get(&matched) {
                    Some(class) => *class,
                    None => {
                        let next = u16::try_from(classes.stands_for.len()).ok()?;
                        classes.stands_for.push((protocol, first));
                        known.insert(matched, next);
                        next
                    }
                };
                classes.runs.push((protocol, first, last, class));
            }
        }
        Some(classes)
    }

    /// The class of a port.
    pub fn class(&self, protocol: Protocol, port: u16) -> u16 {
        let after = self.runs.partition_point(|(other, first, _, _)| (other.0, *first) <= (protocol.0, port));
        let run = after.checked_sub(1).and_then(|index| self.runs.get(index));
        run.map_or(0, |(_, _, _, class)| *class)
    }
}

/// Runs of one protocol's ports between the edges of entries, each with the entries that match it.
fn runs_of(protocol: Protocol, entries: &BTreeSet<PortMatch>) -> Vec<(u16, u16, Vec<usize>)> {
    let highest = last_port(protocol);
    // Per edge, the entries that start to match or cease to.
    let mut edges: BTreeMap<u16, Vec<(usize, bool)>> = BTreeMap::from([(0, Vec::new())]);
    let of_protocol = PortMatch { protocol, ports: None }..=PortMatch { protocol, ports: Some((u16::MAX, u16::MAX)) };
    for (index, entry) in entries.range(of_protocol).enumerate() {
        let (first, last) = entry.ports.unwrap_or((0, u16::MAX));
        edges.entry(first).or_default().push((index, true));
        if let Some(after) = last.checked_add(1).filter(|after| *after <= highest) {
            edges.entry(after).or_default().push((index, false));
        }
    }
    let ends: Vec<u16> = edges.keys().skip(1).map(|start| start - 1).chain([highest]).collect();
    let mut matching = BTreeSet::new();
    let mut runs = Vec::with_capacity(ends.len());
    for ((first, changes), last) in edges.into_iter().zip(ends) {
        for (index, starts) in changes {
            if starts {
                matching.insert(index);
            } else {
                matching.remove(&index);
            }
        }
        // What no entry matches is one class whatever the protocol.
        let tag = (!matching.is_empty()).then(|| usize::MAX - usize::from(protocol.0));
        runs.push((first, last, tag.into_iter().chain(matching.iter().copied()).collect()));
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(protocol: Protocol, ports: Option<(u16, u16)>) -> PortMatch {
        PortMatch { protocol, ports }
    }

    #[test]
    fn classes_split_at_the_edges_of_entries_and_nowhere_else() {
        let entries = BTreeSet::from([
            entry(Protocol::TCP, Some((80, 80))),
            entry(Protocol::TCP, Some((80, 90))),
            entry(Protocol::UDP, None),
            entry(Protocol::SCTP, Some((u16::MAX, u16::MAX))),
        ]);
        let classes = PortClasses::of(&entries).unwrap();
        let class = |protocol, port| classes.class(protocol, port);
        assert_eq!(classes.stands_for.len(), 5, "{classes:?}");
        assert_eq!(class(Protocol::TCP, 79), class(Protocol(200), 0));
        assert_eq!(class(Protocol::TCP, 91), class(Protocol::SCTP, 65_534));
        assert_eq!(class(Protocol::UDP, 1), class(Protocol::UDP, 65_535));
        assert_eq!(class(Protocol::TCP, 81), class(Protocol::TCP, 90));
        let apart = [
            class(Protocol::TCP, 79),
            class(Protocol::TCP, 80),
            class(Protocol::TCP, 81),
            class(Protocol::UDP, 80),
            class(Protocol::SCTP, 65_535),
        ];
        assert_eq!(BTreeSet::from(apart).len(), 5, "{apart:?}");
        for (class, (protocol, port)) in (0..).zip(&classes.stands_for) {
            assert_eq!(classes.class(*protocol, *port), class);
        }
    }

    #[test]
    fn without_entries_there_is_one_class() {
        assert_eq!(PortClasses::of(&BTreeSet::new()).unwrap().stands_for.len(), 1);
    }
}
