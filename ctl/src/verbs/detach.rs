//! Lives: ctl, the verb detach.
//! Called by: `verbs`.
//! May touch: this host, through the agent's program.
//! Never: stops an agent; detaches anything while one runs.

use std::process::Stdio;

use clap::Args;
use tokio::process::Command;

use crate::doctor::Host;
use crate::failure::{Failure, Outcome};

const EXAMPLES: &str = "Examples:
  systemctl stop weir-agent && weirctl detach        # before Weir is taken off a host
  weirctl detach --config /etc/weir/agent.yaml

What an agent has put in force stays in force when it stops or crashes. This takes it away: every link that agents of the configured
cgroup root have pinned, and nothing else. Afterwards nothing is enforced on this host. It is refused while an agent runs.
Run it as the agent's user, in the agent's network and mount namespaces.";

/// Arguments of detach.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    host: Host,
}

/// Runs it.
pub async fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let program = arguments.host.program();
    let mut command = Command::new(&program);
    arguments.host.configure(&mut command);
    let status = command.arg("--detach").stdin(Stdio::null()).status().await;
    let status = status.map_err(|error| arguments.host.not_started(&error))?;
    // It has said why.
    Ok(if status.success() { Outcome::Done } else { Outcome::Faulty })
}
