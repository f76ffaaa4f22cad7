//! Lives: ctl, the verb delete.
//! Called by: `verbs`.
//! May touch: the files named, the agent.
//! Never: deletes some of what was named and not the rest.

use std::path::PathBuf;

use clap::Args;
use weir_policy::{ResourceId, parse_all};

use super::resource::{named, show};
use crate::cli::Connection;
use crate::failure::Failure;
use crate::files;
use crate::render::output::{Format, remark};
use crate::render::style::clean;

const EXAMPLES: &str = "Examples:
  weirctl delete policy api -n shop
  weirctl delete policy shop/api shop/web
  weirctl delete Policy/shop/api AddressSet/blocked
  weirctl delete -f policy.yaml --dry-run";

/// Arguments of delete.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// KIND and then NAME or NAMESPACE/NAME; or KIND/NAME and KIND/NAMESPACE/NAME, as other verbs show them.
    #[arg(value_name = "KIND NAME|KIND/NAME", required_unless_present = "files", conflicts_with = "files")]
    resources: Vec<String>,
    /// Namespace of the names [default: default].
    #[arg(short, long, conflicts_with = "files")]
    namespace: Option<String>,
    /// Delete what these documents name: a file, a folder, or - for standard input; may be repeated.
    #[arg(short, long = "file", value_name = "FILE|DIR|-")]
    files: Vec<PathBuf>,
    /// Say what would be deleted and delete nothing.
    #[arg(long)]
    dry_run: bool,
    /// How to show what became of each resource.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Runs it.
pub async fn run(arguments: &Arguments, connection: &Connection) -> Result<(), Failure> {
    let ids = if arguments.files.is_empty() {
        named(&arguments.resources, arguments.namespace.as_deref())
    } else {
        from_files(arguments)
    }?;
    let changed = connection.agent()?.delete(&ids, arguments.dry_run).await?;
    show(&changed, arguments.output)
}

fn from_files(arguments: &Arguments) -> Result<Vec<ResourceId>, Failure> {
    let sources = files::read(&arguments.files)?;
    match parse_all(sources.iter().map(|source| (source.name.as_str(), source.text.as_str()))) {
        Ok(resources) => Ok(resources.iter().map(|resource| resource.id().clone()).collect()),
        Err(faults) => {
            faults.iter().for_each(|fault| remark(&clean(&fault.to_string())));
            Err(Failure::Refused("refused: the documents are not valid; nothing was deleted".to_owned()))
        }
    }
}
