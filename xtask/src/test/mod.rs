//! Lives: xtask, the task `test`.
//! Called by: a person; ci.
//! May touch: the target folder; what the tests themselves make (their own namespaces and cgroups).
//! Never: lets a test that did not run pass; ends without the line `N passed, N failed`.

mod output;

use std::io::{BufRead, BufReader, pipe};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;

use crate::paths::Repo;
use crate::report::{seconds, write_json};
use crate::{build, process, setup};
pub use output::Tally;

/// Shown below `cargo xtask test --help`.
pub const HELP: &str = "\
Needs root: live tests make namespaces and cgroups of their own and remove them.

Examples:
  cargo xtask test                      everything
  cargo xtask test denied_connect       tests whose name contains 'denied_connect'
  cargo xtask test --json tests.json    the counts per suite as JSON as well
  cargo xtask test gcra -- --nocapture  hand options on to the test programs
  RUST_TEST_THREADS=1 cargo xtask test  one at a time

A test that is marked as ignored counts as a failure unless it is listed, with its reason, in xtask/src/test/output.rs.";

/// `cargo xtask test`.
#[derive(Args)]
pub struct Options {
    /// Only tests whose name contains this
    filter: Option<String>,
    /// Also write the counts as JSON to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Options of the test programs
    #[arg(last = true)]
    rest: Vec<String>,
}

/// Brings what is missing, runs the tests, and closes with the counts.
pub fn task(repo: &Repo, options: &Options) -> Result<bool> {
    let mut arguments: Vec<&str> = options.filter.as_deref().into_iter().collect();
    arguments.extend(options.rest.iter().map(String::as_str));
    let tally = match setup::demand(repo, setup::For::Live).and_then(|()| run(repo, &arguments)) {
        Ok(tally) => tally,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            Tally::never_ran()
        }
    };
    write_json(options.json.as_deref(), &tally)?;
    println!("\n{}", tally.closing());
    Ok(tally.ok())
}

/// Builds, runs and counts; `arguments` go to every test program.
pub fn run(repo: &Repo, arguments: &[&str]) -> Result<Tally> {
    let start = Instant::now();
    // Live tests start the programs as a person would. Built first and apart, so that cargo's progress is seen.
    let programs = build::programs_and_tests(repo)?;
    build::next_agent(repo)?;
    let tests = ["test", "--workspace", "--locked", "--no-fail-fast"];
    let (reader, writer) = pipe().context("making a pipe")?;
    let mut cargo = process::cargo(repo);
    cargo.args(tests).arg("--").args(arguments).env("WEIR_BIN_DIR", programs).env("CARGO_TERM_COLOR", "never");
    // cargo names the suites on stderr and the tests speak on stdout: one pipe keeps them in order.
    cargo.stdin(Stdio::null()).stdout(writer.try_clone().context("sharing a pipe")?).stderr(writer);
    let mut child = cargo.spawn().context("starting cargo test")?;
    // The command holds the pipe's writing end, and reading would never see its end.
    drop(cargo);
    let mut tally = Tally::default();
    for line in BufReader::new(reader).split(b'\n') {
        let line = line.context("reading cargo test")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        tally.line(&line);
    }
    let status = child.wait().context("waiting for cargo test")?;
    tally.close(status.success(), seconds(start.elapsed()));
    tally.print();
    Ok(tally)
}
