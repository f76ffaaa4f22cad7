//! Lives: weir-tests, in-kernel test runs of the socket hooks.
//! Called by: cargo test.
//! May touch: the bench.
//! Never: believes the answer alone; counters must name the reason, and the host must decide the same.

use std::collections::BTreeSet;

use weir_agent::kernel::PacketHook::{self, Egress, Ingress};
use weir_common::{
    addr::{Addr, Port, Protocol},
    decide::{Image, Query},
    image::{FLAG_QUIET, FLAG_STAGED},
    packet::{self, Packet},
    verdict::{
        Direction, Hook, Reason,
        Verdict::{self, Allow, Deny},
    },
};
use weir_policy::{Kind, ResourceId};

use crate::{
    bench::Bench,
    edge::Frame,
    frames::{chunk, error, icmp, ip, sctp, udp},
};

#[test]
fn socket_hooks_give_an_unknown_workload_the_configured_verdict_and_count_it() {
    for (unknown, expected) in [(Verdict::Allow, 1), (Verdict::Deny, 0)] {
        for (hook, place) in [(PacketHook::Ingress, Hook::Ingress), (PacketHook::Egress, Hook::Egress)] {
            let mut bench = Bench::new("unknown", "", unknown);
            for _ in 0..3 {
                assert_eq!(
                    bench.run(hook, &udp([10, 0, 1, 1], [10, 0, 0, 2], 53, 10)),
                    expected,
                    "{hook:?}, unknown: {unknown:?}"
                );
            }
            assert_eq!(bench.decided(place, unknown, Reason::UnknownWorkload), 3);
            assert_eq!(bench.merged().iter().map(|(_, value)| value.count).sum::<u64>(), 3);
        }
    }
}

/// Between its attachment and the agent's word whose it is: strangers are for the programs at the root to refuse.
#[test]
fn a_program_that_was_not_told_whose_packets_it_sees_refuses_and_counts_none_of_them() {
    let mut bench = Bench::new("untold", "", Verdict::Deny);
    let frame = udp([10, 0, 1, 1], [10, 0, 0, 2], 53, 10);
    for (untold, strangers) in [(PacketHook::UntoldIngress, Ingress), (PacketHook::UntoldEgress, Egress)] {
        assert_eq!((bench.run(untold, &frame), bench.run(strangers, &frame)), (1, 0), "{untold:?}");
    }
    assert_eq!(bench.merged().iter().map(|(_, value)| value.count).sum::<u64>(), 2);
}

/// More ends than are taken with one call, in both epochs' tables.
#[test]
fn merged_decisions_of_thousands_of_ends_are_all_taken_and_each_once() {
    let mut bench = Bench::new("many", "", Verdict::Deny);
    for ends in [5000u16, 5000, 3, 0] {
        for end in 0..ends {
            let [high, low] = end.to_be_bytes();
            assert_eq!(bench.run(Ingress, &udp([10, 1, high, low], [10, 0, 0, 2], 53, 10)), 0);
        }
        let merged = bench.merged();
        let peers: BTreeSet<Addr> = merged.iter().map(|(key, _)| key.remote).collect();
        assert_eq!((merged.len(), peers.len()), (usize::from(ends), usize::from(ends)));
        assert!(merged.iter().all(|(_, value)| value.count == 1));
    }
}

const DOCUMENTS: &str = r#"
apiVersion: weir.dev/v1alpha1
kind: Workload
metadata: {name: api, labels: {app: api}}
spec: {cgroup: api, addresses: [10.0.0.2, "fd00::2"]}
---
apiVersion: weir.dev/v1alpha1
kind: Workload
metadata: {name: web, labels: {app: web}}
spec: {addresses: [10.0.0.3, "fd00::3"]}
---
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: api}
spec:
  workloadSelector: {matchLabels: {app: api}}
  policyTypes: [Ingress, Egress]
  defaultAction: deny
  ingress:
  - from: [{workloadSelector: {matchLabels: {app: web}}}]
    ports:
    - {protocol: SCTP, port: 5000, endPort: 5010}
    - {protocol: ICMP, type: echo-request}
    - {protocol: ICMPv6, type: 128}
  egress:
  - to: [{workloadSelector: {matchLabels: {app: web}}}]
    ports:
    - {protocol: SCTP, port: 6000}
    - {protocol: ICMP, type: 8}
    - {protocol: ICMPv6, type: echo-request}
"#;

const API: &str = "10.0.0.2";
const WEB: &str = "10.0.0.3";
const API6: &str = "fd00::2";
const WEB6: &str = "fd00::3";
const STRANGER: &str = "192.0.2.1";

/// Name, hook, frame, verdict, reason.
type Row<'a> = (&'a str, PacketHook, Vec<u8>, Verdict, Reason);

fn check(bench: &Bench, rows: &[Row<'_>]) {
    for (name, hook, frame, verdict, reason) in rows {
        let place = if *hook == Ingress { Hook::Ingress } else { Hook::Egress };
        let before = bench.decided(place, *verdict, *reason);
        assert_eq!(bench.run(*hook, frame), u32::from(verdict.passes()), "{name}");
        assert_eq!(bench.decided(place, *verdict, *reason), before + 1, "{name}: {verdict:?} by {reason:?}");
    }
}

#[test]
fn sctp_is_judged_by_its_ports_and_an_opening_is_never_an_answer() {
    let bench = Bench::of_workload("sctp", DOCUMENTS, "api");
    let incoming = |from, to, kind| sctp((WEB, from), (API, to), kind);
    let outgoing = |from, to, kind| sctp((API, from), (WEB, to), kind);
    let cut = |length: usize| ip(WEB, API, 132, &sctp((WEB, 1), (API, 5000), chunk::INIT)[34..34 + length]);
    let mut short_chunk = incoming(1, 5000, chunk::DATA);
    short_chunk[34 + 15] = 3;
    check(
        &bench,
        &[
            ("first port of the range", Ingress, incoming(40_000, 5000, chunk::INIT), Allow, Reason::Rule),
            ("last port of the range", Ingress, incoming(40_000, 5010, chunk::DATA), Allow, Reason::Rule),
            ("below the range", Ingress, incoming(40_000, 4999, chunk::INIT), Deny, Reason::Default),
            ("above the range", Ingress, incoming(40_000, 5011, chunk::INIT), Deny, Reason::Default),
            ("another peer", Ingress, sctp((STRANGER, 1), (API, 5000), chunk::INIT), Deny, Reason::Default),
            ("IPv6", Ingress, sctp((WEB6, 1), (API6, 5000), chunk::INIT), Allow, Reason::Rule),
            ("an answer", Ingress, incoming(6000, 40_000, chunk::DATA), Allow, Reason::Reply),
            (
                "an opening from the port that is asked",
                Ingress,
                incoming(6000, 40_000, chunk::INIT),
                Deny,
                Reason::Default,
            ),
            ("from a port that is not asked", Ingress, incoming(6001, 40_000, chunk::DATA), Deny, Reason::Default),
            ("asking", Egress, outgoing(40_000, 6000, chunk::INIT), Allow, Reason::Rule),
            ("asking elsewhere", Egress, outgoing(40_000, 6001, chunk::INIT), Deny, Reason::Default),
            ("answering", Egress, outgoing(5000, 40_000, chunk::DATA), Allow, Reason::Reply),
            (
                "opening from the port that is served",
                Egress,
                outgoing(5000, 40_000, chunk::INIT),
                Deny,
                Reason::Default,
            ),
            ("the header alone", Ingress, cut(12), Deny, Reason::Malformed),
            ("half a chunk header", Ingress, cut(15), Deny, Reason::Malformed),
            ("a chunk header and no more", Ingress, cut(16), Allow, Reason::Rule),
            ("a chunk shorter than its header", Ingress, short_chunk, Deny, Reason::Malformed),
        ],
    );
}

#[test]
fn icmp_is_judged_by_its_type_and_answers_by_the_type_they_answer() {
    let mut bench = Bench::of_workload("icmp", DOCUMENTS, "api");
    let other_ident = ip(WEB, API, 1, &[0, 0, 0, 0, 0, 2, 0, 1]);
    check(
        &bench,
        &[
            ("echo request in", Ingress, icmp(WEB, API, 8), Allow, Reason::Rule),
            ("echo request out", Egress, icmp(API, WEB, 8), Allow, Reason::Rule),
            ("echo reply in, at a socket that did not ask", Ingress, icmp(WEB, API, 0), Deny, Reason::Default),
            ("echo reply with another identifier in", Ingress, other_ident, Deny, Reason::Default),
            ("echo reply of a stranger in", Ingress, icmp(STRANGER, API, 0), Deny, Reason::Default),
            ("echo reply out", Egress, icmp(API, WEB, 0), Allow, Reason::Reply),
            ("unreachable in, of nothing", Ingress, icmp(WEB, API, 3), Deny, Reason::Default),
            ("unreachable in", Ingress, error(WEB, API, 3, &icmp(API, WEB, 8)), Allow, Reason::Reply),
            (
                "time exceeded, of a stranger",
                Ingress,
                error(STRANGER, API, 11, &icmp(API, WEB, 8)),
                Allow,
                Reason::Reply,
            ),
            (
                "time exceeded, of what may not leave",
                Ingress,
                error(WEB, API, 11, &icmp(API, STRANGER, 8)),
                Deny,
                Reason::Default,
            ),
            (
                "time exceeded, of another's",
                Ingress,
                error(WEB, API, 11, &icmp(WEB, STRANGER, 8)),
                Deny,
                Reason::Default,
            ),
            ("timestamp request in", Ingress, icmp(WEB, API, 13), Deny, Reason::Default),
            ("timestamp request out", Egress, icmp(API, WEB, 13), Deny, Reason::Default),
            ("timestamp reply in", Ingress, icmp(WEB, API, 14), Deny, Reason::Default),
            ("echo request of a stranger", Ingress, icmp(STRANGER, API, 8), Deny, Reason::Default),
            ("IPv6 echo request in", Ingress, icmp(WEB6, API6, 128), Allow, Reason::Rule),
            ("IPv6 echo reply in, too early", Ingress, icmp(WEB6, API6, 129), Deny, Reason::Default),
            ("IPv6 echo request out", Egress, icmp(API6, WEB6, 128), Allow, Reason::Rule),
            ("IPv6 echo reply in, at another socket", Ingress, icmp(WEB6, API6, 129), Deny, Reason::Default),
            ("IPv6 packet too big in", Ingress, error(WEB6, API6, 2, &icmp(API6, WEB6, 128)), Allow, Reason::Reply),
            ("IPv6 packet too big in, of nothing", Ingress, icmp(WEB6, API6, 2), Deny, Reason::Default),
            ("IPv6 router advertisement in", Ingress, icmp(WEB6, API6, 134), Deny, Reason::Default),
            ("a header cut short", Ingress, ip(WEB, API, 1, &[8, 0, 0]), Deny, Reason::Malformed),
        ],
    );
    let asked = bench.merged().into_iter().filter(|(key, _)| key.reason == Reason::Rule as u8);
    for (key, _) in asked {
        let (called, other) = match key.direction {
            direction if direction == Direction::Ingress as u8 => (key.local_port, key.remote_port),
            _ => (key.remote_port, key.local_port),
        };
        let request = if key.protocol == 1 { 8 } else { 128 };
        assert_eq!((called, other), (Port::new(request), Port::new(0)), "the type is in the record: {key:?}");
    }
}

/// What the hook must answer, told by the host's decisions alone.
fn reference(bench: &Bench, direction: Direction, packet: &Packet) -> bool {
    let image = Image::open(&bench.compiled).unwrap();
    let api = ResourceId::new(Kind::Workload, "default", "api");
    let local = bench.compiled.workloads.get(&api).unwrap().identity;
    let (remote, back) = match direction {
        Direction::Ingress => (packet.src, Direction::Egress),
        Direction::Egress => (packet.dst, Direction::Ingress),
    };
    let ask = |direction, port: Port| {
        image.decide(&Query { local, direction, remote, protocol: packet.protocol, port: port.number() })
    };
    let answered = |asked| {
        let decision = ask(back, asked);
        // What nobody's rule let in may be answered only by those who were asked, which a packet alone does not tell.
        decision.verdict.passes() && (back == Direction::Egress || decision.reason == Reason::Rule)
    };
    // Every run has a socket of its own, which has asked nobody; an error answers what it quotes, and these quote nothing.
    let message = matches!(packet.protocol, Protocol::ICMP | Protocol::ICMPV6);
    let answers = if direction == Direction::Ingress && message { None } else { packet.answers() };
    ask(direction, packet.dst_port).verdict.passes() || answers.is_some_and(answered)
}

#[test]
fn hooks_and_host_decide_alike_for_every_icmp_type_and_the_edges_of_sctp_ports() {
    let bench = Bench::of_workload("alike", DOCUMENTS, "api");
    let mut frames = Vec::new();
    for kind in 0..=u8::MAX {
        for (from, to) in [(WEB, API), (API, WEB), (WEB6, API6), (API6, WEB6), (STRANGER, API)] {
            frames.push(icmp(from, to, kind));
        }
    }
    let ports = [0, 1, 4999, 5000, 5001, 5010, 5011, 5999, 6000, 6001, 40_000, 65_535];
    for (from, to) in ports.iter().flat_map(|from| ports.map(|to| (*from, to))) {
        for kind in [chunk::DATA, chunk::INIT, 2, 10, 255] {
            frames.push(sctp((WEB, from), (API, to), kind));
            frames.push(sctp((API6, from), (WEB6, to), kind));
        }
    }
    let mut passed = 0;
    for frame in &frames {
        let packet = packet::parse_frame(&Frame(frame)).unwrap();
        let local = [API, API6].map(|text| weir_policy::addr(text.parse().unwrap()));
        let incoming = local.contains(&packet.dst);
        let (hook, direction) = if incoming { (Ingress, Direction::Ingress) } else { (Egress, Direction::Egress) };
        let expected = reference(&bench, direction, &packet);
        passed += u32::from(expected);
        assert_eq!(bench.run(hook, frame), u32::from(expected), "{direction:?} {packet:?}");
    }
    assert!(passed > 100 && passed < frames.len() as u32 / 2, "both answers were tried: {passed} of {}", frames.len());
}

const QUIET: &str = r#"
apiVersion: weir.dev/v1alpha1
kind: Workload
metadata: {name: api, labels: {app: api}}
spec: {cgroup: api, addresses: [10.0.0.2]}
---
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: api}
spec:
  workloadSelector: {matchLabels: {app: api}}
  policyTypes: [Ingress, Egress]
  defaultAction: deny
  ingress:
  - {name: often, log: false, ports: [{protocol: UDP, port: 53}]}
  - {name: noise, log: false, action: deny, ports: [{protocol: UDP, port: 137}]}
  - {name: seldom, ports: [{protocol: UDP, port: 54}]}
"#;

#[test]
fn what_a_quiet_rule_decides_is_counted_exactly_and_makes_no_record() {
    let mut bench = Bench::of_workload("quiet", QUIET, "api");
    let flags = Image::open(&bench.compiled).unwrap().flags();
    assert_eq!(flags & FLAG_QUIET, FLAG_QUIET, "or sock_ops never asks whether a close is quiet");
    let datagram = |to: u16| udp([10, 0, 0, 3], [10, 0, 0, 2], to, 8);
    let mut answer = Vec::new();
    let builder = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 2], [10, 0, 0, 3], 64);
    builder.udp(53, 40_000).write(&mut answer, &[0; 8]).unwrap();
    for (to, times, passes) in [(53, 7, 1), (137, 5, 0), (54, 3, 1), (55, 2, 0)] {
        for _ in 0..times {
            assert_eq!(bench.run(Ingress, &datagram(to)), passes, "port {to}");
        }
    }
    // Every test run has a socket of its own, which nobody has asked: what looks like an answer is none.
    assert_eq!(bench.run(Egress, &answer), 0, "an answer of another socket");
    let rows = [
        (Hook::Ingress, Allow, Reason::Rule, (10, 7)),
        (Hook::Ingress, Deny, Reason::Rule, (5, 5)),
        (Hook::Ingress, Deny, Reason::Default, (2, 0)),
        (Hook::Egress, Deny, Reason::Default, (1, 0)),
    ];
    for (hook, verdict, reason, expected) in rows {
        let cell = bench.counted(hook, verdict, reason).unwrap();
        assert_eq!((cell.decided, cell.quiet), expected, "{hook:?} {verdict:?} {reason:?}");
    }
    let mut recorded: Vec<_> =
        bench.merged().iter().map(|(key, value)| (key.local_port.number(), value.count)).collect();
    recorded.sort();
    assert_eq!(recorded, [(53, 1), (54, 3), (55, 2)], "decided = recorded + quiet");
}

const STAGED: &str = r#"
apiVersion: weir.dev/v1alpha1
kind: Workload
metadata: {name: api, labels: {app: api}}
spec: {cgroup: api, addresses: [10.0.0.2]}
---
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: now}
spec:
  workloadSelector: {matchLabels: {app: api}}
  policyTypes: [Ingress, Egress]
  ingress: [{ports: [{protocol: UDP, port: 50, endPort: 59}]}]
  egress: [{ports: [{protocol: UDP, port: 60, endPort: 69}]}]
---
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: next}
spec:
  workloadSelector: {matchLabels: {app: api}}
  mode: staged
  policyTypes: [Ingress, Egress]
  ingress: [{action: deny, ports: [{protocol: UDP, port: 55}]}, {ports: [{protocol: UDP, port: 40}]}]
  egress: [{action: deny, ports: [{protocol: UDP, port: 66}]}]
"#;

#[test]
fn hooks_and_host_agree_about_what_staged_policies_would_decide() {
    let mut bench = Bench::of_workload("staged", STAGED, "api");
    let image = Image::open(&bench.compiled).unwrap();
    assert_eq!(image.flags() & FLAG_STAGED, FLAG_STAGED);
    let local = bench.compiled.workloads.values().next().unwrap().identity;
    let stranger = weir_policy::addr(STRANGER.parse().unwrap());
    let mut differing = 0;
    for port in 38..72 {
        let (inside, outside) = ([10, 0, 0, 2], [192, 0, 2, 1]);
        for (hook, direction, from, to) in
            [(Ingress, Direction::Ingress, outside, inside), (Egress, Direction::Egress, inside, outside)]
        {
            let query = Query { local, direction, remote: stranger, protocol: Protocol::UDP, port };
            let said = Image::open(&bench.compiled).unwrap().decide(&query);
            // Comes from a port that makes it no answer to anything.
            assert_eq!(
                bench.run(hook, &udp(from, to, port, 8)),
                u32::from(said.verdict.passes()),
                "{direction:?} {port}"
            );
            let merged = bench.merged();
            let [(key, value)] = merged.as_slice() else { panic!("{merged:?}") };
            assert_eq!((key.staged, key.rule, value.count), (said.staged.0, said.rule, 1), "{direction:?} {port}");
            differing += u32::from(key.staged != 0);
        }
    }
    assert_eq!(differing, 3, "ports 40 and 55 in, 66 out");
}
