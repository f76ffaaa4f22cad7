//! Lives: weir-conformance, cases on a running cluster.
//! Called by: main, for `--live`.
//! May touch: namespaces, cgroups, processes and kernel programs of a world of its own.
//! Never: ends before everything it made is gone; takes a question that was not asked for one that passed.
//!
//! For each state: the cluster is changed into it, every question is asked by real traffic at once, and what the clients saw is
//! compared with the case. The records take a second or so to arrive: meanwhile the next case goes on.

mod agent;
mod cluster;
mod flows;
mod node;
mod probes;
mod services;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use weir_policy::Resources;

use crate::case::{Case, Expected, State};
use crate::report::{Outcome, Report};
use crate::walk;
use cluster::Cluster;
use flows::{Found, Wanted};
use probes::Plan;

/// Until a record that has not come is missing.
const ARRIVED_WITHIN: Duration = Duration::from_secs(15);
/// Until a second record that contradicts the first would have come: equal decisions are counted together for a while.
const CONTRADICTED_WITHIN: Duration = Duration::from_secs(2);
/// Until kernel, agents and collector must agree.
const AGREED_WITHIN: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(50);

/// A case whose traffic is over.
struct Pending {
    outcome: Outcome,
    wanted: Vec<Wanted>,
    since: Instant,
}

/// Runs cases one after the other on one cluster.
pub fn run(cases: &[Case], report: &mut Report) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("--live needs root: it makes namespaces and cgroups of its own, and loads programs into the kernel");
    }
    let mut cluster = Cluster::start()?;
    let mut pending: Vec<Pending> = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let started = Instant::now();
        let done = one(&mut cluster, case);
        let (asked, took) = (done.outcome.asked, started.elapsed().as_secs_f64());
        eprintln!("[{}/{}] {}: {asked} asked in {took:.1} s", number + 1, cases.len(), case.name);
        pending.push(done);
        pending = settle(&cluster, pending, report);
    }
    while !pending.is_empty() {
        std::thread::sleep(LOOK);
        pending = settle(&cluster, pending, report);
    }
    agree(&cluster, report)
}

/// Reports the cases whose records have all come, or will not come any more; gives back the others.
fn settle(cluster: &Cluster, pending: Vec<Pending>, report: &mut Report) -> Vec<Pending> {
    let mut left = Vec::new();
    for mut case in pending {
        let found: Vec<_> = case.wanted.iter().map(|wanted| cluster.flows.find(wanted)).collect();
        let missing = found.iter().any(|found| matches!(found, Found::Missing(_)));
        let age = case.since.elapsed();
        if age < CONTRADICTED_WITHIN || (missing && age < ARRIVED_WITHIN) {
            left.push(case);
            continue;
        }
        case.outcome.records = found.len();
        case.outcome.failures.extend(found.into_iter().filter_map(|found| match found {
            Found::Right => None,
            Found::Missing(what) | Found::Wrong(what) => Some(what),
        }));
        report.add(case.outcome);
    }
    left
}

/// One case, state after state.
fn one(cluster: &mut Cluster, case: &Case) -> Pending {
    let outcome = Outcome { name: case.name.clone(), ..Outcome::default() };
    let mut done = Pending { outcome, wanted: Vec::new(), since: Instant::now() };
    let mut state = case.state.clone();
    let steps = [("", None)].into_iter().chain(case.then.iter().map(|step| (step.change.as_str(), Some(step))));
    for (number, (change, step)) in steps.enumerate() {
        if let Some(step) = step {
            state = state.after(step);
        }
        let expected = step.map_or(&case.expected, |step| &step.expected);
        let before = done.outcome.failures.len();
        if let Err(error) = one_state(cluster, &state, expected, number == 0, &mut done) {
            done.outcome.failures.push(format!("{error:#}"));
        }
        if !change.is_empty() {
            let new = done.outcome.failures.iter_mut().skip(before);
            new.for_each(|failure| *failure = format!("after \"{change}\": {failure}"));
        }
    }
    done.since = Instant::now();
    done
}

fn one_state(
    cluster: &mut Cluster,
    state: &State,
    expected: &[Expected],
    first: bool,
    done: &mut Pending,
) -> Result<()> {
    let read = walk::read(state).map_err(|faults| {
        anyhow::anyhow!("{}", faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    })?;
    let resources: Resources = read.into_iter().collect();
    let generations = cluster.set(state, first)?;
    let mut plans = Vec::new();
    for question in expected {
        match probes::plan(cluster, state, &resources, question) {
            Ok(Plan::Ask(probes)) => plans.push((question, probes)),
            Ok(Plan::NotRunnable(why)) => *done.outcome.not_runnable.entry(why.to_owned()).or_default() += 1,
            Err(fault) => done.outcome.failures.push(format!("{}: {fault}", crate::check::shown(question))),
        }
    }
    let all: Vec<_> = plans.iter().flat_map(|(_, probes)| probes).collect();
    cluster.serve(state, probes::served(all.iter().copied()))?;
    let results = probes::run(cluster, &all)?;
    let mut results = results.into_iter();
    for (question, probes) in &plans {
        let saw: Vec<_> = results.by_ref().take(probes.len()).collect();
        done.outcome.asked += 1;
        done.outcome.failures.extend(probes::judge(question, probes, &saw));
        done.wanted.extend(probes.iter().flat_map(|probe| probes::wanted(state, question, probe, &generations)));
    }
    Ok(())
}

/// What the kernels counted is what the collector has.
fn agree(cluster: &Cluster, report: &mut Report) -> Result<()> {
    let deadline = Instant::now() + AGREED_WITHIN;
    loop {
        let failures = cluster.disagreements()?;
        if failures.is_empty() || Instant::now() > deadline {
            if !failures.is_empty() {
                let name = "(kernel, agents and collector agree)".to_owned();
                report.add(Outcome { name, asked: 1, failures, ..Outcome::default() });
            }
            return Ok(());
        }
        std::thread::sleep(LOOK);
    }
}
