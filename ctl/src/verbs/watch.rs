//! Lives: ctl, the verb watch.
//! Called by: `verbs`.
//! May touch: the agent.
//! Never: ends by itself; when the agent ends the stream that is a failure.

use std::io::Write;

use clap::Args;
use serde::Serialize;
use weir_policy::Kind;

use super::resource::kind;
use crate::cli::Connection;
use crate::failure::Failure;
use crate::render::output;
use crate::render::style::{DIM, clean, paint};
use crate::view::WatchEvent;

const EXAMPLES: &str = "Examples:
  weirctl watch
  weirctl watch policies
  weirctl watch -o json | jq -c .change

First come all resources there are, then a line that says so, then changes as they take effect.";

/// Arguments of watch.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Workload, Policy, RateLimit or AddressSet; without it, all.
    #[arg(value_parser = kind)]
    kind: Option<Kind>,
    /// How to show changes.
    #[arg(short, long, value_enum, default_value_t = Format::Compact)]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Compact,
    Json,
}

/// Runs it.
pub async fn run(arguments: &Arguments, connection: &Connection) -> Result<(), Failure> {
    let mut events = connection.agent()?.watch(arguments.kind.map_or("", Kind::name)).await?;
    let mut out = output::open();
    while let Some(event) = events.next().await? {
        match arguments.output {
            Format::Compact => compact(&mut out, &event)?,
            Format::Json => output::json_line(&mut out, &Json::from(&event))?,
        }
        out.flush()?;
    }
    let endpoint = connection.agent.to_string();
    Err(Failure::Unreachable { service: "the agent", endpoint, why: "it ended the watch".to_owned() })
}

fn compact(out: &mut dyn Write, event: &WatchEvent) -> std::io::Result<()> {
    if let Some(change) = &event.change {
        let (action, id) = (clean(&change.action), change.id());
        writeln!(out, "{action:9} {} (generation {})", clean(&id), event.generation)?;
    }
    if event.synced {
        writeln!(out, "{}", paint(DIM, &format!("-- that is all at generation {}; changes follow", event.generation)))?;
    }
    Ok(())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Json<'a> {
    change: Option<&'a crate::view::Change>,
    yaml: Option<&'a str>,
    generation: u64,
    synced: bool,
}

impl<'a> From<&'a WatchEvent> for Json<'a> {
    fn from(event: &'a WatchEvent) -> Self {
        let yaml = event.item.as_ref().map(|item| item.yaml.as_str());
        Self { change: event.change.as_ref(), yaml, generation: event.generation, synced: event.synced }
    }
}
