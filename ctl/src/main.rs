//! Lives: the binary weirctl.
//! Called by: a person or a script.
//! May touch: the command line, the exit code.
//! Never: does a verb's work; see `verbs`.

#![forbid(unsafe_code)]

mod agreement;
mod bundle;
mod cli;
mod connection;
mod doctor;
mod failure;
mod files;
mod offline;
mod protocol;
mod reconciliation;
mod render;
mod rpc;
mod verbs;
mod view;

use std::process::ExitCode;

use clap::Parser;

use cli::Cli;
use failure::{Failure, Outcome};
use render::output;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(outcome) => ExitCode::from(outcome.code()),
        // Whoever read our output has seen enough.
        Err(failure) if failure.is_broken_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            output::remark(&format!("weirctl: {failure}"));
            ExitCode::from(failure.code())
        }
    }
}

fn run(cli: Cli) -> Result<Outcome, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(verbs::run(cli))
}
