//! Lives: weir-tests, in-kernel test runs: fragments.
//! Called by: cargo test.
//! May touch: the bench.
//! Never: believes a drop alone: the counters must name the reason.

use weir_agent::kernel::PacketHook::{self, FromWorkload, Ingress, ToWorkload, Xdp};
use weir_common::verdict::{Reason, Verdict};

use crate::{
    attacks_headers::{API, API6, WEB, WEB6, closed},
    bench::Bench,
    frames::{Piece, chunk, datagram, extension, sctp, segment, v4, v6},
};

const SYN: u8 = 2;

fn piece(ident: u16, place: u16, more: bool) -> Piece {
    Piece { ident, place, more }
}

fn first(ident: u16, port: u16) -> Vec<u8> {
    v4(WEB, API, 17, &[], piece(ident, 0, true), &datagram(1, port, 1000))
}

fn later(ident: u16, place: u16, more: bool) -> Vec<u8> {
    v4(WEB, API, 17, &[], piece(ident, place, more), &[0; 64])
}

fn first6(ident: u32, port: u16) -> Vec<u8> {
    v6(WEB6, API6, &[(44, extension::fragment(0, true, ident))], 17, &datagram(1, port, 1000))
}

fn later6(ident: u32, place: u16, next: u8) -> Vec<u8> {
    v6(WEB6, API6, &[(44, extension::fragment(place, false, ident))], next, &[0; 64])
}

/// adversarial 6: a first fragment that leaves headers for the next (RFC 1858), and a later one that rewrites them (RFC 3128).
#[test]
fn adversarial_6_a_first_fragment_holds_all_headers_and_a_later_one_begins_behind_them() {
    let bench = Bench::new("tiny", "", Verdict::Allow);
    let head = piece(1, 0, true);
    let tail = |place| piece(1, place, false);
    let fragmented = |ident| (44, extension::fragment(0, true, ident));
    let options = (60, extension::options(0));
    let rows = [
        ("eight bytes of TCP", v4(WEB, API, 6, &[], head, &segment(1, 443, SYN)[..8])),
        ("sixteen bytes of TCP", v4(WEB, API, 6, &[], head, &segment(1, 443, SYN)[..16])),
        (
            "TCP whose options come later",
            v4(WEB, API, 6, &[], head, &[&segment(1, 443, SYN)[..12], &[0x60, SYN, 0, 0, 0, 0, 0, 0]].concat()),
        ),
        ("half a UDP header", v4(WEB, API, 17, &[], head, &datagram(1, 9000, 0)[..4])),
        ("nothing", v4(WEB, API, 17, &[], head, &[])),
        ("half an ICMP message", v4(WEB, API, 1, &[], head, &[8, 0, 0, 0])),
        (
            "SCTP without its chunk",
            v4(WEB, API, 132, &[], head, &sctp(("10.0.0.3", 1), ("10.0.0.2", 2), chunk::INIT)[34..46]),
        ),
        ("a later one over the flags", v4(WEB, API, 6, &[], tail(8), &[0; 32])),
        ("a later one over the checksum", v4(WEB, API, 6, &[], tail(16), &[0; 32])),
        ("a later one over an SCTP chunk", v4(WEB, API, 132, &[], tail(8), &[0; 32])),
        ("IPv6, eight bytes of TCP", v6(WEB6, API6, &[fragmented(1)], 6, &segment(1, 443, SYN)[..8])),
        ("IPv6, ports in the next one", v6(WEB6, API6, &[fragmented(1), options.clone()], 17, &[])),
        ("IPv6, options in the next one", v6(WEB6, API6, &[fragmented(1)], 60, &[])),
        ("IPv6, a later one over the flags", v6(WEB6, API6, &[(44, extension::fragment(8, false, 1))], 6, &[0; 32])),
    ];
    for (name, frame) in rows {
        for hook in [Xdp, FromWorkload, ToWorkload, Ingress] {
            bench.refuses(hook, &frame, Reason::TinyFragment, name);
        }
    }
    assert!(bench.passes(Xdp, &v4(WEB, API, 6, &[], head, &segment(1, 443, SYN))), "a whole TCP header");
    assert!(bench.passes(Xdp, &v4(WEB, API, 6, &[], tail(24), &[0; 8])), "what begins behind it");
    bench.refuses(Xdp, &v4(WEB, API, 17, &[], tail(65_528), &[0; 64]), Reason::Malformed, "past the longest packet");
    bench.refuses(Xdp, &v4(WEB, API, 17, &[], tail(64), &[]), Reason::Malformed, "a fragment of nothing");
}

/// adversarial 7: a later fragment falls under the limit of its first one's port, and under none only if there is none.
#[test]
fn adversarial_7_a_later_fragment_is_charged_to_the_port_of_its_first_and_never_to_none() {
    let bench = closed("fragments");
    let refused = |frame: &[u8], reason, name: &str| bench.refuses(Xdp, frame, reason, name);
    refused(&later(1, 1008, false), Reason::FragUnknown, "without a first");
    refused(&first(2, 9000), Reason::RateLimitBytes, "a first to the closed port");
    refused(&later(2, 1008, false), Reason::FragUnknown, "what follows one that was refused");
    assert!(bench.passes(Xdp, &first(3, 53)), "a first to an open port");
    assert!(bench.passes(Xdp, &later(3, 1008, true)) && bench.passes(Xdp, &later(3, 1072, false)), "what follows it");
    refused(&later(4, 1008, false), Reason::FragUnknown, "another identification");
    let elsewhere = v4([10, 0, 0, 4], API, 17, &[], piece(3, 1008, false), &[0; 64]);
    refused(&elsewhere, Reason::FragUnknown, "another source");
    let other = v4(WEB, API, 50, &[], piece(3, 1008, false), &[0; 64]);
    refused(&other, Reason::FragUnknown, "another protocol");
    assert!(bench.passes(Xdp, &v4(WEB, [10, 0, 0, 9], 17, &[], piece(1, 1008, false), &[0; 64])), "no limit there");
    assert!(bench.passes(Xdp, &first6(7, 53)) && bench.passes(Xdp, &later6(7, 1008, 17)), "IPv6");
    assert!(bench.passes(Xdp, &later6(7, 1008, 60)), "receivers go by the first one's protocol");
    refused(&first6(8, 9000), Reason::RateLimitBytes, "IPv6, the closed port");
    refused(&later6(8, 1008, 17), Reason::FragUnknown, "IPv6, what follows it");
    refused(&later6(8, 1008, 255), Reason::FragUnknown, "IPv6, by another protocol");
}

/// adversarial 7: fragments use up a limit like whole packets.
#[test]
fn adversarial_7_a_limit_of_bytes_counts_every_fragment() {
    let documents = crate::attacks_headers::CLOSED_PORTS
        .replace("bytes: {perSecond: 1, burst: 1}", "bytes: {perSecond: 1000, burst: 3000}");
    let bench = Bench::new("bytes", &documents, Verdict::Allow);
    assert!(bench.passes(Xdp, &first(1, 9000)), "1028 of 3000 bytes");
    let passed = (0..50).filter(|n| bench.passes(Xdp, &later(1, 1008 + n * 64, true))).count();
    // 84 bytes each: 23 fit into what is left, and the clock earns back one a twelfth of a second.
    assert!((23..=26).contains(&passed), "{passed} later fragments passed");
}

/// adversarial 8: two first fragments of one datagram that name two ports.
#[test]
fn adversarial_8_overlapping_first_fragments_give_a_datagram_one_port_only() {
    let bench = closed("overlap");
    assert!(bench.passes(Xdp, &first(1, 53)));
    bench.refuses(Xdp, &first(1, 54), Reason::FragOverlap, "another port for the same datagram");
    bench.refuses(Xdp, &first(1, 9000), Reason::FragOverlap, "the closed port for the same datagram");
    assert!(bench.passes(Xdp, &first(1, 53)), "the same fragment again, as a network may duplicate it");
    assert!(bench.passes(Xdp, &later(1, 1008, false)));
    assert!(bench.passes(Xdp, &first6(1, 53)), "another family");
    bench.refuses(Xdp, &first6(1, 54), Reason::FragOverlap, "IPv6, another port");
    // The other order: what was refused gives nobody a port.
    bench.refuses(Xdp, &first(2, 9000), Reason::RateLimitBytes, "the closed port first");
    assert!(bench.passes(Xdp, &first(2, 53)));
    // The receiver has seen only this one.
    assert!(bench.passes(Xdp, &later(2, 1008, false)));
}

/// adversarial 8: the memory is bounded, and what it has forgotten fails closed.
#[test]
fn adversarial_8_a_flood_of_first_fragments_pushes_others_out_and_lets_nothing_through() {
    let bench = closed("flood");
    assert!(bench.passes(Xdp, &first(1, 53)) && bench.passes(Xdp, &later(1, 1008, true)));
    for n in 0..200_000u32 {
        let src = [10, 9, (n >> 16) as u8, (n >> 8) as u8];
        bench.run(Xdp, &v4(src, API, 17, &[], piece(n as u16, 0, true), &datagram(1, 53, 8)));
    }
    bench.refuses(Xdp, &later(1, 1008, true), Reason::FragUnknown, "pushed out");
    assert!(bench.passes(Xdp, &first(1, 53)) && bench.passes(Xdp, &later(1, 1008, true)), "and known again");
}

/// Extension headers in their order, each with its own number.
type Chain = Vec<(u8, Vec<u8>)>;

/// adversarial 12: a fragment header where none belongs.
#[test]
fn adversarial_12_a_second_fragment_header_or_one_of_a_packet_in_one_piece_is_refused() {
    let bench = Bench::new("nested", "", Verdict::Allow);
    let whole = (44, extension::fragment(0, false, 1));
    let head = (44, extension::fragment(0, true, 1));
    let tail = (44, extension::fragment(64, false, 1));
    let options = (60, extension::options(0));
    let rows: [(&str, Chain); 6] = [
        ("in one piece", vec![whole.clone()]),
        ("in one piece, twice", vec![whole.clone(), whole.clone()]),
        ("a first one within a first one", vec![head.clone(), head.clone()]),
        ("with options between them", vec![head.clone(), options, head.clone()]),
        ("a later one within a first one", vec![head.clone(), tail.clone()]),
        ("a first one within a later one", vec![tail, head]),
    ];
    for (name, chain) in rows {
        for hook in [Xdp, FromWorkload, ToWorkload, Ingress] {
            let frame = v6(WEB6, API6, &chain, 17, &datagram(1, 9000, 8));
            bench.refuses(hook, &frame, Reason::FragNested, name);
        }
    }
}

/// adversarial 7: on a workload's own interface a later fragment passes after its first and never before it.
#[test]
fn adversarial_7_on_a_workloads_interface_fragments_follow_their_first() {
    let documents = format!(
        "{}---
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {{name: api}}
spec:
  workloadSelector: {{matchLabels: {{app: api}}}}
  policyTypes: [Ingress, Egress]
  defaultAction: deny
  ingress:
  - ports: [{{protocol: UDP, port: 53}}]
",
        crate::attacks_headers::CLOSED_PORTS
    );
    let bench = Bench::on_wire("wire", &documents, "api");
    let to: PacketHook = ToWorkload;
    bench.refuses(to, &later(1, 1008, false), Reason::FragUnknown, "without a first");
    bench.refuses(to, &first(2, 54), Reason::Default, "a first that no rule allows");
    bench.refuses(to, &later(2, 1008, false), Reason::FragUnknown, "what follows it");
    assert!(bench.passes(to, &first(3, 53)) && bench.passes(to, &later(3, 1008, false)));
    assert!(bench.passes(to, &first6(3, 53)) && bench.passes(to, &later6(3, 1008, 60)), "IPv6");
    bench.refuses(to, &first(3, 54), Reason::Default, "adversarial 8: another port for the same datagram");
}
