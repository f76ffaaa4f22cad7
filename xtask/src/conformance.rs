//! Lives: xtask, the task `conformance`.
//! Called by: a person, and whoever judges the policy engine by cases of their own.
//! May touch: the target folder; then it becomes `weir-conformance`, which reads the cases.
//! Never: needs the kernel, root or the BPF linker: what policies mean is plain code.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use anyhow::{Error, Result, bail};
use clap::Args;

use crate::paths::Repo;
use crate::process;

/// Shown below `cargo xtask conformance --help`.
pub const HELP: &str = "\
Each state of a case is built from scratch and reached by increments; evaluator and compiled tables are both asked.

Examples:
  cargo xtask conformance                      the cases in tests/conformance
  cargo xtask conformance ~/cases --json r.json   cases and manifests of the same format, found in a folder";

/// `cargo xtask conformance`.
#[derive(Args)]
pub struct Options {
    /// Folder with cases, searched with its subfolders
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Also write every outcome as JSON to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Builds the runner with progress shown, then turns into it.
pub fn task(repo: &Repo, options: &Options) -> Result<bool> {
    let mut cargo = process::cargo(repo);
    cargo.args(["build", "--locked", "--package", "weir-tests", "--bin", "weir-conformance"]);
    if !process::shown(&mut cargo)? {
        bail!("the build failed; cargo's message is above");
    }
    let program = repo.target()?.join("debug").join("weir-conformance");
    let mut runner = process::clean(&program);
    runner.arg(options.dir.clone().unwrap_or_else(|| repo.root().join("tests/conformance")));
    if let Some(file) = &options.json {
        runner.arg("--json").arg(file);
    }
    // On success this never returns.
    Err(Error::new(runner.exec()).context(format!("starting {}", program.display())))
}
