//! Lives: collector's tests.
//! Called by: cargo test.
//! May touch: a temporary directory, one child process.
//! Never: leaves the child behind.

use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use weir_transport::{Endpoint, connect};

use crate::world::{Agent, batch};

/// A collector in a process of its own that has said it is ready, and the pipe it goes on logging to.
struct Process {
    child: Child,
    _log: Lines<BufReader<ChildStderr>>,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(socket: &Path) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir-collector"));
    let mut child = command.arg("--socket").arg(socket).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let ready = log.by_ref().any(|line| line.unwrap().contains("ready"));
    let process = Process { child, _log: log };
    assert!(ready, "it ended before it was ready");
    process
}

#[tokio::test]
async fn sigterm_is_a_clean_and_quick_stop_with_streams_open() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("collector.sock");
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut process = start(&socket);
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
    let _running = start(&socket);
    let (code, message) = run(&["--socket", path]);
    assert!(code == Some(1) && message.contains("another process is listening"), "{message}");
}
