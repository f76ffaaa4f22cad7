//! Lives: weir-tests, in-kernel test runs: packets that say they come from somebody else, or from nobody.
//! Called by: cargo test.
//! May touch: the bench.
//! Never: believes a drop alone: the counters must name the reason.

use std::time::{Duration, Instant};

use weir_agent::kernel::PacketHook::{FromWorkload, ToWorkload, Xdp};
use weir_common::{
    edge::{MARTIAN, SPOOFED},
    verdict::{Hook, Reason, Verdict},
};

use crate::{
    bench::Bench,
    frames::{ethernet, icmp, ip, segment, udp, udp6, v6},
};

/// Web's interface is the one that packets come in by; api is limited, and db is another workload of this node.
const DOCUMENTS: &str = r#"
apiVersion: weir.dev/v1alpha1
kind: Workload
metadata: {name: web, labels: {app: web}}
spec: {cgroup: web, addresses: [10.0.0.3, "fd00::3"]}
---
apiVersion: weir.dev/v1alpha1
kind: Workload
metadata: {name: db, labels: {app: db}}
spec: {cgroup: db, addresses: [10.0.0.4, "fd00::4"]}
---
apiVersion: weir.dev/v1alpha1
kind: Workload
metadata: {name: api, labels: {app: api}}
spec: {addresses: [10.0.0.2, "fd00::2"]}
---
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: web}
spec:
  workloadSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress, Egress]
  defaultAction: deny
  egress:
  - to: [{workloadSelector: {matchLabels: {app: api}}}]
    ports: [{protocol: UDP, port: 9000}]
---
apiVersion: weir.dev/v1alpha1
kind: RateLimit
metadata: {name: api}
spec:
  workloadSelector: {matchLabels: {app: api}}
  ports: [{protocol: UDP, port: 9000}]
  packets: {perSecond: 1, burst: 5}
"#;

const API: [u8; 4] = [10, 0, 0, 2];
const WEB: [u8; 4] = [10, 0, 0, 3];
const DB: [u8; 4] = [10, 0, 0, 4];
const ROUTER: &str = "fe80::1";
const EVERYBODY: &str = "ff02::1";

/// A message of neighbour discovery, which only hop limit 255 makes valid.
fn discovery(src: &str, kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut frame = v6(src, EVERYBODY, &[], 58, &[&[kind, 0, 0, 0, 0x20, 0, 0, 0], rest].concat());
    frame[14 + 7] = 255;
    frame
}

fn arp(sender: [u8; 4]) -> Vec<u8> {
    let mut body = vec![0, 1, 8, 0, 6, 4, 0, 2];
    body.extend([4; 6]);
    body.extend(sender);
    body.extend([0; 10]);
    ethernet(0x0806, &body)
}

/// adversarial 15: a workload speaks for no router and no neighbour but itself.
#[test]
fn adversarial_15_a_workload_speaks_for_no_router_and_no_neighbour_but_itself() {
    let bench = Bench::on_wire("nd", DOCUMENTS, "web");
    let octets = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let (own, gateway) = (octets("fd00::3"), octets("fe80::1"));
    let rows = [
        ("a router's advertisement as the router", discovery(ROUTER, 134, &[0; 8])),
        ("a router's advertisement as itself", discovery("fd00::3", 134, &[0; 8])),
        ("a redirect as the router", discovery(ROUTER, 137, &[0; 32])),
        ("a redirect as itself", discovery("fd00::3", 137, &[0; 32])),
        ("an advertisement for the gateway", discovery("fd00::3", 136, &gateway)),
        ("an advertisement as the gateway", discovery(ROUTER, 136, &gateway)),
        ("a solicitation as db", discovery("fd00::4", 135, &own)),
        ("a probe for db's address", discovery("::", 135, &octets("fd00::4"))),
        ("a redirect of IPv4", icmp("10.0.0.3", "10.0.0.2", 5)),
        ("ARP for the gateway", arp([10, 0, 0, 1])),
        ("ARP for db", arp(DB)),
    ];
    for (name, frame) in rows {
        bench.refuses(FromWorkload, &frame, Reason::NdSpoof, name);
    }
    for (name, frame) in [
        ("its own advertisement", discovery("fd00::3", 136, &own)),
        ("its own solicitation", discovery("fd00::3", 135, &gateway)),
        ("a probe for its own address", discovery("::", 135, &own)),
        ("its own ARP", arp(WEB)),
    ] {
        assert!(bench.passes(FromWorkload, &frame), "{name}");
    }
}

/// adversarial 18: a source that is not the workload's is refused on its interface, and whoever has it is not charged for it.
#[test]
fn adversarial_18_a_spoofed_source_is_refused_and_its_owner_is_not_charged() {
    let mut bench = Bench::on_wire("spoof", DOCUMENTS, "web");
    bench.edge(0, 1);
    let forged = [
        ("IPv4", udp(DB, API, 9000, 8)),
        ("IPv6", udp6("fd00::4", "fd00::2", 9000)),
        ("link-local", udp6("fe80::99", "fd00::2", 9000)),
        ("from outside", udp([192, 0, 2, 1], API, 9000, 8)),
    ];
    for (name, frame) in &forged {
        for _ in 0..50 {
            assert!(bench.passes(Xdp, frame), "{name}: no limit is charged before the source is verified");
        }
        bench.refuses(FromWorkload, frame, Reason::Spoofed, name);
    }
    // The owners still have their whole burst, wherever else they come in by.
    bench.edge(0, 0);
    for (name, frame) in &forged {
        let passed = (0..50).filter(|_| bench.passes(Xdp, frame)).count();
        assert!((5..=6).contains(&passed), "{name}: {passed} of a burst of 5");
    }
    // And the workload itself is limited on its own interface.
    bench.edge(0, 1);
    let own = udp(WEB, API, 9000, 8);
    let passed = (0..50).filter(|_| bench.passes(Xdp, &own)).count();
    assert!((5..=6).contains(&passed), "its own: {passed} of a burst of 5");
    assert!(bench.passes(FromWorkload, &own), "its own source is in order");
}

/// adversarial 18: an interface that leads out of the node takes in nothing that comes from the node, where it is told so.
#[test]
fn adversarial_18_an_uplink_refuses_this_nodes_own_addresses_where_configured() {
    let mut bench = Bench::on_wire("uplink", DOCUMENTS, "web");
    let (local, remote) = (udp(WEB, [192, 0, 2, 9], 53, 8), udp([192, 0, 2, 1], WEB, 53, 8));
    assert!(bench.passes(Xdp, &local), "not configured");
    bench.edge(SPOOFED, 0);
    bench.refuses(Xdp, &local, Reason::Spoofed, "IPv4");
    bench.refuses(Xdp, &udp6("fd00::3", "2001:db8::9", 53), Reason::Spoofed, "IPv6");
    assert!(bench.passes(Xdp, &remote), "from outside");
    assert!(bench.passes(Xdp, &udp(API, WEB, 53, 8)), "from a workload of another node");
}

/// adversarial 19: sources that no packet on a wire comes from, and those that only look so.
#[test]
fn adversarial_19_martian_sources_are_refused_where_configured_and_hosts_still_get_their_addresses() {
    let mut bench = Bench::new("martians", DOCUMENTS, Verdict::Allow);
    let dhcp = |from: u16, to| {
        let mut frame = udp([0; 4], [255; 4], to, 300);
        frame[34..36].copy_from_slice(&from.to_be_bytes());
        frame
    };
    let martians = [
        ("source is destination", udp(WEB, WEB, 53, 8)),
        ("source is destination, IPv6", udp6("fd00::3", "fd00::3", 53)),
        ("loopback", udp([127, 0, 0, 1], WEB, 53, 8)),
        ("the end of loopback", udp([127, 255, 255, 255], WEB, 53, 8)),
        ("loopback, IPv6", udp6("::1", "fd00::3", 53)),
        ("nobody", udp([0; 4], WEB, 53, 8)),
        ("this network", udp([0, 1, 2, 3], WEB, 53, 8)),
        ("nobody, IPv6", udp6("::", "fd00::3", 53)),
        ("a group", udp([224, 0, 0, 251], WEB, 5353, 8)),
        ("the last group", udp([239, 255, 255, 255], WEB, 53, 8)),
        ("a group, IPv6", udp6("ff02::fb", "fd00::3", 5353)),
        ("everybody", udp([255; 4], WEB, 53, 8)),
        ("nobody, to the DHCP server from another port", dhcp(69, 67)),
        ("nobody, from the DHCP client's port to another", dhcp(68, 53)),
        ("an echo request of nobody", icmp("0.0.0.0", "10.0.0.3", 8)),
    ];
    let fine = [
        ("DHCP", dhcp(68, 67)),
        ("a probe for an address (DAD)", discovery("::", 135, &[9; 16])),
        ("asking for routers", discovery("::", 133, &[])),
        ("joining a group without an address", ip("0.0.0.0", "224.0.0.22", 2, &[0x22, 0, 0, 0, 0, 0, 0, 0])),
        ("joining a group of IPv6", ip("::", "ff02::16", 58, &[143, 0, 0, 0, 0, 0, 0, 0])),
        ("mDNS", udp([192, 0, 2, 1], [224, 0, 0, 251], 5353, 8)),
        ("a broadcast", udp([192, 0, 2, 1], [255; 4], 9, 8)),
        ("link-local, IPv6", udp6("fe80::1", "fd00::3", 53)),
        ("link-local, IPv4", udp([169, 254, 1, 1], WEB, 53, 8)),
        ("just below the groups", udp([223, 255, 255, 255], WEB, 53, 8)),
        ("just above loopback", udp([128, 0, 0, 0], WEB, 53, 8)),
    ];
    for (name, frame) in martians.iter().chain(&fine) {
        assert!(bench.passes(Xdp, frame), "{name}: not configured");
    }
    bench.edge(MARTIAN, 0);
    for (name, frame) in &martians {
        bench.refuses(Xdp, frame, Reason::Martian, name);
    }
    for (name, frame) in &fine {
        assert!(bench.passes(Xdp, frame), "{name}");
    }
    bench.edge(0, 0);
    // Policy knows these as IPv4 addresses: they are refused whatever is configured.
    for (src, dst) in [("::ffff:10.0.0.4", "fd00::3"), ("fd00::4", "::ffff:10.0.0.3")] {
        for hook in [Xdp, FromWorkload, ToWorkload] {
            bench.refuses(hook, &udp6(src, dst, 53), Reason::Martian, "an IPv4 address in an IPv6 header");
        }
    }
}

/// Indices that are alike in their low bits: what one interface refuses is not another's.
#[test]
fn an_interface_refuses_what_is_said_of_it_and_not_of_one_whose_index_is_alike() {
    let martian = udp([127, 0, 0, 1], WEB, 53, 8);
    for (other, own) in [(MARTIAN, 0), (0, MARTIAN)] {
        let mut bench = Bench::new("alike", DOCUMENTS, Verdict::Allow);
        bench.crowd(other);
        assert!(bench.passes(Xdp, &martian), "nothing is said of the interface");
        bench.edge(own, 0);
        assert_eq!(bench.passes(Xdp, &martian), own == 0, "other {other}, own {own}");
    }
}

/// adversarial 24: frames in another's name open no way back, however often they are sent.
fn forge(bench: &Bench, length: Duration) -> u64 {
    let (start, mut rounds) = (Instant::now(), 0);
    while start.elapsed() < length {
        for _ in 0..200 {
            assert!(!bench.passes(FromWorkload, &udp(DB, API, 9000, 8)), "a forged datagram after {rounds} rounds");
            assert!(!bench.passes(FromWorkload, &udp(WEB, [192, 0, 2, 1], 4000, 8)), "one that no rule allows");
        }
        // What those would answer who were sent to: none was reached. And api, from another port than web may ask.
        assert!(!bench.passes(ToWorkload, &udp([192, 0, 2, 1], WEB, 40_000, 8)), "a way back after {rounds} rounds");
        assert!(
            !bench.passes(ToWorkload, &udp(API, WEB, 9000, 8)),
            "from a port that may not be asked, after {rounds} rounds"
        );
        let segment = v6("fd00::9", "fd00::3", &[], 6, &segment(4000, 40_000, 16));
        assert!(!bench.passes(ToWorkload, &segment), "a segment of no connection after {rounds} rounds");
        rounds += 1;
    }
    let (spoofed, all) = (bench.decided(Hook::FromWorkload, Verdict::Deny, Reason::Spoofed), rounds * 200);
    assert_eq!(spoofed, all, "every forged frame is counted");
    rounds
}

/// adversarial 24, for as long as a test may take.
#[test]
fn adversarial_24_forged_frames_open_no_way_back() {
    let bench = Bench::on_wire("forged", DOCUMENTS, "web");
    assert!(forge(&bench, Duration::from_secs(2)) > 0);
}

/// adversarial 24, for the minute that answers are remembered.
#[test]
#[ignore = "takes a minute; cargo test -p weir-tests --test kernel_runs -- --ignored adversarial_24"]
fn adversarial_24_at_length_forged_frames_open_no_way_back_for_a_minute() {
    let bench = Bench::on_wire("forged-long", DOCUMENTS, "web");
    println!("{} rounds", forge(&bench, Duration::from_secs(61)));
}

/// adversarial 25: groups and broadcasts are no service of anybody's: no limit is charged for them, and they pass XDP.
#[test]
fn adversarial_25_multicast_and_broadcast_pass_xdp_and_use_up_nobodys_limit() {
    let bench = Bench::new("groups", DOCUMENTS, Verdict::Allow);
    let rows = [
        ("broadcast", udp([192, 0, 2, 1], [255; 4], 9000, 8)),
        ("broadcast of the network", udp([192, 0, 2, 1], [10, 0, 0, 255], 9000, 8)),
        ("multicast", udp([192, 0, 2, 1], [224, 0, 0, 251], 9000, 8)),
        ("multicast, IPv6", udp6("2001:db8::1", "ff02::fb", 9000)),
        ("DHCP", udp([0; 4], [255; 4], 67, 300)),
    ];
    for (name, frame) in &rows {
        for _ in 0..100 {
            assert!(bench.passes(Xdp, frame), "{name}");
        }
    }
    let polite = udp([192, 0, 2, 1], API, 9000, 8);
    let passed = (0..50).filter(|_| bench.passes(Xdp, &polite)).count();
    assert!((5..=6).contains(&passed), "the same client has its whole burst: {passed} of 5");
    // On a workload's interface they are judged like any datagram: nothing here lets them in.
    drop(bench);
    let bench = Bench::on_wire("groups-wire", DOCUMENTS, "web");
    for (name, frame) in rows.iter().take(4) {
        bench.refuses(ToWorkload, frame, Reason::Default, name);
    }
}
