//! Lives: weir-tests, in-kernel test runs of XDP.
//! Called by: cargo test.
//! May touch: the bench.
//! Never: believes the answer alone; counters and records must say the same.

use etherparse::PacketBuilder;
use weir_agent::kernel::PacketHook;
use weir_common::{
    addr::Addr,
    packet::{self, Bytes, Fault},
    verdict::{Hook, Reason, Verdict},
};

use crate::{
    bench::Bench,
    frames::{chunk, icmp, sctp, syn, tagged, udp, udp6},
};

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;

const POLICY: &str = r#"
apiVersion: weir.dev/v1alpha1
kind: Workload
metadata: {name: api, labels: {app: api}}
spec: {addresses: [10.0.0.2, "fd00::2"]}
---
apiVersion: weir.dev/v1alpha1
kind: RateLimit
metadata: {name: api}
spec:
  workloadSelector: {matchLabels: {app: api}}
  ports: [{protocol: UDP, port: 9000, endPort: 9010}]
  packets: {perSecond: 1, burst: 5}
---
apiVersion: weir.dev/v1alpha1
kind: RateLimit
metadata: {name: connections}
spec:
  workloadSelector: {matchLabels: {app: api}}
  ports: [{protocol: TCP, port: 443}]
  connections: {perSecond: 1, burst: 3}
---
apiVersion: weir.dev/v1alpha1
kind: RateLimit
metadata: {name: watched}
spec:
  workloadSelector: {matchLabels: {app: api}}
  ports: [{protocol: UDP, port: 7000}]
  mode: audit
  packets: {perSecond: 1, burst: 1}
---
apiVersion: weir.dev/v1alpha1
kind: RateLimit
metadata: {name: volume}
spec:
  workloadSelector: {matchLabels: {app: api}}
  ports: [{protocol: UDP, port: 5000}]
  bytes: {perSecond: 1000, burst: 2000}
---
apiVersion: weir.dev/v1alpha1
kind: AddressSet
metadata: {name: blocked}
spec: {action: block, addresses: [203.0.113.0/24, "2001:db8:bad::/48"]}
"#;

const API: [u8; 4] = [10, 0, 0, 2];

#[test]
fn xdp_drops_a_blocked_source_in_both_families_behind_tags_too_and_names_the_rule() {
    let mut bench = Bench::new("blocked", POLICY, Verdict::Allow);
    let rows = [
        ("v4 inside", udp([203, 0, 113, 9], API, 1, 8), XDP_DROP),
        ("v4 just below", udp([203, 0, 112, 255], API, 1, 8), XDP_PASS),
        ("v4 just above", udp([203, 0, 114, 0], API, 1, 8), XDP_PASS),
        ("v4 as destination", udp([10, 0, 0, 9], [203, 0, 113, 9], 1, 8), XDP_PASS),
        ("v4 tagged", tagged(&udp([203, 0, 113, 9], API, 1, 8), 1), XDP_DROP),
        ("v4 double tagged", tagged(&udp([203, 0, 113, 9], API, 1, 8), 2), XDP_DROP),
        ("v6 inside", udp6("2001:db8:bad::7", "fd00::2", 1), XDP_DROP),
        ("v6 outside", udp6("2001:db8:bae::7", "fd00::2", 1), XDP_PASS),
    ];
    let mut dropped = 0;
    for (name, frame, expected) in &rows {
        assert_eq!(bench.run(PacketHook::Xdp, frame), *expected, "{name}");
        dropped += u64::from(*expected == XDP_DROP);
    }
    assert_eq!(bench.decided(Hook::Xdp, Verdict::Deny, Reason::Blocklist), dropped);
    let merged = bench.merged();
    assert_eq!(merged.iter().map(|(_, value)| value.count).sum::<u64>(), dropped, "every drop is in a record");
    assert!(merged.iter().all(|(key, _)| key.generation == 7 && key.rule != 0), "{merged:?}");
}

/// A neighbour solicitation; only hop limit 255 makes it one (RFC 4861 section 7.1.1).
fn solicitation(src: &str, hop_limit: u8) -> Vec<u8> {
    let octets = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6(octets(src), octets("ff02::1:ff00:2"), hop_limit);
    builder.icmpv6_raw(135, 0, [0; 4]).write(&mut frame, &octets("fd00::2")).unwrap();
    frame
}

#[test]
fn neighbour_discovery_passes_a_block_list_and_what_only_looks_like_it_does_not() {
    let bench = Bench::new("nd", POLICY, Verdict::Allow);
    let rows = [(255, XDP_PASS), (64, XDP_DROP)];
    for (hop_limit, expected) in rows {
        assert_eq!(
            bench.run(PacketHook::Xdp, &solicitation("2001:db8:bad::7", hop_limit)),
            expected,
            "hop limit {hop_limit}"
        );
    }
}

#[test]
fn each_limit_lets_its_burst_through_and_says_which_limit_was_exceeded() {
    type Row<'a> = (&'a str, Vec<u8>, u64, u64, Reason, Verdict);
    let rows: [Row<'_>; 6] = [
        ("packets", udp([10, 0, 1, 1], API, 9000, 10), 50, 5, Reason::RateLimitPackets, Verdict::Deny),
        (
            "packets, end of the range",
            udp([10, 0, 1, 2], API, 9010, 10),
            50,
            5,
            Reason::RateLimitPackets,
            Verdict::Deny,
        ),
        ("packets, IPv6", udp6("fd00::99", "fd00::2", 9000), 50, 5, Reason::RateLimitPackets, Verdict::Deny),
        ("connections", syn([10, 0, 1, 3], API, 443, 1000), 50, 3, Reason::RateLimitConnections, Verdict::Deny),
        ("bytes: 228 of 2000", udp([10, 0, 1, 4], API, 5000, 200), 50, 8, Reason::RateLimitBytes, Verdict::Deny),
        ("audit passes all", udp([10, 0, 1, 5], API, 7000, 10), 50, 50, Reason::RateLimitPackets, Verdict::Audit),
    ];
    for (name, frame, sent, burst, reason, verdict) in rows {
        let mut bench = Bench::new("limits", POLICY, Verdict::Allow);
        let passed = (0..sent).filter(|_| bench.run(PacketHook::Xdp, &frame) == XDP_PASS).count() as u64;
        // The clock runs meanwhile: one unit a second may be earned back.
        assert!((burst..=burst + 1).contains(&passed), "{name}: {passed} of {sent} passed, burst {burst}");
        let recorded: u64 =
            bench.merged().iter().filter(|(key, _)| key.reason == reason as u8).map(|(_, value)| value.count).sum();
        let expected = if verdict == Verdict::Audit { sent - 1 } else { sent - passed };
        assert!(recorded.abs_diff(expected) <= 1, "{name}: {recorded} recorded, {expected} expected");
        assert_eq!(bench.decided(Hook::Xdp, verdict, reason), recorded, "{name}: counter and records agree");
    }
}

#[test]
fn one_clients_flood_leaves_every_other_client_its_own_limit() {
    let bench = Bench::new("fair", POLICY, Verdict::Allow);
    let flood = udp([10, 0, 1, 1], API, 9000, 10);
    for _ in 0..1000 {
        let _ = bench.run(PacketHook::Xdp, &flood);
    }
    for host in 2..=200u8 {
        let polite = udp([10, 0, 1, host], API, 9000, 10);
        for packet in 0..5 {
            assert_eq!(bench.run(PacketHook::Xdp, &polite), XDP_PASS, "client {host}, packet {packet}");
        }
    }
}

#[test]
fn drops_beyond_the_merge_table_are_counted_apart_and_none_is_lost() {
    let mut bench = Bench::new("overflow", POLICY, Verdict::Allow);
    let sent = u64::from(weir_common::maps::EDGE_DROPS) + 3_000;
    for n in 0..sent {
        // Every packet is a new key: another port of another blocked source.
        let frame = udp([203, 0, 113, (n >> 14) as u8], API, 1 + (n & 0x3fff) as u16, 0);
        assert_eq!(bench.run(PacketHook::Xdp, &frame), XDP_DROP);
    }
    let merged = bench.events.take_merged().unwrap();
    let counted: u64 = merged.entries.iter().map(|(_, value)| value.count).sum();
    let [(Hook::Xdp, Verdict::Deny, Reason::Blocklist, overflow)] = merged.overflow[..] else {
        panic!("{:?}", merged.overflow)
    };
    assert!(overflow >= 1, "the table was never full");
    assert_eq!((counted + overflow, bench.decided(Hook::Xdp, Verdict::Deny, Reason::Blocklist)), (sent, sent));
    assert!(bench.merged().is_empty(), "an epoch is taken once");
}

#[test]
fn half_as_many_drops_as_there_are_cells_are_all_told_apart_epoch_after_epoch() {
    let mut bench = Bench::new("cells", POLICY, Verdict::Allow);
    for epoch in 0..3u64 {
        let times = |n: u32| 1 + u64::from(n % 3);
        let of = |n: u32| ([203, 0, 113, (n >> 8) as u8], 1 + (n & 0xff) as u16);
        let drops = weir_common::maps::EDGE_DROPS / 2;
        for n in 0..drops {
            let (source, port) = of(n);
            for _ in 0..times(n) {
                assert_eq!(bench.run(PacketHook::Xdp, &udp(source, API, port, 0)), XDP_DROP);
            }
        }
        let merged = bench.events.take_merged().unwrap();
        assert_eq!(merged.overflow, [], "epoch {epoch}");
        let told: std::collections::HashMap<_, _> = (merged.entries.iter())
            .map(|(key, value)| ((key.remote, key.local_port.number(), key.hook), value.count))
            .collect();
        assert_eq!((told.len(), merged.entries.len()), (drops as usize, drops as usize), "epoch {epoch}");
        for n in 0..drops {
            let (source, port) = of(n);
            let key = (Addr::v4(source), port, Hook::Xdp as u8);
            assert_eq!(told.get(&key), Some(&times(n)), "epoch {epoch}, {source:?} to port {port}");
        }
        assert!(merged.entries.iter().all(|(_, value)| value.first_ns > 0 && value.first_ns <= value.last_ns));
    }
}

#[test]
fn what_no_limit_names_is_never_held_back() {
    let bench = Bench::new("free", POLICY, Verdict::Allow);
    let rows = [
        ("port beside the range", udp([10, 0, 1, 1], API, 9011, 10)),
        ("another destination", udp([10, 0, 1, 1], [10, 0, 0, 3], 9000, 10)),
        ("same port, other protocol", syn([10, 0, 1, 1], API, 9000, 1)),
    ];
    for (name, frame) in rows {
        for _ in 0..50 {
            assert_eq!(bench.run(PacketHook::Xdp, &frame), XDP_PASS, "{name}");
        }
    }
}

/// A frame as the host's parser reads it.
pub struct Frame<'a>(pub &'a [u8]);

impl Bytes for Frame<'_> {
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.0.get(offset as usize..offset as usize + N)?.try_into().ok()
    }
    fn len(&self) -> u32 {
        self.0.len() as u32
    }
}

/// xorshift64*: enough to vary packets, reproducible from the seed in the failure message.
pub fn next(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

#[test]
fn xdp_and_the_host_parser_agree_on_mutated_frames() {
    let bench = Bench::new("mutated", POLICY, Verdict::Allow);
    let seeds = [
        udp([10, 0, 9, 9], [10, 0, 9, 8], 53, 30),
        udp6("fd00::9", "fd00::8", 53),
        syn([10, 0, 9, 9], [10, 0, 9, 8], 80, 9),
        tagged(&syn([10, 0, 9, 9], [10, 0, 9, 8], 80, 9), 1),
        sctp(("10.0.9.9", 9), ("10.0.9.8", 80), chunk::INIT),
        sctp(("fd00::9", 9), ("fd00::8", 80), chunk::DATA),
        icmp("10.0.9.9", "10.0.9.8", 8),
        icmp("fd00::9", "fd00::8", 128),
    ];
    let mut random = 0x5eed_0001u64;
    let (mut malformed, mut read) = (0, 0);
    for round in 0..40_000u64 {
        let mut frame = seeds[(next(&mut random) % seeds.len() as u64) as usize].clone();
        for _ in 0..=next(&mut random) % 4 {
            let at = 12 + (next(&mut random) as usize) % (frame.len() - 12);
            frame[at] = next(&mut random) as u8;
        }
        // Sources stay outside the block list and destinations outside the limits, so only the headers decide.
        frame.truncate(14 + (next(&mut random) as usize) % (frame.len() - 13));
        let expected = match packet::parse_frame(&Frame(&frame)) {
            Err(Fault::Refused(_)) => XDP_DROP,
            Err(Fault::NotIp | Fault::Arp) => XDP_PASS,
            Ok(packet) if packet.src.masked(120) == weir_common::addr::Addr::v4([203, 0, 113, 0]) => XDP_DROP,
            Ok(_) => XDP_PASS,
        };
        malformed += u64::from(expected == XDP_DROP);
        read += u64::from(expected == XDP_PASS);
        assert_eq!(bench.run(PacketHook::Xdp, &frame), expected, "round {round}: {frame:02x?}");
    }
    assert!(malformed > 1000 && read > 1000, "both answers were tried: {malformed} malformed, {read} read");
    let denied: u64 = Reason::ALL.iter().map(|reason| bench.decided(Hook::Xdp, Verdict::Deny, *reason)).sum();
    assert_eq!(denied, malformed);
}
