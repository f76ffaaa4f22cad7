//! Lives: weir-tests, the benchmark of telemetry.
//! Called by: `cargo xtask bench telemetry`; by `cargo test`, which sends a few records through each contestant instead.
//! May touch: worlds of its own, standard output, the file given by `--json`.
//! Never: fails because something is slow; takes what was lost for what was cheap.

mod agent;
mod floor;
mod openings;
mod plan;
mod site;
mod smoke;
mod threads;
mod wire;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// What a record costs on its way from the kernel to the collector, beside what it must cost.
#[derive(Parser)]
#[command(name = "cargo xtask bench telemetry")]
struct Cli {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    options: plan::Options,
    /// Also write everything as JSON to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum What {
    /// Remembers open connections and says what that takes (the benchmark starts this itself)
    #[command(hide = true)]
    Openings {
        /// How many
        count: u32,
    },
}

fn main() -> ExitCode {
    // What cargo adds when it benchmarks, and not when it tests; and what the benchmark starts itself.
    if !std::env::args().any(|argument| argument == "--bench" || argument == "openings") {
        return smoke::run();
    }
    match bench(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(cli: &Cli) -> Result<()> {
    if let Some(What::Openings { count }) = cli.what {
        return openings::remember(count);
    }
    let report = plan::run(&cli.options)?;
    report.print();
    weir_tests::measured::save(&report, cli.json.as_deref())
}
