//! Lives: weir-tests, live tests of what Prometheus and probes are shown.
//! Called by: main.
//! May touch: the stage.
//! Never: reads the page another way than a scraper does, which is by HTTP.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use weir_tests::documents::workloads;
use weir_tests::harness::ctl::ARRIVE_WITHIN;
use weir_tests::harness::{Harness, METRICS, Status};
use weir_tests::world::Who::{Api, Node, Web};
use weir_tests::world::{WorldError, netns};

use crate::stage::{agrees, on_stage};

pub fn trials() -> Vec<Trial> {
    vec![on_stage("metrics_say_what_status_says_and_probes_that_the_agent_enforces", pages)]
}

/// Readiness names the hooks of every workload and interface of this node: those that status names.
fn covered(harness: &Harness, status: &Status) -> Result<()> {
    let page = get(harness, "/readyz?verbose")?;
    let lines: Vec<&str> = page.lines().filter(|line| line.starts_with('[')).collect();
    let here = |state: &str| state != "remote";
    let count = status.agent.workloads.iter().filter(|workload| here(&workload.state)).count();
    ensure!(count == 3 && lines.len() == count + status.agent.interfaces.len(), "{page}");
    for workload in status.agent.workloads.iter().filter(|workload| here(&workload.state)) {
        let line = format!("[+] workload {} attached hooks={}", workload.workload, workload.hooks.join(","));
        ensure!(!workload.hooks.is_empty() && lines.iter().any(|found| found.starts_with(&line)), "{line}:\n{page}");
    }
    for interface in &status.agent.interfaces {
        let line = format!("interface {} {}", interface.name, interface.mode);
        ensure!(lines.iter().any(|found| found.contains(&line)), "{line}:\n{page}");
    }
    ensure!(page.ends_with("ok\n"), "{page}");
    Ok(())
}

fn pages(harness: &mut Harness) -> Result<()> {
    let limit = "{workloadSelector: {matchLabels: {app: api}}, packets: {perSecond: 1000000, burst: 1000000}}";
    let limit = weir_tests::documents::document("RateLimit", "generous", limit);
    let generation = harness.apply(&format!("{}{limit}", workloads()))?;
    harness
        .wait("all workloads to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
    let server = harness.world().serve(Api, "tcp-serve --listen [::]:80")?;
    let attempt = harness.world().attempt(Web, &format!("tcp-connect --to {}:80 --bytes 1000", Api.v4()))?;
    ensure!(attempt.result == "ok", "{attempt:?}");
    let _ = server.served()?;
    agrees(harness)?;

    ensure!(get(harness, "/livez")?.contains("200 OK") && get(harness, "/readyz")?.contains("200 OK"));
    let (status, page) = both(harness)?;
    covered(harness, &status)?;
    let value =
        |name: &str| page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse::<f64>().ok());
    let shown = |name: &str| value(name).with_context(|| format!("{name} is not on the page:\n{page}"));
    ensure!(shown("weir_enforcing")? == 1.0 && shown("weir_policy_generation")? == generation as f64, "{page}");
    ensure!(shown("weir_workloads{state=\"attached\"}")? == 3.0, "{page}");
    ensure!(shown("weir_limit_packets_total{limit=\"RateLimit/shop/generous\",outcome=\"passed\"}")? > 0.0, "{page}");
    ensure!(shown("weir_limit_table_slots")? > 0.0, "{page}");
    for (table, least, capacity) in
        [("workloads", 3.0, 1023.0), ("cgroups", 3.0, 8192.0), ("limits", 1.0, 1023.0), ("interfaces", 5.0, 1024.0)]
    {
        let entries = shown(&format!("weir_table_entries{{table=\"{table}\"}}"))?;
        ensure!(entries >= least && entries < 100.0, "{table}: {entries}");
        ensure!(shown(&format!("weir_table_capacity{{table=\"{table}\"}}"))? == capacity, "{table}\n{page}");
    }
    ensure!(shown("weir_policy_requests_total{outcome=\"applied\"}")? >= 1.0, "{page}");
    let installs = shown("weir_policy_apply_seconds_count{phase=\"install\"}")?;
    let took = shown("weir_policy_apply_seconds_sum{phase=\"install\"}")?;
    ensure!(installs >= 1.0 && took > 0.0 && took / installs < 60.0, "{installs} installs took {took} s");
    ensure!(!page.contains("weir_policy_decisions_total{"), "by policy, which nobody asked for:\n{page}");
    let counted = status.agent.counters.iter().filter(|counter| counter.decided > 0);
    let mut compared = 0;
    for counter in counted {
        let labels =
            format!("{{hook=\"{}\",verdict=\"{}\",reason=\"{}\"}}", counter.hook, counter.verdict, counter.reason);
        let parts = [
            ("", counter.decided),
            ("_recorded", counter.recorded),
            ("_quiet", counter.quiet),
            ("_lost", counter.lost),
        ];
        for (part, expected) in parts {
            let found = shown(&format!("weir_decisions{part}_total{labels}"))?;
            ensure!(found == expected as f64, "{part}{labels}: {found} on the page, {expected} in status");
        }
        compared += 1;
    }
    ensure!(compared > 0, "nothing was decided");
    Ok(())
}

/// What status says and what the page shows of one moment: nothing was decided between two looks around it.
fn both(harness: &Harness) -> Result<(Status, String)> {
    let decided = |status: &Status| -> Vec<[u64; 4]> {
        status.agent.counters.iter().map(|one| [one.decided, one.recorded, one.quiet, one.lost]).collect()
    };
    let begin = Instant::now();
    loop {
        let (before, page, after) = (harness.status()?, get(harness, "/metrics")?, harness.status()?);
        if decided(&before) == decided(&after) {
            return Ok((after, page));
        }
        ensure!(begin.elapsed() < ARRIVE_WITHIN, "something is decided all the time");
    }
}

fn get(harness: &Harness, path: &str) -> Result<String> {
    fetch(harness, METRICS, path)
}

/// Head and body of an answer, asked for from the agent's namespace.
pub fn fetch(harness: &Harness, at: &str, path: &str) -> Result<String> {
    // By the first version of HTTP nobody answers in pieces.
    let question = format!("GET {path} HTTP/1.0\r\nHost: weir\r\n\r\n");
    let mut answer = String::new();
    netns::inside(&harness.world().netns(Node), || {
        let asked = TcpStream::connect(at).and_then(|mut stream| {
            stream.write_all(question.as_bytes())?;
            stream.read_to_string(&mut answer)
        });
        asked.map(drop).map_err(|source| WorldError::File { action: "asking for", path: path.into(), source })
    })?;
    Ok(answer)
}
