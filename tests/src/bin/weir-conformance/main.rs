//! Lives: weir-tests, the program behind `cargo xtask conformance`.
//! Called by: xtask, a person.
//! May touch: the folder of cases it is told (read), the report it is told to write.
//! Never: asks the network or the kernel; cases are about what policies mean.

mod case;
mod check;
mod ends;
mod files;
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

/// Runs conformance cases: each state from scratch and by increments, by the evaluator and by the compiled tables.
#[derive(Parser)]
struct Cli {
    /// Folder with cases and manifests, searched with its subfolders; or one file
    dir: PathBuf,
    /// Also write the report as JSON to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
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
    let mut report = Report::default();
    for file in files::read(&cli.dir)? {
        match file {
            File::Case(case) => report.add(check::case(&case)),
            File::Manifests(manifests) => manifests.iter().for_each(|manifest| report.add(validation::check(manifest))),
            File::Unreadable(name, error) => {
                report.add(Outcome { name, failures: vec![format!("{error:#}")], ..Outcome::default() })
            }
        }
    }
    if report.is_empty() {
        bail!("{}: no case and no manifest is there", cli.dir.display());
    }
    if let Some(file) = &cli.json {
        report.write(file)?;
    }
    Ok(report.finish())
}
