//! Lives: xtask, the task `build`.
//! Called by: a person; test and demo for the programs they start.
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

/// The agent whose layouts are others, for tests of upgrades. The whole workspace, so that features of other crates are as usual and those
/// are not built again.
pub fn next_agent(repo: &Repo) -> Result<()> {
    let mut cargo = process::cargo(repo);
    cargo.args([
        "build",
        "--workspace",
        "--locked",
        "--bin",
        "weir-agent-next",
        "--features",
        "weir-agent/next_layout",
    ]);
    if !process::shown(&mut cargo)? {
        bail!("the agent for tests of upgrades does not build; cargo's message is above");
    }
    Ok(())
}
