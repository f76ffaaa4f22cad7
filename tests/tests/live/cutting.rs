//! Lives: weir-tests, live tests of what becomes of living connections when the policy changes (adversarial 57, 65, 66).
//! Called by: main.
//! May touch: the stage.
//! Never: believes one end: both processes must have seen the same, and a record must say why.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use weir_tests::documents::{document, workloads};
use weir_tests::harness::Harness;
use weir_tests::harness::ctl::Mark;
use weir_tests::process::{Running, program};
use weir_tests::report::Withdrawn;
use weir_tests::world::Who::{self, Api, Client, Db, Web};
use weir_tests::world::{WorldError, cgroup, netns};

use crate::stage::on_stage;

pub fn trials() -> Vec<Trial> {
    vec![
        on_stage("adversarial 65: a_connection_that_a_change_forbids_is_cut_at_both_ends_and_no_other", both_ends),
        on_stage("a_connected_datagram_socket_that_a_change_forbids_gets_an_error", datagrams),
        on_stage("adversarial 65: a_policy_that_drains_lets_living_connections_go_on_and_refuses_new_ones", drains),
        on_stage("adversarial 66: a_transfer_that_a_change_forbids_stops_and_goes_on_anew_when_allowed", transfer),
        on_stage("a_dry_run_lists_the_connections_that_would_be_cut_and_cuts_none", dry_run),
        on_stage("a_rule_that_expires_or_is_deleted_ends_what_it_had_allowed", deleted),
        on_stage("connections_older_than_enforcement_are_adopted_or_cut", older),
        on_stage("adversarial 48: connections_of_a_cgroup_that_was_deleted_are_cut_too", orphaned),
    ]
}

/// Families in which a client can call.
const ADDRESSES: [&str; 3] = ["10.77.0.20:80", "[fd77:0:0:14::1]:80", "[::ffff:10.77.0.20]:80"];

/// api lets in `app` and the world outside; nobody else.
pub fn only_from(app: &str, more: &str) -> String {
    let spec = format!(
        "
  workloadSelector: {{matchLabels: {{app: api}}}}
  policyTypes: [Ingress]
  defaultAction: deny
  {more}
  ingress:
  - {{name: let-in, from: [{{workloadSelector: {{matchLabels: {{app: {app}}}}}}}]}}
  - {{name: visitors, from: [{{entity: world}}]}}"
    );
    document("Policy", "api-in", &spec)
}

/// web may call nobody.
fn shut_in(more: &str) -> String {
    let spec = format!(
        "\n  workloadSelector: {{matchLabels: {{app: web}}}}\n  policyTypes: [Egress]\n  defaultAction: deny\n  {more}"
    );
    document("Policy", "web-out", &spec)
}

/// Everything open, everybody attached.
pub fn open(harness: &mut Harness) -> Result<()> {
    harness.apply(&workloads())?;
    harness
        .wait("all workloads to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
    settled(harness)
}

/// A sweep by the generation in force has found nothing left to cut.
pub fn settled(harness: &mut Harness) -> Result<()> {
    Ok(harness.wait("a clean sweep", |harness| harness.status().is_ok_and(|status| status.clean()))?)
}

pub fn hold(harness: &Harness, who: Who, line: &str) -> Result<Running> {
    let mut client = harness.world().start(&format!("{}-holds", who.name()), harness.world().probe_line(who, line))?;
    client.holds()?;
    Ok(client)
}

fn hold_all(harness: &Harness, who: Who) -> Result<Vec<Running>> {
    ADDRESSES.iter().map(|to| hold(harness, who, &format!("tcp-hold --to {to} --connections 2"))).collect()
}

fn withdrawn(clients: Vec<Running>) -> Result<Withdrawn> {
    let mut sum = Withdrawn::default();
    for client in clients {
        let one = client.withdrawn()?;
        sum.held += one.held;
        sum.living += one.living;
        for (result, count) in one.ended {
            *sum.ended.entry(result).or_default() += count;
        }
    }
    Ok(sum)
}

/// How many ended how.
fn ended(seen: &Withdrawn) -> Vec<(&str, u64)> {
    seen.ended.iter().map(|(result, count)| (result.as_str(), *count)).collect()
}

fn both_ends(harness: &mut Harness) -> Result<()> {
    // The end whose own policy forbids is cut; the other is told by a reset.
    let rows = [
        (only_from("db", ""), "ECONNRESET", "ECONNABORTED", ("Policy/shop/api-in", "default ingress", "shop/api")),
        (shut_in(""), "ECONNABORTED", "ECONNRESET", ("Policy/shop/web-out", "default egress", "shop/web")),
    ];
    for (policy, at_client, at_server, (by, rule, local)) in rows {
        open(harness)?;
        let server = harness.world().serve(Api, "tcp-keep --listen [::]:80")?;
        let forbidden = hold_all(harness, Web)?;
        let others = [hold_all(harness, Db)?, hold_all(harness, Client)?].into_iter().flatten().collect();
        let mark = Mark::now();
        let generation = harness.add(&policy)?;
        settled(harness)?;
        let (forbidden, others) = (withdrawn(forbidden)?, withdrawn(others)?);
        let server = server.withdrawn()?;
        ensure!(ended(&forbidden) == [(at_client, 6)] && forbidden.living == 0, "{by}: {forbidden:?}");
        ensure!(others.living == 12 && others.ended.is_empty(), "{by}: others were cut: {others:?}");
        ensure!(server.ended.get(at_server) == Some(&6), "{by}: the server saw {server:?}");
        let record = harness.record(mark, "a cut", |record| record.kind == "cut" && record.local.workload == local)?;
        let said = (record.policy.as_str(), record.rule.as_str(), record.verdict.as_str(), record.generation);
        ensure!(said == (by, rule, "deny", generation) && record.count == 0, "{record}");
        let cuts = harness.records_since(mark)?.into_iter().filter(|record| record.kind == "cut").count();
        ensure!(cuts == 6, "{cuts} records of 6 cuts");
    }
    Ok(())
}

/// Bytes that have left the namespace of `who` until now.
fn sent(harness: &Harness, who: Who) -> Result<u64> {
    let text = netns::inside(&harness.world().netns(who), || {
        let file = Path::new("/proc/thread-self/net/dev");
        std::fs::read_to_string(file).map_err(|source| WorldError::File {
            action: "reading",
            path: file.to_owned(),
            source,
        })
    })?;
    // The name, eight figures of what came, then the bytes that left (proc_pid_net(5)).
    let interfaces = text.lines().filter_map(|line| line.split_once(':'));
    Ok(interfaces.filter_map(|(_, figures)| figures.split_whitespace().nth(8)?.parse::<u64>().ok()).sum())
}

/// Ten gigabytes, which take longer than the change.
fn transfer(harness: &mut Harness) -> Result<()> {
    for policy in [only_from("db", ""), shut_in("")] {
        open(harness)?;
        let _server = harness.world().serve(Api, "tcp-serve --listen [::]:80")?;
        for to in ADDRESSES {
            let line = format!("tcp-connect --to {to} --bytes 10000000000 --timeout-ms 20000");
            let before = sent(harness, Web)?;
            let client = harness.world().start("transfer", harness.world().probe_line(Web, &line))?;
            harness.wait("the transfer to be under way", |harness| {
                sent(harness, Web).is_ok_and(|now| now > before + 10_000_000)
            })?;
            harness.add(&policy)?;
            let cut = client.attempt()?;
            ensure!(["ECONNRESET", "ECONNABORTED", "EPIPE"].contains(&cut.result.as_str()), "{to}: {cut:?}");
            ensure!(cut.received > 1_000_000 && cut.elapsed_ms < 15_000.0, "under way, and not waited for: {cut:?}");
            open(harness)?;
            let again = harness.world().attempt(Web, &format!("tcp-connect --to {to} --bytes 10000000"))?;
            ensure!(again.result == "ok" && again.received == 10_000_000, "allowed again: {again:?}");
        }
    }
    Ok(())
}

fn datagrams(harness: &mut Harness) -> Result<()> {
    for to in ["10.77.0.20:90", "[fd77:0:0:14::1]:90"] {
        open(harness)?;
        let _server = harness.world().serve(Api, "udp-serve --listen [::]:90")?;
        let client = hold(harness, Web, &format!("tcp-hold --udp --to {to} --connections 3"))?;
        let other = hold(harness, Db, &format!("tcp-hold --udp --to {to}"))?;
        harness.add(&shut_in(""))?;
        settled(harness)?;
        let (client, other) = (client.withdrawn()?, other.withdrawn()?);
        ensure!(ended(&client) == [("ECONNABORTED", 3)], "{to}: {client:?}");
        ensure!(other.living == 1, "{to}: {other:?}");
    }
    Ok(())
}

fn drains(harness: &mut Harness) -> Result<()> {
    open(harness)?;
    let server = harness.world().serve(Api, "tcp-keep --listen [::]:80")?;
    let held = hold_all(harness, Web)?;
    harness.add(&shut_in("onChange: drain"))?;
    settled(harness)?;
    let connections = harness.status()?.agent.connections;
    ensure!(connections.draining == 6, "{connections:?}");
    let refused = harness.world().attempt(Web, "tcp-connect --to 10.77.0.20:80")?;
    ensure!(refused.result == "EPERM", "a new one: {refused:?}");
    let held = withdrawn(held)?;
    ensure!(held.living == 6 && held.ended.is_empty(), "{held:?}");
    drop(server);
    Ok(())
}

fn dry_run(harness: &mut Harness) -> Result<()> {
    open(harness)?;
    let _server = harness.world().serve(Api, "tcp-keep --listen [::]:80")?;
    let held = hold_all(harness, Web)?;
    let visitors = hold_all(harness, Client)?;
    let policy = only_from("db", "");
    let said = harness.ctl(&["apply", "--dry-run", "-f", "-"], &policy)?.ok()?;
    let lines: Vec<&str> = said.lines().filter(|line| line.starts_with("would cut ")).collect();
    ensure!(lines.len() == 6 && said.contains("6 living connections would be cut"), "{said}");
    let named = |line: &&&str| line.contains("(shop/api, ingress) by Policy/shop/api-in default ingress");
    ensure!(lines.iter().filter(named).count() == 6, "{said}");
    ensure!(lines.iter().any(|line| line.contains("TCP 10.77.0.10:") && line.contains("-> 10.77.0.20:80")), "{said}");
    let json: serde_json::Value = harness.ctl(&["apply", "--dry-run", "-o", "json", "-f", "-"], &policy)?.json()?;
    let listed = json.get("wouldCut").and_then(|list| list.as_array()).map(Vec::len);
    ensure!(json.get("wouldCutCount").is_some_and(|count| *count == 6) && listed == Some(6), "{json}");
    let (held, visitors) = (withdrawn(held)?, withdrawn(visitors)?);
    ensure!(held.living == 6 && visitors.living == 6, "a dry run cut something: {held:?} {visitors:?}");
    Ok(())
}

fn deleted(harness: &mut Harness) -> Result<()> {
    open(harness)?;
    let _server = harness.world().serve(Api, "tcp-keep --listen [::]:80")?;
    harness.add(&only_from("db", ""))?;
    let extra = "
  workloadSelector: {matchLabels: {app: api}}
  policyTypes: [Ingress]
  ingress: [{name: guest, from: [{workloadSelector: {matchLabels: {app: web}}}]}]";
    harness.add(&document("Policy", "api-guest", extra))?;
    let held = hold_all(harness, Web)?;
    let would = harness.ctl(&["delete", "policy", "shop/api-guest", "--dry-run"], "")?.ok()?;
    ensure!(would.contains("6 living connections would be cut"), "{would}");
    harness.ctl(&["delete", "policy", "shop/api-guest"], "")?.ok()?;
    settled(harness)?;
    let held = withdrawn(held)?;
    ensure!(ended(&held) == [("ECONNRESET", 6)], "deleted: {held:?}");
    // The same by time.
    let end = jiff::Timestamp::now() + std::time::Duration::from_secs(3);
    let expiring = extra.replace("{name: guest,", &format!("{{name: guest, expiresAt: {end},"));
    let generation = harness.add(&document("Policy", "api-guest", &expiring))?;
    let held = hold_all(harness, Web)?;
    harness.wait("the rule to expire", |harness| {
        harness.status().is_ok_and(|status| status.agent.generation > generation && status.clean())
    })?;
    let held = withdrawn(held)?;
    ensure!(ended(&held) == [("ECONNRESET", 6)], "expired: {held:?}");
    Ok(())
}

/// The connections are made while nothing is in force.
fn older(harness: &mut Harness) -> Result<()> {
    open(harness)?;
    harness.add(&only_from("db", ""))?;
    harness.detach()?;
    let server = harness.world().serve(Api, "tcp-keep --listen [::]:80")?;
    let (forbidden, allowed) = (hold_all(harness, Web)?, hold_all(harness, Db)?);
    let mark = Mark::now();
    harness.start_agent()?;
    settled(harness)?;
    let connections = harness.status()?.agent.connections;
    let (forbidden, allowed) = (withdrawn(forbidden)?, withdrawn(allowed)?);
    ensure!(ended(&forbidden) == [("ECONNRESET", 6)], "{forbidden:?}");
    ensure!(allowed.living == 6, "{allowed:?}");
    // Both ends of the six are here.
    ensure!(connections.cut == 6 && connections.adopted == 12, "{connections:?}");
    let adopted = harness
        .record(mark, "an adoption", |record| record.kind == "adopted" && record.local.workload == "shop/api")
        .context("of the server's side")?;
    ensure!(adopted.remote.workload == "shop/db" && adopted.direction == "ingress", "{adopted}");
    drop(server);
    Ok(())
}

/// A process that has moved on keeps its sockets; the cgroup they were made in, one below its workload's, is gone.
fn orphaned(harness: &mut Harness) -> Result<()> {
    let outer = harness.world().managed().join("orphan");
    let inner = outer.join("container");
    [&outer, &inner].into_iter().try_for_each(|path| cgroup::create(path))?;
    let labels = "metadata: {name: orphan, namespace: shop, labels: {app: orphan}}";
    let orphan =
        document("Workload", "orphan", "{cgroup: orphan}").replace("metadata: {name: orphan, namespace: shop}", labels);
    harness.apply(&format!("{}{orphan}", workloads()))?;
    is(harness, "attached")?;
    settled(harness)?;
    let server = harness.world().serve(Api, "tcp-keep --listen [::]:80")?;
    let mut command = std::process::Command::new(program("weir-probe"));
    command.arg("--netns").arg(harness.world().netns(Web)).arg("--cgroup").arg(&inner);
    command.args(["tcp-hold", "--to", "10.77.0.20:80", "--connections", "3"]);
    let mut client = harness.world().start("orphan", command)?;
    client.holds()?;
    let elsewhere = harness.world().cgroup(Db).join("cgroup.procs");
    std::fs::write(elsewhere, client.pid().to_string()).context("moving the process")?;
    cgroup::remove(&outer)?;
    is(harness, "waiting")?;
    let mark = Mark::now();
    let spec = "\n  workloadSelector: {matchLabels: {app: orphan}}\n  policyTypes: [Egress]\n  defaultAction: deny";
    let generation = harness.add(&document("Policy", "orphan-out", spec))?;
    settled(harness)?;
    let seen = client.withdrawn()?;
    ensure!(ended(&seen) == [("ECONNABORTED", 3)], "{seen:?}");
    let record = harness.record(mark, "a cut", |record| record.kind == "cut" && record.generation == generation)?;
    ensure!(record.local.workload == "shop/orphan" && record.policy == "Policy/shop/orphan-out", "{record}");
    drop(server);
    Ok(())
}

fn is(harness: &mut Harness, state: &str) -> Result<()> {
    let found = |harness: &Harness| {
        let workloads = harness.status().map(|status| status.agent.workloads).unwrap_or_default();
        workloads.iter().any(|workload| workload.workload == "shop/orphan" && workload.state == state)
    };
    Ok(harness.wait(&format!("orphan to be {state}"), found)?)
}
