//! Lives: host.
//! Called by: `reach`, for every question about protocols and ports.
//! May touch: nothing.
//! Never: has a place for what cannot be asked, so that two sets that say the same are equal.
//!
//! Everything that can be asked for stands on one line of slots: the ports of TCP, UDP and SCTP, the types of ICMP and
//! ICMPv6, then one slot for each other protocol in order of its number. Sets are runs of slots.

use std::fmt;

use weir_common::addr::Protocol;

use crate::model::{PortMatch, protocol_name};

/// A place on the line.
pub type Slot = u32;

/// Protocols of more than one slot, in their order on the line, each with its number of slots.
const WIDE: [(Protocol, Slot); 5] = [
    (Protocol::TCP, 1 << 16),
    (Protocol::UDP, 1 << 16),
    (Protocol::SCTP, 1 << 16),
    (Protocol::ICMP, 1 << 8),
    (Protocol::ICMPV6, 1 << 8),
];

/// Where the protocols of one slot begin.
const OTHERS: Slot = (3 << 16) + (2 << 8);

/// Length of the line.
pub const SLOTS: Slot = OTHERS + 256 - 5;

/// First slot of a protocol, and how many it has.
fn span(protocol: Protocol) -> (Slot, Slot) {
    let mut first = 0;
    for (wide, slots) in WIDE {
        if wide == protocol {
            return (first, slots);
        }
        first += slots;
    }
    let wide_below = WIDE.iter().filter(|(wide, _)| wide.0 < protocol.0).count();
    let rank = usize::from(protocol.0) - wide_below;
    (first + Slot::try_from(rank).unwrap_or_default(), 1)
}

/// The slot of a protocol and port (of ICMP, the type); a port the protocol does not have is its last.
#[must_use]
pub fn slot(protocol: Protocol, port: u16) -> Slot {
    let (first, slots) = span(protocol);
    first + Slot::from(port).min(slots - 1)
}

/// The protocol and port of a slot.
#[must_use]
pub fn of_slot(slot: Slot) -> (Protocol, u16) {
    let mut first = 0;
    for (protocol, slots) in WIDE {
        if slot < first + slots {
            return (protocol, u16::try_from(slot - first).unwrap_or(u16::MAX));
        }
        first += slots;
    }
    let narrow = |number: &u8| !WIDE.iter().any(|(wide, _)| wide.0 == *number);
    let rank = usize::try_from(slot - first).unwrap_or_default();
    (Protocol((0..=u8::MAX).filter(narrow).nth(rank).unwrap_or(u8::MAX)), 0)
}

/// First slot of a port entry, and the slot after its last.
pub fn edges(entry: &PortMatch) -> (Slot, Slot) {
    match entry.ports {
        Some((first, last)) => (slot(entry.protocol, first), slot(entry.protocol, last) + 1),
        None => {
            let (first, slots) = span(entry.protocol);
            (first, first + slots)
        }
    }
}

/// A set of protocols and ports. Shown compactly: `tcp/80,443 udp/53`, `all`, `-`, or as what is missing from all.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortSet {
    /// First and last slot of each run, in order, with a gap between any two.
    runs: Vec<(Slot, Slot)>,
}

impl PortSet {
    /// Every protocol and port.
    #[must_use]
    pub fn all() -> Self {
        Self { runs: vec![(0, SLOTS - 1)] }
    }

    /// Adds a run that begins after all others.
    pub(super) fn push(&mut self, first: Slot, last: Slot) {
        match self.runs.last_mut() {
            Some(before) if before.1 + 1 >= first => before.1 = before.1.max(last),
            _ => self.runs.push((first, last)),
        }
    }

    /// The set of these entries.
    #[must_use]
    pub fn of(entries: &[PortMatch]) -> Self {
        let mut runs: Vec<_> = entries.iter().map(edges).collect();
        runs.sort_unstable();
        let mut set = Self::default();
        runs.into_iter().for_each(|(first, after)| set.push(first, after - 1));
        set
    }

    /// How many ports, types and protocols there are in all.
    #[must_use]
    pub const fn everything() -> usize {
        SLOTS as usize
    }

    /// How many ports, types and protocols are in it.
    #[must_use]
    pub fn size(&self) -> usize {
        self.runs.iter().map(|(first, last)| (last - first) as usize + 1).sum()
    }

    /// Whether nothing is in it.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Whether everything is in it.
    #[must_use]
    pub fn is_all(&self) -> bool {
        *self == Self::all()
    }

    /// Whether a protocol and port are in it.
    #[must_use]
    pub fn contains(&self, protocol: Protocol, port: u16) -> bool {
        let slot = slot(protocol, port);
        self.runs.iter().any(|(first, last)| (*first..=*last).contains(&slot))
    }

    /// What is not in it.
    #[must_use]
    pub fn complement(&self) -> Self {
        let mut set = Self::default();
        let mut next = 0;
        for (first, last) in &self.runs {
            if *first > next {
                set.push(next, first - 1);
            }
            next = last + 1;
        }
        if next < SLOTS {
            set.push(next, SLOTS - 1);
        }
        set
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let mut set = Self::default();
        let (mut mine, mut theirs) = (self.runs.iter().peekable(), other.runs.iter().peekable());
        while let (Some((first, last)), Some((other_first, other_last))) = (mine.peek(), theirs.peek()) {
            let (from, to) = (*first.max(other_first), *last.min(other_last));
            if from <= to {
                set.push(from, to);
            }
            if last < other_last {
                mine.next()
            } else {
                theirs.next()
            };
        }
        set
    }

    /// What is in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.complement().intersection(&other.complement()).complement()
    }

    /// What is in this one only.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        self.intersection(&other.complement())
    }

    /// The same as entries, one for each protocol or range of its ports.
    #[must_use]
    pub fn entries(&self) -> Vec<PortMatch> {
        let mut entries = Vec::new();
        for protocol in (0..=u8::MAX).map(Protocol) {
            let whole = span(protocol).1 - 1;
            for (first, last) in self.of_protocol(protocol) {
                let all = first == 0 && Slot::from(last) == whole;
                entries.push(PortMatch { protocol, ports: (!all).then_some((first, last)) });
            }
        }
        entries
    }

    /// The part of one protocol, as ports.
    fn of_protocol(&self, protocol: Protocol) -> Vec<(u16, u16)> {
        let (start, slots) = span(protocol);
        let clip = |(first, last): &(Slot, Slot)| {
            let (from, to) = ((*first).max(start), (*last).min(start + slots - 1));
            let port = |slot: Slot| u16::try_from(slot - start).unwrap_or(u16::MAX);
            (from <= to).then(|| (port(from), port(to)))
        };
        self.runs.iter().filter_map(clip).collect()
    }

    fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        for (protocol, slots) in WIDE {
            let name = protocol_name(protocol).to_lowercase();
            match self.of_protocol(protocol).as_slice() {
                [] => {}
                [(0, last)] if Slot::from(*last) + 1 == slots => words.push(name),
                runs => words.push(format!("{name}/{}", ranges(runs))),
            }
        }
        let numbers = (0..=u8::MAX).filter(|number| span(Protocol(*number)).1 == 1);
        let (within, without): (Vec<_>, Vec<_>) = numbers.partition(|number| self.contains(Protocol(*number), 0));
        if without.is_empty() {
            words.push("others".to_owned());
        } else if !within.is_empty() {
            words.push(format!("protocol/{}", ranges(&joined(&within))));
        }
        words
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("-");
        }
        if self.is_all() {
            return f.write_str("all");
        }
        let words = self.words().join(" ");
        let except = format!("all except {}", self.complement().words().join(" "));
        f.write_str(if except.len() < words.len() { &except } else { &words })
    }
}

fn ranges(runs: &[(u16, u16)]) -> String {
    let word = |(first, last): &(u16, u16)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    runs.iter().map(word).collect::<Vec<_>>().join(",")
}

/// Numbers in order as ranges. Two wide protocols may lie between two neighbours, so ranges count what is listed only.
fn joined(numbers: &[u8]) -> Vec<(u16, u16)> {
    let mut runs: Vec<(u16, u16)> = Vec::new();
    for number in numbers.iter().map(|number| u16::from(*number)) {
        match runs.last_mut() {
            Some(run) if run.1 + 1 == number => run.1 = number,
            _ => runs.push((number, number)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn entry(protocol: Protocol, ports: Option<(u16, u16)>) -> PortMatch {
        PortMatch { protocol, ports }
    }

    #[test]
    fn every_slot_is_one_protocol_and_port_and_back() {
        for slot in (0..SLOTS).step_by(7).chain(OTHERS - 3..SLOTS) {
            let (protocol, port) = of_slot(slot);
            assert_eq!(super::slot(protocol, port), slot, "{protocol:?} {port}");
        }
        assert_eq!(of_slot(SLOTS - 1), (Protocol(255), 0));
    }

    #[test]
    fn sets_are_shown_in_the_fewest_words() {
        let (tcp, udp) = (Protocol::TCP, Protocol::UDP);
        let rows = [
            (PortSet::default(), "-"),
            (PortSet::all(), "all"),
            (PortSet::of(&[entry(tcp, Some((443, 443))), entry(tcp, Some((80, 80)))]), "tcp/80,443"),
            (PortSet::of(&[entry(tcp, Some((80, 90))), entry(tcp, Some((85, 99)))]), "tcp/80-99"),
            (PortSet::of(&[entry(tcp, None), entry(udp, Some((53, 53)))]), "tcp udp/53"),
            (PortSet::of(&[entry(Protocol(47), None), entry(Protocol::ICMP, None)]), "icmp protocol/47"),
            (PortSet::of(&[entry(Protocol::ICMP, Some((8, 8)))]), "icmp/8"),
            (PortSet::of(&[entry(tcp, Some((22, 22)))]).complement(), "all except tcp/22"),
            (PortSet::of(&[entry(Protocol(47), None)]).complement(), "all except protocol/47"),
        ];
        for (set, text) in rows {
            assert_eq!(set.to_string(), text);
            assert_eq!(set.complement().complement(), set);
            assert_eq!(PortSet::of(&set.entries()), set);
        }
    }

    #[test]
    fn sets_are_combined_as_sets_are() {
        let tcp = |first, last| PortSet::of(&[entry(Protocol::TCP, Some((first, last)))]);
        assert_eq!(tcp(1, 9).union(&tcp(5, 20)), tcp(1, 20));
        assert_eq!(tcp(1, 9).union(&tcp(10, 20)), tcp(1, 20), "neighbours join");
        assert_eq!(tcp(1, 9).intersection(&tcp(5, 20)), tcp(5, 9));
        assert_eq!(tcp(1, 9).minus(&tcp(5, 20)), tcp(1, 4));
        assert_eq!(tcp(1, 9).intersection(&tcp(10, 20)), PortSet::default());
    }
}
