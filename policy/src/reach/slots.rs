//! Lives: host.
//! Called by: `reach`, for every question about protocols and ports.
//! May touch: nothing.
//! Never: has a place for what cannot be asked, so that two sets that say the same are equal.
//!
//! Everything that can be asked for stands on one line of slots: the ports of TCP, UDP and SCTP, the types of ICMP and
//! ICMPv6, then one slot for each other protocol in order of its number. Sets are runs of slots.

use weir_common::{addr::Protocol, image::last_port};

use crate::model::PortMatch;

/// A place on the line.
pub type Slot = u32;

/// Protocols of more than one slot, in their order on the line, each with its number of slots.
pub const WIDE: [(Protocol, Slot); 5] =
    [wide(Protocol::TCP), wide(Protocol::UDP), wide(Protocol::SCTP), wide(Protocol::ICMP), wide(Protocol::ICMPV6)];

const fn wide(protocol: Protocol) -> (Protocol, Slot) {
    (protocol, last_port(protocol) as Slot + 1)
}

/// Where the protocols of one slot begin.
const OTHERS: Slot = (3 << 16) + (2 << 8);

/// Length of the line.
pub const SLOTS: Slot = OTHERS + 256 - 5;

/// First slot of a protocol, and how many it has.
pub fn span(protocol: Protocol) -> (Slot, Slot) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_is_one_protocol_and_port_and_back() {
        for slot in (0..SLOTS).step_by(7).chain(OTHERS - 3..SLOTS) {
            let (protocol, port) = of_slot(slot);
            assert_eq!(super::slot(protocol, port), slot, "{protocol:?} {port}");
        }
        assert_eq!(of_slot(SLOTS - 1), (Protocol(255), 0));
    }
}
