//! Lives: xtask, the task `soak`.
//! Called by: a person, before a release or after a change of what must last.
//! May touch: the target folder; then it becomes the live test of that name, which makes and removes a world of its own.
//! Never: does the work itself: CI runs the same test for less time.

use std::os::unix::process::CommandExt;

use anyhow::{Error, Result};
use clap::Args;

use crate::paths::Repo;
use crate::{build, process, setup};

/// Shown below `cargo xtask soak --help`.
pub const HELP: &str = "\
Needs root. A round is a random policy, a trouble (the agent killed, stopped, replaced; wires down and up; a flood; links taken off or
their pins removed; cgroups that come and go) and connections of all kinds, each of which must see what the evaluator says. What
the agent holds must not grow, nor what the kernel does: let nothing else load BPF programs meanwhile. A failure prints the seed.

Examples:
  cargo xtask soak                        ten minutes
  cargo xtask soak --minutes 480          a night
  cargo xtask soak --minutes 5 --seed 7   again what seed 7 did";

/// `cargo xtask soak`.
#[derive(Args)]
pub struct Options {
    /// How long; less than a day, after which the servers end that it connects to
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1400))]
    minutes: u32,
    /// Where the random numbers begin; without it: another place each time
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

/// Builds with progress shown, then turns into the test.
pub fn task(repo: &Repo, options: &Options) -> Result<bool> {
    setup::demand(repo, setup::For::Live)?;
    let folder = build::programs(repo, false)?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let seed = options.seed.unwrap_or(now.as_secs());
    println!("soak: {} minutes from seed {seed}", options.minutes);
    let mut test = process::cargo(repo);
    test.args(["test", "--locked", "-p", "weir-tests", "--test", "live", "--", "soak:", "--nocapture"]);
    test.env("WEIR_BIN_DIR", folder).env("WEIR_SOAK_SECONDS", (u64::from(options.minutes) * 60).to_string());
    test.env("WEIR_SEED", seed.to_string()).env("WEIR_ALONE", "1");
    // On success this never returns.
    Err(Error::new(test.exec()).context("starting cargo test"))
}
