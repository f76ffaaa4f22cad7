//! Lives: weir-tests, in-kernel test runs of attacks on rate limits and on the table of their clients.
//! Called by: cargo test.
//! May touch: the bench.
//! Never: counts on how little time passes: what is to stay for a while costs a byte a second and has hundreds.

use std::{collections::BTreeSet, thread, time::Instant};

use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use object::{Object as _, ObjectSection as _, SectionKind};
use weir_agent::kernel::PacketHook::Xdp;
use weir_common::{
    maps::LIMIT_SLOTS,
    verdict::{Hook, Reason, Verdict},
};

use crate::limits::earned;
use crate::{
    bench::Bench,
    crowding,
    frames::{syn, udp},
};

const XDP_PASS: u32 = 2;
const API: [u8; 4] = [10, 0, 0, 2];
/// Slots of a row.
const ROW: f64 = (LIMIT_SLOTS / 2) as f64;

/// The workload `api`, and limits on it whose specs are given.
fn policy(limits: &[&str]) -> String {
    let head = "apiVersion: weir.dev/v1alpha1\nkind:";
    let mut text =
        format!("{head} Workload\nmetadata: {{name: api, labels: {{app: api}}}}\nspec: {{addresses: [10.0.0.2]}}\n");
    for (number, spec) in limits.iter().enumerate() {
        text += &format!(
            "---\n{head} RateLimit\nmetadata: {{name: l{number}}}\nspec: {{workloadSelector: {{matchLabels: {{app: api}}}}, {spec}}}\n"
        );
    }
    text
}

fn passes(bench: &Bench, frame: &[u8]) -> bool {
    bench.run(Xdp, frame) == XDP_PASS
}

/// One packet to a port whose limit holds `port - PORT` such packets, and earns one in seven minutes.
const PORT: u16 = 9000;
const WEIGHT: usize = 428;

/// Ports with bursts of 1 to 4.
fn crowded() -> Bench {
    let spec = |burst: usize| {
        let (port, bytes) = (usize::from(PORT) + burst, burst * WEIGHT);
        format!("ports: [{{protocol: UDP, port: {port}}}], bytes: {{perSecond: 1, burst: {bytes}}}")
    };
    let specs: Vec<String> = (1..=4).map(spec).collect();
    Bench::new("crowded", &policy(&specs.iter().map(String::as_str).collect::<Vec<_>>()), Verdict::Allow)
}

/// A frame whose source is put in later.
struct Crowd {
    frame: Vec<u8>,
    next: u32,
}

impl Crowd {
    fn to(burst: u16, first: u32) -> Self {
        Self { frame: udp([0; 4], API, PORT + burst, WEIGHT - 28), next: first }
    }

    /// One packet from each of so many sources; how many pass.
    fn sends(&mut self, bench: &Bench, sources: u32) -> usize {
        let last = self.next + sources;
        (self.next..last).filter(|_| passes(bench, self.another())).count()
    }

    fn another(&mut self) -> &[u8] {
        self.next += 1;
        // Behind Ethernet, twelve bytes into the IPv4 header.
        self.frame[26..30].copy_from_slice(&self.next.to_be_bytes());
        &self.frame
    }
}

/// First sources of the flood, and of those who come later.
const FLOOD: u32 = 0x1400_0000;
const LATER: u32 = 0x3200_0000;

/// adversarial 29, adversarial 30 and adversarial 34: a flood of new sources takes no memory that was not there, gives nobody a fresh
/// burst, and takes from others what was computed; who finds no free place is refused and counted.
#[test]
fn a_flood_of_new_sources_crowds_the_table_as_computed_and_refills_nobody() {
    const HITS: f64 = 0.25;
    let bench = crowded();
    let victim = udp([192, 0, 2, 1], API, PORT + 4, WEIGHT - 28);
    assert_eq!((0..8).filter(|_| passes(&bench, &victim)).count(), 4, "the victim has used its burst up");
    let flood = (ROW * HITS) as u32;
    let through = Crowd::to(4, FLOOD).sends(&bench, flood);
    assert!(u64::from(flood) - through as u64 <= 2, "{through} of {flood} newcomers of the flood passed");
    assert_eq!((0..8).filter(|_| passes(&bench, &victim)).count(), 0, "the flood gave the victim nothing back");
    let shares = crowding::at_once(HITS, 4);
    let refused = |burst: u16, probes: u32| {
        let count = || bench.decided(Hook::Xdp, Verdict::Deny, Reason::RateLimitBytes);
        let before = count();
        let refused = probes - Crowd::to(burst, LATER).sends(&bench, probes) as u32;
        assert_eq!(count() - before, u64::from(refused), "each of them is counted");
        f64::from(refused) / f64::from(probes)
    };
    let (measured, computed) = (refused(1, 4000), shares[1].powi(2));
    assert!((measured - computed).abs() < 0.3 * computed, "burst 1: {measured} refused, {computed} computed");
    let honest = refused(4, 4000);
    assert!(honest < 0.001, "burst 4: {honest} of clients that keep to it lose something");
}

/// What `docs/limits.md` says, measured: cargo test --release -p weir-tests --test kernel_runs -- --ignored --nocapture crowding
#[test]
#[ignore = "prints the tables of docs/limits.md; takes a minute"]
fn crowding_computed_and_measured() {
    println!("newcomers refused while no time passes, by burst: computed / measured");
    const PROBES: u32 = 4000;
    let bench = crowded();
    let (mut flood, mut later) = (Crowd::to(4, FLOOD), LATER);
    for hits in [0.25, 0.5, 1.0, 2.0, 4.0] {
        // Those who tried before are part of the crowd.
        let before = flood.next - FLOOD + later - LATER;
        let _ = flood.sends(&bench, (ROW * hits) as u32 - before);
        print!("{:>9} sources", (ROW * hits) as u32);
        for burst in 1..=4 {
            let there = f64::from(flood.next - FLOOD + later - LATER) / ROW;
            let computed = crowding::at_once(there, 4)[usize::from(burst)].powi(2);
            let passed = Crowd::to(burst, later).sends(&bench, PROBES);
            later += PROBES;
            print!("   {burst}: {computed:.4} / {:.4}", 1.0 - passed as f64 / f64::from(PROBES));
        }
        println!();
    }
    println!("a flood that lasts: slots in use, newcomers refused, by burst");
    for load in [0.1, 0.3, 0.6, 0.9, 1.2, 1.4, 1.6, 2.0, 4.0] {
        print!("{load:>4} x {ROW} x limit sources/s: {:.3}", crowding::lasting(load, 4).busy);
        for burst in [1, 2, 4, 10] {
            print!("   {burst}: {:.1e}", crowding::lasting(load, burst).refused);
        }
        println!();
    }
}

/// adversarial 32: clients behind one address are one client of the service whose limit they exceed, and untouched elsewhere.
#[test]
fn who_exceeds_a_limit_behind_a_shared_address_keeps_others_there_from_nothing_else() {
    let bench = Bench::new(
        "shared",
        &policy(&["ports: [{protocol: UDP, port: 80}], packets: {perSecond: 1, burst: 5}"]),
        Verdict::Allow,
    );
    let (shared, begin) = ([192, 0, 2, 1], Instant::now());
    let noisy = (0..200).filter(|_| passes(&bench, &udp(shared, API, 80, 1))).count();
    assert!((5..=5 + earned(begin)).contains(&noisy), "{noisy} passed");
    let rows = [
        ("another port of the service", udp(shared, API, 81, 1)),
        ("another protocol", syn(shared, API, 80, 1000)),
        ("another destination, such as the control plane", udp(shared, [10, 0, 0, 3], 80, 1)),
    ];
    for (name, frame) in rows {
        assert_eq!((0..50).filter(|_| passes(&bench, &frame)).count(), 50, "{name}");
    }
}

/// adversarial 33: one client on all CPUs at once has one budget, and so have all clients together.
#[test]
fn a_client_on_all_cpus_at_once_stays_within_one_budget() {
    let rates = "packets: {perSecond: 1, burst: 500}";
    let own = format!("ports: [{{protocol: UDP, port: 80}}], {rates}");
    let together = format!("ports: [{{protocol: UDP, port: 81}}], aggregate: {{{rates}}}");
    let bench = Bench::new("cpus", &policy(&[&own, &together]), Verdict::Allow);
    let (kernel, cpus) = (&bench.kernel, thread::available_parallelism().map_or(1, usize::from));
    // Clients one after another: a race is seldom lost, and all of one limit's clients have one budget once.
    let rounds = (1..=60).map(|client| ("its own limit", 80, client)).chain([("that of all together", 81, 1)]);
    for (name, port, client) in rounds {
        let begin = Instant::now();
        let frame = udp([192, 0, 2, client], API, port, 1);
        let on = |cpu: usize| {
            let mut one = CpuSet::new();
            // Where this CPU is not ours, the scheduler places the thread.
            let _ = one.set(cpu).and_then(|()| sched_setaffinity(Pid::from_raw(0), &one));
            (0..1000).filter(|_| kernel.dry_run(Xdp, &frame).unwrap() == XDP_PASS).count()
        };
        let passed: usize = thread::scope(|scope| {
            let threads: Vec<_> = (0..cpus.max(2)).map(|cpu| scope.spawn(move || on(cpu))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert!((500..=500 + earned(begin)).contains(&passed), "{name}: {passed} passed on {cpus} CPUs");
    }
}

/// adversarial 36: the programs ask for clocks that nobody can set, and for no other.
#[test]
fn no_program_asks_for_a_clock_that_can_be_set() {
    const CALL: u8 = 0x85;
    let (ktime_get_ns, jiffies64) = (5, 118);
    // With suspend counted in, coarse, and that of the wall.
    let others = [("ktime_get_boot_ns", 125), ("ktime_get_coarse_ns", 160), ("ktime_get_tai_ns", 208)];
    let file = object::File::parse(weir_agent::kernel::object()).unwrap();
    let mut helpers = BTreeSet::new();
    for section in file.sections().filter(|section| section.kind() == SectionKind::Text) {
        for word in section.data().unwrap().chunks_exact(8) {
            // A source register of 0 means a helper, not a function of ours.
            if word[0] == CALL && word[1] >> 4 == 0 {
                helpers.insert(i32::from_le_bytes([word[4], word[5], word[6], word[7]]));
            }
        }
    }
    assert!(helpers.contains(&ktime_get_ns) && helpers.contains(&jiffies64), "the calls were found: {helpers:?}");
    for (name, helper) in others {
        assert!(!helpers.contains(&helper), "a program calls {name}");
    }
}

/// adversarial 39: SYNs in another's name use up that other's new connections, as documented, and nothing else of its.
#[test]
fn syns_in_anothers_name_cost_it_new_connections_and_no_living_one() {
    let bench = Bench::new(
        "in-its-name",
        &policy(&["ports: [{port: 443}], connections: {perSecond: 1, burst: 10}"]),
        Verdict::Allow,
    );
    let (victim, begin) = ([192, 0, 2, 1], Instant::now());
    let forged = (0..40).filter(|from| passes(&bench, &syn(victim, API, 443, 1000 + from))).count();
    assert!((10..=10 + earned(begin)).contains(&forged), "{forged} passed");
    let own = (0..10).filter(|from| passes(&bench, &syn(victim, API, 443, 5000 + from))).count();
    assert!(own + forged <= 10 + earned(begin), "{own} of the victim's own SYNs passed");
    let mut living = syn(victim, API, 443, 1000);
    // Behind Ethernet and IPv4, the flags of TCP: an ACK.
    living[14 + 20 + 13] = 0x10;
    assert_eq!((0..100).filter(|_| passes(&bench, &living)).count(), 100, "its living connections go on");
    assert!(passes(&bench, &syn([192, 0, 2, 2], API, 443, 1000)), "nobody else pays");
}

/// adversarial 40: a hundred thousand clients that keep to the limit pass, in the memory that is always there.
#[test]
fn a_hundred_thousand_slow_clients_fit() {
    const CLIENTS: u32 = 100_000;
    let bench = Bench::new(
        "slow",
        &policy(&["ports: [{protocol: UDP, port: 9004}], packets: {perSecond: 1, burst: 4}"]),
        Verdict::Allow,
    );
    let passed = Crowd::to(4, FLOOD).sends(&bench, CLIENTS);
    // Two expected in a hundred million.
    assert_eq!(passed, CLIENTS as usize);
    let table = bench.kernel.limit_table().unwrap();
    let most = crowding::at_once(f64::from(CLIENTS) / ROW, 4)[1];
    assert!(f64::from(table.busy_permille) / 1000.0 < most + 0.04, "{table:?}, computed {most}");
    assert_eq!(table.slots, u64::from(LIMIT_SLOTS));
}
