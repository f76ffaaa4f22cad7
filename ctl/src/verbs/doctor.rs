//! Lives: ctl, the verb doctor.
//! Called by: `verbs`.
//! May touch: this host, through the agent's program; the agent and the collector, if they answer.
//! Never: changes anything.

use std::io::Write;

use clap::Args;
use serde::Serialize;

use crate::cli::Connection;
use crate::doctor::{Check, Host, Outcome as Found, examine, running};
use crate::failure::{Failure, Outcome};
use crate::render::output::{self, TableFormat};
use crate::render::style::{BAD, BOLD, DIM, GOOD, ODD, clean, paint};

const EXAMPLES: &str = "Examples:
  weirctl doctor                                  # why does the agent not start? is this host fit for one?
  weirctl doctor --config /etc/weir/agent.yaml
  weirctl doctor -o json | jq '.checks[] | select(.outcome == \"fail\")'

Run it as the agent's user, in the agent's network and mount namespaces. It loads the programs and attaches them in a cgroup and a
network namespace of its own, and leaves nothing behind. Exit code 1 means that something prevents enforcement; warnings do not.";

/// Arguments of doctor.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    host: Host,
    /// How to show it.
    #[arg(short, long, value_enum, default_value_t = TableFormat::Table)]
    output: TableFormat,
}

/// All that was looked at.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Json {
    node: Option<String>,
    agent_version: String,
    passes: bool,
    checks: Vec<Check>,
}

/// Runs it.
pub async fn run(arguments: &Arguments, connection: &Connection) -> Result<Outcome, Failure> {
    let report = examine(&arguments.host).await?;
    let mut checks = report.checks;
    checks.extend(running::checks(connection, &report.facts, &report.version).await);
    let passes = checks.iter().all(|check| check.outcome != Found::Fail);
    let mut out = output::open();
    match arguments.output {
        TableFormat::Table => table(&mut out, &checks)?,
        TableFormat::Json => {
            let json = Json { node: report.node, agent_version: report.version, passes, checks };
            output::json(&mut out, &json)?;
        }
    }
    out.flush()?;
    Ok(if passes { Outcome::Done } else { Outcome::Faulty })
}

fn table(out: &mut dyn Write, checks: &[Check]) -> Result<(), Failure> {
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    for Check { name, outcome, found, remedy } in checks {
        let (word, style) = match outcome {
            Found::Ok => ("ok", GOOD),
            Found::Warn => ("warn", ODD),
            Found::Fail => ("fail", BAD),
            Found::Skipped => ("skipped", DIM),
        };
        let mut lines = found.lines();
        let first = clean(lines.next().unwrap_or_default()).into_owned();
        writeln!(out, "{}{:gap$}  {name:<width$}  {first}", paint(style, word), "", gap = 7 - word.len())?;
        for line in lines {
            writeln!(out, "    {}", clean(line))?;
        }
        if !remedy.is_empty() {
            writeln!(out, "    {} {}", paint(BOLD, "what to do:"), clean(remedy))?;
        }
    }
    let count = |wanted| checks.iter().filter(|check| check.outcome == wanted).count();
    let (all, failed, warned) = (checks.len(), count(Found::Fail), count(Found::Warn));
    Ok(writeln!(out, "{all} checks, {failed} failed, {warned} warnings")?)
}
