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

/// Where a piece of an IPv4 packet belongs.
#[derive(Clone, Copy, Default)]
pub struct Piece {
    pub ident: u16,
    /// In bytes, a multiple of eight.
    pub place: u16,
    pub more: bool,
}

/// An Ethernet frame of a type.
pub fn ethernet(ethertype: u16, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![2; 6];
    frame.extend([4; 6]);
    frame.extend(ethertype.to_be_bytes());
    frame.extend(body);
    frame
}

/// An IPv4 packet by hand, as RFC 791 draws it; nobody looks at the checksum. Options are a multiple of four bytes.
pub fn v4(src: [u8; 4], dst: [u8; 4], protocol: u8, options: &[u8], piece: Piece, payload: &[u8]) -> Vec<u8> {
    let words = 5 + options.len() / 4;
    let length = u16::try_from(words * 4 + payload.len()).unwrap().to_be_bytes();
    let place = ((piece.place / 8) | if piece.more { 0x2000 } else { 0 }).to_be_bytes();
    let ident = piece.ident.to_be_bytes();
    let first = 0x40 | u8::try_from(words).unwrap();
    let mut packet = vec![first, 0, length[0], length[1], ident[0], ident[1], place[0], place[1], 64, protocol, 0, 0];
    packet.extend(src);
    packet.extend(dst);
    packet.extend(options);
    packet.extend(payload);
    ethernet(0x0800, &packet)
}

/// An IPv6 packet by hand, as RFC 8200 draws it: each extension header by its number and what follows its first byte.
pub fn v6(src: &str, dst: &str, chain: &[(u8, Vec<u8>)], last: u8, payload: &[u8]) -> Vec<u8> {
    let octets = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let numbers: Vec<u8> = chain.iter().map(|(number, _)| *number).chain([last]).collect();
    let mut body = Vec::new();
    for (at, (_, rest)) in chain.iter().enumerate() {
        body.push(numbers[at + 1]);
        body.extend(rest);
    }
    body.extend(payload);
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    let mut packet = vec![0x60, 0, 0, 0, length[0], length[1], numbers[0], 64];
    packet.extend(octets(src));
    packet.extend(octets(dst));
    packet.extend(body);
    ethernet(0x86dd, &packet)
}

/// Extension headers, without their first byte, which names what follows.
pub mod extension {
    pub const HOP_BY_HOP: u8 = 0;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const AUTHENTICATION: u8 = 51;
    pub const DESTINATION: u8 = 60;

    /// Options that are padding (RFC 8200 section 4.2): 8 bytes and `more` units of 8.
    pub fn options(more: u8) -> Vec<u8> {
        let mut rest = vec![more];
        rest.extend([0; 6]);
        rest.resize(7 + usize::from(more) * 8, 0);
        rest
    }

    /// A routing header of a type, with segments left.
    pub fn routing(kind: u8, left: u8) -> Vec<u8> {
        vec![0, kind, left, 0, 0, 0, 0]
    }

    /// An authentication header of 12 bytes and `more` words of 4 (RFC 4302).
    pub fn authentication(more: u8) -> Vec<u8> {
        let mut rest = vec![1 + more];
        rest.resize(11 + usize::from(more) * 4, 0);
        rest
    }

    /// A fragment header; the place in bytes, a multiple of eight.
    pub fn fragment(place: u16, more: bool, ident: u32) -> Vec<u8> {
        let [hi, lo] = (place | u16::from(more)).to_be_bytes();
        let mut rest = vec![0, hi, lo];
        rest.extend(ident.to_be_bytes());
        rest
    }
}

/// A UDP header with this many bytes of zeroes behind it.
pub fn datagram(from: u16, to: u16, payload: usize) -> Vec<u8> {
    let length = u16::try_from(8 + payload).unwrap();
    let mut bytes: Vec<u8> = [from, to, length, 0].iter().flat_map(|word| word.to_be_bytes()).collect();
    bytes.resize(8 + payload, 0);
    bytes
}

/// A TCP header without options.
pub fn segment(from: u16, to: u16, flags: u8) -> Vec<u8> {
    let mut bytes: Vec<u8> = [from, to].iter().flat_map(|word| word.to_be_bytes()).collect();
    bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 4, 0, 0, 0, 0, 0]);
    bytes
}
