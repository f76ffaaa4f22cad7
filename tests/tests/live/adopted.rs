//! Lives: weir-tests, live tests of what is recorded of connections that are older than the programs, or than the agent.
//! Called by: main.
//! May touch: worlds of its own, whose agent it takes away and starts.
//! Never: compares with anything but what the processes counted themselves.

use std::net::SocketAddr;
use std::thread::sleep;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use weir_tests::documents::{document, workloads};
use weir_tests::harness::ctl::Mark;
use weir_tests::harness::{Harness, METRICS, Options, Record};
use weir_tests::process::{Running, slowness};
use weir_tests::world::Who::{Api, Db, Web};
use weir_tests::world::World;

use crate::cutting::{hold, settled};
use crate::delivery::FROM_WEB;
use crate::metrics::fetch;
use crate::services::SETTLED;
use crate::test;

pub fn trials() -> Vec<Trial> {
    vec![
        test("a_connection_older_than_enforcement_is_told_of_at_its_end_with_its_bytes", older_than_the_programs),
        test("a_connection_older_than_its_agent_is_told_of_once_at_its_end", older_than_the_agent),
    ]
}

/// Bytes of a transfer that lasts longer than an agent takes to start.
const BYTES: u64 = 2_000_000;
/// The kernel's counters hold SYN and FIN on some paths.
const OFF_BY: u64 = 1;

/// Into api from web without a record; from db not at all.
const QUIET: &str = "
  workloadSelector: {matchLabels: {app: api}}
  policyTypes: [Ingress]
  ingress: [{name: quiet, log: false, from: [{workloadSelector: {matchLabels: {app: web}}}]}]";

fn start(label: &str) -> Result<Harness> {
    let options = Options { log: "info", all_metrics: true, ..Options::default() };
    let mut harness = Harness::start(World::new(label)?, options)?;
    harness
        .apply(&[workloads(), document("Policy", "db-in", FROM_WEB), document("Policy", "api-in", QUIET)].concat())?;
    harness
        .wait("all workloads to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
    Ok(harness)
}

fn transfer(harness: &Harness, to: SocketAddr) -> Result<Running> {
    let pace = 80 * slowness();
    let line = format!("tcp-connect --to {to} --bytes {BYTES} --pace-ms {pace} --timeout-ms 30000");
    Ok(harness.world().start("transfer", harness.world().probe_line(Web, &line))?)
}

/// The closes of a port's connections at a workload.
fn closes(records: &[Record], workload: &str, port: u16) -> Vec<Record> {
    let of_port = |record: &&Record| record.local.port == port || record.remote.port == port;
    let close = |record: &&Record| record.kind == "close" && record.local.workload == workload;
    records.iter().filter(close).filter(of_port).cloned().collect()
}

/// Waits for the transfers and their closes, and says what was recorded until some time after that: a second close would be there by then.
fn ended(harness: &Harness, transfers: Vec<Running>, mark: Mark) -> Result<(Vec<u16>, Vec<Record>)> {
    let mut ports = Vec::new();
    for transfer in transfers {
        let attempt = transfer.attempt()?;
        ensure!(attempt.result == "ok" && attempt.received == BYTES, "{attempt:?}");
        let port = attempt.local.map_or(0, |local| local.port());
        harness.record(mark, "the close", |record| {
            record.kind == "close" && record.local.workload == "shop/web" && record.local.port == port
        })?;
        ports.push(port);
    }
    sleep(SETTLED * slowness());
    Ok((ports, harness.records_since(mark)?))
}

/// Whether it is the one close of a whole transfer, by what lets it pass now, and of nobody that could not be known.
fn is_whole(closes: &[Record], direction: &str, by: (&str, &str)) -> Result<()> {
    let [close] = closes else { anyhow::bail!("{} closes: {closes:?}", closes.len()) };
    let carried = [close.bytes_sent, close.bytes_received].iter().all(|bytes| bytes.abs_diff(BYTES) <= OFF_BY);
    ensure!(carried && close.packets_sent > 0 && close.packets_received > 0, "{close:?}");
    ensure!((&*close.verdict, &*close.direction, close.count) == ("allow", direction, 0), "{close:?}");
    ensure!((&*close.policy, &*close.rule) == by && close.process.is_none(), "{close:?}");
    Ok(())
}

fn older_than_the_programs() -> Result<()> {
    let mut harness = start("adopted")?;
    harness.detach()?;
    let ends = [(Db.v4(), 5432), (Db.v6(), 5432), (Api.v4(), 80)].map(SocketAddr::from);
    let _servers = [
        harness.world().serve(Db, "tcp-serve --listen [::]:5432")?,
        harness.world().serve(Api, "tcp-serve --listen 0.0.0.0:80")?,
    ];
    let transfers = ends.into_iter().map(|to| transfer(&harness, to)).collect::<Result<Vec<_>>>()?;
    let forbidden = hold(&harness, Db, &format!("tcp-hold --to {}:80", Api.v4()))?;
    let mark = Mark::now();
    harness.start_agent()?;
    settled(&mut harness)?;
    ensure!(forbidden.withdrawn()?.living == 0, "what the policy forbids goes on");
    let (ports, records) = ended(&harness, transfers, mark)?;
    let [v4, v6, quiet] = ports[..] else { anyhow::bail!("{ports:?}") };
    for port in [v4, v6] {
        is_whole(&closes(&records, "shop/db", port), "ingress", ("Policy/shop/db-in", "ingress[0] from-web"))?;
        is_whole(&closes(&records, "shop/web", port), "egress", ("", ""))?;
    }
    is_whole(&closes(&records, "shop/web", quiet), "egress", ("", ""))?;
    // What the kernel drops by itself, such as a segment that came twice on a slow machine, is no rule's.
    let of_quiet = |record: &&Record| {
        record.local.workload == "shop/api" && record.remote.port == quiet && record.hook != "kernel"
    };
    let told: Vec<&Record> = records.iter().filter(of_quiet).collect();
    ensure!(told.is_empty(), "a rule that wants no record has one: {told:?}");
    // What is cut ends too, and carried nothing.
    let cut: Vec<&Record> = records.iter().filter(|record| record.kind == "cut").collect();
    let [cut] = cut[..] else { anyhow::bail!("{} cuts: {cut:?}", cut.len()) };
    let [close] = &closes(&records, "shop/api", cut.remote.port)[..] else { anyhow::bail!("no close of {cut:?}") };
    ensure!(close.verdict == "deny" && close.rule == "default ingress" && close.bytes_received <= OFF_BY, "{close:?}");
    // What it costs, for who reads along.
    let metrics = fetch(&harness, METRICS, "/metrics")?;
    let of_it = |line: &&str| line.starts_with("weir_program_run") && line.contains("\"adopted_close\"");
    metrics.lines().filter(of_it).for_each(|line| println!("    {line}"));
    crate::stage::agrees(&harness)
}

/// What an agent before this one has seen open is adopted too; its end is told of by the program that was there all the time.
fn older_than_the_agent() -> Result<()> {
    let mut harness = start("adopted-again")?;
    let _server = harness.world().serve(Db, "tcp-serve --listen 0.0.0.0:5432")?;
    let mark = Mark::now();
    let transfers = vec![transfer(&harness, SocketAddr::new(Db.v4(), 5432))?];
    let opened = |record: &Record| record.is("allow", "ingress") && record.local.workload == "shop/db";
    harness.record(mark, "the opening", opened)?;
    harness.kill_agent()?;
    harness.start_agent()?;
    settled(&mut harness)?;
    let (ports, records) = ended(&harness, transfers, mark)?;
    let [port] = ports[..] else { anyhow::bail!("{ports:?}") };
    is_whole(&closes(&records, "shop/db", port), "ingress", ("Policy/shop/db-in", "ingress[0] from-web"))?;
    is_whole(&closes(&records, "shop/web", port), "egress", ("", ""))
}
