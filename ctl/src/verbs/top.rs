//! Lives: ctl, the verb top.
//! Called by: `verbs`.
//! May touch: the collector.
//! Never: keeps more clients than it says it does; shows a number that no record holds.

mod clients;

use std::io::Write;
use std::time::Duration;

use clap::{Args, Subcommand};
use tokio::time::{Instant, timeout_at};

use crate::cli::Connection;
use crate::failure::Failure;
use crate::render::output::{self, TableFormat};
use crate::render::time::span_of;
use crate::rpc::ObserveQuery;
use crate::view::Record;

use clients::{Clients, Heaviest, Window};

const EXAMPLES: &str = "Examples:
  weirctl top clients
  weirctl top clients --by limited --service shop/api
  weirctl top clients --rounds 1 --every 10s -o json | jq '.clients[0].address'

Numbers are of the last interval, as the records of the collector say: datagrams, refused packets and new connections are recorded as
they come, the bytes of a TCP connection when it closes. What a rule with log: false lets pass has no record, nor has what XDP lets pass
to no workload's socket. Beyond --keep clients at a time the lightest make room: who takes such
a place may have sent up to ERROR more than it shows, and may stand too high by as much.";

/// Arguments of top.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Show who sends services most, and whom their limits hold back most, from flow records as they come.
    Clients(ClientsArguments),
}

/// Arguments of top clients.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
struct ClientsArguments {
    /// What makes a client stand first.
    #[arg(long, value_enum, default_value_t = Heaviest::Bytes)]
    by: Heaviest,
    /// Only clients of this workload, NAME or NAMESPACE/NAME.
    #[arg(long, value_name = "WORKLOAD", value_delimiter = ',')]
    service: Vec<String>,
    /// Seconds between two pictures: 5s, 1m.
    #[arg(long, value_name = "SPAN", default_value = "5s", value_parser = span)]
    every: Duration,
    /// Stop after so many pictures.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rounds: Option<u64>,
    /// Clients shown.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    show: u16,
    /// Clients kept at a time.
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    keep: u32,
    /// How to show them; JSON is one object a picture.
    #[arg(short, long, value_enum, default_value_t = TableFormat::Table)]
    output: TableFormat,
}

fn span(text: &str) -> Result<Duration, String> {
    let span = span_of(text)?;
    let range = Duration::from_secs(1)..=Duration::from_secs(3600);
    if range.contains(&span) { Ok(span) } else { Err("write a span from 1s to 60m, such as 5s or 1m".to_owned()) }
}

/// Runs it.
pub async fn run(arguments: Arguments, connection: &Connection) -> Result<(), Failure> {
    let What::Clients(arguments) = arguments.what;
    let query = ObserveQuery { follow: true, workload: arguments.service.clone(), ..ObserveQuery::default() };
    let mut observation = connection.collector()?.observe(query).await?;
    let mut round = 0;
    while arguments.rounds.is_none_or(|rounds| round < rounds) {
        let mut clients = Clients::new(arguments.by, arguments.keep as usize);
        let (began, mut skipped) = (Instant::now(), 0);
        while let Ok(observed) = timeout_at(began + arguments.every, observation.next()).await {
            let Some(observed) = observed? else { return Err(ended(connection)) };
            skipped += observed.skipped;
            if let Some(record) = observed.record.as_ref().filter(|record| of_service(record, &arguments.service)) {
                clients.add(record);
            }
        }
        show(&arguments, &clients.window(arguments.show.into(), began.elapsed(), skipped))?;
        round += 1;
    }
    Ok(())
}

fn ended(connection: &Connection) -> Failure {
    let endpoint = connection.collector.to_string();
    Failure::Unreachable { service: "the collector", endpoint, why: "it ended the stream".to_owned() }
}

/// The collector shows what has the workload at either end; a service is asked.
fn of_service(record: &Record, services: &[String]) -> bool {
    let named = |workload: &str| {
        services.iter().any(|service| service == workload || workload.rsplit('/').next() == Some(service.as_str()))
    };
    services.is_empty() || record.local.as_ref().is_some_and(|local| named(&local.workload))
}

fn show(arguments: &ClientsArguments, window: &Window) -> Result<(), Failure> {
    let mut out = output::open();
    match arguments.output {
        TableFormat::Table => window.write(&mut out)?,
        TableFormat::Json => output::json_line(&mut out, window)?,
    }
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_or_refused() {
        let rows = [("1s", Some(1)), ("5m", Some(300)), ("60m", Some(3600)), ("61m", None), ("0s", None), ("5", None)];
        for (text, expected) in rows {
            assert_eq!(span(text).ok(), expected.map(Duration::from_secs), "{text}");
        }
    }
}
