//! Lives: weir-tests, packets that no well-behaved kernel would send.
//! Called by: the live attacks.
//! May touch: nothing.
//! Never: sends; weir-probe does.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a packet that cannot be made is a mistake in a test, which must fail there and then"
)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{PacketBuilder, PacketBuilderStep};

/// As weir-probe takes bytes.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn ip(from: IpAddr, to: IpAddr) -> PacketBuilderStep<etherparse::IpHeaders> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), 64),
        (from, to) => panic!("{from} and {to} are of two families"),
    }
}

/// A whole UDP packet.
pub fn udp(from: IpAddr, to: IpAddr, from_port: u16, to_port: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    ip(from, to).udp(from_port, to_port).write(&mut packet, payload).unwrap();
    packet
}

/// What follows the IP header of a UDP packet, without a checksum.
pub fn udp_payload(from_port: u16, to_port: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    let mut bytes: Vec<u8> = [from_port, to_port, length, 0].iter().flat_map(|word| word.to_be_bytes()).collect();
    bytes.extend(payload);
    bytes
}

/// A whole TCP segment without data; `flags` as in the header.
pub fn tcp(from: IpAddr, to: IpAddr, from_port: u16, to_port: u16, flags: u8) -> Vec<u8> {
    let mut step = ip(from, to).tcp(from_port, to_port, 1, 1024);
    for (bit, set) in [(1, 0), (2, 1), (4, 2), (16, 3)] {
        if flags & bit != 0 {
            step = match set {
                0 => step.fin(),
                1 => step.syn(),
                2 => step.rst(),
                _ => step.ack(1),
            };
        }
    }
    let mut packet = Vec::new();
    step.write(&mut packet, &[]).unwrap();
    packet
}

/// An ICMP or ICMPv6 message: type, code, four bytes, the rest.
pub fn icmp(from: IpAddr, to: IpAddr, kind: u8, code: u8, word: [u8; 4], rest: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    let step = ip(from, to);
    match from {
        IpAddr::V4(_) => step.icmpv4_raw(kind, code, word).write(&mut packet, rest).unwrap(),
        IpAddr::V6(_) => step.icmpv6_raw(kind, code, word).write(&mut packet, rest).unwrap(),
    }
    packet
}

/// The same as a message of neighbour discovery: from a hop limit that no router lets through.
pub fn discovery(from: Ipv6Addr, to: Ipv6Addr, kind: u8, word: [u8; 4], rest: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    let step = PacketBuilder::ipv6(from.octets(), to.octets(), 255);
    step.icmpv6_raw(kind, 0, word).write(&mut packet, rest).unwrap();
    packet
}

/// An ARP message for IPv4 over Ethernet (RFC 826).
pub fn arp(operation: u16, sender: ([u8; 6], Ipv4Addr), target: ([u8; 6], Ipv4Addr)) -> Vec<u8> {
    let mut bytes = vec![0, 1, 8, 0, 6, 4];
    bytes.extend(operation.to_be_bytes());
    for (hardware, address) in [sender, target] {
        bytes.extend(hardware);
        bytes.extend(address.octets());
    }
    bytes
}

/// An Ethernet frame around it.
pub fn frame(from: [u8; 6], to: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [to, from].concat();
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    // The shortest frame there is.
    frame.resize(frame.len().max(60), 0);
    frame
}

/// The ethertype of an IP packet.
pub fn ethertype(packet: &[u8]) -> u16 {
    if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd }
}
