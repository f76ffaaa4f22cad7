//! Lives: ctl, the verb observe.
//! Called by: `verbs`.
//! May touch: the collector.
//! Never: is silent about records it was not shown.

use std::io::Write;

use clap::Args;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::cli::Connection;
use crate::failure::Failure;
use crate::render::compact;
use crate::render::output;
use crate::render::rows::Rows;
use crate::render::style::{ODD, paint};
use crate::render::time;
use crate::rpc::ObserveQuery;
use crate::view::{Kind, Record, Verdict};

const EXAMPLES: &str = "Examples:
  weirctl observe --last 20
  weirctl observe --follow --verdict deny,audit
  weirctl observe --since 5m --workload shop/db --port 5432
  weirctl observe --address 203.0.113.0/24 --type close -o json | jq .bytesSent

Different filters must all match; of several values for one filter any may. In the compact form the side that opened the
connection stands left of the arrow, and xN stands for N equal decisions. JSON is one object a line.";

/// Arguments of observe.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Keep showing new records (with neither --last nor --since, only new ones).
    #[arg(short, long)]
    follow: bool,
    /// Begin with the newest N that match.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    last: Option<u64>,
    /// Only records since then: a span back (30s, 5m, 1h30m, 2d) or a time (2026-11-21T23:00:00Z).
    #[arg(long, value_name = "WHEN", value_parser = since)]
    since: Option<Timestamp>,
    /// NAME or NAMESPACE/NAME of either end.
    #[arg(long, value_name = "WORKLOAD", value_delimiter = ',')]
    workload: Vec<String>,
    /// Address or CIDR block of either end.
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    address: Vec<String>,
    /// Port of either end.
    #[arg(long, value_name = "PORT", value_delimiter = ',')]
    port: Vec<u16>,
    /// What was decided.
    #[arg(long, value_name = "VERDICT", value_enum, value_delimiter = ',')]
    verdict: Vec<Verdict>,
    /// Why, such as default, rule, rate_limit_packets, blocklist.
    #[arg(long, value_name = "REASON", value_delimiter = ',')]
    reason: Vec<String>,
    /// What the record is about.
    #[arg(long = "type", value_name = "TYPE", value_enum, value_delimiter = ',')]
    kind: Vec<Kind>,
    /// Node that reports.
    #[arg(long, value_name = "NODE", value_delimiter = ',')]
    node: Vec<String>,
    /// How to show records.
    #[arg(short, long, value_enum, default_value_t = Format::Compact)]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Compact,
    Table,
    Json,
}

fn since(text: &str) -> Result<Timestamp, String> {
    time::since(text, Timestamp::now())
}

/// Runs it.
pub async fn run(arguments: Arguments, connection: &Connection) -> Result<(), Failure> {
    let (format, follow) = (arguments.output, arguments.follow);
    let mut observation = connection.collector()?.observe(query(arguments)).await?;
    let mut out = output::open();
    let mut rows = Rows::new(TimeZone::system());
    while let Some(observed) = observation.next().await? {
        if observed.skipped > 0 {
            out.flush()?;
            let skipped = format!("{} records skipped: this reader was too slow for them", observed.skipped);
            output::remark(&paint(ODD, &skipped));
        }
        if let Some(record) = &observed.record {
            show(&mut out, format, record, &mut rows)?;
        }
        if follow {
            out.flush()?;
        }
    }
    out.flush()?;
    match follow {
        true => Err(Failure::Unreachable {
            service: "the collector",
            endpoint: connection.collector.to_string(),
            why: "it ended the stream".to_owned(),
        }),
        false => Ok(()),
    }
}

fn show(out: &mut dyn Write, format: Format, record: &Record, rows: &mut Rows) -> Result<(), Failure> {
    match format {
        Format::Compact => Ok(writeln!(out, "{}", compact::line(record, rows.zone()))?),
        Format::Table => Ok(rows.write(out, record)?),
        Format::Json => output::json_line(out, record),
    }
}

fn query(arguments: Arguments) -> ObserveQuery {
    ObserveQuery {
        follow: arguments.follow,
        last: arguments.last.unwrap_or(0),
        since: arguments.since,
        workload: arguments.workload,
        address: arguments.address,
        port: arguments.port,
        verdict: arguments.verdict,
        reason: arguments.reason,
        kind: arguments.kind,
        node: arguments.node,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parse(line: &str) -> Result<ObserveQuery, clap::Error> {
        Line::try_parse_from(format!("observe {line}").split_whitespace()).map(|line| query(line.arguments))
    }

    #[test]
    fn filters_are_read() {
        let none = ObserveQuery::default;
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        for (line, expected) in [
            ("", none()),
            ("-f --last 3", ObserveQuery { follow: true, last: 3, ..none() }),
            (
                "--workload web,shop/db --workload x",
                ObserveQuery { workload: words(&["web", "shop/db", "x"]), ..none() },
            ),
            ("--address 10.0.0.0/8,::1", ObserveQuery { address: words(&["10.0.0.0/8", "::1"]), ..none() }),
            ("--port 80,443", ObserveQuery { port: vec![80, 443], ..none() }),
            ("--verdict deny,audit", ObserveQuery { verdict: vec![Verdict::Deny, Verdict::Audit], ..none() }),
            ("--reason default", ObserveQuery { reason: words(&["default"]), ..none() }),
            ("--type close --type loss", ObserveQuery { kind: vec![Kind::Close, Kind::Loss], ..none() }),
            ("--node node-1", ObserveQuery { node: words(&["node-1"]), ..none() }),
            (
                "--since 2026-11-21T23:00:00Z",
                ObserveQuery { since: Some("2026-11-21T23:00:00Z".parse().unwrap()), ..none() },
            ),
        ] {
            assert_eq!(parse(line).unwrap(), expected, "{line}");
        }
    }

    #[test]
    fn filters_that_make_no_sense_are_refused() {
        let lines = ["--last 0", "--since soon", "--port 65536", "--verdict maybe", "--verdict unknown", "--type all"];
        for line in lines {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
