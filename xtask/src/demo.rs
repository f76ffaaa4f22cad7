//! Lives: xtask, the task `demo`.
//! Called by: a person, mostly the first time they see Weir.
//! May touch: the target folder; then it becomes `weir-demo`, which owns the rest.
//! Never: stays between the terminal and the demo (Ctrl-C and the exit code are the demo's own).

use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use anyhow::{Error, Result};
use clap::Args;

use crate::paths::Repo;
use crate::{build, process, setup};

/// Shown below `cargo xtask demo --help`.
pub const HELP: &str = "\
Needs root: the demo makes namespaces and cgroups of its own, and removes them at the end, also after Ctrl-C.

Examples:
  cargo xtask demo                    the whole story, ending in a table of expected and observed
  cargo xtask demo --keep             leave it running, and print the weirctl commands to play with
  cargo xtask demo --remove           remove what --keep left running
  cargo xtask demo --json demo.json   the table and the records that prove it, as JSON";

/// `cargo xtask demo`.
#[derive(Args)]
pub struct Options {
    /// Also write the result as JSON to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Leave everything running and print the weirctl commands to play with
    #[arg(long)]
    keep: bool,
    /// Remove what an earlier --keep left running, and do nothing else
    #[arg(long, conflicts_with_all = ["keep", "json"])]
    remove: bool,
    /// Build optimised, as shipped
    #[arg(long)]
    release: bool,
}

/// Builds with progress shown, then turns into the demo.
pub fn task(repo: &Repo, options: &Options) -> Result<bool> {
    setup::demand(repo, setup::For::Live)?;
    let folder = build::programs(repo, options.release)?;
    let program = folder.join("weir-demo");
    let mut demo = process::clean(&program);
    demo.env("WEIR_BIN_DIR", &folder);
    if let Some(file) = &options.json {
        demo.arg("--json").arg(file);
    }
    if options.keep {
        demo.arg("--keep");
    }
    if options.remove {
        demo.arg("--remove");
    }
    // On success this never returns.
    Err(Error::new(demo.exec()).context(format!("starting {}", program.display())))
}
