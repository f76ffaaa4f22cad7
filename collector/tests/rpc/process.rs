//! Lives: collector's tests.
//! Called by: cargo test.
//! May touch: a temporary directory, one child process.
//! Never: leaves the child behind.

use std::io::{BufRead, BufReader, Lines};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::TcpListener;
use weir_proto::v1::ObserveRequest;
use weir_proto::v1::flow_query_client::FlowQueryClient;
use weir_transport::{Endpoint, connect};

use crate::receiver::Receiver;
use crate::world::{Agent, batch};

/// A collector in a process of its own that has said it is ready, and the pipe it goes on logging to.
struct Process {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(socket: &Path, more: &[&str]) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir-collector"));
    let mut child = command.arg("--socket").arg(socket).args(more).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let ready = log.by_ref().any(|line| line.unwrap().contains("ready"));
    let process = Process { child, log };
    assert!(ready, "it ended before it was ready");
    process
}

#[tokio::test]
async fn sigterm_is_a_clean_and_quick_stop_with_streams_open() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("collector.sock");
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut process = start(&socket, &[]);
        let channel = connect(&Endpoint::Unix(socket.clone()), None, false).unwrap();
        let mut agent = Agent::connect(channel).await.unwrap();
        agent.send(batch(1, [1])).await.unwrap();
        let begin = Instant::now();
        kill(Pid::from_raw(process.child.id().cast_signed()), signal).unwrap();
        let status = tokio::task::spawn_blocking(move || process.child.wait().unwrap()).await.unwrap();
        assert!(status.success(), "{signal}: {status}");
        assert!(begin.elapsed() < Duration::from_secs(2), "{signal} took {:?}", begin.elapsed());
        assert!(!socket.exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_away_is_told_of_once_and_missed_by_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("collector.sock");
    let away = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = away.local_addr().unwrap();
    let mut process = start(&socket, &["--otlp-endpoint", &format!("http://{address}"), "--otlp-insecure"]);
    let channel = connect(&Endpoint::Unix(socket.clone()), None, false).unwrap();
    let mut agent = Agent::connect(channel).await.unwrap();
    agent.send(batch(1, [1, 2, 3])).await.unwrap();
    // One try is for metrics, the others for records.
    for _ in 0..5 {
        drop(away.accept().await.unwrap());
    }
    drop(away);
    let receiver = Receiver::at(address, None, Vec::new());
    receiver.until("the records", |receiver| receiver.arrived().len() == 3).await;
    agent.send(batch(2, [4])).await.unwrap();
    kill(Pid::from_raw(process.child.id().cast_signed()), Signal::SIGTERM).unwrap();
    let (status, log) = tokio::task::spawn_blocking(move || {
        let log: Vec<_> = process.log.by_ref().map(Result::unwrap).collect();
        (process.child.wait().unwrap(), log)
    })
    .await
    .unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(receiver.arrived().len(), 4, "what waited at the stop is not there");
    let said = |what: &str, text: &str| log.iter().filter(|line| line.contains(what) && line.contains(text)).count();
    // What the log has about records, it has once; about metrics likewise.
    let (trouble, over) = ("does not take what is sent; trying again", "takes what is sent again");
    assert_eq!((said("records", trouble), said("records", over)), (1, 1), "{log:#?}");
    assert_eq!(said("metrics", trouble), 1, "{log:#?}");
}

#[test]
fn exit_codes_tell_refusal_from_failure() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("collector.sock");
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_weir-collector")).args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let path = socket.to_str().unwrap();
    assert_eq!(run(&["--socket", path, "--check"]).0, Some(0));
    let (code, message) = run(&["--socket", "relative", "--history", "0"]);
    assert!(
        code == Some(2) && message.contains("must be absolute") && message.contains("history.records"),
        "{message}"
    );
    assert_eq!(run(&["--no-such-flag"]).0, Some(2));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let rows = [
        (["--history-directory", "/dev/null/history"], "Not a directory"),
        (["--metrics-listen", &taken], "Address already in use"),
    ];
    for ([flag, value], cause) in rows {
        let (code, message) = run(&["--socket", path, flag, value]);
        let said: Vec<&str> = message.lines().filter(|line| line.contains(value)).collect();
        assert!(code == Some(1) && said.len() == 1 && message.matches(cause).count() == 1, "{message}");
    }
    let _running = start(&socket, &[]);
    let (code, message) = run(&["--socket", path]);
    assert!(code == Some(1) && message.contains("another process is listening"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_outlives_a_collector_that_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let (socket, folder) = (directory.path().join("collector.sock"), directory.path().join("history"));
    let arguments = ["--history-directory", folder.to_str().unwrap()];
    for run in 0..3_u64 {
        let mut process = start(&socket, &arguments);
        let channel = connect(&Endpoint::Unix(socket.clone()), None, false).unwrap();
        let mut agent = Agent::connect(channel.clone()).await.unwrap();
        // What a killed agent or collector left unsaid comes again.
        for sequence in run * 10..=run * 10 + 10 {
            agent.send(batch(sequence.max(1), [sequence])).await.unwrap();
        }
        let mut records = FlowQueryClient::new(channel).observe(ObserveRequest::default()).await.unwrap().into_inner();
        let mut cookies = Vec::new();
        while let Some(response) = records.message().await.unwrap() {
            cookies.extend(response.record.map(|record| record.cookie));
        }
        // The first batch is 1, with the record 0, and comes twice at once.
        let expected: Vec<u64> = [0].into_iter().chain(2..=run * 10 + 10).collect();
        assert_eq!(cookies, expected, "run {run}");
        process.child.kill().unwrap();
        process.child.wait().unwrap();
    }
    let mode = std::fs::metadata(&folder).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "records tell who talks to whom");
}
