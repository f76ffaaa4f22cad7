//! Lives: weir-tests, live tests of what is recorded when a connection ends.
//! Called by: main.
//! May touch: the stage.
//! Never: compares with anything but what both processes counted themselves.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use weir_tests::documents::{document, workloads};
use weir_tests::harness::ctl::Mark;
use weir_tests::harness::{Harness, Options, Record};
use weir_tests::process::Running;
use weir_tests::report::AT_LAST;
use weir_tests::world::Who::{Api, Client, Web};
use weir_tests::world::World;

use crate::stage::{agrees, on_stage};
use crate::test;

pub fn trials() -> Vec<Trial> {
    vec![
        on_stage("a_closed_connection_is_recorded_at_both_ends_with_its_bytes", bytes),
        on_stage("adversarial 43: a_port_that_is_used_again_at_once_is_never_taken_for_its_last_connection", reused),
        test("adversarial 44: however_many_connections_come_and_go_those_that_live_are_let_be", many),
    ]
}

/// Only the calls of web to api pass, so that a connection that is taken for nobody's is refused.
fn only_web_to_api(harness: &mut Harness) -> Result<()> {
    let out = "\n  workloadSelector: {matchLabels: {app: web}}\n  policyTypes: [Egress]\n  defaultAction: deny\n  egress:\n  \
               - to: [{workloadSelector: {matchLabels: {app: api}}}]";
    let into = "\n  workloadSelector: {matchLabels: {app: api}}\n  policyTypes: [Ingress]\n  defaultAction: deny\n  \
                ingress:\n  - from: [{workloadSelector: {matchLabels: {app: web}}}]";
    harness.apply(&[workloads(), document("Policy", "web", out), document("Policy", "api", into)].concat())?;
    Ok(harness
        .wait("all workloads to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?)
}

/// Denials that the kernel has counted so far.
fn denied(harness: &Harness) -> Result<u64> {
    let counters = harness.status()?.agent.counters;
    // What the kernel drops of a flood is no decision.
    Ok(counters
        .iter()
        .filter(|counter| counter.verdict == "deny" && counter.hook != "kernel")
        .map(|counter| counter.decided)
        .sum())
}

fn held(harness: &Harness, connections: u32) -> Result<Running> {
    let line = format!("tcp-hold --to {}:80 --connections {connections} --seconds 60", Api.v4());
    let mut held = harness.world().start("held", harness.world().probe_line(Web, &line))?;
    held.holds()?;
    Ok(held)
}

fn reused(harness: &mut Harness) -> Result<()> {
    const TIMES: usize = 200;
    const PORT: u16 = 20_043;
    only_web_to_api(harness)?;
    let _server = harness.world().serve(Api, "tcp-serve --listen [::]:80")?;
    let (mark, before) = (Mark::now(), denied(harness)?);
    let held = held(harness, 1)?;
    let line = format!(
        "tcp-connect --from {} --port {PORT} --to {}:80 --bytes 100 --reset --timeout-ms 5000",
        Web.v4(),
        Api.v4()
    );
    for round in 0..TIMES {
        let attempt = harness.world().attempt(Web, &line)?;
        ensure!(attempt.result == "ok" && attempt.received == 100, "round {round}: {attempt:?}");
    }
    agrees(harness)?;
    let records = harness.records_since(mark)?;
    let of_port = |kind: &str, end: &str| {
        let fits = |record: &&Record| {
            let port = record.local.port == PORT || record.remote.port == PORT;
            record.kind == kind && record.local.workload == end && port
        };
        records.iter().filter(fits).count()
    };
    for end in ["shop/web", "shop/api"] {
        ensure!((of_port("verdict", end), of_port("close", end)) == (TIMES, TIMES), "{end}");
    }
    ensure!(denied(harness)? == before, "something was denied");
    ensure!(held.withdrawn()?.living == 1, "a connection beside them was cut");
    Ok(())
}

fn many() -> Result<()> {
    // Its own: its records are too many for who comes after.
    let harness = &mut Harness::start(World::new("many")?, Options { log: "info", ..Options::default() })?;
    only_web_to_api(harness)?;
    let server = harness.world().serve(Api, "storm-serve --listen 0.0.0.0:81")?;
    let _keeps = harness.world().serve(Api, "tcp-serve --listen [::]:80")?;
    let before = denied(harness)?;
    let held = held(harness, 20)?;
    let line =
        format!("storm --to {}:81 --threads 8 --pause-ms 0 --timeout-ms 8000 --again-ms 1000 --seconds 60", Api.v4());
    let storm = harness.world().start("storm", harness.world().probe_line(Web, &line))?;
    std::thread::sleep(Duration::from_secs(3));
    let stormed = storm.stormed()?;
    drop(server);
    let mut results: BTreeMap<String, u64> = BTreeMap::new();
    for (result, count) in stormed.ends.into_values().flatten() {
        *results.entry(result).or_default() += count;
    }
    // Far more than a workload has places for in the table of answers.
    ensure!(results.get("ok").is_some_and(|ok| *ok > 1_000), "{results:?}");
    // A datagram may be lost for want of room at the server, and is sent again.
    ensure!(results.keys().all(|result| result == "ok" || result == AT_LAST), "{results:?}");
    ensure!(held.withdrawn()?.living == 20, "connections that live had to go for new ones");
    // A busy machine may be too slow to record all of them; then it says so.
    harness.ctl(&["reconcile", "--wait", "60"], "")?.ok()?;
    ensure!(denied(harness)? == before, "something was denied");
    Ok(())
}

/// D5 and section 4 of the design: the kernel's counters hold SYN and FIN on some paths.
const OFF_BY: u64 = 1;

fn bytes(harness: &mut Harness) -> Result<()> {
    harness.apply(&workloads())?;
    harness
        .wait("all workloads to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
    let _server = harness.world().serve(Api, "tcp-serve --listen [::]:80")?;
    for size in [0, 1, 100_000, 3_000_000] {
        for to in [Api.v4(), Api.v6(), Api.mapped()] {
            let mark = Mark::now();
            let to_socket = std::net::SocketAddr::new(to, 80);
            let line = format!("tcp-connect --to {to_socket} --bytes {size} --timeout-ms 5000");
            let attempt = harness.world().attempt(Web, &line)?;
            ensure!(attempt.result == "ok" && attempt.received == size, "{attempt:?}");
            let port = attempt.local.map_or(0, |local| local.port());
            let what = format!("the close of {size} bytes to {to} from port {port}");
            let client = harness.record(mark, &what, |record| {
                record.kind == "close" && record.local.workload == "shop/web" && record.local.port == port
            })?;
            let server = harness.record(mark, &what, |record| {
                record.kind == "close" && record.local.workload == "shop/api" && record.remote.port == port
            })?;
            ensure!(carries(&client, size) && carries(&server, size), "{what}:\n  {client}\n  {server}");
            ensure!(client.direction == "egress" && server.direction == "ingress", "{what}:\n  {client}\n  {server}");
            ensure!(client.count == 0 && server.count == 0, "a close is no decision: {client}, {server}");
        }
    }
    let outside = harness.world().attempt(Client, "tcp-connect --to 10.77.0.20:80 --bytes 10")?;
    ensure!(outside.result == "ok", "{outside:?}");
    Ok(())
}

fn carries(record: &Record, size: u64) -> bool {
    record.bytes_sent.abs_diff(size) <= OFF_BY && record.bytes_received.abs_diff(size) <= OFF_BY
}
