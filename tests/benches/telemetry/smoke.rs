//! Lives: weir-tests, the benchmark of telemetry as a test: what is measured there is what happened.
//! Called by: cargo test.
//! May touch: worlds of its own.
//! Never: looks at a time.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use libtest_mimic::{Arguments, Failed, Trial};

use crate::agent::{Agent, ON_THE_WAY};
use crate::floor::Floor;
use crate::openings::{self, Remembered};
use crate::site::Job;

const TURN: Duration = Duration::from_millis(300);
const OPENINGS: u32 = 20_000;

/// Runs as a test program does.
pub fn run() -> ExitCode {
    let test = |name: &str, work: fn() -> Result<()>| {
        Trial::test(name, move || work().map_err(|error| Failed::from(format!("{error:#}"))))
    };
    let trials = vec![
        test("bench_telemetry_counts_every_try_on_its_way_to_the_collector", agent),
        test("bench_telemetry_floor_sends_every_event_it_reads", floor),
        test("bench_telemetry_remembers_what_it_is_told_to", remembers),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn agent() -> Result<()> {
    let agent = Agent::start("agent-smoke")?;
    for job in Job::ALL {
        let (turn, threads) = agent.turn(job, TURN)?;
        ensure!(turn.records + agent.lost()? >= turn.tries, "{job:?}: a try without a record: {turn:?}");
        ensure!(turn.bytes > turn.records, "{job:?}: not on the wire: {turn:?}");
        let used = ON_THE_WAY.map(|name| threads.get(name).copied().unwrap_or_default());
        ensure!(used.iter().all(|used| used.cpu_ns > 0 && used.wakes > 0), "{job:?}: {threads:?}");
    }
    Ok(())
}

fn floor() -> Result<()> {
    let floor = Floor::start("floor-smoke", 0)?;
    for job in Job::ALL {
        let (turn, used) = floor.turn(job, TURN)?;
        ensure!(turn.records + floor.lost()? >= turn.tries, "{job:?}: a try without an event: {turn:?}");
        ensure!(turn.bytes >= turn.records * 128 && turn.bytes % 128 == 0, "{job:?}: not what was read: {turn:?}");
        ensure!(used.cpu_ns > 0 && used.wakes > 0, "{job:?}: {used:?}");
    }
    Ok(())
}

fn remembers() -> Result<()> {
    let Remembered { openings, known, bytes } = openings::measure(OPENINGS)?;
    ensure!((openings, known) == (OPENINGS, OPENINGS as usize), "{known} of {OPENINGS} are known");
    ensure!(bytes > u64::from(OPENINGS) * 100, "remembered in {bytes} bytes");
    Ok(())
}
