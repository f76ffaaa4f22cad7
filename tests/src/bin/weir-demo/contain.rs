//! Lives: weir-demo, the scene of the incident.
//! Called by: story.
//! May touch: the stage.
//! Never: takes the prediction for the proof; both are asked, and must agree.

use std::net::SocketAddr;

use anyhow::Result;
use weir_tests::harness::Record;
use weir_tests::harness::ctl::Mark;
use weir_tests::process::Running;
use weir_tests::world::Who;

use crate::scenes::{call, proof};
use crate::show::Finding;
use crate::story::{CONTAIN, Stage};

/// web is cut off by a ClusterNetworkPolicy, and nobody else is. What it will do is asked of the documents first, without an
/// agent.
pub fn contained(stage: &mut Stage) -> Result<Vec<Finding>> {
    let foretold = foretold(stage)?;
    let mark = Mark::now();
    let open = held(stage, Who::Web)?;
    let others = held(stage, Who::Api)?;
    stage.harness.add(CONTAIN)?;
    stage
        .harness
        .wait("nothing forbidden to be left", |harness| harness.status().is_ok_and(|status| status.clean()))?;
    let (open, others) = (open.withdrawn()?, others.withdrawn()?);
    let ended = open.ended.keys().next().map_or("still open", String::as_str);
    let cut = call(stage, Who::Web, SocketAddr::new(Who::Db.v4(), 5432), 0)?;
    let spared = call(stage, Who::Api, SocketAddr::new(Who::Db.v4(), 5432), 1000)?;
    let by = |record: &Record| record.policy.ends_with("contain-web") && record.rule == "egress[0] breached";
    let mut records = proof(stage, mark, "the refusal", |record| record.is("deny", "connect") && by(record))?;
    records.extend(proof(stage, mark, "the cut", |record| record.kind == "cut" && by(record))?);
    let (web, api) = (&cut.result, &spared.result);
    let observed = format!("foretold {foretold}; web: {web}, its open one {ended}; api: {api}, {} open", others.living);
    let expected = "foretold DENY; web: EPERM, its open one ECONNABORTED; api: ok, 1 open".to_owned();
    let ok = observed == expected && records.len() >= 2;
    Ok(vec![Finding { step: "incident: web is cut off", expected, observed, ok, records }])
}

/// A connection of `who` to the database that is open, and stays so if nobody cuts it.
fn held(stage: &Stage, who: Who) -> Result<Running> {
    let world = stage.harness.world();
    let line = format!("tcp-hold --to {} --seconds 60", SocketAddr::new(Who::Db.v4(), 5432));
    let mut client = world.start(&format!("{}-holds", who.name()), world.probe_line(who, &line))?;
    client.holds()?;
    Ok(client)
}

/// What `weirctl policy eval` says of what is in force and the new policy together.
fn foretold(stage: &Stage) -> Result<String> {
    let mut documents = CONTAIN.to_owned();
    for kind in ["workloads", "policies"] {
        let got = stage.harness.ctl(&["get", kind, "-o", "yaml"], "")?;
        documents.push_str("---\n");
        documents.push_str(&got.out);
    }
    let question = ["policy", "eval", "-f", "-", "--from", "shop/web", "--to", "shop/db", "--port", "5432/tcp"];
    let said = stage.harness.ctl(&question, &documents)?;
    let first = said.out.split_whitespace().next();
    Ok(first.map_or_else(|| said.err.trim().to_owned(), str::to_owned))
}
