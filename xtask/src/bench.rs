//! Lives: xtask, the task `bench`.
//! Called by: a person who wants to know what something takes.
//! May touch: the target folder; then it becomes `weir-bench`, which measures.
//! Never: fails because something is slow: a goal that was missed is said, and people judge.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use anyhow::{Error, Result, bail};
use clap::{Args, Subcommand};

use crate::paths::Repo;
use crate::process;

/// Shown below `cargo xtask bench policy --help`.
pub const HELP: &str = "\
A quarter of the size, half of it and all of it, each in a process of its own, on generated clusters of realistic shape.
Times are CPU time of one thread, medians of rounds; ratios within one run are what is compared with the goals.

Examples:
  cargo xtask bench policy                                     30,000 pods, 5,000 policies, 250 pods here: a minute or two
  cargo xtask bench policy --pods 3000 --policies 500          a few seconds
  cargo xtask bench policy --rounds 9 --json bench.json        more patience, and the figures as JSON";

/// `cargo xtask bench`.
#[derive(Subcommand)]
pub enum What {
    /// The policy engine: full compiles, increments, parsing, evaluating, deciding
    #[command(after_help = HELP)]
    Policy(Policy),
}

/// `cargo xtask bench policy`. What is not given, `weir-bench` decides.
#[derive(Args)]
pub struct Policy {
    /// Pods of the largest cluster [default: 30000]
    #[arg(long, value_name = "N")]
    pods: Option<u32>,
    /// Its policies, of all kinds [default: 5000]
    #[arg(long, value_name = "N")]
    policies: Option<u32>,
    /// Pods on the node that is looked at [default: 250]
    #[arg(long, value_name = "N")]
    local: Option<u32>,
    /// Full compiles of each size, of which the median counts [default: 3]
    #[arg(long, value_name = "N")]
    rounds: Option<u32>,
    /// Also write everything as JSON to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Builds the measuring program as shipped, with progress shown, then turns into it.
pub fn task(repo: &Repo, what: &What) -> Result<bool> {
    let What::Policy(options) = what;
    let mut cargo = process::cargo(repo);
    cargo.args(["build", "--locked", "--release", "--package", "weir-bench"]);
    if !process::shown(&mut cargo)? {
        bail!("the build failed; cargo's message is above");
    }
    let program = repo.target()?.join("release").join("weir-bench");
    let mut bench = process::clean(&program);
    bench.arg("policy");
    let given = [
        ("--pods", options.pods),
        ("--policies", options.policies),
        ("--local", options.local),
        ("--rounds", options.rounds),
    ];
    for (option, value) in given {
        bench.args(value.map(|value| [option.to_owned(), value.to_string()]).into_iter().flatten());
    }
    if let Some(file) = &options.json {
        bench.arg("--json").arg(file);
    }
    // On success this never returns.
    Err(Error::new(bench.exec()).context(format!("starting {}", program.display())))
}
