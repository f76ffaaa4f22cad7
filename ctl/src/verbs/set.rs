//! Lives: ctl.
//! Called by: `verbs`.
//! May touch: the list named, the agent.
//! Never: reads a list itself: the agent does, and says which line is wrong.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use jiff::tz::TimeZone;

use crate::cli::Connection;
use crate::failure::Failure;
use crate::render::output::{self, Format, remark};
use crate::render::style::clean;
use crate::render::table::Table;
use crate::render::time;
use crate::view::{AddressSets, SetChanged, SetEntry};

const EXAMPLES: &str = "Examples:
  weirctl set load drop drop.txt                  # in place of what was loaded before, all at once
  curl -fsSO https://example.org/list && weirctl set load drop list
  weirctl set load drop - --allow-empty < /dev/null # take out all that was loaded
  weirctl set add drop 192.0.2.7 2001:db8::/48 --expires-in 1h
  weirctl set remove drop 192.0.2.7
  weirctl set list                                # sets, entries, and what each has refused
  weirctl set show drop 192.0.2.7                 # which entries hold this address

A set is an AddressSet document, which says what becomes of packets from its addresses:
  apiVersion: weir.dev/v1alpha1
  kind: AddressSet
  metadata: {name: drop}
  spec: {action: block}
A list has one address, prefix or range (a-b) a line; comments begin with # or ;. Of a CSV the first column is read.";

/// Arguments of set.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(subcommand)]
    verb: SetVerb,
}

#[derive(Debug, Subcommand)]
enum SetVerb {
    /// Load a list into a set, in place of what was loaded before.
    Load {
        /// The set.
        name: String,
        /// The list; - for standard input.
        file: PathBuf,
        /// Load the list also if it has no entries, which takes out all that was loaded.
        #[arg(long)]
        allow_empty: bool,
        #[command(flatten)]
        how: How,
    },
    /// Add entries to a set: all of them or none.
    Add {
        /// The set.
        name: String,
        /// Addresses, prefixes or ranges (a-b).
        #[arg(required = true)]
        entries: Vec<String>,
        #[command(flatten)]
        how: How,
    },
    /// Take loaded entries out of a set: all of them or none.
    Remove {
        /// The set.
        name: String,
        /// Entries as they were added.
        #[arg(required = true)]
        entries: Vec<String>,
        /// How to show what became of it.
        #[arg(short, long, value_enum, default_value_t = Format::Text)]
        output: Format,
    },
    /// Show sets, how many entries they have, and what they refused.
    List {
        /// How to show them.
        #[arg(short, long, value_enum, default_value_t = Format::Text)]
        output: Format,
    },
    /// Show the entries of a set.
    Show {
        /// The set.
        name: String,
        /// Only entries that hold this address or prefix.
        address: Option<String>,
        /// How to show them; JSON is one object a line.
        #[arg(short, long, value_enum, default_value_t = Format::Text)]
        output: Format,
    },
}

/// What loading and adding have in common.
#[derive(Debug, Args)]
struct How {
    /// For how long, such as 90s, 1h30m, 7d; by default until they are taken out.
    #[arg(long, value_name = "SPAN", value_parser = time::span_of)]
    expires_in: Option<Duration>,
    /// How to show what became of it.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Runs it.
pub async fn run(arguments: Arguments, connection: &Connection) -> Result<(), Failure> {
    let mut client = connection.sets()?;
    match arguments.verb {
        SetVerb::Load { name, file, allow_empty, how } => {
            let source = file.display().to_string();
            let changed = client.load(&name, &source, open(&file)?, how.expires(), allow_empty).await?;
            let what = format!("{} loaded into {name}, in place of {}", entries(changed.added), changed.removed);
            told(&changed, how.output, &what, "line ")
        }
        SetVerb::Add { name, entries: add, how } => {
            let changed = client.change(&name, add, Vec::new(), how.expires()).await?;
            told(&changed, how.output, &format!("{} added to {name}", entries(changed.added)), "entry ")
        }
        SetVerb::Remove { name, entries: remove, output } => {
            let changed = client.change(&name, Vec::new(), remove, Duration::ZERO).await?;
            told(&changed, output, &format!("{} taken out of {name}", entries(changed.removed)), "entry ")
        }
        SetVerb::List { output } => list(&client.list().await?, output),
        SetVerb::Show { name, address, output } => {
            let mut out = output::open();
            let address = address.unwrap_or_default();
            client.show(&name, &address, |entry| show(&mut out, &entry, output)).await?;
            Ok(out.flush()?)
        }
    }
}

impl How {
    fn expires(&self) -> Duration {
        self.expires_in.unwrap_or(Duration::ZERO)
    }
}

fn open(file: &Path) -> Result<Box<dyn Read + Send>, Failure> {
    if file.as_os_str() == "-" {
        return Ok(Box::new(io::stdin()));
    }
    let opened = File::open(file).map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))?;
    Ok(Box::new(opened))
}

fn entries(count: u64) -> String {
    if count == 1 { "1 entry".to_owned() } else { format!("{count} entries") }
}

fn told(changed: &SetChanged, output: Format, what: &str, place: &str) -> Result<(), Failure> {
    let faulty = !changed.faults.is_empty();
    let mut out = output::open();
    match output {
        Format::Json => output::json(&mut out, changed)?,
        Format::Text if !faulty => writeln!(out, "{}", clean(what))?,
        Format::Text => {}
    }
    out.flush()?;
    if output == Format::Text {
        for fault in &changed.faults {
            let words = format!("{place}{}: \"{}\": {}; {}", fault.line, fault.value, fault.problem, fault.remedy);
            remark(&clean(&words));
        }
        if changed.more_faults > 0 {
            remark(&format!("and {} more", changed.more_faults));
        }
        changed.warnings.iter().for_each(|warning| remark(&clean(&format!("warning: {warning}"))));
    }
    if faulty { Err(Failure::Refused("refused: nothing was changed".to_owned())) } else { Ok(()) }
}

fn list(listed: &AddressSets, output: Format) -> Result<(), Failure> {
    let mut out = output::open();
    match output {
        Format::Json => output::json(&mut out, listed)?,
        Format::Text if listed.sets.is_empty() => remark("no address sets"),
        Format::Text => {
            let mut table =
                Table::new(&["NAME", "ACTION", ">LISTED", ">LOADED", "NEXT EXPIRY", ">REFUSED PACKETS", ">BYTES"]);
            for set in &listed.sets {
                let expiry = set.next_expiry.map_or_else(String::new, |at| time::full(at, &TimeZone::system()));
                let numbers = [set.listed, set.loaded, set.packets, set.bytes].map(|number| number.to_string());
                let [listed, loaded, packets, bytes] = numbers;
                table.row([set.name.clone(), set.action.clone(), listed, loaded, expiry, packets, bytes]);
            }
            table.write(&mut out)?;
            writeln!(out, "kernel memory: {:.1} MiB", listed.memory_bytes as f64 / f64::from(1 << 20))?;
        }
    }
    Ok(out.flush()?)
}

fn show(out: &mut dyn Write, entry: &SetEntry, output: Format) -> Result<(), Failure> {
    if output == Format::Json {
        return output::json_line(out, entry);
    }
    let from = if entry.listed { " (document)" } else { "" };
    let until = entry.expires.map(|at| format!(" until {}", time::full(at, &TimeZone::system())));
    Ok(writeln!(out, "{}{}{from}", clean(&entry.prefix), until.unwrap_or_default())?)
}
