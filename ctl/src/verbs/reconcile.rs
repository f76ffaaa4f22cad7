//! Lives: ctl, the verb reconcile.
//! Called by: `verbs`.
//! May touch: the agent, the collector.
//! Never: says that a sum is closed which was not seen closed.

use std::io::Write;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::time::sleep;

use crate::cli::Connection;
use crate::failure::Failure;
use crate::reconciliation::{Follower, Line, Reconciliation};
use crate::render::output::{self, TableFormat};
use crate::render::style::{BAD, GOOD, PLAIN, clean, paint};
use crate::render::table::Table;

/// Rest between two rounds.
const AGAIN: Duration = Duration::from_millis(100);

const EXAMPLES: &str = "Examples:
  weirctl reconcile
  weirctl reconcile --wait 60                    # after the collector was away: what waits in the spool takes its time
  weirctl reconcile -o json | jq '.lines[] | select(.missingInAgent + .missingOnTheWay > 0)'

For each hook, verdict and reason: DECIDED in the kernel = QUIET (log: false) + COLLECTED + TOLD as lost. MISSING is what none of them
accounts for. Exit code 0 only if every sum was seen closed.";

/// Arguments of reconcile.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// How to show it.
    #[arg(short, long, value_enum, default_value_t = TableFormat::Table)]
    output: TableFormat,
    /// How long what is under way may take to arrive.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    wait: u64,
}

/// Runs it.
pub async fn run(arguments: &Arguments, connection: &Connection) -> Result<(), Failure> {
    let (begin, patience) = (Instant::now(), Duration::from_secs(arguments.wait));
    let mut follower = Follower::default();
    loop {
        let agent = connection.agent()?.status().await?;
        // Asked second, so that what the agent has counted had time to arrive.
        let collector = connection.collector()?.status().await?;
        let found = follower.round(&agent, &collector).map_err(Failure::Refused)?;
        if found.closed || begin.elapsed() >= patience {
            return show(&found, arguments);
        }
        sleep(AGAIN).await;
    }
}

fn show(found: &Reconciliation, arguments: &Arguments) -> Result<(), Failure> {
    let mut out = output::open();
    match arguments.output {
        TableFormat::Table => {
            table(found).write(&mut out)?;
            if found.closed {
                writeln!(out, "{}", paint(GOOD, &clean(&found.says)))?;
            }
        }
        TableFormat::Json => output::json(&mut out, found)?,
    }
    out.flush()?;
    if found.closed { Ok(()) } else { Err(Failure::Refused(found.says.clone())) }
}

fn table(found: &Reconciliation) -> Table {
    let columns = &["DECISION", ">DECIDED", ">QUIET", ">COLLECTED", ">TOLD AS LOST", ">MISSING", "CAUSES"];
    let mut table = Table::new(columns);
    for line in &found.lines {
        let Line { what, decided, quiet, collected, told, .. } = line;
        let missing = line.missing_in_agent + line.missing_on_the_way;
        let causes: Vec<String> = told.iter().map(|(cause, count)| format!("{cause}={count}")).collect();
        table.styled([
            (what.clone(), PLAIN),
            (decided.to_string(), PLAIN),
            (quiet.to_string(), PLAIN),
            (collected.to_string(), PLAIN),
            (told.values().sum::<u64>().to_string(), PLAIN),
            (missing.to_string(), if missing > 0 { BAD } else { PLAIN }),
            (if causes.is_empty() { "-".to_owned() } else { causes.join(" ") }, PLAIN),
        ]);
    }
    table
}
