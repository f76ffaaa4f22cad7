//! Lives: weir-tests, the benchmark of the socket hooks.
//! Called by: `cargo xtask bench socket`.
//! May touch: a world of its own, standard output, the file given by `--json`.
//! Never: fails because something is slow; measures what is not attached.

mod empty;
mod ends;
mod nft;
mod plan;
mod rounds;
mod site;
mod stack;
mod tables;
mod weir;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// What Weir's socket hooks cost, beside what others cost.
#[derive(Parser)]
#[command(name = "cargo xtask bench socket")]
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
    /// Both ends of the traffic (the benchmark starts this itself)
    #[command(hide = true)]
    Ends(ends::Place),
    /// A process at the server's place (the benchmark starts this itself)
    #[command(hide = true)]
    Resident(ends::Place),
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    match &cli.what {
        Some(What::Ends(place)) => return ends::serve(place),
        Some(What::Resident(place)) => return ends::reside(place),
        None => {}
    }
    let report = plan::run(&cli.options)?;
    report.print();
    weir_tests::measured::save(&report, cli.json.as_deref())
}
