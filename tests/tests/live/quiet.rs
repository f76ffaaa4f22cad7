//! Lives: weir-tests, live tests of rules whose decisions make no records.
//! Called by: main.
//! May touch: the stage.
//! Never: takes silence for proof: what is counted must be there, exactly, and another rule's records too.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use weir_tests::documents::{document, workloads};
use weir_tests::harness::ctl::Mark;
use weir_tests::harness::{Harness, Record};
use weir_tests::world::Who::{Api, Client, Web};

use crate::stage::on_stage;

pub fn trials() -> Vec<Trial> {
    vec![on_stage("what_a_rule_with_log_false_decides_is_counted_exactly_and_not_recorded", quiet)]
}

const API_IN: &str = "
  workloadSelector: {matchLabels: {app: api}}
  policyTypes: [Ingress]
  defaultAction: deny
  ingress:
  - {name: quiet, log: false, ports: [{port: 80}, {protocol: UDP, port: 53}]}
  - {name: noise, log: false, action: deny, ports: [{port: 82}]}
  - {name: loud, ports: [{port: 81}]}";

const WEB_OUT: &str = "
  workloadSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  defaultAction: deny
  egress:
  - {name: quiet, log: false, ports: [{port: 80}, {protocol: UDP, port: 53}]}
  - {name: noise, log: false, action: deny, ports: [{port: 83}]}
  - {name: loud, ports: [{port: 81}]}";

/// Connections and exchanges of each kind.
const TIMES: u64 = 5;

fn quiet(harness: &mut Harness) -> Result<()> {
    let policies = format!("{}{}", document("Policy", "api-in", API_IN), document("Policy", "web-out", WEB_OUT));
    harness.apply(&format!("{}{policies}", workloads()))?;
    harness
        .wait("all workloads to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
    let _tcp = harness.world().serve(Api, "tcp-serve --listen [::]:80 --listen [::]:81 --listen [::]:82")?;
    let _udp = harness.world().serve(Api, "udp-serve --listen [::]:53")?;
    let before = counted(harness)?;
    let mark = Mark::now();
    let to = |port| SocketAddr::new(Api.v4(), port);
    let mut last = 0;
    for _ in 0..TIMES {
        let world = harness.world();
        for (who, line, result) in [
            (Web, format!("tcp-connect --to {} --bytes 100", to(80)), "ok"),
            (Web, format!("tcp-connect --to {} --bytes 100", to(83)), "EPERM"),
            (Web, format!("udp-exchange --to {}", to(53)), "ok"),
            (Client, format!("tcp-connect --to {} --bytes 100", to(80)), "ok"),
            (Client, format!("tcp-connect --to {} --timeout-ms 300", to(82)), "ETIMEDOUT"),
            (Web, format!("tcp-connect --to {} --bytes 100", to(81)), "ok"),
        ] {
            let attempt = world.attempt(who, &line)?;
            ensure!(attempt.result == result, "{line}: {attempt:?}");
            last = attempt.local.map_or(0, |local| local.port());
        }
    }
    // The last loud connection has been closed and recorded at both ends: what came before it is there, too, if it ever will be.
    for workload in ["shop/web", "shop/api"] {
        harness.record(mark, "the last loud connection's close", |record| {
            record.kind == "close" && record.local.workload == workload && is_port(record, 81) && is_port(record, last)
        })?;
    }
    // Answers by UDP run in directions that no policy isolates here: no rule decides those, so none can silence them.
    let loud_only =
        |record: &Record| is_port(record, 81) || record.reason == "no_policy" || !concerns_api_or_web(record);
    let records = harness.records_since(mark)?;
    let wrong: Vec<_> = records.iter().filter(|record| !loud_only(record)).map(ToString::to_string).collect();
    ensure!(wrong.is_empty(), "recorded all the same:\n  {}", wrong.join("\n  "));
    check_counts(harness, before)
}

fn is_port(record: &Record, port: u16) -> bool {
    record.local.port == port || record.remote.port == port
}

fn concerns_api_or_web(record: &Record) -> bool {
    [&record.local, &record.remote].iter().any(|end| matches!(end.workload.as_str(), "shop/api" | "shop/web"))
}

/// Decisions and quiet ones among them, of TCP openings going out, refused ones, and TCP openings coming in.
type Counts = [(u64, u64); 3];

fn counted(harness: &Harness) -> Result<Counts> {
    let status = harness.status()?;
    let of = |hook: &str, verdict: &str| {
        let same =
            status.agent.counters.iter().filter(|counter| (&*counter.hook, &*counter.verdict) == (hook, verdict));
        let rules = same.filter(|counter| counter.reason == "rule");
        rules.fold((0, 0), |(decided, quiet), counter| (decided + counter.decided, quiet + counter.quiet))
    };
    Ok([of("sock_ops", "allow"), of("connect", "deny"), of("ingress", "allow")])
}

fn check_counts(harness: &Harness, before: Counts) -> Result<()> {
    let gained = |now: Counts| {
        let mut pairs = now.into_iter().zip(before);
        std::array::from_fn(|_| pairs.next().map_or((0, 0), |(now, before)| (now.0 - before.0, now.1 - before.1)))
    };
    let found: Counts = gained(counted(harness)?);
    // In: two quiet TCP openings, a quiet datagram, a loud TCP opening.
    let expected = [(2 * TIMES, TIMES), (TIMES, TIMES), (4 * TIMES, 3 * TIMES)];
    ensure!(found == expected, "decided and quiet: {found:?}, expected {expected:?}");
    Ok(())
}
