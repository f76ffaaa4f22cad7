//! Lives: weir-demo, the first thing a person sees of Weir.
//! Called by: `cargo xtask demo`.
//! May touch: a world of its own, the file named by --json.
//! Never: ends with 0 when something was not as expected; leaves anything behind unless told to.

//! Shows Weir at work on real traffic: creates services, starts a collector and an agent, and checks what happens.

mod contain;
mod flood;
mod kept;
mod scenes;
mod show;
mod story;
mod update;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser;
use weir_tests::world::ledger;

/// Shows Weir holding back, limiting and measuring real traffic, in namespaces and cgroups of its own.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// Also write the result as JSON to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Leave everything running and print the weirctl commands to play with
    #[arg(long)]
    keep: bool,
    /// Remove what --keep left running, and do nothing else
    #[arg(long, conflicts_with_all = ["json", "keep"])]
    remove: bool,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("weir-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything was as expected.
fn run(options: &Options) -> Result<bool> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the demo needs root: it makes namespaces and cgroups of its own, and loads programs into the kernel");
    }
    if options.remove {
        let removed = ledger::remove_kept("")?;
        println!(
            "{}",
            if removed.is_empty() { "nothing was kept".into() } else { format!("removed {}", removed.join(", ")) }
        );
        return Ok(true);
    }
    story::tell(options.json.as_deref(), options.keep)
}
