//! Lives: weir-tests, in-kernel test runs of rate limits, at XDP and at the socket.
//! Called by: cargo test.
//! May touch: the bench.
//! Never: waits for time to pass, or counts on how little of it does: limits earn a unit a second here.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use weir_agent::kernel::PacketHook::{Ingress, Xdp};
use weir_common::verdict::{Hook, Reason, Verdict};

use crate::{
    bench::{Bench, compiled},
    edge::next,
    frames::{syn, udp, udp6},
};

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const PASSES: u32 = 1;

const API: [u8; 4] = [10, 0, 0, 2];

/// The workloads, and limits whose specs are given.
fn policy(limits: &[(&str, &str)]) -> String {
    let head = "apiVersion: weir.dev/v1alpha1\nkind:";
    let workload = |name: &str, team: &str, addresses: &str| {
        format!(
            "---\n{head} Workload\nmetadata: {{name: {name}, labels: {{app: {name}, team: {team}}}}}\nspec: {{addresses: {addresses}}}\n"
        )
    };
    let mut text = workload("api", "back", "[10.0.0.2, \"fd00::2\"]");
    text += &workload("one", "front", "[10.0.1.1, \"fd00::11\"]");
    text += &workload("two", "front", "[10.0.1.2]");
    text += &workload("three", "other", "[10.0.1.3]");
    for (name, spec) in limits {
        text += &format!("---\n{head} RateLimit\nmetadata: {{name: {name}}}\nspec: {spec}\n");
    }
    text
}

const SELECT: &str = "workloadSelector: {matchLabels: {app: api}}";

/// More than the coarse clock of limits lags.
const CLOCK: Duration = Duration::from_millis(50);

/// That a burst passed, and no more than what a unit a second has earned since.
#[track_caller]
fn due(begin: Instant, passed: usize, burst: usize, what: &str) {
    let earned = earned(begin);
    assert!((burst..=burst + earned).contains(&passed), "{what}: {passed} passed, {burst} at once and {earned} earned");
}

/// Units that a client may have earned since.
pub fn earned(begin: Instant) -> usize {
    (begin.elapsed() + CLOCK).as_secs() as usize
}

/// How many of `times` packets pass.
fn passed(bench: &Bench, hook: weir_agent::kernel::PacketHook, frame: &[u8], times: usize) -> usize {
    let pass = if hook == Xdp { XDP_PASS } else { PASSES };
    (0..times).filter(|_| bench.run(hook, frame) == pass).count()
}

#[test]
fn at_the_socket_each_limit_lets_its_burst_through_and_says_which_was_exceeded() {
    let packets = format!("{{{SELECT}, ports: [{{protocol: UDP, port: 9000}}], packets: {{perSecond: 1, burst: 5}}}}");
    let bytes = format!("{{{SELECT}, ports: [{{protocol: UDP, port: 5000}}], bytes: {{perSecond: 1, burst: 2000}}}}");
    let connections = format!("{{{SELECT}, ports: [{{port: 443}}], connections: {{perSecond: 1, burst: 3}}}}");
    let watched = format!(
        "{{{SELECT}, ports: [{{protocol: UDP, port: 7000}}], mode: audit, packets: {{perSecond: 1, burst: 1}}}}"
    );
    let text =
        policy(&[("packets", &packets), ("bytes", &bytes), ("connections", &connections), ("watched", &watched)]);
    let mut bench = Bench::of_workload("socket-limits", &text, "api");
    let rows = [
        ("packets", udp([192, 0, 2, 1], API, 9000, 10), 5, Reason::RateLimitPackets, Verdict::Deny, "packets"),
        ("packets, IPv6", udp6("2001:db8::1", "fd00::2", 9000), 5, Reason::RateLimitPackets, Verdict::Deny, "packets"),
        ("bytes: 228 of 2000", udp([192, 0, 2, 2], API, 5000, 200), 8, Reason::RateLimitBytes, Verdict::Deny, "bytes"),
        (
            "connections",
            syn([192, 0, 2, 3], API, 443, 1000),
            3,
            Reason::RateLimitConnections,
            Verdict::Deny,
            "connections",
        ),
        ("audit", udp([192, 0, 2, 4], API, 7000, 10), 20, Reason::RateLimitPackets, Verdict::Audit, "watched"),
        ("no limit here", udp([192, 0, 2, 5], API, 1, 10), 20, Reason::RateLimitPackets, Verdict::Allow, ""),
    ];
    for (name, frame, burst, reason, verdict, limit) in rows {
        let before = bench.decided(Hook::Ingress, verdict, reason);
        let begin = Instant::now();
        let passed = passed(&bench, Ingress, &frame, 20);
        let expected = bench.decided(Hook::Ingress, verdict, reason) - before;
        match verdict {
            Verdict::Deny => assert_eq!(expected as usize, 20 - passed, "{name}"),
            Verdict::Audit => due(begin, 20 - expected as usize, 1, name),
            Verdict::Allow => assert_eq!(expected, 0, "{name}"),
        }
        due(begin, passed, burst, name);
        let merged = bench.merged();
        let of_limit = merged.iter().filter(|(key, _)| key.reason == reason as u8 && key.verdict == verdict as u8);
        let count: u64 = of_limit.clone().map(|(_, value)| value.count).sum();
        assert_eq!(count, expected, "{name}: the records say the same");
        for (key, _) in of_limit {
            assert_eq!(bench.compiled.rules[key.rule as usize].policy, format!("RateLimit/default/{limit}"), "{name}");
        }
    }
}

#[test]
fn a_packet_that_xdp_has_charged_is_not_charged_again_at_the_socket() {
    let limit = format!(
        "{{{SELECT}, packets: {{perSecond: 1, burst: 10}}, aggregate: {{bytes: {{perSecond: 1, burst: 3000}}}}}}"
    );
    let bench = Bench::of_workload("once", &policy(&[("api", &limit)]), "api");
    let frame = udp([192, 0, 2, 1], API, 53, 10);
    let begin = Instant::now();
    let both = (0..30).filter(|_| bench.run(Xdp, &frame) == XDP_PASS && bench.run(Ingress, &frame) == PASSES).count();
    due(begin, both, 10, "each packet that crosses both is charged once");
    let stats = bench.kernel.limit_stats(2).unwrap()[1];
    let counted = (stats.passed_packets as usize, stats.exceeded_packets as usize);
    assert_eq!(counted, (both, 30 - both), "and counted once");
    let (other, begin) = (udp([192, 0, 2, 2], API, 53, 10), Instant::now());
    assert_eq!(passed(&bench, Xdp, &other, 4), 4);
    let passed = passed(&bench, Ingress, &other, 30);
    due(begin, passed, 4 + 6, "four were charged before; the client's budget is one at both");
}

#[test]
fn all_clients_together_stay_within_the_aggregate_and_the_record_says_so() {
    let limit = format!(
        "{{{SELECT}, packets: {{perSecond: 1, burst: 20}}, aggregate: {{packets: {{perSecond: 1, burst: 30}}}}}}"
    );
    let mut bench = Bench::new("aggregate", &policy(&[("api", &limit)]), Verdict::Allow);
    let (begin, mut through) = (Instant::now(), 0);
    // What all together may have is what the third client finds used up.
    for (host, together) in [(1, 20), (2, 30), (3, 30)] {
        through += passed(&bench, Xdp, &udp([192, 0, 2, host], API, 53, 10), 50);
        due(begin, through, together, &format!("client {host}"));
    }
    let rules: BTreeMap<String, u64> = (bench.merged().iter())
        .map(|(key, value)| (bench.compiled.rules[key.rule as usize].rule.clone(), value.count))
        .fold(BTreeMap::new(), |mut rules, (rule, count)| {
            *rules.entry(rule).or_default() += count;
            rules
        });
    assert_eq!(rules.values().sum::<u64>() as usize, 150 - through);
    // The second client spent ten of its own that all together no longer had, the third all of its own; then their own were gone.
    let own = through + rules["aggregate"] as usize;
    assert!((20 * 3..=(20 + earned(begin)) * 3).contains(&own), "{own} conformed to what one client has: {rules:?}");
}

#[test]
fn workloads_that_share_the_labels_are_one_client_and_others_count_by_address() {
    let limit = format!("{{{SELECT}, client: {{workloadLabels: [team]}}, packets: {{perSecond: 1, burst: 10}}}}");
    let bench = Bench::new("by-workload", &policy(&[("api", &limit)]), Verdict::Allow);
    let rows = [
        ("front", "one", udp([10, 0, 1, 1], API, 53, 1), 6, 6),
        ("front", "two", udp([10, 0, 1, 2], API, 53, 1), 20, 10),
        ("front", "one, in the other family", udp6("fd00::11", "fd00::2", 53), 20, 10),
        ("other", "three", udp([10, 0, 1, 3], API, 53, 1), 20, 10),
        ("192.0.2.1", "no workload", udp([192, 0, 2, 1], API, 53, 1), 20, 10),
        ("192.0.2.2", "no workload, another address", udp([192, 0, 2, 2], API, 53, 1), 20, 10),
    ];
    let (begin, mut through) = (Instant::now(), BTreeMap::<_, usize>::new());
    for (client, name, frame, sent, together) in rows {
        let through = through.entry(client).or_default();
        *through += passed(&bench, Xdp, &frame, sent);
        due(begin, *through, together, name);
    }
}

#[test]
fn a_limit_on_addresses_holds_for_these_and_no_others() {
    let limit = "{addresses: [10.0.0.2, 198.51.100.0/24, \"fd00::/64\"], packets: {perSecond: 1, burst: 3}}";
    let bench = Bench::new("addresses", &policy(&[("some", limit)]), Verdict::Allow);
    let rows = [
        ("of a workload", udp([192, 0, 2, 1], API, 53, 1), 3),
        ("first of the prefix", udp([192, 0, 2, 2], [198, 51, 100, 0], 53, 1), 3),
        ("last of the prefix", udp([192, 0, 2, 3], [198, 51, 100, 255], 53, 1), 3),
        ("beside it", udp([192, 0, 2, 4], [198, 51, 101, 0], 53, 1), 10),
        ("another workload", udp([192, 0, 2, 5], [10, 0, 1, 1], 53, 1), 10),
        ("IPv6, inside", udp6("2001:db8::1", "fd00::2", 53), 3),
        ("IPv6, outside", udp6("2001:db8:1::1", "fd01::2", 53), 10),
    ];
    for (name, frame, expected) in rows {
        let begin = Instant::now();
        due(begin, passed(&bench, Xdp, &frame, 10), expected, name);
    }
}

/// adversarial 31: one IPv6 client rotating through its /64 is one client.
#[test]
fn an_ipv6_client_that_rotates_through_its_prefix_stays_one_client() {
    let limit = format!("{{{SELECT}, packets: {{perSecond: 1, burst: 7}}}}");
    let bench = Bench::new("rotating", &policy(&[("api", &limit)]), Verdict::Allow);
    let rotating = |host: u32| udp6(&format!("2001:db8::{host:x}"), "fd00::2", 53);
    let begin = Instant::now();
    let through = (1..200).filter(|host| bench.run(Xdp, &rotating(*host)) == XDP_PASS).count();
    due(begin, through, 7, "one /64");
    assert_eq!(bench.run(Xdp, &udp6("2001:db8:0:1::1", "fd00::2", 53)), XDP_PASS, "the next /64 is another");
}

/// adversarial 38: editing a limit a hundred times gives nobody a fresh burst.
#[test]
fn a_limit_that_is_edited_a_hundred_times_refills_nothing() {
    let text = |burst: u64| {
        policy(&[(
            "api",
            &format!(
                "{{{SELECT}, packets: {{perSecond: 1, burst: {burst}}}, aggregate: {{packets: {{perSecond: 1, burst: {}}}}}}}",
                burst * 2
            ),
        )])
    };
    let mut bench = Bench::new("edited", &text(50), Verdict::Allow);
    let begin = Instant::now();
    let frame = udp([192, 0, 2, 1], API, 53, 1);
    let mut through = passed(&bench, Xdp, &frame, 60);
    for edit in 0..100u64 {
        let _ = bench.kernel.install(&compiled(&text(40 + edit % 11), Verdict::Allow)).unwrap();
        through += passed(&bench, Xdp, &frame, 3);
    }
    // What is earned beyond the smaller bursts in between is lost.
    assert!((50..=50 + earned(begin)).contains(&through), "{through} passed in {:?}", begin.elapsed());
}

#[test]
fn limits_of_0_of_1_and_of_2_to_the_63_do_what_they_say() {
    let most = 1u64 << 63;
    let rows = [
        ("nothing", "{perSecond: 0}".to_owned(), 0),
        ("nothing, written out", "{perSecond: 0, burst: 0}".to_owned(), 0),
        ("one", "{perSecond: 1}".to_owned(), 1),
        ("one at once", "{perSecond: 1, burst: 1}".to_owned(), 1),
        ("as good as none", format!("{{perSecond: {most}}}"), 40),
        ("the same with a burst", format!("{{perSecond: {most}, burst: {most}}}"), 40),
        ("the same with a small one", format!("{{perSecond: {most}, burst: 1}}"), 40),
    ];
    let mut bench = Bench::new("extremes", &policy(&[]), Verdict::Allow);
    for (case, (name, rate, expected)) in rows.iter().enumerate() {
        for (kind, spec) in
            [("client", format!("packets: {rate}")), ("aggregate", format!("aggregate: {{packets: {rate}}}"))]
        {
            let text = policy(&[(&format!("x{case}-{kind}"), &format!("{{{SELECT}, {spec}}}"))]);
            let _ = bench.kernel.install(&compiled(&text, Verdict::Allow)).unwrap();
            let (frame, begin) = (udp([192, 0, 2, 1], API, 53, 1), Instant::now());
            match (passed(&bench, Xdp, &frame, 40), *expected) {
                (passed, 0) => assert_eq!(passed, 0, "{name}, {kind}"),
                (passed, expected) => due(begin, passed, expected, &format!("{name}, {kind}")),
            }
        }
    }
}

/// What limits mean, in plain words: how much of its burst each client and all of them have used.
#[derive(Default)]
struct Reference {
    used: BTreeMap<(usize, Option<u8>), u64>,
}

/// A limit of the reference: the port it is about, and bursts of packets and bytes of a client, and of all.
struct Bursts {
    port: Option<u16>,
    client: (u64, u64),
    all: (u64, u64),
}

impl Bursts {
    /// The same as a policy says it.
    fn spec(&self) -> String {
        let ports = self.port.map_or_else(String::new, |port| format!(", ports: [{{protocol: UDP, port: {port}}}]"));
        let rates = |(packets, bytes): (u64, u64)| {
            format!("packets: {{perSecond: 1, burst: {packets}}}, bytes: {{perSecond: 1, burst: {bytes}}}")
        };
        format!("{{{SELECT}{ports}, {}, aggregate: {{{}}}}}", rates(self.client), rates(self.all))
    }
}

impl Reference {
    fn passes(&mut self, limits: &[Bursts], client: u8, port: u16, bytes: u64) -> bool {
        let applying: Vec<_> =
            limits.iter().enumerate().filter(|(_, limit)| limit.port.is_none_or(|only| only == port)).collect();
        let clients = applying.iter().map(|(index, limit)| (index * 4, Some(client), limit.client));
        // Aggregates are asked in the opposite order.
        let all = applying.iter().rev().map(|(index, limit)| (index * 4 + 2, None, limit.all));
        clients.chain(all).all(|(place, who, (packets, most))| {
            self.take((place, who), 1, packets) && self.take((place + 1, who), bytes, most)
        })
    }

    fn take(&mut self, who: (usize, Option<u8>), units: u64, burst: u64) -> bool {
        let used = self.used.entry(who).or_default();
        let conforms = *used + units <= burst;
        *used += if conforms { units } else { 0 };
        conforms
    }
}

#[test]
fn kernel_and_reference_agree_on_random_limits_and_sequences() {
    let mut bench = Bench::of_workload("reference", &policy(&[]), "api");
    let mut random = 0x5eed_0031u64;
    let (mut dropped, mut let_through, mut told) = (0, 0, 0);
    for case in 0..600 {
        if told == 60 {
            break;
        }
        let limits = [random_bursts(&mut random, Some(9000)), random_bursts(&mut random, None)];
        let text = policy(&[(&format!("a{case}"), &limits[0].spec()), (&format!("b{case}"), &limits[1].spec())]);
        let id = weir_policy::ResourceId::new(weir_policy::Kind::Workload, "default", "api");
        bench.kernel.install_for_dry_runs(&compiled(&text, Verdict::Allow), &id).unwrap();
        let (begin, seen) = (Instant::now(), sequence(&bench, &mut random));
        if earned(begin) > 0 {
            // The reference has no clock: on a machine this busy the case proves nothing, and another takes its place.
            continue;
        }
        let mut reference = Reference::default();
        for (packet, (client, port, bytes, passes)) in seen.into_iter().enumerate() {
            let expected = reference.passes(&limits, client, port, bytes);
            assert_eq!(passes, expected, "case {case}, packet {packet}: {text}");
            dropped += u32::from(!passes);
            let_through += u32::from(passes);
        }
        told += 1;
    }
    assert!(told == 60, "only {told} sequences were over before a unit was earned");
    assert!(dropped > 500 && let_through > 500, "both were tried: {dropped} dropped, {let_through} let through");
}

fn random_bursts(random: &mut u64, port: Option<u16>) -> Bursts {
    let mut burst = |most: u64| 1 + next(random) % most;
    Bursts { port, client: (burst(12), burst(3000)), all: (burst(30), 300 + burst(3200)) }
}

/// Sends random packets to either place: client, port and bytes of each, and whether it passed.
fn sequence(bench: &Bench, random: &mut u64) -> Vec<(u8, u16, u64, bool)> {
    let mut one = |packet: usize| {
        let word = next(random);
        let (client, port, payload) = ((word % 3) as u8, 9000 + (word >> 8 & 1) as u16, (word >> 16 & 127) as usize);
        let (frame, at_xdp) = (udp([192, 0, 2, client], API, port, payload), word >> 40 & 1 == 1);
        let passes = if at_xdp { bench.run(Xdp, &frame) != XDP_DROP } else { bench.run(Ingress, &frame) == PASSES };
        if passes && at_xdp {
            // It arrives at the socket then, where it takes away the note that it was charged.
            assert_eq!(bench.run(Ingress, &frame), PASSES, "packet {packet} is charged twice");
        }
        (client, port, 28 + payload as u64, passes)
    };
    (0..50).map(&mut one).collect()
}
