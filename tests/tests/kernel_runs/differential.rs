//! Lives: weir-tests, in-kernel test runs: the XDP program, the same parser built for the host, and a parser that shares no code with
//! them read the same frames (adversarial 28).
//! Called by: cargo test. `WEIR_PACKETS=10000000` compares more, `WEIR_SEED=N` others.
//! May touch: the bench.
//! Never: forgives a difference; only what the kernel may have forgotten (a first fragment of long ago) may go either way.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    time::Instant,
};

use weir_agent::kernel::PacketHook::Xdp;
use weir_common::{
    addr::Addr,
    edge::{ETHERTYPE, MARTIAN},
    packet::{Fault, parse_frame},
    verdict::{Hook, Reason, Verdict},
};

use crate::{
    bench::Bench,
    edge::Frame,
    generate::Draw,
    reference::{self, Fragment, Read, Seen},
};

/// The verdict tells how a packet was read: by its source, its destination, its protocol and its port. No packet is of one byte.
const POLICY: &str = r#"
apiVersion: weir.dev/v1alpha1
kind: Workload
metadata: {name: api, labels: {app: api}}
spec: {addresses: [10.0.0.2, "fd00::2"]}
---
apiVersion: weir.dev/v1alpha1
kind: RateLimit
metadata: {name: closed}
spec:
  workloadSelector: {matchLabels: {app: api}}
  ports:
  - {protocol: UDP, port: 9000, endPort: 9010}
  - {protocol: TCP, port: 443}
  - {protocol: ICMP}
  - {protocol: ICMPv6}
  - {protocol: SCTP}
  bytes: {perSecond: 1, burst: 1}
---
apiVersion: weir.dev/v1alpha1
kind: AddressSet
metadata: {name: blocked}
spec: {action: block, addresses: [203.0.113.0/24, "2001:db8:bad::/48"]}
"#;

/// Frames between two looks at the counters.
const ROUND: usize = 2048;

/// What XDP does: passes, or refuses for a reason.
type Answer = Option<Reason>;

#[derive(PartialEq, Eq, Hash)]
struct Datagram(IpAddr, IpAddr, u32, u8);

/// What the program may have remembered: the port of a first fragment, and in which round.
#[derive(Default)]
struct Model {
    firsts: HashMap<Datagram, (u16, usize)>,
    round: usize,
}

impl Model {
    /// What must come of a frame; two answers where the program may have forgotten.
    fn expect(&mut self, frame: &[u8]) -> (Answer, Answer) {
        let both = |answer| (answer, answer);
        let read = match reference::see(frame) {
            Seen::Refused(reason) => return both(Some(reason)),
            Seen::NotIp => return both(Some(Reason::Ethertype)),
            Seen::Arp => return both(None),
            Seen::Ip(read) => read,
        };
        if martian(&read) {
            return both(Some(Reason::Martian));
        }
        if discovers(&read) {
            return both(None);
        }
        if blocked(read.src) {
            return both(Some(Reason::Blocklist));
        }
        if read.dst != IpAddr::from([10, 0, 0, 2]) && read.dst != IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 2]) {
            return both(None);
        }
        self.judge_service(&read)
    }

    fn judge_service(&mut self, read: &Read) -> (Answer, Answer) {
        let key = Datagram(read.src, read.dst, read.ident, if read.src.is_ipv4() { read.protocol } else { 0 });
        let known = self.firsts.get(&key).copied();
        let fresh = known.is_some_and(|(_, round)| round == self.round);
        match (read.fragment, known) {
            (Fragment::Whole, _) => (closed(read, kind_or_port(read)), closed(read, kind_or_port(read))),
            (Fragment::Later, None) => (Some(Reason::FragUnknown), Some(Reason::FragUnknown)),
            (Fragment::Later, Some((port, _))) => {
                let remembered = closed(read, port);
                (remembered, if fresh { remembered } else { Some(Reason::FragUnknown) })
            }
            (Fragment::First, known) => {
                let unknown = closed(read, kind_or_port(read));
                let conflicts = known.is_some_and(|(port, _)| port != kind_or_port(read));
                let remembered = if conflicts { Some(Reason::FragOverlap) } else { unknown };
                (remembered, if fresh { remembered } else { unknown })
            }
        }
    }

    /// Follows what the program did.
    fn learn(&mut self, frame: &[u8], passed: bool) {
        let Seen::Ip(read) = reference::see(frame) else { return };
        let to_service =
            read.dst == IpAddr::from([10, 0, 0, 2]) || read.dst == IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 2]);
        // Neighbour discovery passes before anything is charged or remembered.
        if passed && to_service && read.fragment == Fragment::First && !discovers(&read) {
            let key = Datagram(read.src, read.dst, read.ident, if read.src.is_ipv4() { read.protocol } else { 0 });
            self.firsts.insert(key, (kind_or_port(&read), self.round));
        }
    }
}

const fn kind_or_port(read: &Read) -> u16 {
    read.ports.1
}

fn closed(read: &Read, port: u16) -> Answer {
    let closed = match read.protocol {
        17 => (9000..=9010).contains(&port),
        6 => port == 443,
        1 | 58 | 132 => true,
        _ => false,
    };
    closed.then_some(Reason::RateLimitBytes)
}

fn blocked(src: IpAddr) -> bool {
    match src {
        IpAddr::V4(src) => src.octets()[..3] == [203, 0, 113],
        IpAddr::V6(src) => src.segments()[..3] == [0x2001, 0xdb8, 0xbad],
    }
}

fn discovers(read: &Read) -> bool {
    read.protocol == 58 && read.hops == 255 && (133..=137).contains(&read.ports.1)
}

fn martian(read: &Read) -> bool {
    let reports_groups = read.protocol == 58 && [131, 132, 143].contains(&read.ports.1);
    let asks_for_address = read.protocol == 17 && read.ports == (68, 67);
    let from_nobody = discovers(read) || reports_groups || asks_for_address || read.protocol == 2;
    let impossible = match read.src {
        IpAddr::V4(src) => src.is_loopback() || src.is_multicast() || src.is_broadcast() || src.octets()[0] == 0,
        IpAddr::V6(src) => src.is_loopback() || src.is_multicast(),
    };
    if read.src.is_unspecified() { !from_nobody } else { impossible || read.src == read.dst }
}

/// The parser as it is built for the host says the same as the reference, field by field.
fn check_host(frame: &[u8], place: &str) {
    let host = parse_frame(&Frame(frame));
    match (host, reference::see(frame)) {
        (Err(Fault::Refused(reason)), Seen::Refused(expected)) => assert_eq!(reason, expected, "{place}"),
        (Err(Fault::NotIp), Seen::NotIp) | (Err(Fault::Arp), Seen::Arp) => {}
        (Ok(packet), Seen::Ip(read)) => {
            let addr = |ip: IpAddr| match ip {
                IpAddr::V4(ip) => Addr::v4(ip.octets()),
                IpAddr::V6(ip) => Addr::v6(ip.octets()),
            };
            assert_eq!((packet.src, packet.dst), (addr(read.src), addr(read.dst)), "{place}");
            let ports = (packet.src_port.number(), packet.dst_port.number());
            assert_eq!(
                (packet.protocol.0, ports, packet.length),
                (read.protocol, read.ports, read.length as u32),
                "{place}"
            );
            let fragment = match (packet.first_fragment, packet.later_fragment) {
                (0, 0) => Fragment::Whole,
                (1, 0) => Fragment::First,
                (0, 1) => Fragment::Later,
                both => panic!("{both:?} {place}"),
            };
            assert_eq!((packet.hop_limit, fragment), (read.hops, read.fragment), "{place}");
            if read.fragment != Fragment::Whole {
                assert_eq!(packet.ident, read.ident, "{place}");
            }
            third_opinion(frame, &read, place);
        }
        (host, reference) => panic!("the host reads {host:?}, the reference {reference:?}: {place}"),
    }
}

/// Where etherparse reads a whole frame by itself, it must find the same ports.
fn third_opinion(frame: &[u8], read: &Read, place: &str) {
    use etherparse::TransportSlice::{Tcp, Udp};
    let Ok(sliced) = etherparse::SlicedPacket::from_ethernet(frame) else { return };
    let ports = match &sliced.transport {
        Some(Tcp(tcp)) => (tcp.source_port(), tcp.destination_port()),
        Some(Udp(udp)) => (udp.source_port(), udp.destination_port()),
        _ => return,
    };
    assert_eq!(ports, read.ports, "etherparse's own reading of the whole frame: {place}");
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

fn refusals(bench: &Bench) -> BTreeMap<Reason, u64> {
    let cells = bench.kernel.counters().unwrap();
    let denied = cells.iter().filter(|cell| cell.hook == Hook::Xdp && cell.verdict == Verdict::Deny);
    denied.map(|cell| (cell.reason, cell.decided)).collect()
}

/// adversarial 28: the program in the kernel, its host build, and a parser that shares no code with them agree on every frame.
#[test]
fn adversarial_28_kernel_host_and_a_second_parser_agree_on_generated_and_mutated_frames() {
    let (packets, seed) = (setting("WEIR_PACKETS", 200_000), setting("WEIR_SEED", 28));
    println!("WEIR_SEED={seed} WEIR_PACKETS={packets}");
    let mut bench = Bench::new("differential", POLICY, Verdict::Allow);
    bench.edge(MARTIAN | ETHERTYPE, 0);
    let (mut draw, mut model, start) = (Draw(seed), Model::default(), Instant::now());
    let (mut total, mut before) = (BTreeMap::<Answer, u64>::new(), refusals(&bench));
    let mut done = 0;
    while done < packets {
        let frames: Vec<Vec<u8>> = (0..ROUND).map(|_| draw.frame(model.round as u32)).collect();
        let answers = run(&bench, &mut model, &frames, seed);
        let after = refusals(&bench);
        let counted: BTreeMap<Reason, u64> = after
            .iter()
            .map(|(reason, n)| (*reason, n - before.get(reason).unwrap_or(&0)))
            .filter(|(_, n)| *n > 0)
            .collect();
        if !explains(&answers, counted.clone()) {
            culprit(&bench, &frames, seed, &format!("counted {counted:?}, expected {:?}", tally(&answers)));
        }
        for (answer, _) in answers {
            *total.entry(answer).or_default() += 1;
        }
        (before, done, model.round) = (after, done + ROUND as u64, model.round + 1);
    }
    println!("{done} frames in {:?}: {total:?}", start.elapsed());
    for reason in EVERY_ANSWER {
        assert!(total.get(&Some(*reason)).is_some_and(|n| *n > 20), "{reason:?} was hardly tried: {total:?}");
    }
}

/// What a run must have met.
const EVERY_ANSWER: &[Reason] = &[
    Reason::Malformed,
    Reason::SourceRoute,
    Reason::TinyFragment,
    Reason::ExtDepth,
    Reason::FragNested,
    Reason::FragUnknown,
    Reason::Martian,
    Reason::TcpFlags,
    Reason::Ethertype,
    Reason::Blocklist,
    Reason::RateLimitBytes,
];

/// Runs frames in both, and gives what came of each: two reasons where it is refused whether or not the program has forgotten.
fn run(bench: &Bench, model: &mut Model, frames: &[Vec<u8>], seed: u64) -> Vec<(Answer, Answer)> {
    let one = |frame: &Vec<u8>| {
        let place = format!("WEIR_SEED={seed}, round {}: {frame:02x?}", model.round);
        check_host(frame, &place);
        let (remembered, forgotten) = model.expect(frame);
        let passed = bench.passes(Xdp, frame);
        let fits = |answer: &Answer| answer.is_none() == passed;
        let answers: Vec<Answer> = [remembered, forgotten].into_iter().filter(fits).collect();
        assert!(!answers.is_empty(), "passed: {passed}, expected {remembered:?} ({forgotten:?} if forgotten): {place}");
        model.learn(frame, passed);
        (answers[0], answers[answers.len() - 1])
    };
    frames.iter().map(one).collect()
}

fn tally(answers: &[(Answer, Answer)]) -> BTreeMap<(Answer, Answer), u64> {
    let mut counts = BTreeMap::new();
    for answer in answers.iter().filter(|(answer, _)| answer.is_some()) {
        *counts.entry(*answer).or_default() += 1;
    }
    counts
}

/// Whether each refusal that was counted is one that was expected, and each that was expected was counted.
fn explains(answers: &[(Answer, Answer)], mut counted: BTreeMap<Reason, u64>) -> bool {
    let (decided, either): (Vec<_>, Vec<_>) = answers.iter().copied().partition(|(one, other)| one == other);
    let mut take = |answer: Answer| {
        let Some(left) = answer.and_then(|reason| counted.get_mut(&reason)) else { return false };
        let there = *left > 0;
        *left -= u64::from(there);
        there
    };
    let all = decided.into_iter().filter_map(|(answer, _)| answer).all(|reason| take(Some(reason)));
    all && either.into_iter().all(|(one, other)| take(one) || take(other)) && counted.values().all(|left| *left == 0)
}

/// Finds the frame that is refused for another reason than it should be.
fn culprit(bench: &Bench, frames: &[Vec<u8>], seed: u64, what: &str) {
    for frame in frames {
        if let Seen::Refused(reason) = reference::see(frame) {
            bench.refuses(Xdp, frame, reason, &format!("WEIR_SEED={seed}, {what}: {frame:02x?}"));
        }
    }
    panic!("WEIR_SEED={seed}: {what}, and no frame alone shows it");
}
