//! Lives: ctl's tests.
//! Called by: the tests of this folder.
//! May touch: a temporary directory.
//! Never: outlives the test.

use std::path::PathBuf;
use std::process::{Output, Stdio};

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::task::JoinSet;
use weir_proto::v1::flow_query_server::FlowQueryServer;
use weir_proto::v1::policy_service_server::PolicyServiceServer;
use weir_proto::v1::set_service_server::SetServiceServer;
use weir_transport::{server, unix_listener};

use crate::agent::FakeAgent;
use crate::collector::FakeCollector;
use crate::sets::FakeSets;

/// A fake agent and a fake collector on sockets of their own.
pub struct World {
    pub directory: tempfile::TempDir,
    _servers: JoinSet<()>,
}

/// What a script sees.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl World {
    pub fn new() -> Self {
        let world = Self::empty();
        let agent = unix_listener(&world.agent(), &[]).unwrap();
        let collector = unix_listener(&world.collector(), &[]).unwrap();
        let mut servers = JoinSet::new();
        let service = PolicyServiceServer::new(FakeAgent);
        let agent_server = server().add_service(service).add_service(SetServiceServer::new(FakeSets));
        servers.spawn(async move { agent_server.serve_with_incoming(agent).await.unwrap() });
        let service = FlowQueryServer::new(FakeCollector);
        servers.spawn(async move { server().add_service(service).serve_with_incoming(collector).await.unwrap() });
        Self { _servers: servers, ..world }
    }

    /// Nobody is there.
    pub fn empty() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), _servers: JoinSet::new() }
    }

    pub fn agent(&self) -> PathBuf {
        self.directory.path().join("agent.sock")
    }

    pub fn collector(&self) -> PathBuf {
        self.directory.path().join("collector.sock")
    }

    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weirctl"));
        command.args(line.split_whitespace()).env_clear().env("TZ", "UTC");
        command.env("WEIR_AGENT", format!("unix:{}", self.agent().display()));
        command.env("WEIR_COLLECTOR", format!("unix:{}", self.collector().display()));
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    pub async fn run(&self, line: &str) -> Seen {
        self.command(line).output().await.unwrap().into()
    }

    pub async fn run_with_input(&self, line: &str, input: &str) -> Seen {
        let mut command = self.command(line);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
        child.wait_with_output().await.unwrap().into()
    }
}

impl From<Output> for Seen {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}
