//! Lives: weir-tests, live tests of policy changes under traffic.
//! Called by: main.
//! May touch: the stage.
//! Never: allows a grace after the reply: the generation it names is in force.

use std::time::Duration;

use anyhow::{Result, ensure};
use jiff::Timestamp;
use libtest_mimic::Trial;
use weir_tests::documents::{document, workloads};
use weir_tests::harness::Harness;
use weir_tests::process::{Running, SOON};
use weir_tests::report::Report;
use weir_tests::world::Who::{Api, Db, Web};

use crate::stage::on_stage;

pub fn trials() -> Vec<Trial> {
    vec![
        on_stage("an_update_opens_one_path_and_closes_another_while_traffic_runs", opens_and_closes),
        on_stage("a_rule_that_expires_stops_counting_by_itself", expires),
    ]
}

/// web may reach `app` and nobody else.
fn only(app: &str) -> String {
    let policy = document(
        "Policy",
        "web-out",
        &format!(
            "
  workloadSelector: {{matchLabels: {{app: web}}}}
  policyTypes: [Egress]
  defaultAction: deny
  egress: [{{to: [{{workloadSelector: {{matchLabels: {{app: {app}}}}}}}]}}]"
        ),
    );
    format!("{}{policy}", workloads())
}

fn opens_and_closes(harness: &mut Harness) -> Result<()> {
    let mut generation = harness.apply(&only("db"))?;
    harness
        .wait("all workloads to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
    let _servers = [
        harness.world().serve(Api, "tcp-serve --listen [::]:80")?,
        harness.world().serve(Db, "tcp-serve --listen [::]:80")?,
    ];
    let run = |to| {
        let line = format!("tcp-connect-loop --to {to} --rate 200 --seconds 30");
        harness.world().start("client", harness.world().probe_line(Web, &line))
    };
    let mut clients = [run("10.77.0.20:80")?, run("[fd77:0:0:1e::1]:80")?];
    for round in 0..6 {
        let api = round % 2 == 0;
        let before = if api { ["EPERM", "ok"] } else { ["ok", "EPERM"] };
        let settled = marks(&mut clients, [0, 0])?;
        let next = harness.apply(&only(if api { "api" } else { "db" }))?;
        let replied = clients.each_ref().map(|client| client.attempts().len());
        ensure!(next > generation, "generation {next} follows {generation}");
        generation = next;
        // One attempt of each client may have been under way when the reply came.
        let after = marks(&mut clients, replied)?;
        for ((client, was), (from, (new, to))) in
            clients.iter().zip(before).zip(settled.into_iter().zip(replied.into_iter().zip(after)))
        {
            let now = if was == "ok" { "EPERM" } else { "ok" };
            let attempts = client.attempts();
            let late = attempts.get(new + 1..to).unwrap_or_default();
            ensure!(
                late.len() > 5 && late.iter().all(|attempt| attempt.result == now),
                "round {round}, after: {late:?}"
            );
            let early = attempts.get(from.saturating_sub(5)..from).unwrap_or_default();
            ensure!(early.iter().all(|attempt| attempt.result == was), "round {round}, before: {early:?}");
        }
    }
    for client in &mut clients {
        client.stop(SOON)?;
    }
    Ok(())
}

/// Waits until each client has tried some more times than `from`; how many tries it has then.
fn marks(clients: &mut [Running; 2], from: [usize; 2]) -> Result<[usize; 2]> {
    let mut counts = [0; 2];
    for ((client, from), count) in clients.iter_mut().zip(from).zip(&mut counts) {
        let enough = from.max(client.attempts().len()) + 12;
        client.wait_for(SOON, |reports| {
            let tries = reports.iter().filter(|report| matches!(report, Report::Attempt(_))).count();
            (tries >= enough).then_some(())
        })?;
        *count = client.attempts().len();
    }
    Ok(counts)
}

/// How long the rule lasts, and how late the agent may be: it looks once a second.
const LASTS: Duration = Duration::from_secs(4);
const LATE: Duration = Duration::from_secs(2);

fn expires(harness: &mut Harness) -> Result<()> {
    let end = Timestamp::now() + LASTS;
    let spec = format!(
        "
  workloadSelector: {{matchLabels: {{app: web}}}}
  policyTypes: [Egress]
  defaultAction: deny
  egress: [{{name: visit, expiresAt: {end}, to: [{{workloadSelector: {{matchLabels: {{app: api}}}}}}]}}]"
    );
    let generation = harness.apply(&format!("{}{}", workloads(), document("Policy", "web-out", &spec)))?;
    harness
        .wait("all workloads to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
    let _server = harness.world().serve(Api, "tcp-serve --listen [::]:80")?;
    let connect = |harness: &Harness| harness.world().attempt(Web, "tcp-connect --to 10.77.0.20:80");
    let before = connect(harness)?;
    ensure!(Timestamp::now() >= end || before.result == "ok", "before its end: {before:?}");
    harness.wait("the rule to expire", |harness| {
        harness.status().is_ok_and(|status| status.agent.generation > generation)
    })?;
    let after = Timestamp::now();
    ensure!(after >= end && after < end + LATE, "out of force at {after}, due at {end}");
    ensure!(harness.status()?.agent.generation == generation + 1, "one expiry is one generation");
    let refused = connect(harness)?;
    ensure!(refused.result == "EPERM", "after its end: {refused:?}");
    Ok(())
}
