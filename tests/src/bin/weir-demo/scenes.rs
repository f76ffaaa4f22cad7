//! Lives: weir-demo, its scenes: what is done, what must be seen, what was seen.
//! Called by: story, in order.
//! May touch: the stage.
//! Never: judges by what the client says alone where a server or a record can be asked.

use std::net::SocketAddr;

use anyhow::Result;
use nix::sys::signal::Signal;
use weir_tests::harness::ctl::Mark;
use weir_tests::harness::{Harness, HarnessError, Record};
use weir_tests::report::Attempt;
use weir_tests::world::Who;

use crate::show::Finding;
use crate::story::{POLICY, Stage, UPDATE, WORKLOADS};

/// One scene.
pub type Scene = fn(&mut Stage) -> Result<Vec<Finding>>;

/// A refusal takes no network round trip.
const AT_ONCE_MS: f64 = 100.0;

/// Puts the first policy in force.
pub fn policy(harness: &mut Harness) -> Result<Finding> {
    let generation = harness.apply(&format!("{WORKLOADS}---\n{POLICY}"))?;
    harness
        .wait("all workloads to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
    let status = harness.status()?;
    let attached = status.agent.workloads.iter().filter(|workload| workload.state == "attached").count();
    Ok(Finding {
        step: "policy applied over gRPC",
        expected: "in force for 3 workloads".to_owned(),
        observed: format!("generation {generation} in force for {attached}"),
        ok: attached == 3 && status.agent.generation == generation,
        records: Vec::new(),
    })
}

/// Calls that the policy allows, in both families.
pub fn allowed(stage: &mut Stage) -> Result<Vec<Finding>> {
    let mark = Mark::now();
    let calls = [
        (Who::Client, Who::Web, 80, "ingress", "ingress[0] customers"),
        (Who::Web, Who::Api, 8080, "sock_ops", "egress[0] to-api"),
        (Who::Api, Who::Db, 5432, "sock_ops", "egress[0] to-db"),
    ];
    let (mut good, mut records, mut said) = (0, Vec::new(), Vec::new());
    for (from, to, port, hook, rule) in calls {
        for address in [to.v4(), to.v6()] {
            let attempt = call(stage, from, SocketAddr::new(address, port), 1000)?;
            good += usize::from(attempt.result == "ok" && attempt.received == 1000);
            if attempt.result != "ok" {
                said.push(format!(", {} to {address}: {}", from.name(), attempt.result));
            }
        }
        let wanted = |record: &Record| record.is("allow", hook) && record.rule == rule;
        records.extend(proof(stage, mark, rule, wanted)?);
    }
    let observed = format!("{good} of 6 answered{}", said.concat());
    let ok = good == 6 && records.len() == calls.len();
    Ok(vec![Finding { step: "allowed calls", expected: "6 of 6 answered".to_owned(), observed, ok, records }])
}

/// A call that the caller's own policy denies.
pub fn refused(stage: &mut Stage) -> Result<Vec<Finding>> {
    let mark = Mark::now();
    let attempt = call(stage, Who::Web, SocketAddr::new(Who::Db.v4(), 5432), 0)?;
    let records = proof(stage, mark, "the refusal", |record| {
        record.is("deny", "connect") && record.process.as_ref().is_some_and(|process| process.pid == attempt.pid)
    })?;
    let meaning = if attempt.result == "EPERM" { "Operation not permitted" } else { &attempt.result };
    Ok(vec![Finding {
        step: "web calls db, past api",
        expected: "Operation not permitted, at once".to_owned(),
        observed: format!("{meaning}, {:.1} ms", attempt.elapsed_ms),
        ok: attempt.result == "EPERM" && attempt.elapsed_ms < AT_ONCE_MS && !records.is_empty(),
        records,
    }])
}

/// A connection from outside that the server's policy denies.
pub fn kept_out(stage: &mut Stage) -> Result<Vec<Finding>> {
    let mark = Mark::now();
    let before = stage.db.accepted();
    let attempt = call(stage, Who::Client, SocketAddr::new(Who::Db.v4(), 5432), 0)?;
    let records = proof(stage, mark, "the drop", |record| {
        record.is("deny", "ingress") && record.between(Who::Db.v4(), Who::Client.v4())
    })?;
    let reached = stage.db.accepted() - before;
    Ok(vec![Finding {
        step: "outside client calls db",
        expected: "nothing reaches db".to_owned(),
        observed: format!("{reached} reached db; client: {}", attempt.result),
        ok: reached == 0 && attempt.result == "ETIMEDOUT" && !records.is_empty(),
        records,
    }])
}

/// A document with a fault beside a good one.
pub fn bad_document(stage: &mut Stage) -> Result<Vec<Finding>> {
    let before = stage.harness.status()?.agent.generation;
    let documents = format!("{POLICY}---\n{}", UPDATE.replace("port: 5432", "port: 54320000"));
    let said = stage.harness.ctl(&["apply", "-f", "-"], &documents)?;
    let after = stage.harness.status()?.agent.generation;
    let refused = !said.status.success() && format!("{}{}", said.out, said.err).contains("54320000");
    let whole = if refused { "refused whole" } else { "not refused" };
    Ok(vec![Finding {
        step: "document with a wrong port",
        expected: format!("refused whole, generation {before}"),
        observed: format!("{whole}, generation {after}"),
        ok: refused && before == after,
        records: Vec::new(),
    }])
}

/// The collector hangs; what is decided meanwhile is spooled and arrives later, each once, and the whole record is checked.
pub fn collector_hangs(stage: &mut Stage) -> Result<Vec<Finding>> {
    let mark = Mark::now();
    stage.harness.signal_collector(Signal::SIGSTOP);
    let calls: Result<Vec<Attempt>> =
        (0..5).map(|_| call(stage, Who::Web, SocketAddr::new(Who::Db.v4(), 5432), 0)).collect();
    stage.harness.signal_collector(Signal::SIGCONT);
    let (calls, mut records) = (calls?, Vec::new());
    for call in &calls {
        let of = |record: &Record| record.process.as_ref().is_some_and(|process| process.pid == call.pid);
        proof(stage, mark, "the refusal", |record| record.is("deny", "connect") && of(record))?;
        let all = stage.harness.records_since(mark)?;
        records.extend(all.into_iter().filter(|record| record.is("deny", "connect") && of(record)));
    }
    let refused = calls.iter().filter(|call| call.result == "EPERM").count();
    let said = stage.harness.ctl(&["reconcile"], "")?;
    let closed = said.out.lines().last().unwrap_or_default().starts_with("closed: ") && said.status.success();
    let whole = if closed { "the sum closes" } else { "the sum does not close" };
    let observed = format!("{refused} refused, {} records, {whole}", records.len());
    let expected = "5 refused, 5 records, the sum closes".to_owned();
    records.truncate(1);
    Ok(vec![Finding { step: "the collector hangs a while", ok: observed == expected, expected, observed, records }])
}

/// The agent is killed; what it put in force stays, and the next one takes over.
pub fn agent_killed(stage: &mut Stage) -> Result<Vec<Finding>> {
    let judged = |stage: &Stage| -> Result<String> {
        let mut refused = 0;
        for _ in 0..5 {
            refused += usize::from(call(stage, Who::Web, SocketAddr::new(Who::Db.v4(), 5432), 0)?.result == "EPERM");
        }
        let allowed = call(stage, Who::Api, SocketAddr::new(Who::Db.v4(), 5432), 100)?.result;
        Ok(format!("{refused} of 5 refused, allowed {allowed}"))
    };
    stage.harness.kill_agent()?;
    let without = judged(stage)?;
    stage.harness.start_agent()?;
    let observed = format!("{without}; next agent: {}", judged(stage)?);
    let one = "5 of 5 refused, allowed ok";
    let expected = format!("{one}; next agent: {one}");
    Ok(vec![Finding { step: "the agent is killed", ok: observed == expected, expected, observed, records: Vec::new() }])
}

/// Kernel counters, the agent's and the collector's sums.
pub fn agreed(stage: &mut Stage) -> Result<Vec<Finding>> {
    let agree = stage
        .harness
        .wait("agreement", |harness| harness.status().is_ok_and(|status| status.disagreements().is_empty()));
    let status = stage.harness.status()?;
    let differences = status.disagreements();
    let observed = if agree.is_ok() && differences.is_empty() {
        format!("{} decisions, all agree", status.decided())
    } else {
        differences.join("; ")
    };
    Ok(vec![Finding {
        step: "kernel, agent, collector",
        expected: "no difference".to_owned(),
        observed,
        ok: differences.is_empty(),
        records: Vec::new(),
    }])
}

/// One call.
pub fn call(stage: &Stage, from: Who, to: SocketAddr, bytes: u64) -> Result<Attempt> {
    Ok(stage.harness.world().attempt(from, &format!("tcp-connect --to {to} --bytes {bytes} --timeout-ms 800"))?)
}

/// The record that proves a step; none is a difference, not an error.
pub fn proof(stage: &Stage, mark: Mark, what: &str, fits: impl Fn(&Record) -> bool) -> Result<Vec<Record>> {
    match stage.harness.record(mark, what, fits) {
        Ok(record) => Ok(vec![record]),
        Err(HarnessError::Waited { .. }) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}
