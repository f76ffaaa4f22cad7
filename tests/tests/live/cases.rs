//! Lives: weir-tests, weir-policy's table of cases with real traffic.
//! Called by: main.
//! May touch: the stage.
//! Never: knows an answer of its own; the rows are those that drive the evaluator and the compiled tables.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use weir_common::verdict::Verdict;
use weir_policy::cases::{CASES, Case, Probe, WORLD};
use weir_tests::harness::ctl::Mark;
use weir_tests::harness::{Harness, Record};
use weir_tests::process::Running;
use weir_tests::world::Who;

use crate::stage::on_stage;

/// Protocols that are not here have no socket a process could talk through without further ado; they are judged in the
/// kernel's test runs.
const SPOKEN: [&str; 2] = ["TCP", "UDP"];

pub fn trials() -> Vec<Trial> {
    let name = |case: &Case| format!("case: {}", case.name);
    CASES.iter().map(|case| on_stage(&name(case), move |harness| run(harness, case))).collect()
}

/// One end of a probe in the world.
#[derive(Clone, Copy, Debug)]
struct Place {
    who: Who,
    /// As a workload, or only by an address that may belong to one.
    workload: bool,
    address: IpAddr,
}

fn run(harness: &mut Harness, case: &Case) -> Result<()> {
    let documents = if case.documents.trim().is_empty() { String::new() } else { format!("\n---\n{}", case.documents) };
    let generation = harness.apply(&format!("{WORLD}{documents}"))?;
    harness
        .wait("all workloads to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
    let probes: Vec<&Probe> = case.probes.iter().filter(|probe| SPOKEN.contains(&probe.protocol)).collect();
    let _servers = servers(harness, &probes)?;
    let mark = Mark::now();
    let clients = probes.iter().map(|probe| client(harness, probe)).collect::<Result<Vec<_>>>()?;
    for (probe, client) in probes.iter().zip(clients) {
        let attempt = client.attempt()?;
        // A refusal at the client is an error at once, one at the server is silence.
        let fate = match (probe.verdict, probe.rule.contains("egress")) {
            (Verdict::Allow | Verdict::Audit, _) => "ok",
            (Verdict::Deny, true) => "EPERM",
            (Verdict::Deny, false) => "ETIMEDOUT",
        };
        ensure!(attempt.result == fate, "{probe:?}: expected {fate}: {attempt:?}");
        let (from, to) = ends(probe)?;
        harness.record(mark, &format!("{probe:?}"), |record| proves(record, probe, from, to, generation))?;
    }
    Ok(())
}

fn proves(record: &Record, probe: &Probe, from: Place, to: Place, generation: u64) -> bool {
    let rule = format!("{} {}", record.policy, record.rule);
    let ends = if record.direction == "ingress" {
        record.between(to.address, from.address) && record.local.port == probe.port
    } else {
        record.between(from.address, to.address) && record.remote.port == probe.port
    };
    record.kind == "verdict"
        && ends
        && record.verdict == probe.verdict.name()
        && record.reason == probe.reason.name()
        && rule.trim() == probe.rule
        && record.generation == generation
}

fn servers(harness: &Harness, probes: &[&Probe]) -> Result<Vec<Running>> {
    let mut wanted = BTreeSet::new();
    for probe in probes {
        wanted.insert((ends(probe)?.1.who, probe.protocol, probe.port));
    }
    let verb = |protocol| if protocol == "TCP" { "tcp-serve" } else { "udp-serve" };
    let world = harness.world();
    wanted
        .into_iter()
        .map(|(who, protocol, port)| Ok(world.serve(who, &format!("{} --listen [::]:{port}", verb(protocol)))?))
        .collect()
}

fn client(harness: &Harness, probe: &Probe) -> Result<Running> {
    let (from, to) = ends(probe)?;
    let verb = if probe.protocol == "TCP" { "tcp-connect" } else { "udp-exchange" };
    let target = SocketAddr::new(to.address, probe.port);
    let line = format!("{verb} --from {} --to {target} --timeout-ms 700 --bytes 64", from.address);
    let world = harness.world();
    let command = if from.workload { world.probe_line(from.who, &line) } else { world.visitor(from.who, &line) };
    Ok(world.start("client", command)?)
}

/// Both ends, in one family. An address that a process uses to talk to itself is that of the place it talks to.
fn ends(probe: &Probe) -> Result<(Place, Place)> {
    let v6 = probe.from.contains(':') || probe.to.contains(':');
    let loopback = probe.from.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    let mut to = place(probe.to, v6)?;
    if loopback {
        to.address = probe.from.parse()?;
        return Ok((Place { workload: false, ..to }, to));
    }
    Ok((place(probe.from, v6)?, to))
}

fn place(end: &str, v6: bool) -> Result<Place> {
    if let Some((_, name)) = end.split_once('/') {
        let who = Who::ALL.into_iter().find(|who| who.name() == name).with_context(|| format!("{end} has no place"))?;
        let address = who
            .more()
            .iter()
            .filter_map(|address| address.parse().ok())
            .find(|address: &IpAddr| address.is_ipv6() == v6);
        return Ok(Place {
            who,
            workload: true,
            address: address.with_context(|| format!("{end} has no such address"))?,
        });
    }
    match Who::ALL.into_iter().find(|who| who.more().contains(&end)) {
        Some(who) => Ok(Place { who, workload: false, address: end.parse()? }),
        None => bail!("address {end} of the table is nowhere in the world: add it to Who::more"),
    }
}
