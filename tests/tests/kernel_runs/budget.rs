//! Lives: weir-tests, in-kernel: what the loaded programs take of the verifier's budget.
//! Called by: cargo test; `cargo xtask budget` asks for the figures and records them.
//! May touch: the bench; ebpf/budget.toml, read only.
//! Never: a number of its own for one program: what is meant is in that file, with the reason for its last growth.

use std::collections::BTreeMap;

use serde::Deserialize;
use weir_agent::{config::Log, kernel::ProgramSize};
use weir_common::verdict::Verdict;

use crate::bench::Bench;

/// Instructions the verifier may look at for a program, whatever is recorded. It refuses a million; older kernels look at more of
/// them for the same program, so a program that grows past this needs another shape, not another number here.
const MOST: u32 = 200_000;
/// Growth against the recorded number that needs no reason.
const SLACK_PERCENT: u32 = 10;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../ebpf/budget.toml");

/// ebpf/budget.toml.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Budget {
    /// The series the figures are of: another kernel's verifier walks other paths.
    kernel: String,
    programs: BTreeMap<String, Recorded>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Recorded {
    verified: u32,
    #[expect(dead_code, reason = "for people")]
    instructions: u32,
    #[expect(dead_code, reason = "for people")]
    machine_bytes: u32,
    reason: String,
}

#[test]
fn every_program_stays_within_its_recorded_budget() {
    let budget = read();
    let sizes = sizes();
    let same_kernel = kernel() == budget.kernel;
    let faults: Vec<String> = sizes.iter().filter_map(|size| fault(size, &budget, same_kernel)).collect();
    assert!(faults.is_empty(), "ebpf/budget.toml:\n  {}", faults.join("\n  "));
    let known = |name: &&String| sizes.iter().any(|size| size.name == name.as_str());
    let gone: Vec<&String> = budget.programs.keys().filter(|name| !known(name)).collect();
    assert!(gone.is_empty(), "ebpf/budget.toml names programs that are no more: {gone:?}; run `cargo xtask budget`");
}

/// What is wrong with a program's size, and what to do about it.
fn fault(size: &ProgramSize, budget: &Budget, same_kernel: bool) -> Option<String> {
    let ProgramSize { name, verified, .. } = *size;
    if verified == 0 || verified > MOST {
        return Some(format!(
            "{name}: the verifier looked at {verified} instructions; no program may need over {MOST}"
        ));
    }
    let Some(recorded) = budget.programs.get(name) else {
        return Some(format!(
            "{name}: {verified} instructions, none recorded; run `cargo xtask budget --reason WHY` and commit the file"
        ));
    };
    let most = recorded.verified + recorded.verified * SLACK_PERCENT / 100;
    let grown = same_kernel && verified > most;
    grown.then(|| {
        format!(
            "{name}: {verified} verified instructions, {} recorded ({}); find out what made it grow by more than \
             {SLACK_PERCENT} %, and if it must, run `cargo xtask budget --reason WHY` and commit the file with the change",
            recorded.verified, recorded.reason
        )
    })
}

#[test]
fn a_program_that_grew_is_named_with_what_to_do() {
    let recorded = |verified| Recorded { verified, instructions: 0, machine_bytes: 0, reason: "of old".to_owned() };
    let programs = BTreeMap::from([("ingress".to_owned(), recorded(1000)), ("xdp".to_owned(), recorded(MOST))]);
    let budget = Budget { kernel: String::new(), programs };
    let rows = [
        ("ingress", 1, true, ""),
        ("ingress", 1100, true, ""),
        ("ingress", 1101, true, "ingress: 1101 verified instructions, 1000 recorded (of old)"),
        ("ingress", 1101, false, ""),
        ("ingress", 0, false, "looked at 0 instructions"),
        ("xdp", MOST, true, ""),
        ("xdp", MOST + 1, false, "no program may need over 200000"),
        ("new", 1, true, "none recorded; run `cargo xtask budget"),
    ];
    for (name, verified, same_kernel, expected) in rows {
        let size = ProgramSize { name, verified, instructions: 1, machine_bytes: 1 };
        let said = fault(&size, &budget, same_kernel).unwrap_or_default();
        assert!(said.contains(expected) && said.is_empty() == expected.is_empty(), "{name} {verified}: {said:?}");
    }
}

/// Not a test of anything: says what `cargo xtask budget` records.
#[test]
#[ignore = "prints figures for `cargo xtask budget`"]
fn what_every_program_takes() {
    // On a kernel that takes its time, or refuses, this says which program it was.
    weir_agent::logs::start(&Log { level: "info,weir_agent::kernel::load=trace", json: false });
    println!("budget: kernel {}", kernel());
    for ProgramSize { name, verified, instructions, machine_bytes } in sizes() {
        println!("budget: program {name} {verified} {instructions} {machine_bytes}");
    }
}

fn read() -> Budget {
    let text = std::fs::read_to_string(FILE).unwrap_or_else(|error| panic!("{FILE}: {error}"));
    toml::from_str(&text).unwrap_or_else(|error| panic!("{FILE}: {error}"))
}

fn sizes() -> Vec<ProgramSize> {
    Bench::new("budget", "", Verdict::Allow).sharing().sizes().unwrap_or_else(|error| panic!("{error}"))
}

/// The running kernel's series, as `6.18`.
fn kernel() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    release.split('.').take(2).collect::<Vec<_>>().join(".")
}
