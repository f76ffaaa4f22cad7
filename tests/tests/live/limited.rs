//! Lives: weir-tests, live tests of an agent whose memory, processors or descriptors are few (adversarial 77).
//! Called by: main.
//! May touch: worlds of its own, and cgroups with bounds for their agents.
//! Never: bounds anybody but the agent; takes the word of status for it: what is in force is asked by traffic.

use std::ffi::OsString;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use weir_tests::documents::document;
use weir_tests::harness::{Harness, Options};
use weir_tests::process::{SOON, program};
use weir_tests::world::Who::{Db, Web};

use crate::outlives::{Load, is_in_force, serve, start};
use crate::test;

pub fn trials() -> Vec<Trial> {
    vec![
        test(
            "adversarial 77: in_64_mib_it_says_how_much_it_needs_and_with_that_it_works_through_a_flood",
            little_memory,
        ),
        test("adversarial 77: killed_by_the_kernel_for_want_of_memory_it_leaves_all_in_force", killed),
        test("adversarial 77: with_few_descriptors_it_works_or_says_how_many_it_needs", few_files),
        test("adversarial 77: with_a_tenth_of_a_processor_verdicts_are_the_same", little_time),
    ]
}

const MIB: u64 = 1 << 20;

/// The agent as usual, with this before it.
pub fn after(harness: &Harness, words: &[OsString]) -> Result<Command> {
    let usual = harness.agent_command()?;
    let mut command = Command::new(usual.get_program());
    let agent = program("weir-agent");
    for argument in usual.get_args() {
        if argument == agent {
            command.args(words);
        }
        command.arg(argument);
    }
    Ok(command)
}

fn start_after(harness: &mut Harness, words: &[OsString]) -> Result<()> {
    let command = after(harness, words)?;
    harness.start_agent_by(command)?;
    Ok(harness.wait("the agent to enforce", |harness| {
        harness.status().is_ok_and(|status| status.ready() && status.all_attached())
    })?)
}

fn little_memory() -> Result<()> {
    let mut harness = start("little-memory", Options { log: "info", ..Options::default() })?;
    let servers = serve(&harness)?;
    harness.stop_agent()?;
    let bounds = harness.world().bounds()?;
    bounds.set_memory(64 * MIB)?;
    let needed = refused(&harness, &bounds.entering(), &["memory.", ": at most 64 MiB", "MemoryMax"])?;
    is_in_force(&harness, "refused to start")?;
    drop(servers);
    // As much as it says, and it must be enough.
    bounds.set_memory(needed * MIB)?;
    start_after(&mut harness, &bounds.entering())?;
    let at_rest = bounds.memory()?;
    let load = Load::start(&harness)?;
    // Datagrams besides, half of the time with nobody who takes records.
    harness.signal_collector(Signal::SIGSTOP);
    let flooded = flood(&harness, 4.0);
    harness.signal_collector(Signal::SIGCONT);
    flooded?;
    flood(&harness, 4.0)?;
    let told = load.end()?;
    println!("    {needed} MiB: at rest {} KiB, at most {} KiB; {told}", at_rest / 1024, bounds.peak()? / 1024);
    closes(&harness)?;
    // The next one, beside what this one has left: for a moment there are two of all tables. As much as the doctor says.
    bounds.set_memory((needed + 64) * MIB)?;
    harness.kill_agent()?;
    start_after(&mut harness, &bounds.entering())?;
    println!("    with what the one before left: at most {} KiB", bounds.peak()? / 1024);
    ensure!(bounds.killed()? == 0, "the kernel has killed something");
    let _servers = serve(&harness)?;
    is_in_force(&harness, "taken over")
}

/// Starts one that must not come up and say so in one line with these words; how many it says that it needs.
fn refused(harness: &Harness, before: &[OsString], words: &[&str]) -> Result<u64> {
    let refused = after(harness, before)?.output()?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success(), "it has started: {said}");
    let lines: Vec<&str> = said.lines().filter(|line| line.starts_with("weir-agent: ")).collect();
    let [line] = lines.as_slice() else { bail!("not one line: {said}") };
    for word in words.iter().chain(&["Nothing was changed"]) {
        ensure!(line.contains(word), "{word} is not said: {line}");
    }
    let number = line.split_once("an agent needs ").and_then(|(_, rest)| rest.split([' ', ',']).next()?.parse().ok());
    number.with_context(|| format!("not said how much it needs: {line}"))
}

/// Datagrams that nothing allows, as many as go.
fn flood(harness: &Harness, seconds: f64) -> Result<()> {
    let line = format!("udp-flood --to {}:9 --size 10 --rate 50000 --seconds {seconds}", Db.v4());
    harness.world().start("flood", harness.world().probe_line(Web, &line))?.sent()?;
    Ok(())
}

fn killed() -> Result<()> {
    let mut harness = start("no-memory", Options { log: "info", ..Options::default() })?;
    harness.stop_agent()?;
    let bounds = harness.world().bounds()?;
    start_after(&mut harness, &bounds.entering())?;
    let load = Load::start(&harness)?;
    // Room for nothing more. Version 1 refuses to go below what is in use, version 2 kills for it.
    let in_use = bounds.memory()?;
    bounds.set_memory(in_use + MIB)?;
    // It is killed in the middle of this, or it was before.
    let applied = harness.add(&large());
    ensure!(gone(&mut harness)?, "the kernel has not killed it: {applied:?}; {} KiB", bounds.memory()? / 1024);
    ensure!(bounds.killed()? > 0, "it ended, and the kernel did not kill it:\n{}", harness.logs());
    let _ = harness.kill_agent();
    let checked = in_force_without(&harness);
    // The bound is lifted, and it is started as systemd would.
    bounds.set_memory(1024 * MIB)?;
    start_after(&mut harness, &bounds.entering())?;
    checked?;
    sleep(Duration::from_millis(500));
    println!("    {} killed; {}", bounds.killed()?, load.end()?);
    let _servers = serve(&harness)?;
    is_in_force(&harness, "started again")
}

/// Denied tries go on against what a dead agent left; `Load::end` says whether one passed.
fn in_force_without(harness: &Harness) -> Result<()> {
    ensure!(harness.status().is_err(), "the agent answers though it was killed");
    sleep(Duration::from_secs(2));
    Ok(())
}

/// Whether the agent ends soon.
fn gone(harness: &mut Harness) -> Result<bool> {
    let pid = harness.agent_pid().context("the agent was not started")?;
    let deadline = Instant::now() + SOON;
    loop {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // It is waited for by who started it, and until then a zombie.
        if state.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z')) {
            return Ok(true);
        }
        if Instant::now() > deadline {
            return Ok(false);
        }
        sleep(Duration::from_millis(20));
    }
}

/// A policy that takes tens of MiB to read and compile.
fn large() -> String {
    let one = |number: u32| {
        let [_, a, b, c] = number.to_be_bytes();
        let text = format!("kind: Workload\nmetadata: {{name: w{number}, namespace: far, labels: {{app: a{number}}}}}");
        format!("---\napiVersion: weir.dev/v1alpha1\n{text}\nspec: {{addresses: [10.{}.{b}.{c}]}}\n", 100 + a)
    };
    (0..20_000).map(one).collect()
}

fn few_files() -> Result<()> {
    let mut harness = start("few-files", Options { log: "info", ..Options::default() })?;
    let _servers = serve(&harness)?;
    harness.stop_agent()?;
    // What was given is too little, and more may be had.
    start_after(&mut harness, &limited("-Sn 64"))?;
    is_in_force(&harness, "it may open more than it was given")?;
    harness.kill_agent()?;
    // Nothing may be had: an error, and no change.
    let needed = refused(&harness, &limited("-n 64"), &["RLIMIT_NOFILE", "at most 64 files", "LimitNOFILE"])?;
    is_in_force(&harness, "refused to start")?;
    // As many as it says, and three workloads of fourteen each.
    start_after(&mut harness, &limited(&format!("-n {}", needed + 3 * 14)))?;
    is_in_force(&harness, "as many as it says")
}

/// As `ulimit` takes it.
fn limited(files: &str) -> Vec<OsString> {
    ["sh", "-ec", "ulimit $0; exec \"$@\"", files].map(OsString::from).to_vec()
}

fn little_time() -> Result<()> {
    let mut harness = start("little-time", Options { log: "info", ..Options::default() })?;
    harness.stop_agent()?;
    let bounds = harness.world().bounds()?;
    bounds.set_cpu(100)?;
    start_after(&mut harness, &bounds.entering())?;
    bounds.set_cpu(10)?;
    let load = Load::start(&harness)?;
    flood(&harness, 4.0)?;
    // A change gets through, however long it takes.
    let before = harness.status()?.agent.generation;
    let begun = Instant::now();
    let more = document("Workload", "far", "{addresses: [10.99.0.1]}");
    let generation = harness.add(&more)?;
    ensure!(generation > before, "no new generation: {generation} after {before}");
    let took = begun.elapsed();
    let told = load.end()?;
    ensure!(bounds.throttled()? > 0, "it never had to wait");
    println!("    waited in {} periods, a change took {} ms; {told}", bounds.throttled()?, took.as_millis());
    let _servers = serve(&harness)?;
    is_in_force(&harness, "after a load")?;
    // Every decision is recorded, or counted as lost: with the little that it has, later.
    closes(&harness)
}

/// Every decision is collected, or told as lost: with so little room a flood has more records than the agent takes.
fn closes(harness: &Harness) -> Result<()> {
    harness.ctl(&["reconcile", "--wait", "60"], "")?.ok()?;
    Ok(())
}
