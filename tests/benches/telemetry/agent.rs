//! Lives: weir-tests, the benchmark of telemetry: the agent and a collector, as shipped.
//! Called by: plan, smoke.
//! May touch: a world of its own.
//! Never: believes the agent's counts where they can be had elsewhere: bytes are counted on the wire.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use weir_tests::harness::{Harness, Options, collector_socket};
use weir_tests::process::Running;
use weir_tests::world::World;

use crate::site::{self, Job, Turn};
use crate::threads::{self, Used};
use crate::wire::Wire;

/// Time for everything to be delivered after a turn.
const DELIVERED_WITHIN: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(50);

/// Whose CPU time an exported event takes.
pub const ON_THE_WAY: [&str; 3] = ["weir-telemetry", "weir-spooler", "weir-exporter"];

/// An agent that runs.
pub struct Agent {
    // Ends before what it talks to.
    _server: Running,
    harness: Harness,
    wire: Wire,
}

impl Agent {
    /// Starts both programs in a world of their own.
    pub fn start(label: &str) -> Result<Agent> {
        let world = World::new(label).context("building a world; needs root")?;
        let counted = world.folder().join("counted.sock");
        let wire = Wire::start(&counted, collector_socket(&world))?;
        let options = Options { log: "info", interfaces: Vec::new(), collector: Some(counted), ..Options::default() };
        let mut harness = Harness::start(world, options)?;
        harness.apply(&site::documents())?;
        harness.wait("all workloads to be attached", |harness| {
            harness.status().is_ok_and(|status| status.all_attached())
        })?;
        let server = site::serve(harness.world())?;
        Ok(Agent { _server: server, harness, wire })
    }

    /// Does a job; what came of it, and what each thread of the agent used meanwhile.
    pub fn turn(&self, job: Job, time: Duration) -> Result<(Turn, BTreeMap<String, Used>)> {
        let pid = self.harness.agent_pid().context("no agent")?;
        let before = self.delivered()?;
        let (bytes, used) = (self.wire.sent(), threads::of(pid)?);
        let began = Instant::now();
        let tries = job.run(self.harness.world(), time)?;
        let records = self.delivered()? - before;
        let wall = began.elapsed();
        let bytes = self.wire.sent() - bytes;
        let mut threads = threads::of(pid)?;
        threads.iter_mut().for_each(|(name, sum)| *sum = *sum - used.get(name).copied().unwrap_or_default());
        ensure!(ON_THE_WAY.iter().all(|name| threads.contains_key(*name)), "threads are missing: {threads:?}");
        Ok((Turn { tries, records, bytes, wall }, threads))
    }

    /// Records that the collector has acknowledged, once nothing is on its way any more and nothing disagrees.
    fn delivered(&self) -> Result<u64> {
        let deadline = Instant::now() + DELIVERED_WITHIN;
        let mut last = None;
        loop {
            let status = self.harness.status()?;
            let differences = status.disagreements();
            let exporter = status.agent.exporter.as_ref().context("no exporter")?;
            // Twice the same: closes are in no counter, and may be under way.
            let now = (exporter.records_queued == 0 && differences.is_empty()).then_some(exporter.records_acknowledged);
            if let (Some(now), true) = (now, now == last) {
                return Ok(now);
            }
            last = now;
            ensure!(Instant::now() < deadline, "not delivered: {exporter:?} {differences:?}");
            sleep(LOOK);
        }
    }

    /// Decisions whose events or records found no room, since the start.
    pub fn lost(&self) -> Result<u64> {
        let status = self.harness.status()?;
        let ring: u64 = status.agent.counters.iter().map(|counter| counter.lost).sum();
        Ok(ring + status.agent.exporter.map_or(0, |exporter| exporter.records_lost))
    }
}
