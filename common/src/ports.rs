//! Lives: kernel and host.
//! Called by: `image`, whose `Ports` section has one entry for each place; `decide`, and the compiler that fills it.
//! May touch: nothing.
//! Never: gives two ports of a protocol that has ports, or two ICMP types, one place.

use crate::addr::Protocol;

/// Entries of the [`crate::image::Section::Ports`] section: TCP, UDP and SCTP ports, then one entry per protocol number, then ICMP and
/// ICMPv6 types.
pub const PORT_ENTRIES: u32 = ICMPV6_TYPES + 256;

const SCTP_PORTS: u32 = 2 * 65_536;
const PROTOCOLS: u32 = 3 * 65_536;
const ICMP_TYPES: u32 = PROTOCOLS + 256;
const ICMPV6_TYPES: u32 = ICMP_TYPES + 256;

/// The highest "port" that `protocol` tells apart: a port of TCP, UDP and SCTP, the type of an ICMP or ICMPv6 message, which
/// takes the port's place everywhere, and 0 for the rest.
#[inline(always)]
#[must_use]
pub const fn last_port(protocol: Protocol) -> u16 {
    place(protocol).1
}

/// Where `protocol` and `port` stand in [`crate::image::Section::Ports`]. What [`last_port`] does not reach is looked up by its low bits.
#[inline(always)]
#[must_use]
pub const fn port_index(protocol: Protocol, port: u16) -> u32 {
    let (first, last) = place(protocol);
    // A mask, not a branch: every last port is all ones, and each branch here is one the verifier takes twice.
    first + (port & last) as u32
}

/// Where a protocol's entries start, and its last port.
#[inline(always)]
const fn place(protocol: Protocol) -> (u32, u16) {
    match protocol {
        Protocol::TCP => (0, u16::MAX),
        Protocol::UDP => (65_536, u16::MAX),
        Protocol::SCTP => (SCTP_PORTS, u16::MAX),
        Protocol::ICMP => (ICMP_TYPES, 255),
        Protocol::ICMPV6 => (ICMPV6_TYPES, 255),
        Protocol(other) => (PROTOCOLS + other as u32, 0),
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use super::*;

    #[test]
    fn every_protocol_and_port_has_its_own_place() {
        let mut taken = std::vec![false; PORT_ENTRIES as usize];
        for protocol in (0..=u8::MAX).map(Protocol) {
            for port in 0..=last_port(protocol) {
                let place = &mut taken[port_index(protocol, port) as usize];
                assert!(!*place, "{protocol:?} {port}");
                *place = true;
            }
        }
        let unused: Vec<_> = (0..PORT_ENTRIES).filter(|place| !taken[*place as usize]).collect();
        let with_ports = [Protocol::ICMP, Protocol::TCP, Protocol::UDP, Protocol::ICMPV6, Protocol::SCTP];
        assert_eq!(unused, with_ports.map(|protocol| PROTOCOLS + u32::from(protocol.0)));
    }

    #[test]
    fn what_a_protocol_does_not_tell_apart_shares_a_place() {
        let rows = [
            (Protocol::TCP, u16::MAX, 65_535, 65_535),
            (Protocol::UDP, u16::MAX, 0, 65_536),
            (Protocol::SCTP, u16::MAX, 65_535, 196_607),
            (Protocol(0), 0, 9, 196_608),
            (Protocol(255), 0, 9, 196_863),
            (Protocol::ICMP, 255, 8, 196_872),
            (Protocol::ICMPV6, 255, 255, PORT_ENTRIES - 1),
        ];
        for (protocol, last, port, place) in rows {
            assert_eq!((last_port(protocol), port_index(protocol, port)), (last, place), "{protocol:?} {port}");
        }
        assert_eq!(PORT_ENTRIES, 197_376);
    }
}
