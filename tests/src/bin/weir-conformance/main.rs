//! Lives: weir-tests, the program behind `cargo xtask conformance`.
//! Called by: xtask, a person.
//! May touch: the folder of cases it is told (read), the report it is told to write; with `--live` a world of its own.
//! Never: asks the network or the kernel without `--live`: cases are about what policies mean.

mod case;
mod check;
mod ends;
mod files;
mod live;
mod report;
mod tables;
mod validation;
mod walk;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser;

use files::File;
use report::{Outcome, Report};

/// Runs conformance cases: each state from scratch and by increments, by the evaluator and by the compiled tables; or on a
/// running cluster, by real traffic.
#[derive(Parser)]
struct Cli {
    /// Folder with cases and manifests, searched with its subfolders; or one file
    dir: PathBuf,
    /// Also write the report as JSON to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Build each case as a running cluster and ask by real traffic (needs root)
    #[arg(long)]
    live: bool,
    /// Only cases and manifests whose name contains this
    #[arg(long, value_name = "NAME")]
    case: Option<String>,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("weir-conformance: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(cli: &Cli) -> Result<bool> {
    let mut report = if cli.live { Report::live() } else { Report::default() };
    let mut running = Vec::new();
    let chosen = |name: &str| cli.case.as_ref().is_none_or(|part| name.contains(part.as_str()));
    for file in files::read(&cli.dir)? {
        match file {
            File::Case(case) if !chosen(&case.name) => {}
            File::Case(case) if cli.live => running.push(*case),
            File::Case(case) => report.add(check::case(&case)),
            // What is accepted and refused is no matter of traffic.
            File::Manifests(_) if cli.live => {}
            File::Manifests(manifests) => {
                let chosen = manifests.iter().filter(|manifest| chosen(&manifest.name));
                chosen.for_each(|manifest| report.add(validation::check(manifest)));
            }
            File::Unreadable(name, error) => {
                report.add(Outcome { name, failures: vec![format!("{error:#}")], ..Outcome::default() })
            }
        }
    }
    if !running.is_empty() {
        live::run(&running, &mut report)?;
    }
    if report.is_empty() {
        bail!("{}: no case and no manifest of that name is there", cli.dir.display());
    }
    if let Some(file) = &cli.json {
        report.write(file)?;
    }
    Ok(report.finish())
}
