//! Lives: xtask, the command line of the project's own tasks.
//! Called by: `cargo xtask` (alias in .cargo/config.toml) and `.ci/run`.
//! May touch: the repository's `.tools` and target folders, through the tasks.
//! Never: changes the user's system; does work itself (one file per task).

mod bench;
mod budget;
mod build;
mod chart;
mod ci;
mod conformance;
mod demo;
mod fuzz;
mod image;
mod layers;
mod lint;
mod paths;
mod pins;
mod process;
mod report;
mod setup;
mod soak;
mod test;
mod vm;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use paths::Repo;

/// The tasks of the Weir repository.
#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    version,
    disable_help_subcommand = true,
    after_help = "\
Examples:
  cargo xtask demo                  watch Weir hold back, limit and measure real traffic (as root)
  cargo xtask test                  every test, the kernel's own included (as root)
  cargo xtask test gcra             only tests whose name contains 'gcra'
  cargo xtask ci --json ci.json     what a submission is judged by, and the same as JSON"
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Bring what is missing: the BPF linker, core's source, cargo-deny (all other tasks call this)
    #[command(after_help = setup::HELP)]
    Setup(Json),
    /// Build the workspace, the kernel programs included
    Build(build::Options),
    /// Run every test: unit, property, in-kernel test runs, live worlds
    #[command(after_help = test::HELP)]
    Test(test::Options),
    /// Build, then show the whole product at work in a world of its own
    #[command(after_help = demo::HELP)]
    Demo(demo::Options),
    /// Run the cases that say what Kubernetes policies mean
    #[command(after_help = conformance::HELP)]
    Conformance(conformance::Options),
    /// Measure on generated clusters and compare with the goals
    Bench {
        #[command(subcommand)]
        what: bench::What,
    },
    /// Record what the kernel programs take of the verifier's budget
    #[command(after_help = budget::HELP)]
    Budget(budget::Options),
    /// Feed hostile bytes to everything that reads bytes, for a bounded time
    #[command(after_help = fuzz::HELP)]
    Fuzz(fuzz::Options),
    /// Random policies, kills, upgrades, flaps, floods and real connections against the evaluator, for as long as asked
    #[command(after_help = soak::HELP)]
    Soak(soak::Options),
    /// Build the container image, and try it under podman
    #[command(after_help = image::HELP)]
    Image(image::Options),
    /// Render the Helm chart and check what comes out
    #[command(after_help = chart::HELP)]
    Chart(chart::Options),
    /// Format, clippy with warnings denied, licences and sources of dependencies
    Lint(Json),
    /// Check the dependency arrows of DESIGN.md section 3
    #[command(after_help = layers::HELP)]
    Layers(Json),
    /// Boot each supported kernel in an emulator and try Weir there
    #[command(after_help = vm::HELP)]
    Vm(vm::Options),
    /// Everything above that judges: setup, lint, layers, chart, test, vm
    Ci(Json),
}

/// Where a reporting task writes the same report as JSON.
#[derive(Args)]
struct Json {
    /// Also write the report as JSON to FILE
    #[arg(long = "json", value_name = "FILE")]
    file: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Runs one task: `false` when it ran and its answer is no, an error when it could not run.
fn run(cli: Cli) -> anyhow::Result<bool> {
    let repo = Repo::find()?;
    match cli.task {
        Task::Setup(json) => setup::task(&repo, json.file.as_deref()),
        Task::Build(options) => build::task(&repo, &options),
        Task::Test(options) => test::task(&repo, &options),
        Task::Demo(options) => demo::task(&repo, &options),
        Task::Conformance(options) => conformance::task(&repo, &options),
        Task::Bench { what } => bench::task(&repo, &what),
        Task::Budget(options) => budget::task(&repo, &options),
        Task::Fuzz(options) => fuzz::task(&repo, &options),
        Task::Soak(options) => soak::task(&repo, &options),
        Task::Image(options) => image::task(&repo, &options),
        Task::Chart(options) => chart::task(&repo, &options),
        Task::Lint(json) => lint::task(&repo, json.file.as_deref()),
        Task::Layers(json) => layers::task(&repo, json.file.as_deref()),
        Task::Vm(options) => vm::task(&repo, &options),
        Task::Ci(json) => ci::task(&repo, json.file.as_deref()),
    }
}
