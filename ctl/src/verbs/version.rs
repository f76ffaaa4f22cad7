//! Lives: ctl, the verb version.
//! Called by: `verbs`.
//! May touch: the agent and the collector, if they are there.
//! Never: fails because they are not.

use std::io::Write;

use clap::Args;

use crate::cli::Connection;
use crate::failure::Failure;
use crate::render::output;
use crate::render::style::clean;

const EXAMPLES: &str = "Examples:
  weirctl version
  weirctl version --client";

/// Arguments of version.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Only weirctl's own.
    #[arg(long)]
    client: bool,
}

/// Runs it.
pub async fn run(arguments: &Arguments, connection: &Connection) -> Result<(), Failure> {
    let mut out = output::open();
    writeln!(out, "weirctl         {}", env!("CARGO_PKG_VERSION"))?;
    if !arguments.client {
        let agent = connection.agent()?.status().await.map(|agent| agent.version);
        writeln!(out, "weir-agent      {}", clean(&agent.unwrap_or_else(|failure| failure.to_string())))?;
        let collector = connection.collector()?.status().await.map(|collector| collector.version);
        writeln!(out, "weir-collector  {}", clean(&collector.unwrap_or_else(|failure| failure.to_string())))?;
    }
    Ok(out.flush()?)
}
