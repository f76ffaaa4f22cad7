//! Lives: ctl, the verb status.
//! Called by: `verbs`.
//! May touch: the agent, the collector.
//! Never: fails because there is no collector; it says so.

use std::io::Write;

use clap::Args;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use crate::agreement::{Agreement, across, within};
use crate::cli::Connection;
use crate::failure::Failure;
use crate::render::output;
use crate::render::status::{Clock, agent as show_agent, collector as show_collector};
use crate::render::style::{ODD, clean, paint};
use crate::view::{Agent, Collector};

const EXAMPLES: &str = "Examples:
  weirctl status
  weirctl status -o json | jq '.countersAgree.agree, .collectorAgrees.agree'

The counters are the kernel's. Each decision is either recorded, or lost and counted as lost, so DECIDED = RECORDED + LOST;
and the collector's sums are the same numbers once everything has arrived.";

/// Arguments of status.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// How to show it.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Table,
    Json,
}

/// Runs it.
pub async fn run(arguments: &Arguments, connection: &Connection) -> Result<(), Failure> {
    let agent = connection.agent()?.status().await?;
    // Asked second, so that what the agent has counted had time to arrive.
    let collector = match connection.collector() {
        Ok(mut client) => client.status().await,
        Err(failure) => Err(failure),
    };
    let counters = within(&agent);
    let sums = collector.as_ref().ok().map(|collector| across(&agent, collector));
    let mut out = output::open();
    match arguments.output {
        Format::Table => table(&mut out, &agent, &counters, collector.as_ref().ok().zip(sums.as_ref()))?,
        Format::Json => {
            let error = collector.as_ref().err().map(ToString::to_string);
            let (collector, countering) = (collector.as_ref().ok(), &counters);
            let all = Json {
                agent: &agent,
                counters_agree: countering,
                collector,
                collector_error: error.as_deref(),
                collector_agrees: sums.as_ref(),
            };
            output::json(&mut out, &all)?;
        }
    }
    if let (Format::Table, Err(failure)) = (arguments.output, &collector) {
        writeln!(out, "\n{}", paint(ODD, &clean(&format!("collector: {failure}"))))?;
    }
    Ok(out.flush()?)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Json<'a> {
    agent: &'a Agent,
    counters_agree: &'a Agreement,
    collector: Option<&'a Collector>,
    collector_error: Option<&'a str>,
    collector_agrees: Option<&'a Agreement>,
}

fn table(
    out: &mut dyn Write,
    agent: &Agent,
    counters: &Agreement,
    collector: Option<(&Collector, &Agreement)>,
) -> Result<(), Failure> {
    let clock = Clock { now: Timestamp::now(), zone: TimeZone::system() };
    show_agent(out, agent, counters, &clock)?;
    if let Some((collector, sums)) = collector {
        show_collector(out, collector, sums, &clock)?;
    }
    Ok(())
}
