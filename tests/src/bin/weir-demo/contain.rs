//! Lives: weir-demo, the scene of the incident.
//! Called by: story.
//! May touch: the stage.
//! Never: takes the prediction for the proof; both are asked, and must agree.

use std::net::SocketAddr;

use anyhow::Result;
use weir_tests::harness::ctl::Mark;
use weir_tests::world::Who;

use crate::scenes::{call, proof};
use crate::show::Finding;
use crate::story::{CONTAIN, Stage};

/// web is cut off by a ClusterNetworkPolicy, and nobody else is. What it will do is asked of the documents first, without an
/// agent.
pub fn contained(stage: &mut Stage) -> Result<Vec<Finding>> {
    let foretold = foretold(stage)?;
    let mark = Mark::now();
    stage.harness.add(CONTAIN)?;
    let cut = call(stage, Who::Web, SocketAddr::new(Who::Db.v4(), 5432), 0)?;
    let spared = call(stage, Who::Api, SocketAddr::new(Who::Db.v4(), 5432), 1000)?;
    let records = proof(stage, mark, "the cut", |record| {
        record.is("deny", "connect") && record.policy.ends_with("contain-web") && record.rule == "egress[0] breached"
    })?;
    let observed = format!("foretold {foretold}; web: {}, api: {}", cut.result, spared.result);
    let expected = "foretold DENY; web: EPERM, api: ok".to_owned();
    let ok = observed == expected && !records.is_empty();
    Ok(vec![Finding { step: "incident: web is cut off", expected, observed, ok, records }])
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
