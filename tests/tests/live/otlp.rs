//! Lives: weir-tests, a live test of the export by OTLP: from the kernel to somebody else's receiver.
//! Called by: main.
//! May touch: a world of its own.
//! Never: asks Weir what was exported; the receiver says, and the kernel's counters say what it should be.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::Trial;
use weir_tests::documents::{document, workloads};
use weir_tests::harness::{Harness, Options};
use weir_tests::process::program;
use weir_tests::report::Attempt;
use weir_tests::world::Who::{Api, Client, Db, Polite, Web};
use weir_tests::world::World;

use crate::otlp_receiver::{Logged, Receiver};
use crate::stage::agrees;
use crate::test;

pub fn trials() -> Vec<Trial> {
    vec![test("a_receiver_of_otlp_is_told_every_decision_of_the_kernel_and_who_opened_to_whom", told)]
}

const API_IN: &str = "
  workloadSelector: {matchLabels: {app: api}}
  ingress:
  - {name: from-web, from: [{workloadSelector: {matchLabels: {app: web}}}], ports: [{port: 80}]}";

const WEB_OUT: &str = "
  workloadSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  egress:
  - {name: to-api, to: [{workloadSelector: {matchLabels: {app: api}}}], ports: [{port: 80}]}";

/// Connections of each kind.
const TIMES: usize = 5;
/// How long everything may take to arrive: a batch waits a second, metrics another.
const WITHIN: Duration = Duration::from_secs(30);

fn told() -> Result<()> {
    let world = World::new("otlp")?;
    let at = SocketAddr::new(Polite.v4(), 4317);
    let receiver = Receiver::start(&world.netns(Polite), at)?;
    let mut harness = Harness::start(world, Options { otlp: Some(format!("http://{at}")), ..Options::default() })?;
    let policies = format!("{}{}", document("Policy", "api-in", API_IN), document("Policy", "web-out", WEB_OUT));
    let generation = harness.apply(&format!("{}{policies}", workloads()))?;
    harness
        .wait("all workloads to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
    let server = harness.world().serve(Api, "tcp-serve --listen [::]:80")?;
    let (to_api, to_db) = (SocketAddr::new(Api.v4(), 80), SocketAddr::new(Db.v4(), 81));
    let tries = |who, line: String, result: &str| -> Result<Vec<Attempt>> {
        let attempts: Result<Vec<_>, _> = (0..TIMES).map(|_| harness.world().attempt(who, &line)).collect();
        let attempts = attempts?;
        ensure!(attempts.iter().all(|attempt| attempt.result == result), "{line}: {attempts:?}");
        Ok(attempts)
    };
    let allowed = tries(Web, format!("tcp-connect --to {to_api} --bytes 1000"), "ok")?;
    let refused = tries(Web, format!("tcp-connect --to {to_db}"), "EPERM")?;
    let dropped = tries(Client, format!("tcp-connect --to {to_api} --timeout-ms 300"), "ETIMEDOUT")?;
    agrees(&harness)?;
    let logged = all_logged(&harness, &receiver)?;

    let mine = BTreeMap::from([
        ("service.name".to_owned(), "weir".to_owned()),
        ("host.name".to_owned(), harness.world().name().to_owned()),
    ]);
    for record in &logged {
        ensure!(mine.iter().all(|(name, value)| record.get(name) == Some(value)), "{record:#?}");
    }
    let generation = generation.to_string();
    for attempt in &allowed {
        let from = attempt.local.context("a connection has an address")?;
        let pid = attempt.pid.to_string();
        let (source, port) = (from.ip().to_canonical().to_string(), from.port().to_string());
        let (destination, server) = (Api.v4().to_string(), server.pid().to_string());
        let flow = [
            ("source.address", source.as_str()),
            ("source.port", &port),
            ("destination.address", &destination),
            ("destination.port", "80"),
            ("weir.source.workload", "shop/web"),
            ("weir.destination.workload", "shop/api"),
            ("network.transport", "tcp"),
            ("network.type", "ipv4"),
            ("weir.verdict", "allow"),
            ("weir.generation", &generation),
        ];
        let out = [("network.io.direction", "transmit"), ("process.pid", &pid), ("weir.rule", "egress[0] to-api")];
        let into =
            [("network.io.direction", "receive"), ("process.pid", &server), ("weir.rule", "ingress[0] from-web")];
        let bytes = attempt.sent.to_string();
        let (sent, received) = (("weir.source.bytes", &*bytes), ("weir.destination.bytes", &*bytes));
        for side in [out, into] {
            one(&logged, &[&[("event", "weir.flow.verdict")], &flow[..], &side].concat())?;
            let closed = one(&logged, &[&[("event", "weir.flow.close")], &flow[..], &side[..2]].concat())?;
            for (name, expected) in [sent, received] {
                let found: u64 = closed.get(name).map_or("", String::as_str).parse()?;
                ensure!(found.abs_diff(expected.parse()?) <= 1, "{name}: {found}, expected {expected}");
            }
        }
    }
    for attempt in &refused {
        let denied = one(
            &logged,
            &[
                ("event", "weir.flow.verdict"),
                ("weir.verdict", "deny"),
                ("weir.hook", "connect"),
                ("weir.refusal", "eperm"),
                ("process.pid", &attempt.pid.to_string()),
                ("destination.address", &Db.v4().to_string()),
                ("destination.port", "81"),
                ("network.io.direction", "transmit"),
                ("weir.source.workload", "shop/web"),
            ],
        )?;
        // A process that ended may be gone before its program could be read; a wrong one is never named.
        let probe = program("weir-probe").display().to_string();
        ensure!(denied.get("process.executable.path").is_none_or(|path| *path == probe), "{denied:#?}");
    }
    let from_client = |record: &&Logged| {
        record.get("source.address") == Some(&Client.v4().to_string()) && record["event"] == "weir.flow.verdict"
    };
    let drops: Vec<_> = logged.iter().filter(from_client).collect();
    ensure!(!drops.is_empty() && !dropped.is_empty(), "nothing of the client's: {logged:#?}");
    for drop in drops {
        ensure!(drop["weir.verdict"] == "deny" && drop["weir.refusal"] == "silence", "{drop:#?}");
        ensure!(drop["weir.destination.workload"] == "shop/api" && drop["network.io.direction"] == "receive");
    }
    metrics(&harness, &receiver)
}

/// The one record that says all this.
fn one<'a>(logged: &'a [Logged], expected: &[(&str, &str)]) -> Result<&'a Logged> {
    let says = |record: &&Logged| {
        expected.iter().all(|(name, value)| record.get(*name).is_some_and(|found| found.as_str() == *value))
    };
    let found: Vec<_> = logged.iter().filter(says).collect();
    match found[..] {
        [record] => Ok(record),
        _ => bail!("{} records, not one, say {expected:?}; all: {logged:#?}", found.len()),
    }
}

/// Decisions by hook, verdict and reason.
type Sums = BTreeMap<[String; 3], u64>;

fn decided(harness: &Harness) -> Result<Sums> {
    let counters = harness.status()?.agent.counters;
    ensure!(
        counters.iter().all(|counter| counter.lost + counter.quiet == 0),
        "not everything was recorded: {counters:?}"
    );
    let counters = counters.into_iter().filter(|counter| counter.decided > 0);
    Ok(counters.map(|counter| ([counter.hook, counter.verdict, counter.reason], counter.decided)).collect())
}

fn said(words: &BTreeMap<String, String>) -> [String; 3] {
    ["weir.hook", "weir.verdict", "weir.reason"].map(|name| words.get(name).cloned().unwrap_or_default())
}

/// Everything the receiver was told, once its sums are the kernel's, and every connection was closed on both sides.
fn all_logged(harness: &Harness, receiver: &Receiver) -> Result<Vec<Logged>> {
    let begin = Instant::now();
    loop {
        let (kernel, logged) = (decided(harness)?, receiver.logged());
        let mut sums = Sums::new();
        for record in logged.iter().filter(|record| record["event"] == "weir.flow.verdict") {
            *sums.entry(said(record)).or_default() += record["weir.count"].parse::<u64>()?;
        }
        let closes = logged.iter().filter(|record| record["event"] == "weir.flow.close").count();
        if sums == kernel && closes >= 2 * TIMES {
            return Ok(logged);
        }
        ensure!(begin.elapsed() < WITHIN, "exported {sums:?}, {closes} closes; the kernel decided {kernel:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The metrics come to the same sums.
fn metrics(harness: &Harness, receiver: &Receiver) -> Result<()> {
    let begin = Instant::now();
    loop {
        let kernel = decided(harness)?;
        let points = receiver.points("weir.decisions");
        let sums: Sums = points.iter().map(|(words, value)| (said(words), value.unsigned_abs())).collect();
        if sums == kernel {
            break;
        }
        ensure!(begin.elapsed() < WITHIN, "metrics say {sums:?}; the kernel decided {kernel:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
    let connected = receiver.points("weir.node.connected");
    ensure!(matches!(connected[..], [(_, 1)]), "{connected:?}");
    ensure!(receiver.points("weir.otlp.records.dropped").is_empty());
    Ok(())
}
