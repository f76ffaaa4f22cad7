//! Lives: ctl, the verb status.
//! Called by: `verbs`.
//! May touch: the agent, the collector.
//! Never: fails because there is no collector; it says so.

use std::io::Write;
use std::time::{Duration, Instant};

use clap::Args;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;
use tokio::time::sleep;

use crate::agreement::{Agreement, across, within};
use crate::cli::Connection;
use crate::failure::Failure;
use crate::render::output::{self, TableFormat};
use crate::render::status::{Clock, agent as show_agent, collector as show_collector};
use crate::render::style::{ODD, clean, paint};
use crate::view::{Agent, Collector};

/// Rest between two rounds of --wait.
const AGAIN: Duration = Duration::from_millis(200);

const EXAMPLES: &str = "Examples:
  weirctl status
  weirctl status --wait 10                       # exit code 1 unless all numbers agree within 10 seconds
  weirctl status -o json | jq '.countersAgree.agree, .collectorAgrees.agree'

The counters are the kernel's. Each decision is either recorded, or lost and counted as lost, or by a rule with log: false
and counted as quiet, so DECIDED = RECORDED + LOST + QUIET; and the collector's sums are the same numbers once everything has arrived.";

/// Arguments of status.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// How to show it.
    #[arg(short, long, value_enum, default_value_t = TableFormat::Table)]
    output: TableFormat,
    /// Ask again until kernel, agent and collector agree on the numbers; exit code 1 if they still do not after this long.
    #[arg(long, value_name = "SECONDS")]
    wait: Option<u64>,
}

/// What was learned in one round.
pub struct Round {
    pub agent: Agent,
    pub counters: Agreement,
    pub collector: Result<Collector, Failure>,
    pub sums: Option<Agreement>,
}

/// Runs it.
pub async fn run(arguments: &Arguments, connection: &Connection) -> Result<(), Failure> {
    let round = ask(connection, Duration::from_secs(arguments.wait.unwrap_or(0))).await?;
    round.show(arguments.output)?;
    match arguments.wait {
        Some(seconds) if !round.agrees() => {
            Err(Failure::Refused(format!("the numbers do not agree after {seconds} seconds")))
        }
        Some(_) | None => Ok(()),
    }
}

/// Asks agent and collector, again until their numbers agree or `patience` ends.
pub async fn ask(connection: &Connection, patience: Duration) -> Result<Round, Failure> {
    let begin = Instant::now();
    loop {
        let round = once(connection).await?;
        if round.agrees() || begin.elapsed() >= patience {
            return Ok(round);
        }
        sleep(AGAIN).await;
    }
}

async fn once(connection: &Connection) -> Result<Round, Failure> {
    let agent = connection.agent()?.status().await?;
    // Asked second, so that what the agent has counted had time to arrive.
    let collector = match connection.collector() {
        Ok(mut client) => client.status().await,
        Err(failure) => Err(failure),
    };
    let counters = within(&agent);
    let sums = collector.as_ref().ok().map(|collector| across(&agent, collector));
    Ok(Round { agent, counters, collector, sums })
}

impl Round {
    fn agrees(&self) -> bool {
        self.counters.agree && self.sums.as_ref().is_some_and(|sums| sums.agree)
    }

    fn show(&self, format: TableFormat) -> Result<(), Failure> {
        let mut out = output::open();
        match format {
            TableFormat::Table => self.table(&mut out)?,
            TableFormat::Json => output::json(&mut out, &self.json())?,
        }
        Ok(out.flush()?)
    }

    fn table(&self, out: &mut dyn Write) -> Result<(), Failure> {
        let clock = Clock { now: Timestamp::now(), zone: TimeZone::system() };
        show_agent(out, &self.agent, &self.counters, &clock)?;
        if let (Ok(collector), Some(sums)) = (&self.collector, &self.sums) {
            show_collector(out, collector, sums, &clock)?;
        }
        if let Err(failure) = &self.collector {
            writeln!(out, "\n{}", paint(ODD, &clean(&format!("collector: {failure}"))))?;
        }
        Ok(())
    }

    /// As `-o json` shows it.
    pub fn json(&self) -> impl Serialize + '_ {
        Json {
            agent: &self.agent,
            counters_agree: &self.counters,
            collector: self.collector.as_ref().ok(),
            collector_error: self.collector.as_ref().err().map(ToString::to_string),
            collector_agrees: self.sums.as_ref(),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Json<'a> {
    agent: &'a Agent,
    counters_agree: &'a Agreement,
    collector: Option<&'a Collector>,
    collector_error: Option<String>,
    collector_agrees: Option<&'a Agreement>,
}
