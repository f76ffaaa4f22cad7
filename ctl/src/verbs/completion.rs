//! Lives: ctl, the verb completion.
//! Called by: `verbs`.
//! May touch: standard output.
//! Never: installs anything.

use std::io::Write;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::cli::Cli;
use crate::failure::Failure;
use crate::render::output;

const EXAMPLES: &str = "Examples:
  weirctl completion bash > /etc/bash_completion.d/weirctl
  weirctl completion zsh > ~/.zfunc/_weirctl
  source <(weirctl completion bash)";

/// Arguments of completion.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

/// Runs it.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    // Into memory first: the generator does not report errors of a writer.
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "weirctl", &mut script);
    let mut out = output::open();
    out.write_all(&script)?;
    Ok(out.flush()?)
}
