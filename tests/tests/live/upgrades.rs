//! Lives: weir-tests, live tests of another version of the agent that takes over, and of the first one that takes over again.
//! Called by: main.
//! May touch: worlds of its own, whose agent it stops, kills and exchanges.
//! Never: is content with two copies of one program: the other's events, tables and attach point storage are laid out otherwise.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use weir_tests::harness::ctl::Mark;
use weir_tests::harness::{Harness, Options, Record};
use weir_tests::process::program;
use weir_tests::world::Who::{Api, Db, Web};

use crate::outlives::{Load, is_in_force, runs, serve, start, strict};
use crate::test;

pub fn trials() -> Vec<Trial> {
    vec![
        test("an_upgrade_across_changed_layouts_and_back_lets_nothing_pass_and_cuts_nothing", there_and_back),
        test("what_one_version_has_spooled_the_other_delivers", spooled),
    ]
}

/// Of the agent whose layouts are others (the feature `next_layout`).
const OTHERWISE: &str = "-weir-next-layout";

/// Both programs: the usual one, and the other.
pub fn versions() -> Result<[PathBuf; 2]> {
    let both = ["weir-agent", "weir-agent-next"].map(program);
    let [_, next] = &both;
    let how = "cargo build --workspace --bin weir-agent-next --features weir-agent/next_layout";
    ensure!(next.exists(), "{} is not there; `{how}` makes it", next.display());
    Ok(both)
}

/// Lets another program be the agent, which must then be the only one that is attached.
pub fn exchange(harness: &mut Harness, agent: &Path, kill: bool) -> Result<()> {
    if kill {
        harness.kill_agent()?;
    } else {
        harness.stop_agent()?;
    }
    harness.start_agent_of(agent)?;
    harness.wait("all to be attached by this agent alone", |harness| {
        runs(harness).len() == 1 && harness.status().is_ok_and(|status| status.all_attached())
    })?;
    Ok(())
}

fn there_and_back() -> Result<()> {
    let [usual, next] = versions()?;
    let mut harness = start("upgrade", strict())?;
    let load = Load::start(&harness)?;
    let mut seen = BTreeSet::new();
    for (kill, agent) in [(false, &next), (false, &usual), (true, &next), (true, &usual), (false, &next)] {
        exchange(&mut harness, agent, kill)?;
        let version = harness.status()?.agent;
        ensure!(version.version.ends_with(OTHERWISE) == (agent == &next), "{}: {}", agent.display(), version.version);
        seen.insert(version.abi_version);
        tells(&harness)?;
    }
    ensure!(seen.len() == 2, "both have the same number for their layouts: {seen:?}");
    println!("    5 exchanges between two layouts; {}", load.end()?);
    let _servers = serve(&harness)?;
    is_in_force(&harness, "after the last exchange")?;
    ensure!(harness.status()?.agent.repairs == 0, "it put something back that nobody took");
    Ok(())
}

/// Records are right: who, whom, by which rule, by which program; a number read from the wrong place would be another's.
fn tells(harness: &Harness) -> Result<()> {
    let mark = Mark::now();
    let refused = harness.world().attempt(Web, &format!("tcp-connect --to {}", SocketAddr::new(Db.v4(), 80)))?;
    ensure!(refused.result == "EPERM", "{refused:?}");
    let passed = harness.world().attempt(Web, &format!("tcp-connect --to {}", SocketAddr::new(Api.v4(), 81)))?;
    ensure!(passed.result == "ok", "{passed:?}");
    let of = |record: &Record, peer: &str, rule: &str| {
        let by = record.process.as_ref().map_or("", |process| process.executable.as_str());
        let ends = (record.local.workload.as_str(), record.remote.workload.as_str());
        ends == ("shop/web", peer)
            && record.policy.ends_with("/web-out")
            && record.rule == rule
            && by.ends_with("weir-probe")
    };
    harness.record(mark, "the refusal", |record| {
        record.is("deny", "connect") && of(record, "shop/db", "default egress")
    })?;
    harness.record(mark, "the opening", |record| {
        record.is("allow", "sock_ops") && of(record, "shop/api", "egress[0] api")
    })?;
    harness.record(mark, "the close", |record| record.kind == "close" && of(record, "shop/api", "egress[0] api"))?;
    Ok(())
}

fn spooled() -> Result<()> {
    let [usual, next] = versions()?;
    let mut harness = start("upgrade-spool", Options::default())?;
    let refused = format!("tcp-connect --to {}", SocketAddr::new(Db.v4(), 80));
    for (older, newer) in [(&usual, &next), (&next, &usual)] {
        exchange(&mut harness, older, false)?;
        let mark = Mark::now();
        harness.stop_collector()?;
        let attempt = harness.world().attempt(Web, &refused)?;
        ensure!(attempt.result == "EPERM", "{attempt:?}");
        harness.stop_agent()?;
        harness.start_collector()?;
        harness.start_agent_of(newer)?;
        harness.record(mark, "what was refused while the other version ran", |record| {
            record.is("deny", "connect") && record.local.workload == "shop/web"
        })?;
    }
    Ok(())
}
