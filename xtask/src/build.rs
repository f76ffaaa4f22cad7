//! Lives: xtask, the task `build`.
//! Called by: a person; test, vm and demo for the programs they start.
//! May touch: the target folder, through cargo.
//! Never: hides cargo's progress.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

use crate::paths::Repo;
use crate::{process, setup};

/// `cargo xtask build`.
#[derive(Args)]
pub struct Options {
    /// Optimised, as shipped
    #[arg(long)]
    release: bool,
}

/// Builds everything, tests excepted.
pub fn task(repo: &Repo, options: &Options) -> Result<bool> {
    setup::demand(repo, setup::For::Build)?;
    let folder = programs(repo, options.release)?;
    println!("built: {}", folder.display());
    Ok(true)
}

/// Builds the workspace's programs and says in which folder they are.
pub fn programs(repo: &Repo, release: bool) -> Result<PathBuf> {
    let mut cargo = process::cargo(repo);
    cargo.args(["build", "--workspace", "--locked"]);
    if release {
        cargo.arg("--release");
    }
    if !process::shown(&mut cargo)? {
        bail!("the build failed; cargo's message is above");
    }
    Ok(repo.target()?.join(if release { "release" } else { "debug" }))
}

/// Builds programs and tests together, as `cargo test` wants them: what tests ask of crates, programs would else be built without, and all
/// that is below them twice. Says in which folder the programs are.
pub fn programs_and_tests(repo: &Repo) -> Result<PathBuf> {
    let mut cargo = process::cargo(repo);
    if !process::shown(cargo.args(["build", "--workspace", "--locked", "--bins", "--tests"]))? {
        bail!("the build failed; cargo's message is above");
    }
    Ok(repo.target()?.join("debug"))
}

/// The agent whose layouts are others, for tests of upgrades. Of the whole workspace and with a test, so that other crates are as
/// [`programs_and_tests`] has built them.
pub fn next_agent(repo: &Repo) -> Result<()> {
    let mut cargo = process::cargo(repo);
    cargo.args([
        "build",
        "--workspace",
        "--locked",
        "--bin",
        "weir-agent-next",
        "--test",
        "tls",
        "--features",
        "weir-agent/next_layout",
    ]);
    if !process::shown(&mut cargo)? {
        bail!("the agent for tests of upgrades does not build; cargo's message is above");
    }
    Ok(())
}
