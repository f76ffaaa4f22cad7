//! Lives: ctl's tests.
//! Called by: cargo test.
//! May touch: a world of its own.
//! Never: checks output without the exit code beside it.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};

use crate::world::World;

const LINE: &str = "23:04:05.123 node-1 DENY egress connect shop/web(10.0.0.2:0) -> shop/db(10.0.0.4:5432) TCP \
                    policy=Policy/shop/db rule=\"default ingress\" pid=123 curl gen=7 x3";

#[tokio::test]
async fn records_are_shown_compact_as_a_table_and_as_json() {
    let world = World::new();
    let seen = world.run("observe").await;
    assert_eq!((seen.code, seen.out.as_str()), (Some(0), format!("{LINE}\n{LINE}\n").as_str()));
    assert_eq!(seen.err, "5 records skipped: this reader was too slow for them\n");

    let seen = world.run("observe -o table").await;
    assert!(seen.code == Some(0) && seen.out.starts_with("TIME ") && seen.out.lines().count() == 3, "{seen:?}");

    let seen = world.run("observe -o json").await;
    assert_eq!((seen.code, seen.out.lines().count()), (Some(0), 2), "{seen:?}");
    for part in
        [r#""verdict":"deny""#, r#""type":"verdict""#, r#""address":"10.0.0.4""#, r#""count":3"#, r#""pid":123"#]
    {
        assert!(seen.out.contains(part), "{part}: {}", seen.out);
    }
}

#[tokio::test]
async fn colour_is_for_terminals_unless_asked_for_or_forbidden() {
    let world = World::new();
    let coloured = async |name: &str| {
        let output = world.command("observe").env(name, "1").output().await.unwrap();
        assert_eq!(output.status.code(), Some(0));
        output.stdout.contains(&0x1b)
    };
    assert!(!coloured("WEIR_NOTHING").await);
    assert!(coloured("CLICOLOR_FORCE").await);
    assert!(!coloured("NO_COLOR").await);
}

#[tokio::test]
async fn filters_reach_the_collector() {
    let world = World::new();
    for (line, part) in [
        ("--last 7", "last: 7"),
        ("--since 2026-11-21T23:00:00Z", "since_ns: 1795302000000000000"),
        ("--workload web,shop/db", "workload: [\"web\", \"shop/db\"]"),
        ("--address 10.0.0.0/8", "address: [\"10.0.0.0/8\"]"),
        ("--port 80 --port 443", "port: [80, 443]"),
        ("--verdict deny,audit", "verdict: [Deny, Audit]"),
        ("--reason blocklist", "reason: [\"blocklist\"]"),
        ("--type close", "type: [Close]"),
        ("--node node-1", "node: [\"node-1\"]"),
    ] {
        let seen = world.run(&format!("observe -o json {line}")).await;
        assert_eq!(seen.code, Some(0), "{line}: {seen:?}");
        let first: serde_json::Value = serde_json::from_str(seen.out.lines().next().unwrap()).unwrap();
        let request = first["cgroup"].as_str().unwrap();
        assert!(request.contains(part), "{line}: {request}");
    }
}

#[tokio::test]
async fn a_follow_that_the_collector_ends_is_exit_code_3() {
    let world = World::new();
    let seen = world.run("observe --follow").await;
    assert_eq!((seen.code, seen.out.lines().count()), (Some(3), 2), "{seen:?}");
    assert!(seen.err.contains("it ended the stream"), "{seen:?}");
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_it_quietly() {
    let world = World::new();
    let mut command = world.command("observe --last 1000000");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next_line().await.unwrap().is_some());
    drop(lines);
    let output = child.wait_with_output().await.unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}

#[tokio::test]
async fn status_shows_everything_and_whether_the_numbers_agree() {
    let world = World::new();
    let seen = world.run("status").await;
    assert_eq!(seen.code, Some(0), "{seen:?}");
    for part in [
        "weir-agent on node-1: 0.1.0, abi 3, up ",
        "enforcing          yes, generation 7 since 2026-11-",
        "resources          2 Policy, 1 Workload",
        "exporter           connected unix:/run/weir/collector.sock",
        "records            0 not acknowledged, 0 of them (of at most 65536) not packed yet; 98 sent, 98 acknowledged, 0 lost",
        "connections        being looked at, 12 known, 3 cut, 2 adopted, 1 draining",
        "last sweep         30 sockets in 4 namespaces, 2.5 ms",
        "not cut yet        shop/web TCP 10.0.0.2:40000 -> 10.0.0.4:5432 by Policy/shop/web default egress: its process holds \
         the socket's lock for 1500 ms",
        "shop/web       256  attached  web     -          -            10.0.0.2,fd00::2  connect,ingress",
        "eth0       native  martian,ethertype    10       9        1",
        "pod kube-system/proxy, host network  kubepods/pod1          2  unknown workload: allow",
        "processes of no workload             .                     30  unknown workload: allow",
        "no policy selects these",
        "connect  deny     default       10         8     2",
        "agree: 100 decided = 98 recorded + 2 lost",
        "history            98/65536 records in memory, 0 evicted",
        "on disk            120 records since 2027-01-15 08:00:00, 1.5 of 1024.0 MiB",
        "otlp               90 records sent, 5/64 waiting, 2 sent again, not exported: otlp_queue_full 3",
        "agree: 100 decided in the kernel = 98 collected + 2 lost",
    ] {
        assert!(seen.out.contains(part), "{part} in\n{}", seen.out);
    }
    assert!(!seen.out.contains('\x1b'), "no colour outside a terminal");

    let seen = world.run("status -o json").await;
    let status: serde_json::Value = serde_json::from_str(&seen.out).unwrap();
    assert_eq!(status["agent"]["counters"][0]["decided"], 10);
    assert_eq!(status["agent"]["nodeOnly"][0]["pod"], "kube-system/proxy");
    assert_eq!(status["agent"]["interfaces"][0]["refuses"][1], "ethertype");
    assert_eq!(status["countersAgree"]["agree"], true);
    assert_eq!(status["collectorAgrees"]["agree"], true);
}

#[tokio::test]
async fn status_waits_for_agreement_and_no_longer() {
    let world = World::new();
    assert_eq!(world.run("status --wait 5").await.code, Some(0));
    let seen = world.run("--collector unix:/no/such.sock status --wait 0").await;
    assert!(seen.code == Some(1) && seen.err.contains("do not agree"), "{seen:?}");
}

#[tokio::test]
async fn status_without_a_collector_says_so() {
    let world = World::new();
    let line = "--collector unix:/no/such.sock status";
    let seen = world.run(line).await;
    assert!(seen.code == Some(0) && seen.out.contains("collector: cannot reach the collector"), "{seen:?}");
    let seen = world.run(&format!("{line} -o json")).await;
    let status: serde_json::Value = serde_json::from_str(&seen.out).unwrap();
    assert!(status["collector"].is_null() && status["collectorError"].is_string(), "{status}");
}

/// One that hangs must not keep the agent's state from whoever asks.
#[tokio::test]
async fn a_collector_that_does_not_answer_is_given_up_soon() {
    let world = World::new();
    let deaf = world.directory.path().join("deaf.sock");
    let _listens = std::os::unix::net::UnixListener::bind(&deaf).unwrap();
    let collector = format!("--collector unix:{}", deaf.display());
    let seen = world.run(&format!("{collector} status")).await;
    let told = seen.out.contains("weir-agent on node-1") && seen.out.contains("no answer within 5 seconds");
    assert!(seen.code == Some(0) && told, "{seen:?}");
    let seen = world.run(&format!("{collector} reconcile")).await;
    assert!(seen.code == Some(3) && seen.err.contains("no answer within 5 seconds"), "{seen:?}");
}
