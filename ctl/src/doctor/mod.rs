//! Lives: ctl, what `weirctl doctor` and `weirctl support-bundle` ask of this host.
//! Called by: those verbs.
//! May touch: runs `weir-agent --doctor=json`, which changes nothing.
//! Never: needs an agent that runs; waits for one without an end.

pub mod running;

use std::env;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use crate::failure::Failure;

/// Longest wait for the agent's program: on a busy host the kernel verifies for a while.
const PATIENCE: Duration = Duration::from_secs(120);
const AGENT: &str = "weir-agent";

/// Which agent is meant.
#[derive(Clone, Debug, Args)]
pub struct Host {
    /// The agent's configuration file [default: /etc/weir/agent.yaml if it exists].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The agent's program [default: beside weirctl, else in PATH].
    #[arg(long, value_name = "FILE")]
    agent_binary: Option<PathBuf>,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Ok,
    Warn,
    Fail,
    Skipped,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Check {
    pub name: String,
    pub outcome: Outcome,
    pub found: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub remedy: String,
}

/// What `weir-agent --doctor=json` prints.
#[derive(Clone, Debug, Deserialize)]
pub struct Report {
    pub version: String,
    pub node: Option<String>,
    pub checks: Vec<Check>,
    pub facts: Facts,
}

/// What it knows besides.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Facts {
    pub agent_pid: Option<u32>,
    pub configuration: Value,
    pub interfaces: Value,
    pub programs: Value,
    pub links: Value,
}

impl Check {
    fn new(name: &str, outcome: Outcome, found: impl Into<String>, remedy: &str) -> Self {
        Self { name: name.to_owned(), outcome, found: found.into(), remedy: remedy.to_owned() }
    }
}

impl Host {
    /// The agent's program.
    pub fn program(&self) -> PathBuf {
        self.agent_binary.clone().or_else(beside).unwrap_or_else(|| PathBuf::from(AGENT))
    }

    /// Passes the configuration on to it.
    pub fn configure(&self, command: &mut Command) {
        if let Some(config) = &self.config {
            command.arg("--config").arg(config);
        }
    }

    /// It could not be run.
    pub fn not_started(&self, error: &io::Error) -> Failure {
        let remedy = "name it with --agent-binary FILE, or install it beside weirctl";
        Failure::Usage(format!("{} cannot be run: {error}; {remedy}", self.program().display()))
    }
}

/// Has the agent's program look at this host.
pub async fn examine(host: &Host) -> Result<Report, Failure> {
    let program = host.program();
    let mut command = Command::new(&program);
    host.configure(&mut command);
    command.arg("--doctor=json").stdin(Stdio::null()).kill_on_drop(true);
    let output = match timeout(PATIENCE, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(host.not_started(&error)),
        Err(_) => return Err(Failure::Refused(format!("{} did not end within {PATIENCE:?}", program.display()))),
    };
    serde_json::from_slice(&output.stdout).map_err(|error| {
        let said = String::from_utf8_lossy(&output.stderr);
        let line = said.lines().next().unwrap_or_default();
        Failure::Refused(format!("{} --doctor gave no report ({error}; {}): {line}", program.display(), output.status))
    })
}

fn beside() -> Option<PathBuf> {
    let program = env::current_exe().ok()?.with_file_name(AGENT);
    program.is_file().then_some(program)
}
