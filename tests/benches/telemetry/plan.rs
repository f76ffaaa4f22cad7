//! Lives: weir-tests, the benchmark of telemetry: what is measured, and what is meant.
//! Called by: main.
//! May touch: nothing itself.
//! Never: a goal that DESIGN.md does not have ("What the speed must be").

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use weir_tests::measured::{Report, Samples};

use crate::agent::{Agent, ON_THE_WAY};
use crate::floor::Floor;
use crate::openings::{self, Remembered};
use crate::site::{Job, Turn};
use crate::threads::Used;

/// How much is measured.
#[derive(Args, Debug)]
pub struct Options {
    /// Times everybody has a turn at each job; every load should have two or more
    #[arg(long, default_value_t = 6, value_name = "N")]
    rounds: usize,
    /// Times everything is started
    #[arg(long, default_value_t = 3, value_name = "N")]
    loads: usize,
    /// Length of one turn
    #[arg(long, default_value_t = 2000, value_name = "MS")]
    milliseconds: u64,
    /// Open connections that are remembered for the figure of memory
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    connections: u32,
}

/// Goal: agent CPU for an exported event, against the floor.
const AGENT: f64 = 4.0;
/// Goal: bytes of a record on the wire.
const BYTES: f64 = 48.0;

/// Whose CPU time it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Contestant {
    /// Ring and raw TCP.
    Floor,
    /// The three threads that an event passes.
    Agent,
    /// One of them.
    Thread(&'static str),
    /// Every other thread of the agent.
    Others,
}

impl Contestant {
    fn name(self) -> String {
        match self {
            Contestant::Floor => "ring read, raw TCP".to_owned(),
            Contestant::Agent => "the agent: telemetry, spooler and exporter".to_owned(),
            Contestant::Thread(name) => format!("  {name}"),
            Contestant::Others => "the agent's other threads".to_owned(),
        }
    }
}

/// What is counted beside CPU time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Counted {
    Bytes,
    Wakes,
    FloorWakes,
    PerSecond,
}

/// Measures everything.
pub fn run(options: &Options) -> Result<Report> {
    let start = Instant::now();
    let mut report = Report { times_of: "CPU time of an exported record", ..Report::default() };
    report.note_machine();
    let load =
        |number| Ok((Agent::start(&format!("agent-{number}"))?, Floor::start(&format!("floor-{number}"), number)?));
    let loads: Vec<(Agent, Floor)> = (0..options.loads.max(1)).map(load).collect::<Result<_>>()?;
    say(start, "started");
    let time = Duration::from_millis(options.milliseconds);
    for (agent, floor) in &loads {
        for job in Job::ALL {
            let _ = (agent.turn(job, time / 4)?, floor.turn(job, time / 4)?);
        }
    }
    for job in Job::ALL {
        measure(&loads, job, (options.rounds, time), &mut report)?;
        say(start, job.name());
    }
    let Remembered { openings, known, bytes } = openings::measure(options.connections)?;
    report.notes.push(format!(
        "memory: {openings} openings told to the agent's telemetry, none ended: {:.1} MiB more, {:.0} bytes each; {known} of them known to the \
         revoker. Fed in process: no such number of sockets, and nothing of what the kernel takes for one",
        bytes as f64 / 1_048_576.0,
        bytes as f64 / f64::from(openings)
    ));
    let mut lost = (0, 0);
    for (agent, floor) in &loads {
        lost = (lost.0 + agent.lost()?, lost.1 + floor.lost()?);
    }
    report
        .notes
        .push(format!("lost for want of room: {} records of the agent's, {} events of the floor's", lost.0, lost.1));
    say(start, "done");
    Ok(report)
}

fn measure(loads: &[(Agent, Floor)], job: Job, (rounds, time): (usize, Duration), report: &mut Report) -> Result<()> {
    let (mut takes, mut counts) = (Samples::default(), Samples::default());
    for round in 0..rounds {
        let number = round % loads.len();
        let Some((agent, floor)) = loads.get(number) else { continue };
        // Each is first in every other round of a load.
        let (of_agent, of_floor) = if (round / loads.len()).is_multiple_of(2) {
            let of_agent = agent.turn(job, time)?;
            (of_agent, floor.turn(job, time)?)
        } else {
            let of_floor = floor.turn(job, time)?;
            (agent.turn(job, time)?, of_floor)
        };
        let ((turn, threads), (least, used)) = (of_agent, of_floor);
        let mut add =
            |contestant, turn: &Turn, used: Used| takes.add(contestant, number, round, each(turn, used.cpu_ns));
        let parts = parts(&threads);
        parts.iter().for_each(|(contestant, used)| add(*contestant, &turn, *used));
        add(Contestant::Floor, &least, used);
        let wakes = parts.get(&Contestant::Agent).map_or(0, |used| used.wakes);
        let mut add = |counted, value| counts.add(counted, number, round, value);
        add(Counted::Bytes, each(&turn, turn.bytes));
        add(Counted::Wakes, each(&turn, wakes));
        add(Counted::FloorWakes, each(&least, used.wakes));
        add(Counted::PerSecond, turn.records as f64 / turn.wall.as_secs_f64());
    }
    report.times(job.name(), &takes, Contestant::name);
    report.row(job.name(), "ring read, raw TCP", Some(AGENT), takes.ratio(Contestant::Agent, Contestant::Floor));
    let figure = |counted| counts.takes(counted).map_or(0.0, |figure| figure.median);
    let per_core = takes.takes(Contestant::Agent).map_or(0.0, |figure| 1e9 / figure.median);
    let bytes = figure(Counted::Bytes);
    report.notes.push(format!(
        "{}: {per_core:.0} records per second and core; {:.0} per second delivered; {bytes:.1} bytes a record on the wire ({}); {:.3} wake-ups a \
         record, {:.3} of the floor",
        job.name(),
        figure(Counted::PerSecond),
        if bytes <= BYTES { "goal 48: yes" } else { "goal 48: NO" },
        figure(Counted::Wakes),
        figure(Counted::FloorWakes),
    ));
    Ok(())
}

fn each(turn: &Turn, sum: u64) -> f64 {
    sum as f64 / turn.records.max(1) as f64
}

fn parts(threads: &BTreeMap<String, Used>) -> BTreeMap<Contestant, Used> {
    let mut parts: BTreeMap<Contestant, Used> = BTreeMap::new();
    let mut add = |contestant, used: Used| {
        let sum = parts.entry(contestant).or_default();
        *sum = *sum + used;
    };
    for (name, used) in threads {
        match ON_THE_WAY.into_iter().find(|known| known == name) {
            Some(known) => {
                add(Contestant::Agent, *used);
                add(Contestant::Thread(known), *used);
            }
            None => add(Contestant::Others, *used),
        }
    }
    parts
}

fn say(start: Instant, what: &str) {
    eprintln!("{:>4.0} s  {what}", start.elapsed().as_secs_f64());
}
