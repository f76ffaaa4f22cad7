//! Lives: weir-tests, the benchmark of the socket hooks: the product as it is shipped.
//! Called by: the benchmark, after everything else.
//! May touch: a world of its own with weir-agent and weir-collector in it.
//! Never: counts what the collector takes: it runs elsewhere in real life.

use anyhow::{Context, Result};
use weir_tests::harness::{Harness, Options};
use weir_tests::measured::{Report, Samples};
use weir_tests::world::World;

use crate::ends::{Ends, Job, Place};
use crate::rounds::{Contestant, Field, Patience};
use crate::site::LAST_PORT;
use crate::tables::Shape;

/// Connections with the real agent, and what it takes of the CPU for each.
pub fn measure(field: &mut Field, patience: Patience, shape: Shape, report: &mut Report) -> Result<()> {
    let options = Options { interfaces: Vec::new(), log: "info", ..Options::default() };
    let harness = Harness::start(World::new("bench-stack")?, options).context("weir-agent and weir-collector")?;
    harness.apply(&shape.documents())?;
    let place = Place::new(field.plain(), &harness.world().managed(), LAST_PORT);
    let mut ends = Ends::start(&place)?;
    let agent = harness.agent_pid().context("no agent")?;
    let (mut samples, mut agents) = (Samples::default(), Samples::default());
    for round in 0..patience.rounds {
        for job in [Job::Connection, Job::RoundTrip] {
            let with = job == Job::Connection;
            let before = cpu_time(agent)?;
            let took = ends.measure(job, patience.milliseconds, &[])?;
            // What is left in its queues belongs to these connections.
            std::thread::sleep(std::time::Duration::from_millis(if with { 50 } else { 0 }));
            let spent = cpu_time(agent)? - before;
            let bare = field.bare()?.measure(job, patience.milliseconds, &[])?;
            let to = if with { &mut samples } else { &mut agents };
            to.add(Contestant::Weir(shape), 0, round, took);
            to.add(Contestant::Nothing, 0, round, bare);
            if with {
                let connections = patience.milliseconds as f64 * 1e6 / took;
                samples.add(Contestant::Alone(shape), 0, round, took + spent / connections);
            }
        }
    }
    let (weir, both, nothing) = (Contestant::Weir(shape), Contestant::Alone(shape), Contestant::Nothing);
    report.row("new TCP connection, the real agent running", "no programs", None, samples.ratio(weir, nothing));
    let all = "the same, and what the agent takes for it";
    report.row(all, "no programs", None, samples.ratio(both, nothing));
    report.row("established round trip, the real agent running", "no programs", None, agents.ratio(weir, nothing));
    Ok(())
}

/// Nanoseconds of CPU time of all threads of a process.
fn cpu_time(pid: u32) -> Result<f64> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).context("the agent is gone")?;
    let mut sum = 0.0;
    for task in tasks.flatten() {
        // A thread may end meanwhile.
        let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        sum += text.split_whitespace().next().and_then(|first| first.parse::<f64>().ok()).unwrap_or(0.0);
    }
    Ok(sum)
}
