//! Lives: weir-agent, tests of the page for Prometheus, over a kernel in memory.
//! Called by: `cargo test`.
//! May touch: a temporary directory, a port of loopback.
//! Never: asks a real kernel.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use tokio::sync::oneshot;
use weir_common::verdict::{Hook, Reason, Verdict};

use super::families::{FAMILIES, Type};
use crate::{
    datapath::CounterCell,
    runtime::{RunError, run_on, runtime},
    testing::Fake,
};

/// Runs an agent with a port for metrics while `look` looks.
fn with_agent(at: SocketAddr, fake: &Fake, look: impl FnOnce()) -> Result<(), RunError> {
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "node: n1\ncgroupRoot: {0}\nstateDir: {0}/state\ngrpc: {{socket: {{path: {0}/agent.sock}}}}\n\
         collector: {{address: none}}\nmetrics: {{listen: '{at}'}}\n",
        dir.path().display()
    );
    let config = crate::config::read("t.yaml", &text).unwrap();
    let (end, ended) = oneshot::channel::<()>();
    let (datapath, events) = (fake.datapath(), fake.clone());
    let agent = std::thread::spawn(move || {
        let ended = async move {
            let _ = ended.await;
            Ok(())
        };
        run_on(&config, runtime(None)?, datapath, events, ended)
    });
    look();
    let _ = end.send(());
    agent.join().unwrap()
}

/// A port that was free a moment ago.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Status line and body, once the port is open.
fn get(at: SocketAddr, path: &str) -> (String, String) {
    let mut stream = (0..2000)
        .find_map(|_| {
            let stream = TcpStream::connect(at).ok();
            if stream.is_none() {
                std::thread::sleep(Duration::from_millis(5));
            }
            stream
        })
        .unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), format!("{}\n{body}", head.to_ascii_lowercase()))
}

/// Asks until the agent enforces, which it does with its first tick.
fn until_ready(at: SocketAddr) {
    for _ in 0..2000 {
        if get(at, "/readyz").0.contains("200") {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("never ready");
}

#[test]
fn the_page_shows_what_the_kernel_counted_and_probes_answer() {
    let (fake, at) = (Fake::default(), free());
    fake.inner().counters.push(CounterCell {
        hook: Hook::Connect,
        verdict: Verdict::Deny,
        reason: Reason::Default,
        decided: 7,
        lost: 2,
        quiet: 1,
    });
    with_agent(at, &fake, || {
        until_ready(at);
        assert!(get(at, "/livez").0.contains("200"));
        let (status, page) = get(at, "/metrics");
        assert!(status.contains("200"), "{status}");
        assert!(page.contains("content-type: application/openmetrics-text"), "{page}");
        for line in [
            "weir_decisions_total{hook=\"connect\",verdict=\"deny\",reason=\"default\"} 7",
            "weir_decisions_lost_total{hook=\"connect\",verdict=\"deny\",reason=\"default\"} 2",
            "weir_decisions_quiet_total{hook=\"connect\",verdict=\"deny\",reason=\"default\"} 1",
            "weir_enforcing 1",
            "weir_policy_generation 1",
            "weir_collector_state{state=\"disabled\"} 1",
            "weir_collector_state{state=\"connected\"} 0",
            "weir_policy_requests_total{outcome=\"applied\"} 0",
            "weir_policy_apply_seconds_count{phase=\"install\"} 0",
            "weir_policy_apply_seconds_bucket{le=\"+Inf\",phase=\"install\"} 0",
            "weir_table_entries{table=\"addresses\"} 3",
            "weir_table_capacity{table=\"addresses\"} 8",
            "weir_table_capacity{table=\"merged\"} 16384",
            "weir_program_runs_total{program=\"ingress\"} 4",
            "weir_program_run_seconds_total{program=\"ingress\"} 0.0000015",
            "# EOF",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is not on the page:\n{page}");
        }
        assert!(get(at, "/").0.contains("404"));
    })
    .unwrap();
}

#[test]
fn a_kernel_that_cannot_be_read_is_no_live_agent() {
    let (fake, at) = (Fake::default(), free());
    with_agent(at, &fake, || {
        until_ready(at);
        fake.inner().fail_counters = true;
        for path in ["/metrics", "/livez", "/readyz"] {
            let (status, page) = get(at, path);
            assert!(status.contains("503"), "{path}: {status}");
            assert!(page.lines().last().is_some_and(|why| !why.is_empty()), "{page}");
        }
    })
    .unwrap();
}

#[test]
fn a_port_that_is_taken_is_named_with_its_option() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap();
    let error = with_agent(at, &Fake::default(), || {}).unwrap_err().to_string();
    assert!(error.contains("metrics.listen") && error.contains(&at.to_string()), "{error}");
}

/// Every metric is documented, and nothing else is.
#[test]
fn the_table_of_the_documentation_is_that_of_the_code() {
    let text = include_str!("../../../docs/metrics.md");
    let (table, _) = text.split_once("\n## ").unwrap();
    let documented: BTreeSet<String> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter(|line| !line.starts_with('/'))
        .map(|line| line.split(" | ").take(3).collect::<Vec<_>>().join(" | "))
        .collect();
    let code: BTreeSet<String> = FAMILIES
        .iter()
        .map(|family| {
            let total = if family.kind == Type::Counter { "_total" } else { "" };
            format!("{}{total}` | {} | {} |", family.name, family.labels.join(", "), family.help)
        })
        .collect();
    assert_eq!(documented, code);
}
