//! Lives: ctl, the verb apply.
//! Called by: `verbs`.
//! May touch: the files named, the agent.
//! Never: judges a document; the agent does, so that what passes here passes there.

use std::path::PathBuf;

use clap::Args;

use super::resource::show;
use crate::cli::Connection;
use crate::failure::Failure;
use crate::files;
use crate::render::output::Format;

const EXAMPLES: &str = "Examples:
  weirctl apply -f policy.yaml
  weirctl apply -f workloads/ -f policies/ --dry-run
  cat policy.yaml | weirctl apply -f -
  weirctl apply -f everything/ --replace-all     # delete what is not in everything/

Faults are printed as FILE:LINE:COLUMN: FIELD: PROBLEM (VALUE); REMEDY, and nothing is changed (exit code 1).";

/// Arguments of apply.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// A file, a folder (its *.yaml and *.yml), or - for standard input; may be repeated.
    #[arg(short, long = "file", value_name = "FILE|DIR|-", required = true)]
    files: Vec<PathBuf>,
    /// Say what would change and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Delete every resource that is not in the files.
    #[arg(long)]
    replace_all: bool,
    /// How to show what became of each resource.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Runs it.
pub async fn run(arguments: Arguments, connection: &Connection) -> Result<(), Failure> {
    let sources = files::read(&arguments.files)?;
    let changed = connection.agent()?.apply(sources, arguments.dry_run, arguments.replace_all).await?;
    show(&changed, arguments.output)
}
