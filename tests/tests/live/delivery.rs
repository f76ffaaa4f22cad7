//! Lives: weir-tests, live tests of what becomes of records while the way to the collector is bad (adversarial 41, 42, 50, 94, 95).
//! Called by: main.
//! May touch: worlds of its own, whose agents and collectors it stops, holds, kills and starves.
//! Never: takes the agent's word for what was delivered: clients count what they did, and the collector's records are compared with it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use weir_tests::documents::{document, workload, workloads};
use weir_tests::harness::ctl::Mark;
use weir_tests::harness::{Harness, Options, Record, Status};
use weir_tests::process::SOON;
use weir_tests::world::Who::{Db, Web};
use weir_tests::world::World;

use crate::stage::agrees;
use crate::test;

/// Refused tries of one kind of trouble.
const TRIES: usize = 20;

pub fn trials() -> Vec<Trial> {
    vec![
        test(
            "adversarial 94: a_collector_that_hangs_dies_or_answers_garbage_gets_every_record_once_it_is_back",
            bad_collector,
        ),
        test(
            "adversarial 95: a_collector_whose_disk_is_full_acknowledges_nothing_and_nothing_is_lost",
            collectors_disk,
        ),
        test("adversarial 95: a_full_disk_costs_no_record_that_memory_holds_and_is_said", full_disk),
        test("an_agent_that_was_killed_leaves_its_records_to_the_next_which_says_that_there_is_a_gap", killed),
        test("adversarial 41: with_every_buffer_on_the_way_full_the_sum_still_closes_and_verdicts_hold", all_full),
        test("a_connection_that_lives_on_reports_what_it_has_come_to", progress),
        test("a_connection_older_than_the_agent_reports_what_it_has_come_to", progress_of_older),
        test("adversarial 42: one_workload_floods_and_the_others_records_arrive", one_floods),
        test("adversarial 42: one_workload_fills_its_share_of_the_ring_and_no_more_while_nobody_reads", ring_share),
    ]
}

fn start(name: &str, options: Options) -> Result<Harness> {
    let mut harness = Harness::start(World::new(name)?, options)?;
    let closed = |who: &str| {
        let spec = format!(
            "\n  workloadSelector: {{matchLabels: {{app: {who}}}}}\n  policyTypes: [Egress]\n  defaultAction: deny"
        );
        document("Policy", &format!("{who}-out"), &spec)
    };
    harness.apply(&[workloads(), closed("web"), closed("db")].concat())?;
    harness
        .wait("all workloads to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
    agrees(&harness)?;
    Ok(harness)
}

/// Tries that are refused, whatever becomes of records; who tried.
fn refused(harness: &Harness) -> Result<Vec<u32>> {
    let attempt = |_| {
        let attempt = harness.world().attempt(Web, "tcp-connect --to 10.77.0.20:80")?;
        ensure!(attempt.result == "EPERM", "{attempt:?}");
        Ok(attempt.pid)
    };
    (0..TRIES).map(attempt).collect()
}

/// Waits until each of these is in exactly one record of a refusal.
fn each_once(harness: &Harness, mark: Mark, pids: &[u32]) -> Result<Vec<Record>> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let records = harness.records_since(mark).unwrap_or_default();
        let mut seen: BTreeMap<u32, usize> = BTreeMap::new();
        let refusals = records.iter().filter(|record| record.is("deny", "connect"));
        for process in refusals.filter_map(|record| record.process.as_ref()) {
            *seen.entry(process.pid).or_default() += 1;
        }
        if pids.iter().all(|pid| seen.contains_key(pid)) {
            ensure!(pids.iter().all(|pid| seen.get(pid) == Some(&1)), "a refusal was delivered twice: {seen:?}");
            return Ok(records);
        }
        ensure!(Instant::now() < deadline, "{} of {} arrived\n{}", seen.len(), pids.len(), harness.logs());
        sleep(Duration::from_millis(50));
    }
}

/// Answers whoever connects with bytes that are no HTTP/2, until dropped.
struct Garbage {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU32>,
    thread: Option<thread::JoinHandle<()>>,
    path: PathBuf,
}

impl Garbage {
    fn start(path: PathBuf) -> Result<Self> {
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(&path)?;
        listener.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let served = Arc::new(AtomicU32::new(0));
        let (told, count) = (Arc::clone(&stop), Arc::clone(&served));
        let thread = thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                if let Ok((mut stream, _)) = listener.accept() {
                    count.fetch_add(1, Ordering::Relaxed);
                    let _ = stream.set_read_timeout(Some(Duration::from_millis(50)));
                    let _ = stream.read(&mut [0; 64]);
                    let _ = stream.write_all(&[0xa5; 4096]);
                }
                sleep(Duration::from_millis(5));
            }
        });
        Ok(Self { stop, served, thread: Some(thread), path })
    }

    /// Ends it, once it was asked a few times.
    fn end(mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.served.load(Ordering::Relaxed) < 2 {
            ensure!(Instant::now() < deadline, "the garbage was not asked for: nothing was tested");
            sleep(Duration::from_millis(20));
        }
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(thread::JoinHandle::join);
        let _ = fs::remove_file(&self.path);
        Ok(())
    }
}

fn bad_collector() -> Result<()> {
    let mut harness = start("bad-collector", Options::default())?;
    let mark = Mark::now();
    harness.signal_collector(Signal::SIGSTOP);
    let hung = refused(&harness);
    harness.signal_collector(Signal::SIGCONT);
    let hung = hung?;
    each_once(&harness, mark, &hung).context("after it hung")?;
    agrees(&harness)?;

    harness.kill_collector()?;
    let garbage = Garbage::start(harness.collector_socket())?;
    let pids = refused(&harness)?;
    garbage.end()?;
    harness.start_collector()?;
    each_once(&harness, mark, &pids).context("after garbage")?;

    // Dying again and again while records come: what an earlier collector took over is there still, and nothing is there twice.
    let mut all = [hung, pids].concat();
    for _ in 0..4 {
        all.extend(refused(&harness)?);
        harness.kill_collector()?;
        harness.start_collector()?;
    }
    all.extend(refused(&harness)?);
    each_once(&harness, mark, &all).context("after it died often")?;
    agrees(&harness)
}

/// A file that takes all there is of its disk.
fn fill(path: &Path) -> Result<fs::File> {
    let mut file = fs::File::create(path)?;
    let full = loop {
        if let Err(error) = file.write_all(&[1; 4096]) {
            break error;
        }
    };
    ensure!(full.raw_os_error() == Some(nix::libc::ENOSPC), "the disk is not full: {full}");
    Ok(file)
}

/// A collector that cannot write acknowledges nothing: its agent keeps the records until it can.
fn collectors_disk() -> Result<()> {
    let harness = start("collectors-disk", Options { collectors_small_disk: true, ..Options::default() })?;
    let pid = harness.collector_pid().context("no collector")?;
    let filler = PathBuf::from(format!("/proc/{pid}/root{}/filler", harness.history().display()));
    let mark = Mark::now();
    let file = fill(&filler)?;
    // More than what is left of its last page.
    let (mut pids, deadline) = (Vec::new(), Instant::now() + Duration::from_secs(60));
    let said = "No space left on device (os error 28); nothing is acknowledged";
    while !harness.logs().contains(said) {
        pids.extend(refused(&harness)?);
        ensure!(Instant::now() < deadline, "the disk was never missed\n{}", harness.logs());
    }
    pids.extend(refused(&harness)?);
    let waits = status_where(&harness, "records that wait", |status| {
        status.agent.exporter.as_ref().is_some_and(|exporter| exporter.records_queued >= TRIES as u64)
    })?;
    ensure!(waits.agent.exporter.is_some_and(|exporter| exporter.records_lost == 0), "records were lost");
    drop(file);
    fs::remove_file(&filler)?;
    each_once(&harness, mark, &pids)?;
    agrees(&harness)
}

fn status_where(harness: &Harness, what: &str, fits: impl Fn(&Status) -> bool) -> Result<Status> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let status = harness.status()?;
        if fits(&status) {
            return Ok(status);
        }
        ensure!(Instant::now() < deadline, "{what}: {:?}\n{}", status.agent.exporter, harness.logs());
        sleep(Duration::from_millis(50));
    }
}

fn fault(status: &Status) -> &str {
    status.agent.exporter.as_ref().map_or("", |exporter| &exporter.spool_fault)
}

fn full_disk() -> Result<()> {
    let mut harness = start("full-disk", Options { small_disk: true, log: "info", ..Options::default() })?;
    let pid = harness.agent_pid().context("no agent")?;
    // Its own mounts: what it sees as the spool.
    let filler = PathBuf::from(format!("/proc/{pid}/root{}/filler", harness.spool().display()));
    let mark = Mark::now();
    harness.signal_collector(Signal::SIGSTOP);
    let file = fill(&filler)?;
    // More than what is left of the last page that a segment has.
    let (mut pids, deadline) = (Vec::new(), Instant::now() + Duration::from_secs(60));
    loop {
        pids.extend(refused(&harness)?);
        // The collector is asked by status as well, and cannot answer now: the agent's own word.
        let log = harness.logs();
        if log.contains("records are kept in memory") {
            ensure!(log.contains("No space left on device"), "it does not say why:\n{log}");
            break;
        }
        ensure!(Instant::now() < deadline, "the disk was never missed\n{log}");
    }
    pids.extend(refused(&harness)?);
    harness.signal_collector(Signal::SIGCONT);
    each_once(&harness, mark, &pids)?;
    let status = harness.status()?;
    ensure!(fault(&status).contains("No space left"), "status does not say so: {:?}", status.agent.exporter);
    let said = harness.ctl(&["status"], "")?.ok()?;
    ensure!(said.contains("kept in memory: No space left on device"), "{said}");
    drop(file);
    fs::remove_file(&filler)?;
    // The disk is tried again after a while.
    let deadline = Instant::now() + Duration::from_secs(30);
    while !fault(&harness.status()?).is_empty() {
        pids.extend(refused(&harness)?);
        ensure!(Instant::now() < deadline, "the disk is not used again");
    }
    each_once(&harness, mark, &pids)?;
    let told = status_where(&harness, "all delivered", |status| {
        status.agent.exporter.as_ref().is_some_and(|exporter| exporter.records_queued == 0)
    })?;
    ensure!(told.agent.exporter.is_some_and(|exporter| exporter.records_lost == 0), "records were lost");
    agrees(&harness)
}

/// Waits until so many records wait for the collector, all of them in batches. The agent's own word: the collector is away.
fn packed(harness: &Harness, records: u64) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let said = harness.ctl(&["status", "-o", "json"], "")?.json::<serde_json::Value>()?;
        let number = |name: &str| said.pointer(&format!("/agent/exporter/{name}")).and_then(serde_json::Value::as_u64);
        if number("recordsPending") == Some(0) && number("recordsQueued").is_some_and(|queued| queued >= records) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "not packed: {:?}", said.pointer("/agent/exporter"));
        sleep(Duration::from_millis(20));
    }
}

fn killed() -> Result<()> {
    let mut harness = start("killed", Options::default())?;
    let mark = Mark::now();
    harness.stop_collector()?;
    let pids = refused(&harness)?;
    packed(&harness, TRIES as u64)?;
    harness.kill_agent()?;
    harness.start_collector()?;
    harness.start_agent()?;
    let records = each_once(&harness, mark, &pids)?;
    let gap = records.iter().find(|record| record.loss_cause == "agent_ended");
    let gap = match gap {
        Some(gap) => gap.clone(),
        None => harness.record(mark, "the gap", |record| record.loss_cause == "agent_ended")?,
    };
    ensure!(gap.kind == "loss" && gap.count == 0, "how much was in memory is not known: {gap:?}");
    let last = records.iter().filter(|record| record.is("deny", "connect")).map(|record| record.time).max();
    ensure!(last.is_some_and(|last| gap.time >= last), "the gap begins at {} before {last:?}", gap.time);
    let status = harness.status()?;
    ensure!(status.collector.nodes.len() == 2, "each run has its own name: {:?}", status.collector.nodes);
    ensure!(status.collector.nodes.iter().all(|node| node.missing_batches == 0), "{:?}", status.collector.nodes);
    let spooled = fs::read_dir(harness.spool())?.count();
    ensure!(spooled <= 1, "what was delivered is still there");
    agrees(&harness)?;
    // One that is told to stop leaves no gap to tell of.
    harness.stop_agent()?;
    let mark = Mark::now();
    harness.start_agent()?;
    agrees(&harness)?;
    let gaps = harness.records_since(mark)?.into_iter().filter(|record| record.loss_cause == "agent_ended").count();
    ensure!(gaps == 0, "an orderly stop was told as a gap");
    Ok(())
}

/// Everything on the way at its smallest, the collector held, the agent held for a moment: ring, queue and spool overflow. Who floods is a
/// process that no workload names, because such have no quota.
fn all_full() -> Result<()> {
    let options = Options { unknown: "deny", room: Some((8192, 1)), log: "info", ..Options::default() };
    let mut harness = Harness::start(World::new("all-full")?, options)?;
    harness.apply(&workload(Db))?;
    harness
        .wait("all workloads to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
    agrees(&harness)?;
    harness.signal_collector(Signal::SIGSTOP);
    let mut ends = String::new();
    for port in 1000..1040 {
        ends.push_str(&format!(" --to 10.77.0.20:{port}"));
    }
    let line = format!("storm{ends} --threads 4 --pause-ms 0 --seconds 60");
    let storm = harness.world().start("storm", harness.world().probe_line(Web, &line))?;
    sleep(Duration::from_secs(10));
    harness.signal_agent(Signal::SIGSTOP);
    sleep(Duration::from_secs(5));
    harness.signal_agent(Signal::SIGCONT);
    let stormed = storm.stormed()?;
    harness.signal_collector(Signal::SIGCONT);
    let mut verdicts: BTreeMap<String, u64> = BTreeMap::new();
    for (result, count) in stormed.ends.into_values().flatten() {
        *verdicts.entry(result).or_default() += count;
    }
    let tries: u64 = verdicts.values().sum();
    ensure!(verdicts.get("EPERM") == Some(&tries), "a full buffer changed a verdict: {verdicts:?}");
    let said = harness.ctl(&["reconcile", "--wait", "60"], "")?.ok()?;
    let status = harness.status()?;
    let decided: u64 =
        ["connect", "sendmsg"].map(|hook| status.counted(hook, "deny", "unknown_workload")).into_iter().sum();
    ensure!(decided == tries, "{tries} tries, {decided} decided\n{said}");
    let boot = status.agent.exporter.as_ref().map(|exporter| exporter.boot_id.clone()).unwrap_or_default();
    let node = status.collector.nodes.iter().find(|node| node.boot_id == boot).context("no sums")?;
    for cause in ["ring_full", "queue_full", "spool_full"] {
        ensure!(node.losses.get(cause).is_some_and(|lost| *lost > 0), "{cause} was never reached:\n{said}");
    }
    ensure!(node.missing_batches == 0, "batches that were given up count as missing");
    Ok(())
}

fn one_floods() -> Result<()> {
    let mut harness = start("one-floods", Options { room: Some((1024, 1)), log: "info", ..Options::default() })?;
    let mark = Mark::now();
    harness.signal_collector(Signal::SIGSTOP);
    let line = "storm --to 10.77.0.20:80 --to 10.77.0.30:80 --threads 4 --pause-ms 0 --seconds 10";
    let mut storm = harness.world().start("storm", harness.world().probe_line(Web, line))?;
    sleep(Duration::from_secs(5));
    // The others, each for itself, while the flood goes on and everything is full.
    let quiet: Result<Vec<u32>> = (0..TRIES)
        .map(|_| {
            let attempt = harness.world().attempt(Db, "tcp-connect --to 10.77.0.20:80")?;
            ensure!(attempt.result == "EPERM", "{attempt:?}");
            Ok(attempt.pid)
        })
        .collect();
    let quiet = quiet?;
    storm.wait(SOON + Duration::from_secs(10))?;
    harness.signal_collector(Signal::SIGCONT);
    each_once(&harness, mark, &quiet)?;
    harness.ctl(&["reconcile", "--wait", "60"], "")?.ok()?;
    let losses = harness.records_since(mark)?.into_iter().filter(|record| record.kind == "loss").collect::<Vec<_>>();
    let quota: Vec<&Record> = losses.iter().filter(|record| record.loss_cause == "quota").collect();
    ensure!(!quota.is_empty(), "nobody was held back: {losses:?}");
    ensure!(quota.iter().all(|record| record.local.workload == "shop/web"), "{quota:?}");
    Ok(())
}

/// The agent is held, so nothing is read: what one workload may have of the ring, the others still have.
fn ring_share() -> Result<()> {
    let mut harness = start("ring-share", Options::default())?;
    let mark = Mark::now();
    harness.signal_agent(Signal::SIGSTOP);
    let line = "storm --to 10.77.0.20:80 --to 10.77.0.30:80 --threads 4 --pause-ms 0 --seconds 30";
    let storm = harness.world().start("storm", harness.world().probe_line(Web, line))?;
    sleep(Duration::from_secs(10));
    let quiet: Result<Vec<u32>> =
        (0..TRIES).map(|_| Ok(harness.world().attempt(Db, "tcp-connect --to 10.77.0.20:80")?.pid)).collect();
    let stormed = storm.stormed();
    harness.signal_agent(Signal::SIGCONT);
    let tries: u64 = stormed?.ends.into_values().flatten().map(|(_, count)| count).sum();
    // More than the whole ring holds.
    ensure!(tries > 62_000, "the flood was none: {tries} tries");
    each_once(&harness, mark, &quiet?)?;
    harness.ctl(&["reconcile", "--wait", "30"], "")?.ok()?;
    let status = harness.status()?;
    let lost: u64 = status.agent.counters.iter().map(|counter| counter.lost).sum();
    ensure!(lost > 0 && lost + 55_000 > tries, "{lost} of {tries} were lost: the flood had more than its share");
    ensure!(lost < tries, "nothing of the flood was recorded");
    Ok(())
}

/// A long transfer, looked at every second: each report is between what was before and what its close says, at both ends.
fn progress() -> Result<()> {
    let options = Options { progress: 1, log: "info", ..Options::default() };
    let mut harness = Harness::start(World::new("progress")?, options)?;
    harness.apply(&workloads())?;
    harness
        .wait("all workloads to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
    let _server = harness.world().serve(Db, "tcp-serve --listen 0.0.0.0:5432")?;
    let (mark, mut bytes) = (Mark::now(), 200_000_000_u64);
    // As long as a transfer of some seconds takes, however fast this machine is.
    let (of_client, of_server) = loop {
        let line = format!("tcp-connect --to {}:5432 --bytes {bytes} --timeout-ms 60000", Db.v4());
        let attempt = harness.world().attempt(Web, &line)?;
        ensure!(attempt.result == "ok", "{attempt:?}");
        let port = attempt.local.context("it has no address")?.port();
        let all = |harness: &Harness, workload: &str| -> Result<Vec<Record>> {
            let mut records = harness.records_since(mark)?;
            records.retain(|record| record.local.workload == workload);
            records.retain(|record| matches!(record.kind.as_str(), "progress" | "close"));
            records.retain(|record| record.local.port == port || record.remote.port == port);
            Ok(records)
        };
        for end in ["shop/web", "shop/db"] {
            harness.record(mark, "the close", |record| {
                record.kind == "close"
                    && record.local.workload == end
                    && (record.local.port == port || record.remote.port == port)
            })?;
        }
        let ends = (all(&harness, "shop/web")?, all(&harness, "shop/db")?);
        if ends.0.len() > 2 && ends.1.len() > 2 {
            break ends;
        }
        ensure!(bytes < 20_000_000_000, "no report in {} ms: {ends:?}", attempt.elapsed_ms);
        bytes *= 3;
    };
    for records in [of_client, of_server] {
        let (reports, closes): (Vec<Record>, Vec<Record>) =
            records.into_iter().partition(|record| record.kind == "progress");
        let close = closes.first().context("no close")?;
        ensure!(close.bytes_sent.abs_diff(bytes) <= 1 && close.bytes_received.abs_diff(bytes) <= 1, "{close:?}");
        let mut before = (0, 0);
        for report in &reports {
            let now = (report.bytes_sent, report.bytes_received);
            ensure!(now.0 >= before.0 && now.1 >= before.1 && now > (0, 0), "{reports:?}");
            ensure!(now.0 <= close.bytes_sent && now.1 <= close.bytes_received, "{report:?} {close:?}");
            ensure!(
                report.process == close.process && report.policy == close.policy && report.count == 0,
                "{report:?}"
            );
            ensure!(report.direction == close.direction, "{report:?}");
            before = now;
        }
    }
    agrees(&harness)
}

/// A transfer that began while nothing was in force, at both of its ends; nothing else will ever tell how much it carried.
fn progress_of_older() -> Result<()> {
    let options = Options { progress: 1, log: "info", ..Options::default() };
    let mut harness = Harness::start(World::new("progress-older")?, options)?;
    harness.apply(&format!("{}{}", workloads(), document("Policy", "db-in", FROM_WEB)))?;
    harness
        .wait("all workloads to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
    harness.detach()?;
    let _server = harness.world().serve(Db, "tcp-serve --listen 0.0.0.0:5432")?;
    let line = format!("tcp-connect --to {}:5432 --bytes 1000000000000 --timeout-ms 60000", Db.v4());
    let mut client = harness.world().start("transfer", harness.world().probe_line(Web, &line))?;
    let mark = Mark::now();
    harness.start_agent()?;
    for (end, direction, policy, rule) in
        [("shop/db", "ingress", "Policy/shop/db-in", "ingress[0] from-web"), ("shop/web", "egress", "", "")]
    {
        let mut before = (0, 0);
        for _ in 0..3 {
            let report = harness.record(mark, "progress", |record| {
                record.kind == "progress" && record.local.workload == end && record.bytes_sent > before.0
            })?;
            ensure!(report.bytes_received > before.1, "{report:?} after {before:?}");
            ensure!((&*report.verdict, &*report.direction, report.count) == ("allow", direction, 0), "{report:?}");
            ensure!((&*report.policy, &*report.rule) == (policy, rule), "{report:?}");
            ensure!(report.process.is_none(), "nobody told who opened it: {report:?}");
            let other = if end == "shop/db" { "shop/web" } else { "shop/db" };
            ensure!(report.remote.workload == other, "{report:?}");
            before = (report.bytes_sent, report.bytes_received);
        }
    }
    client.stop(SOON)?;
    agrees(&harness)
}

/// db lets in web, at its own port.
pub const FROM_WEB: &str = "
  workloadSelector: {matchLabels: {app: db}}
  policyTypes: [Ingress]
  ingress: [{name: from-web, from: [{workloadSelector: {matchLabels: {app: web}}}], ports: [{port: 5432}]}]";
