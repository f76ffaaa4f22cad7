//! Lives: weir-tests, live tests of how the programs start and stop.
//! Called by: main.
//! May touch: the stage, whose agent and collector it stops and starts.
//! Never: leaves the stage without both running.

use std::time::Duration;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use weir_tests::documents::{document, workload, workloads};
use weir_tests::harness::ctl::Mark;
use weir_tests::harness::{Harness, Options, STOP_WITHIN};
use weir_tests::process::SOON;
use weir_tests::report::Attempt;
use weir_tests::world::Who::{self, Api, Client, Db, Web};
use weir_tests::world::World;

use crate::rows::A_WHILE;
use crate::stage::{agrees, on_stage};
use crate::test;

pub fn trials() -> Vec<Trial> {
    vec![
        on_stage("an_agent_refuses_to_start_beside_another_and_harms_nothing", twice),
        on_stage("records_made_while_the_collector_is_away_arrive_once_it_is_back", collector_away),
        on_stage("sigterm_stops_agent_and_collector_cleanly_and_quickly", stops),
        on_stage("a_cgroup_that_appears_later_is_attached_without_being_told", late_cgroup),
        test("an_interface_without_native_xdp_is_attached_in_generic_mode_with_a_notice", generic),
        test("a_process_of_no_known_workload_passes_where_the_default_is_allow", || unknown("allow", "ok")),
        test("a_process_of_no_known_workload_is_refused_where_the_default_is_deny", || unknown("deny", "EPERM")),
    ]
}

fn close_web(harness: &mut Harness) -> Result<u64> {
    let spec = "\n  workloadSelector: {matchLabels: {app: web}}\n  policyTypes: [Egress]\n  defaultAction: deny";
    let generation = harness.apply(&format!("{}{}", workloads(), document("Policy", "web-out", spec)))?;
    harness
        .wait("all workloads to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
    Ok(generation)
}

fn web_is_refused(harness: &Harness) -> Result<()> {
    let attempt = harness.world().attempt(Web, "tcp-connect --to 10.77.0.20:80")?;
    ensure!(attempt.result == "EPERM", "not enforced: {attempt:?}");
    Ok(())
}

fn twice(harness: &mut Harness) -> Result<()> {
    let generation = close_web(harness)?;
    let mut second = harness.world().start("second-agent", harness.agent_command()?)?;
    let status = second.wait(SOON)?;
    ensure!(!status.success(), "a second agent started");
    let log = second.log_tail(20);
    ensure!(log.to_lowercase().contains("already") || log.contains("lock"), "it does not say why:\n{log}");
    ensure!(harness.status()?.agent.generation == generation, "the first agent was disturbed");
    web_is_refused(harness)
}

fn collector_away(harness: &mut Harness) -> Result<()> {
    close_web(harness)?;
    agrees(harness)?;
    harness.stop_collector()?;
    let mark = Mark::now();
    let attempt = harness.world().attempt(Web, "tcp-connect --to 10.77.0.20:80")?;
    ensure!(attempt.result == "EPERM", "{attempt:?}");
    // Nothing must happen for a moment: the record has nowhere to go.
    std::thread::sleep(A_WHILE);
    harness.start_collector()?;
    harness.record(mark, "the refusal while nobody listened", |record| {
        record.is("deny", "connect") && record.process.as_ref().is_some_and(|process| process.pid == attempt.pid)
    })?;
    // The new collector has not seen what the old one took over, so their sums cannot agree any more: a fresh agent.
    harness.stop_agent()?;
    Ok(harness.start_agent()?)
}

fn stops(harness: &mut Harness) -> Result<()> {
    close_web(harness)?;
    let took = [harness.stop_agent()?, harness.stop_collector()?];
    ensure!(took.iter().all(|took: &Duration| *took < STOP_WITHIN), "{took:?}");
    ensure!(!harness.agent_socket().exists() && !harness.collector_socket().exists(), "a socket was left");
    harness.start_collector()?;
    harness.start_agent()?;
    close_web(harness)?;
    web_is_refused(harness)
}

fn late_cgroup(harness: &mut Harness) -> Result<()> {
    let late = "---\napiVersion: weir.dev/v1alpha1\nkind: Workload\nmetadata: {name: late, namespace: shop, labels: {app: web}}\n\
                spec: {cgroup: late}\n";
    close_web(harness)?;
    harness.add(late)?;
    let state = |harness: &Harness| {
        let status = harness.status().ok()?;
        status
            .agent
            .workloads
            .into_iter()
            .find(|workload| workload.workload == "shop/late")
            .map(|workload| workload.state)
    };
    ensure!(state(harness).as_deref() == Some("waiting"), "{:?}", state(harness));
    let cgroup = harness.world().managed().join("late");
    weir_tests::world::cgroup::create(&cgroup)?;
    harness.wait("the late cgroup to be attached", |harness| state(harness).as_deref() == Some("attached"))?;
    let mut command = harness.world().probe(Client);
    // The last --cgroup would be refused as a repetition; enter by way of a second probe.
    command.args(["exec", "--"]).arg(weir_tests::process::program("weir-probe")).arg("--cgroup").arg(&cgroup);
    command.args(["tcp-connect", "--to", "10.77.0.20:80"]);
    let attempt = harness.world().start("late-client", command)?.attempt()?;
    ensure!(attempt.result == "EPERM", "{attempt:?}");
    Ok(weir_tests::world::cgroup::remove(&cgroup)?)
}

/// A process in a managed cgroup that no workload names, beside one that is known.
fn unknown(unknown: &'static str, fate: &str) -> Result<()> {
    let mut harness = Harness::start(World::new("unknown")?, Options { unknown, ..Options::default() })?;
    harness.apply(&[workload(Api), workload(Db)].concat())?;
    harness
        .wait("all workloads to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
    let _server = harness.world().serve(Api, "tcp-serve --listen [::]:80")?;
    for to in ["10.77.0.20:80", "[fd77:0:0:14::1]:80"] {
        let mark = Mark::now();
        let (known, other) = (attempt(&harness, Db, to)?, attempt(&harness, Web, to)?);
        ensure!(known.result == "ok" && other.result == fate, "{to}: known {known:?}, unknown {other:?}");
        if fate != "ok" {
            harness.record(mark, "an unknown workload", |record| {
                record.is("deny", "connect")
                    && record.reason == "unknown_workload"
                    && record.process.as_ref().is_some_and(|process| process.pid == other.pid)
            })?;
        }
    }
    let (mark, server) = (Mark::now(), harness.world().serve(Web, "tcp-serve --listen [::]:81")?);
    let caller = attempt(&harness, Client, "10.77.0.10:81")?;
    let accepted = server.accepted();
    ensure!((caller.result == "ok") == (fate == "ok"), "to an unknown workload: {caller:?}");
    ensure!((accepted > 0) == (fate == "ok"), "{accepted} connections reached an unknown workload");
    if fate != "ok" {
        harness.record(mark, "a caller of an unknown workload", |record| {
            record.is("deny", "ingress") && record.reason == "unknown_workload"
        })?;
    }
    agrees(&harness)
}

fn generic() -> Result<()> {
    let interfaces = vec!["v-web".to_owned(), "br0".to_owned()];
    let harness = Harness::start(World::new("generic")?, Options { interfaces, ..Options::default() })?;
    let status = harness.status()?;
    let found: Vec<_> = status.agent.interfaces.iter().map(|i| (i.name.as_str(), i.mode.as_str())).collect();
    ensure!(found == [("v-web", "generic"), ("br0", "generic")], "{found:?}");
    let notice = |interface: &&weir_tests::harness::status::Interface| interface.detail.contains("refused native");
    ensure!(status.agent.interfaces.iter().filter(notice).count() == 1, "{:?}", status.agent.interfaces);
    ensure!(harness.logs().contains("native XDP is not possible here"), "no notice in the log:\n{}", harness.logs());
    Ok(())
}

fn attempt(harness: &Harness, who: Who, to: &str) -> Result<Attempt> {
    Ok(harness.world().attempt(who, &format!("tcp-connect --to {to}"))?)
}
