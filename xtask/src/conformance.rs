//! Lives: xtask, the task `conformance`.
//! Called by: a person, and whoever judges the policy engine by cases of their own.
//! May touch: the target folder; then it becomes `weir-conformance`, which reads the cases.
//! Never: needs the kernel, root or the BPF linker without `--live`: what policies mean is plain code.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use anyhow::{Error, Result, bail};
use clap::Args;

use crate::paths::Repo;
use crate::{build, process, setup};

/// Shown below `cargo xtask conformance --help`.
pub const HELP: &str = "\
Each state of a case is built from scratch and reached by increments; evaluator and compiled tables are both asked.

With --live each case runs: a namespace per pod, one agent per node, a collector; every question is a real TCP connection or
UDP exchange, and what the client sees and what the records say must be as the case has it. Needs root; about a minute for 100
cases. Questions that cannot be asked here (SCTP where the kernel has none) are counted as not runnable, never as passed.

Examples:
  cargo xtask conformance                         the cases in tests/conformance
  cargo xtask conformance ~/cases --json r.json   cases and manifests of the same format, found in a folder
  cargo xtask conformance --live ~/cases          the same cases on a running cluster
  cargo xtask conformance --case hairpin          only cases whose name contains 'hairpin'";

/// `cargo xtask conformance`.
#[derive(Args)]
pub struct Options {
    /// Folder with cases, searched with its subfolders
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Also write every outcome as JSON to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Run each case as a cluster of namespaces and agents, and ask by real traffic (needs root)
    #[arg(long)]
    live: bool,
    /// Only cases and manifests whose name contains this
    #[arg(long, value_name = "NAME")]
    case: Option<String>,
}

/// Builds the runner with progress shown, then turns into it.
pub fn task(repo: &Repo, options: &Options) -> Result<bool> {
    let folder = if options.live { all_programs(repo) } else { runner_only(repo) }?;
    let program = folder.join("weir-conformance");
    let mut runner = process::clean(&program);
    runner.env("WEIR_BIN_DIR", &folder);
    runner.arg(options.dir.clone().unwrap_or_else(|| repo.root().join("tests/conformance")));
    if let Some(file) = &options.json {
        runner.arg("--json").arg(file);
    }
    if let Some(name) = &options.case {
        runner.arg("--case").arg(name);
    }
    if options.live {
        runner.arg("--live");
    }
    // On success this never returns.
    Err(Error::new(runner.exec()).context(format!("starting {}", program.display())))
}

/// Everything that runs in a cluster.
fn all_programs(repo: &Repo) -> Result<PathBuf> {
    setup::demand(repo, setup::For::Live)?;
    build::programs(repo, false)
}

fn runner_only(repo: &Repo) -> Result<PathBuf> {
    let mut cargo = process::cargo(repo);
    cargo.args(["build", "--locked", "--package", "weir-tests", "--bin", "weir-conformance"]);
    if !process::shown(&mut cargo)? {
        bail!("the build failed; cargo's message is above");
    }
    Ok(repo.target()?.join("debug"))
}
