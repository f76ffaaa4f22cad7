//! Lives: weir-demo, the scene of the update.
//! Called by: story.
//! May touch: the stage.
//! Never: allows a grace after the reply: the generation it names is in force.

use std::net::SocketAddr;

use anyhow::Result;
use weir_tests::harness::Record;
use weir_tests::harness::ctl::Mark;
use weir_tests::process::SOON;
use weir_tests::report::{Attempt, Report};
use weir_tests::world::Who;

use crate::scenes::proof;
use crate::show::Finding;
use crate::story::{Stage, UPDATE};

/// A change of policy while web calls api and db all the time.
pub fn updated(stage: &mut Stage) -> Result<Vec<Finding>> {
    let world = stage.harness.world();
    let start = |to: Who, port| {
        let line = format!("tcp-connect-loop --to {} --rate 100 --seconds 20", SocketAddr::new(to.v4(), port));
        world.start("caller", world.probe_line(Who::Web, &line))
    };
    let mut callers = [start(Who::Api, 8080)?, start(Who::Db, 5432)?];
    let mut tried = [0; 2];
    for (caller, tried) in callers.iter_mut().zip(&mut tried) {
        caller.wait_for(SOON, |reports| (attempts(reports) >= 30).then_some(()))?;
        *tried = caller.attempts().len();
    }
    let mark = Mark::now();
    let generation = stage.harness.add(UPDATE)?;
    let replied = callers.each_ref().map(|caller| caller.attempts().len());
    for (caller, replied) in callers.iter_mut().zip(replied) {
        caller.wait_for(SOON, |reports| (attempts(reports) >= replied + 30).then_some(()))?;
        caller.stop(SOON)?;
    }
    let [api, db] = callers.map(|caller| caller.attempts());
    let [api, db] = [(api, 0), (db, 1)].map(|(attempts, at)| {
        let (before, after) = (tried.get(at).copied().unwrap_or(0), replied.get(at).copied().unwrap_or(0));
        // The attempt that was under way when the reply came may have been judged before it.
        [outcome(attempts.get(..before)), outcome(attempts.get(after + 1..))]
    });
    let opened = proof(stage, mark, "the path that opened", |record| {
        record.is("allow", "sock_ops") && record.rule == "egress[0] to-db" && record.generation == generation
    })?;
    let closed = proof(stage, mark, "the path that closed", |record| {
        record.is("deny", "connect") && record.remote.port == 8080 && record.generation == generation
    })?;
    let finding = |step, expected: &str, [before, after]: [String; 2], records: Vec<Record>| {
        let observed = format!("{before}, then {after}");
        let ok = observed == expected && !records.is_empty();
        Finding { step, expected: expected.to_owned(), observed, ok, records }
    };
    Ok(vec![
        finding("update: web to db opens", "EPERM, then ok", db, opened),
        finding("update: web to api closes", "ok, then EPERM", api, closed),
    ])
}

fn attempts(reports: &[Report]) -> usize {
    reports.iter().filter(|report| matches!(report, Report::Attempt(_))).count()
}

/// The one outcome all attempts had, or all that there were.
fn outcome(attempts: Option<&[Attempt]>) -> String {
    let mut results: Vec<&str> = attempts.unwrap_or_default().iter().map(|attempt| attempt.result.as_str()).collect();
    results.sort_unstable();
    results.dedup();
    if results.is_empty() { "nothing".to_owned() } else { results.join(" and ") }
}
