//! Lives: weir-tests, the benchmark of XDP.
//! Called by: `cargo xtask bench xdp`; by `cargo test`, which gets a few hundred packets through each contestant instead.
//! May touch: a world of its own, standard output, the file given by `--json`.
//! Never: fails because something is slow; measures what is not attached; shows a row for what is not here.

mod bulk;
mod frame;
mod generator;
mod honesty;
mod plan;
mod prefixes;
mod programs;
mod rivals;
mod rounds;
mod site;
mod smoke;
mod weir;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

/// What Weir costs at XDP, beside what others cost.
#[derive(Parser)]
#[command(name = "cargo xtask bench xdp")]
struct Cli {
    #[command(flatten)]
    options: plan::Options,
    /// Also write everything as JSON to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    // What cargo adds when it benchmarks, and not when it tests.
    if !std::env::args().any(|argument| argument == "--bench") {
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
    let report = plan::run(&cli.options)?;
    report.table.print();
    report.honesty();
    weir_tests::measured::save(&report, cli.json.as_deref())
}
