//! Lives: weir-tests, the benchmark of telemetry: traffic, and the policies that judge it.
//! Called by: agent, floor, plan, smoke.
//! May touch: processes of the world it is given.
//! Never: traffic without an end.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use weir_tests::documents::{document, workloads};
use weir_tests::process::Running;
use weir_tests::world::{Who, World};

const WEB: &str = "
  workloadSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  defaultAction: deny
  egress:
  - {name: to-api, to: [{workloadSelector: {matchLabels: {app: api}}}], ports: [{port: 80}, {protocol: UDP, port: 80}]}";

const API: &str = "
  workloadSelector: {matchLabels: {app: api}}
  defaultAction: deny
  ingress:
  - {name: from-web, from: [{workloadSelector: {matchLabels: {app: web}}}], ports: [{port: 80}, {protocol: UDP, port: 80}]}";

/// The workloads of a world, and who may open what.
pub fn documents() -> String {
    [workloads(), document("Policy", "web-out", WEB), document("Policy", "api-in", API)].concat()
}

/// What is done over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Job {
    /// Openings that are refused, TCP and UDP in turn, as fast as two threads can.
    Refused,
    /// Openings that are allowed, TCP and UDP in turn, and their ends.
    Opened,
    /// Refused openings with a pause of 5 ms after each two.
    Paced,
}

impl Job {
    /// Every job.
    pub const ALL: [Job; 3] = [Job::Refused, Job::Opened, Job::Paced];

    /// As people read it.
    pub const fn name(self) -> &'static str {
        match self {
            Job::Refused => "openings refused, as many as two threads can try",
            Job::Opened => "openings allowed and ended, likewise",
            Job::Paced => "openings refused, two every 5 ms",
        }
    }

    fn line(self) -> String {
        let (api, db) = (Who::Api.v4(), Who::Db.v4());
        match self {
            Job::Refused => format!("storm --to {db}:81 --threads 2 --pause-ms 0 --seconds 60"),
            Job::Opened => format!("storm --to {api}:80 --threads 2 --pause-ms 0 --seconds 60"),
            Job::Paced => format!("storm --to {db}:81 --threads 1 --pause-ms 5 --seconds 60"),
        }
    }

    /// Does it for so long; how many openings were tried.
    pub fn run(self, world: &World, time: Duration) -> Result<u64> {
        let storm = world.start("storm", world.probe_line(Who::Web, &self.line()))?;
        sleep(time);
        let ends = storm.stormed()?.ends;
        let count = |refused| {
            let results = ends.values().flatten().filter(|(result, _)| (*result == "EPERM") == refused);
            results.map(|(_, count)| count).sum::<u64>()
        };
        let [refused, others] = [count(true), count(false)];
        let as_meant = if self == Job::Opened { others > refused } else { refused > 0 && others == 0 };
        ensure!(as_meant, "{self:?}: {ends:?}");
        Ok(refused + others)
    }
}

/// Who is called.
pub fn serve(world: &World) -> Result<Running> {
    let at = Who::Api.v4();
    Ok(world.serve(Who::Api, &format!("storm-serve --listen {at}:80 --seconds 3600"))?)
}

/// What a turn gave.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// Openings that were tried.
    pub tries: u64,
    /// Records that were exported, or events that an agent would make records of.
    pub records: u64,
    /// Bytes that were sent for them.
    pub bytes: u64,
    /// From the first try until the last record was delivered.
    pub wall: Duration,
}
