//! Lives: host, tests.
//! Called by: cargo test.
//! May touch: nothing.
//! Never: a frame that its name does not say.

use super::*;

struct Frame<'a>(&'a [u8]);

impl Bytes for Frame<'_> {
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.0.get(offset as usize..offset as usize + N)?.try_into().ok()
    }
    fn len(&self) -> u32 {
        self.0.len() as u32
    }
}

/// 10.0.0.1:4000 -> 10.0.0.2:80, SYN, built by hand from the RFCs.
const SYN_V4: &[u8] = &[
    1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 8, 0, 0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    0x0f, 0xa0, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0,
];

fn changed(edits: &[(usize, u8)]) -> Vec<u8> {
    let mut frame = SYN_V4.to_vec();
    for (at, byte) in edits {
        frame[*at] = *byte;
    }
    frame
}

extern crate std;
use std::vec::Vec;

#[test]
fn a_syn_is_read() {
    let packet = parse_frame(&Frame(SYN_V4)).unwrap();
    assert_eq!((packet.src, packet.dst), (Addr::v4([10, 0, 0, 1]), Addr::v4([10, 0, 0, 2])));
    assert_eq!((packet.src_port.number(), packet.dst_port.number(), packet.length), (4000, 80, 40));
    assert!(packet.opens_tcp());
}

/// The frame above as another protocol's packet: what follows the IP header is `payload`.
fn carrying(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = changed(&[(17, 20 + payload.len() as u8), (23, protocol)])[..34].to_vec();
    frame.extend(payload);
    frame
}

const SCTP_INIT: [u8; 16] = [0x0f, 0xa0, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 20];

#[test]
fn sctp_ports_are_read_and_a_header_that_cannot_be_is_malformed() {
    let packet = parse_frame(&Frame(&carrying(132, &SCTP_INIT))).unwrap();
    assert_eq!((packet.src_port.number(), packet.dst_port.number(), packet.sctp_chunk), (4000, 80, 1));
    assert_eq!(packet.answers(), None, "an opening answers nothing");
    let mut data = SCTP_INIT;
    data[12] = 0;
    let packet = parse_frame(&Frame(&carrying(132, &data))).unwrap();
    assert_eq!(packet.answers(), Some(Port::new(4000)));
    for length in 0..SCTP_INIT.len() {
        let mut frame = carrying(132, &SCTP_INIT[..length]);
        assert_eq!(parse_frame(&Frame(&frame)), Err(MALFORMED), "{length} bytes");
        // Bytes behind the packet's own end are not the packet's.
        frame.extend(&SCTP_INIT[length..]);
        assert_eq!(parse_frame(&Frame(&frame)), Err(MALFORMED), "{length} bytes and a trailer");
    }
    let mut short = SCTP_INIT;
    short[15] = 3;
    assert_eq!(parse_frame(&Frame(&carrying(132, &short))), Err(MALFORMED), "chunk below its header");
}

#[test]
fn the_type_of_an_icmp_message_stands_in_the_place_of_the_port() {
    let packet = parse_frame(&Frame(&carrying(1, &[0; 8]))).unwrap();
    assert_eq!((packet.dst_port.number(), packet.answers()), (0, Some(Port::new(8))));
    let packet = parse_frame(&Frame(&carrying(1, &[8, 0, 0, 0, 0, 0, 0, 0]))).unwrap();
    assert_eq!((packet.dst_port.number(), packet.src_port.number(), packet.answers()), (8, 0, None));
    assert_eq!((packet.ident, packet.asks_the_kernel(), packet.is_error()), (0, true, false));
    let packet = parse_frame(&Frame(&carrying(1, &[3, 4, 0, 0, 0x12, 0x34, 0, 1]))).unwrap();
    assert_eq!((packet.ident, packet.header, packet.is_error()), (0x1234, 20, true));
    for length in 0..8 {
        let cut = carrying(1, &[8, 0, 0, 0, 0, 0, 0, 0][..length]);
        assert_eq!(parse_frame(&Frame(&cut)), Err(MALFORMED), "{length} bytes");
    }
}

#[test]
fn every_truncation_is_malformed_and_reads_nothing_past_the_end() {
    for end in 0..SYN_V4.len() {
        assert_eq!(parse_frame(&Frame(&SYN_V4[..end])), Err(MALFORMED), "cut at {end}");
    }
}

#[test]
fn contradictions_are_malformed() {
    let rows: [(&str, &[(usize, u8)]); 6] = [
        ("IHL below 5", &[(14, 0x44)]),
        ("total length below the header", &[(17, 19)]),
        ("total length beyond the frame", &[(17, 41)]),
        ("version against ethertype", &[(14, 0x65)]),
        ("TCP data offset below 5", &[(46, 0x40)]),
        ("TCP data offset past the end", &[(46, 0x60)]),
    ];
    for (name, edits) in rows {
        assert_eq!(parse_frame(&Frame(&changed(edits))), Err(MALFORMED), "{name}");
    }
    assert_eq!(parse_frame(&Frame(&changed(&[(13, 6)]))), Err(Fault::Arp));
    assert_eq!(parse_frame(&Frame(&changed(&[(12, 0x88), (13, 0xcc)]))), Err(Fault::NotIp), "LLDP is not ours");
}

#[test]
fn tags_do_not_hide_a_packet() {
    for tags in 1..=2 {
        let mut frame = SYN_V4[..12].to_vec();
        for _ in 0..tags {
            frame.extend([0x81, 0, 0, 5]);
        }
        frame.extend(&SYN_V4[12..]);
        assert_eq!(parse_frame(&Frame(&frame)).unwrap().dst_port.number(), 80, "{tags} tags");
    }
}

#[test]
fn a_later_fragment_has_no_ports() {
    let within = parse_frame(&Frame(&changed(&[(21, 2)])));
    assert_eq!(within, Err(Fault::Refused(Reason::TinyFragment)), "it would write over the TCP header");
    let packet = parse_frame(&Frame(&changed(&[(21, 3)]))).unwrap();
    assert_eq!((packet.later_fragment, packet.dst_port.number(), packet.tcp_flags), (1, 0, 0));
    assert_eq!((packet.first_fragment, packet.ident), (0, 1));
    let first = parse_frame(&Frame(&changed(&[(20, 0x20)]))).unwrap();
    assert_eq!((first.later_fragment, first.first_fragment, first.ident), (0, 1, 1));
    assert_eq!(first.dst_port.number(), 80);
}

#[test]
fn a_quote_is_read_as_far_as_its_ports_and_no_further() {
    let read = |bytes: &[u8]| parse_ip::<_, QUOTED>(&Frame(bytes), 0).map(|(packet, _)| packet);
    let quote = &SYN_V4[14..];
    for length in 28..quote.len() {
        let packet = read(&quote[..length]).unwrap();
        assert_eq!((packet.src_port.number(), packet.dst_port.number()), (4000, 80), "{length} bytes");
    }
    assert_eq!(parse_ip::<_, WHOLE>(&Frame(&quote[..28]), 0), Err(MALFORMED));
    for length in 0..24 {
        assert_eq!(read(&quote[..length]), Err(MALFORMED), "{length} bytes");
    }
}

#[test]
fn ipv6_extension_headers_are_walked_to_the_ports_and_not_forever() {
    let chain = |headers: usize| {
        let mut frame = [0u8; 12].to_vec();
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, (headers * 8 + 8) as u8, if headers == 0 { 17 } else { 60 }, 64]);
        frame.extend([0xfd; 16]);
        frame.extend([0xfe; 16]);
        for n in 0..headers {
            frame.extend([if n + 1 == headers { 17 } else { 60 }, 0, 1, 4, 0, 0, 0, 0]);
        }
        frame.extend([0, 53, 0x10, 0, 0, 8, 0, 0]);
        frame
    };
    for headers in 0..=MAX_EXTENSIONS as usize {
        let packet = parse_frame(&Frame(&chain(headers))).unwrap();
        assert_eq!((packet.src_port.number(), packet.dst_port.number()), (53, 4096), "{headers} headers");
    }
    assert_eq!(parse_frame(&Frame(&chain(MAX_EXTENSIONS as usize + 1))), Err(Fault::Refused(Reason::ExtDepth)));
}
