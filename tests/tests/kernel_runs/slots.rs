//! Lives: weir-tests, in-kernel tests of how generations get into the slots.
//! Called by: cargo test.
//! May touch: the bench.
//! Never: believes what the agent thinks a slot holds; the kernel is asked.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use weir_agent::kernel::{Kernel, ReadBack};
use weir_common::{addr::Addr, maps::MAX_ENDPOINTS, verdict::Verdict};
use weir_policy::Compiled;

use crate::{
    bench::{Bench, compiled},
    edge::next,
};

const CHANGES: usize = 200;

/// What a small cluster's documents are made of; each part may change by itself.
struct State {
    workloads: Vec<Option<Workload>>,
    ports: Vec<u16>,
    blocks: Vec<u8>,
    blocked: Vec<u8>,
}

#[derive(Clone, Copy)]
struct Workload {
    label: u64,
    address: u64,
    here: bool,
}

impl State {
    fn new() -> Self {
        let workload = |n| Some(Workload { label: n % 4, address: n, here: n % 3 == 0 });
        Self { workloads: (0..24).map(workload).collect(), ports: vec![80], blocks: vec![0, 7], blocked: vec![1] }
    }

    /// One small change.
    fn change(&mut self, random: &mut u64) {
        let drawn = next(random);
        let (kind, value) = (drawn % 8, drawn >> 8);
        let place = (value >> 16) as usize % self.workloads.len();
        match kind {
            0 | 1 => {
                let workload = Workload { label: value % 6, address: value % 60, here: value & 64 != 0 };
                let taken = self.workloads.iter().flatten().any(|other| other.address == workload.address);
                self.workloads[place] = Some(workload).filter(|_| !taken);
            }
            2 => self.workloads[place] = None,
            3 => self.ports = (0..value % 4).map(|n| (value >> (8 * n)) as u16 | 1).collect(),
            4 => toggle(&mut self.blocks, value as u8),
            5 | 6 => toggle(&mut self.blocked, value as u8 % 12),
            _ => self.workloads.extend([None; 2]),
        }
    }

    fn documents(&self) -> String {
        let mut text = String::new();
        let present = self.workloads.iter().enumerate().filter_map(|(n, workload)| Some((n, (*workload)?)));
        for (n, Workload { label, address, here }) in present {
            let cgroup = if here { format!(", cgroup: w{n}") } else { String::new() };
            let metadata = format!("{{name: w{n}, labels: {{app: a{label}}}}}");
            document(
                &mut text,
                "Workload",
                &metadata,
                &format!("{{addresses: [10.1.0.{address}, \"fd00::{address}\"]{cgroup}}}"),
            );
        }
        let ports: Vec<_> = self.ports.iter().map(|port| format!("{{port: {port}}}")).collect();
        let from: Vec<_> = self.blocks.iter().map(|n| format!("{{ipBlock: {{cidr: 10.{n}.0.0/16}}}}")).collect();
        let rule = format!("from: [{{workloadSelector: {{matchLabels: {{app: a1}}}}}}{}]", with_commas(&from));
        let ports = if ports.is_empty() { String::new() } else { format!(", ports: [{}]", ports.join(", ")) };
        let select = "workloadSelector: {matchLabels: {app: a0}}, policyTypes: [Ingress]";
        document(
            &mut text,
            "Policy",
            "{name: p}",
            &format!("{{{select}, defaultAction: deny, ingress: [{{{rule}{ports}}}]}}"),
        );
        let blocked: Vec<_> = self.blocked.iter().map(|n| format!("198.51.100.{}/{}", n * 16, 28 + n % 4)).collect();
        let addresses = if blocked.is_empty() { "192.0.2.0/24".to_owned() } else { blocked.join(", ") };
        document(&mut text, "AddressSet", "{name: bad}", &format!("{{action: block, addresses: [{addresses}]}}"));
        text
    }
}

fn with_commas(items: &[String]) -> String {
    items.iter().fold(String::new(), |text, item| text + ", " + item)
}

fn toggle(list: &mut Vec<u8>, value: u8) {
    match list.iter().position(|known| *known == value) {
        Some(at) => drop(list.remove(at)),
        None => list.push(value),
    }
}

fn document(text: &mut String, kind: &str, metadata: &str, spec: &str) {
    writeln!(text, "---\napiVersion: weir.dev/v1alpha1\nkind: {kind}\nmetadata: {metadata}\nspec: {spec}").unwrap();
}

fn read_back(kernel: &Kernel) -> ReadBack {
    kernel.read_back().unwrap_or_else(|error| panic!("{error}"))
}

/// The same, written into new maps by the same kernel side: what every other way of writing must come to.
fn written_whole(kernel: &mut Kernel, compiled: &Compiled) -> ReadBack {
    kernel.forget_slots();
    assert!(kernel.install(compiled).unwrap().whole);
    read_back(kernel)
}

#[test]
fn after_each_of_many_small_changes_the_slot_holds_what_new_maps_would() {
    let mut changing = Bench::new("changing", "", Verdict::Allow);
    // A second kernel side, which forgets everything before each install.
    let mut whole = changing.another();
    let mut state = State::new();
    let mut random = 0x5eed_0002_u64;
    let (mut partial, mut renewed) = (0, 0);
    for round in 0..CHANGES {
        state.change(&mut random);
        let documents = state.documents();
        let mut compiled = compiled(&documents, Verdict::Deny);
        // For a while the image is far longer: its maps must grow, and later forget.
        if (CHANGES / 3..CHANGES / 2).contains(&round) {
            let longest = compiled.pages.last().cloned().unwrap();
            compiled.pages.extend(std::iter::repeat_n(longest, 100));
        }
        let written = changing.kernel.install(&compiled).unwrap_or_else(|error| panic!("round {round}: {error}"));
        *(if written.whole { &mut renewed } else { &mut partial }) += 1;
        assert_eq!(read_back(&changing.kernel), written_whole(&mut whole, &compiled), "round {round}:\n{documents}");
    }
    assert!(partial > CHANGES / 2 && renewed >= 3, "{partial} in place, {renewed} into new maps");
}

/// adversarial 35: tables that do not take a change are refused as a whole.
#[test]
fn an_install_that_fails_midway_leaves_the_generation_in_force_and_the_next_one_whole() {
    let state = State::new();
    let good = compiled(&state.documents(), Verdict::Deny);
    let mut bench = Bench::new("midway", &state.documents(), Verdict::Deny);
    // Both slots are in use.
    let _ = bench.kernel.install(&good).unwrap();
    let in_force = read_back(&bench.kernel);
    let mut too_many = good.clone();
    for n in 0..=MAX_ENDPOINTS {
        too_many.endpoints.insert_mut(Addr::v4((0x0b00_0000 + n).to_be_bytes()), 16);
    }
    let error = bench.kernel.install(&too_many).unwrap_err().to_string();
    assert!(error.contains("ENDPOINTS"), "{error}");
    assert_eq!(read_back(&bench.kernel), in_force, "the generation in force is untouched");
    let next = bench.kernel.install(&good).unwrap();
    assert!(next.whole, "half a generation was believed: {next:?}");
    assert_eq!(read_back(&bench.kernel), in_force);
    let after = bench.kernel.install(&good).unwrap();
    assert_eq!((after.whole, after.pages, after.endpoints), (false, 0, 0), "the other slot was never in doubt");
}

#[test]
fn a_change_of_one_rule_writes_the_pages_it_changes_and_no_address() {
    let mut state = State::new();
    let mut bench = Bench::new("one-rule", &state.documents(), Verdict::Deny);
    let _ = bench.kernel.install(&compiled(&state.documents(), Verdict::Deny)).unwrap();
    state.ports = vec![81];
    let written = bench.kernel.install(&compiled(&state.documents(), Verdict::Deny)).unwrap();
    assert!(!written.whole && (1..=4).contains(&written.pages), "{written:?}");
    assert_eq!((written.endpoints, written.cidrs, written.sets), (0, 0, 0), "{written:?}");
}

/// Not a test of anything: a measurement. By name, with --ignored and --nocapture.
#[test]
#[ignore = "measures; cargo test --release -p weir-tests --test kernel_runs -- --ignored --nocapture one_rule_among"]
fn one_rule_among_30000_addresses() {
    let documents = |port: u16| {
        let served = Workload { label: 0, address: 1, here: true };
        let state = State { workloads: vec![Some(served)], ports: vec![port], blocks: vec![7], blocked: Vec::new() };
        state.documents()
    };
    let generation = |port: u16| {
        let mut compiled = compiled(&documents(port), Verdict::Deny);
        for n in 0..30_000u32 {
            compiled.endpoints.insert_mut(Addr::v4((0x0a80_0000 + n).to_be_bytes()), 1);
        }
        compiled
    };
    let generations = [generation(80), generation(81)];
    let mut bench = Bench::new("measured", "", Verdict::Deny);
    let mut install = |whole: bool, round: usize| {
        if whole {
            bench.kernel.forget_slots();
        }
        let start = Instant::now();
        let written = bench.kernel.install(&generations[round / 2 % 2]).unwrap();
        (start.elapsed(), written)
    };
    for whole in [true, false] {
        let _ = (install(whole, 0), install(whole, 1));
        let mut times: Vec<Duration> = (2..23).map(|round| install(whole, round).0).collect();
        times.sort();
        let (_, written) = install(whole, 23);
        println!("median of {}: {:?}; the last wrote {written:?}", times.len(), times[times.len() / 2]);
    }
}
