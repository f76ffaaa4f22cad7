//! Lives: weir-tests, in-kernel test runs.
//! Called by: the tests.
//! May touch: nothing.
//! Never: makes a frame that its name does not say.

use std::net::IpAddr;

use etherparse::{IpNumber, PacketBuilder};

pub fn udp(src: [u8; 4], dst: [u8; 4], port: u16, payload: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(src, dst, 64).udp(40_000, port);
    builder.write(&mut frame, &vec![0; payload]).unwrap();
    frame
}

pub fn udp6(src: &str, dst: &str, port: u16) -> Vec<u8> {
    let octets = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6(octets(src), octets(dst), 64).udp(40_000, port);
    builder.write(&mut frame, &[0; 16]).unwrap();
    frame
}

pub fn syn(src: [u8; 4], dst: [u8; 4], port: u16, from: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4(src, dst, 64)
        .tcp(from, port, 1, 1000)
        .syn()
        .write(&mut frame, &[])
        .unwrap();
    frame
}

pub fn tagged(frame: &[u8], tags: usize) -> Vec<u8> {
    let mut out = frame[..12].to_vec();
    for _ in 0..tags {
        out.extend([0x81, 0, 0, 7]);
    }
    out.extend(&frame[12..]);
    out
}

/// An IP packet of any protocol; both addresses are of one family.
pub fn ip(src: &str, dst: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let number = IpNumber(protocol);
    match (src.parse().unwrap(), dst.parse().unwrap()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            ethernet.ipv4(src.octets(), dst.octets(), 64).write(&mut frame, number, payload).unwrap();
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            ethernet.ipv6(src.octets(), dst.octets(), 64).write(&mut frame, number, payload).unwrap();
        }
        _ => panic!("{src} and {dst} are of two families"),
    }
    frame
}

/// The chunks of SCTP that tests send (RFC 9260 section 3.2).
pub mod chunk {
    pub const DATA: u8 = 0;
    pub const INIT: u8 = 1;
}

/// An SCTP packet of one chunk, built by hand from RFC 9260; nobody looks at the checksum.
pub fn sctp(src: (&str, u16), dst: (&str, u16), chunk: u8) -> Vec<u8> {
    let mut payload = Vec::new();
    payload.extend(src.1.to_be_bytes());
    payload.extend(dst.1.to_be_bytes());
    payload.extend([0; 8]);
    payload.extend([chunk, 0, 0, 8, 0, 0, 0, 0]);
    ip(src.0, dst.0, 132, &payload)
}

/// The same with what an error quotes: an IP packet, given here as a frame.
pub fn error(src: &str, dst: &str, kind: u8, quoted: &[u8]) -> Vec<u8> {
    let protocol = if src.contains(':') { 58 } else { 1 };
    let mut payload = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    payload.extend(&quoted[14..]);
    ip(src, dst, protocol, &payload)
}

/// An ICMP or ICMPv6 message of a type, by the family of the addresses.
pub fn icmp(src: &str, dst: &str, kind: u8) -> Vec<u8> {
    let protocol = if src.contains(':') { 58 } else { 1 };
    ip(src, dst, protocol, &[kind, 0, 0, 0, 0, 1, 0, 1])
}
