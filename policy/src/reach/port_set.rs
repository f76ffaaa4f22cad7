//! Lives: host.
//! Called by: `reach`, for what passes; `weirctl`, which shows it.
//! May touch: nothing.
//! Never: holds two runs that could be one, so that sets that say the same are equal.

use std::fmt;

use weir_common::addr::Protocol;

use super::slots::{SLOTS, Slot, WIDE, edges, slot, span};
use crate::model::{PortMatch, protocol_name};

/// A protocol, or some of its ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its name or number; `others`: all that have no name, `all`: all there are.
    pub protocol: String,
    /// First and last port (of ICMP, type); `None`: the whole protocol.
    pub ports: Option<(u16, u16)>,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ports {
            Some((first, last)) => write!(f, "{}/{first}-{last}", self.protocol),
            None => f.write_str(&self.protocol),
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

    /// The same in parts, for programs: all of it, whole protocols, ranges of ports.
    #[must_use]
    pub fn parts(&self) -> Vec<Part> {
        if self.is_all() {
            return vec![Part { protocol: "all".to_owned(), ports: None }];
        }
        let mut parts = Vec::new();
        for (protocol, slots) in WIDE {
            for (first, last) in self.of_protocol(protocol) {
                let whole = first == 0 && Slot::from(last) + 1 == slots;
                parts.push(Part { protocol: protocol_name(protocol), ports: (!whole).then_some((first, last)) });
            }
        }
        let (within, without) = self.narrow();
        let numbers =
            if without.is_empty() { vec!["others".to_owned()] } else { within.iter().map(u8::to_string).collect() };
        parts.extend(numbers.into_iter().map(|protocol| Part { protocol, ports: None }));
        parts
    }

    /// The numbers of protocols of one slot that are in it, and those that are not.
    fn narrow(&self) -> (Vec<u8>, Vec<u8>) {
        let numbers = (0..=u8::MAX).filter(|number| span(Protocol(*number)).1 == 1);
        numbers.partition(|number| self.contains(Protocol(*number), 0))
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
        let (within, without) = self.narrow();
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
    fn sets_are_shown_in_the_fewest_words() {
        let (tcp, udp) = (Protocol::TCP, Protocol::UDP);
        let rows = [
            (PortSet::default(), "-", ""),
            (PortSet::all(), "all", "all"),
            (
                PortSet::of(&[entry(tcp, Some((443, 443))), entry(tcp, Some((80, 80)))]),
                "tcp/80,443",
                "TCP/80-80 TCP/443-443",
            ),
            (PortSet::of(&[entry(tcp, Some((80, 90))), entry(tcp, Some((85, 99)))]), "tcp/80-99", "TCP/80-99"),
            (PortSet::of(&[entry(tcp, None), entry(udp, Some((53, 53)))]), "tcp udp/53", "TCP UDP/53-53"),
            (PortSet::of(&[entry(Protocol(47), None), entry(Protocol::ICMP, None)]), "icmp protocol/47", "ICMP 47"),
            (PortSet::of(&[entry(Protocol::ICMP, Some((8, 8)))]), "icmp/8", "ICMP/8-8"),
            (
                PortSet::of(&[entry(tcp, Some((22, 22)))]).complement(),
                "all except tcp/22",
                "TCP/0-21 TCP/23-65535 UDP SCTP ICMP ICMPv6 others",
            ),
            (
                PortSet::of(&[entry(tcp, None), entry(udp, None)]).complement(),
                "all except tcp udp",
                "SCTP ICMP ICMPv6 others",
            ),
        ];
        for (set, text, parts) in rows {
            assert_eq!(set.to_string(), text);
            assert_eq!(set.complement().complement(), set);
            let again = set.parts().iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            assert_eq!(again, parts, "{set}");
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
