//! Lives: weir-bench, the program behind `cargo xtask bench policy`.
//! Called by: xtask, a person.
//! May touch: standard output; children of its own, one per size.
//! Never: fails because something is slow: it measures, people judge.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use weir_bench::{
    cluster::{Cluster, Size},
    measure::compile::{full, refused},
};

/// Measures the policy engine on generated clusters.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Measure one size, and print it as JSON
    One {
        #[arg(long, default_value_t = 30_000)]
        pods: usize,
        #[arg(long, default_value_t = 5_000)]
        policies: usize,
        #[arg(long, default_value_t = 250)]
        local: usize,
        #[arg(long, default_value_t = 3)]
        rounds: usize,
    },
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weir-bench: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    let Task::One { pods, policies, local, rounds } = cli.task;
    let cluster = Cluster::generate(&Size::of(pods, policies, local));
    let resources = cluster.resources().map_err(|faults| refused(&faults))?;
    let (full, _) = full(&resources, rounds)?;
    println!("{}", serde_json::to_string(&full)?);
    Ok(())
}
