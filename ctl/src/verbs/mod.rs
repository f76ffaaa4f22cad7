//! Lives: ctl.
//! Called by: `main`.
//! May touch: what the verb says.
//! Never: more than choose the verb.

mod apply;
mod completion;
mod delete;
mod detach;
mod doctor;
mod explain;
mod get;
mod limits;
mod observe;
mod reconcile;
mod resource;
mod set;
pub mod status;
mod support_bundle;
mod top;
mod version;
mod watch;

pub use resource::JsonFault;

use clap::Subcommand;

use crate::cli::Cli;
use crate::failure::{Failure, Outcome};
use crate::offline;

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Apply documents: all of them or none.
    Apply(apply::Arguments),
    /// Show resources.
    Get(get::Arguments),
    /// Delete resources: all of them or none.
    Delete(delete::Arguments),
    /// Show what the agent enforces, what it counted, and whether the collector has the same numbers.
    Status(status::Arguments),
    /// Say whether this host is fit for an agent, and what keeps one from starting or enforcing.
    Doctor(doctor::Arguments),
    /// Take out of force on this host what an agent left there. None may run.
    Detach(detach::Arguments),
    /// Collect what somebody needs to help, without secrets, in one file.
    SupportBundle(support_bundle::Arguments),
    /// Show rate limits, what they let through and held back, and how full their table is.
    Limits(limits::Arguments),
    /// Show the heaviest and the most limited clients of services, live.
    Top(top::Arguments),
    /// Show flow records from the collector.
    Observe(observe::Arguments),
    /// Check that every decision of the kernel is in the collector's records or told as lost, and name the leak if one is not.
    Reconcile(reconcile::Arguments),
    /// Say whether something is allowed, and why.
    Explain(explain::Arguments),
    /// Check, ask and compare policies in files, without an agent.
    Policy(offline::Arguments),
    /// Follow changes of resources.
    Watch(watch::Arguments),
    /// Load lists of addresses into address sets, and look at them.
    Set(set::Arguments),
    /// Print a completion script for a shell.
    Completion(completion::Arguments),
    /// Print versions.
    Version(version::Arguments),
}

/// Runs the verb.
pub async fn run(cli: Cli) -> Result<Outcome, Failure> {
    let connection = cli.connection;
    match cli.verb {
        Verb::Apply(arguments) => apply::run(arguments, &connection).await?,
        Verb::Get(arguments) => get::run(&arguments, &connection).await?,
        Verb::Delete(arguments) => delete::run(&arguments, &connection).await?,
        Verb::Status(arguments) => status::run(&arguments, &connection).await?,
        Verb::Detach(arguments) => return detach::run(&arguments).await,
        Verb::Doctor(arguments) => return doctor::run(&arguments, &connection).await,
        Verb::SupportBundle(arguments) => support_bundle::run(&arguments, &connection).await?,
        Verb::Limits(arguments) => limits::run(&arguments, &connection).await?,
        Verb::Top(arguments) => top::run(arguments, &connection).await?,
        Verb::Observe(arguments) => observe::run(arguments, &connection).await?,
        Verb::Reconcile(arguments) => reconcile::run(&arguments, &connection).await?,
        Verb::Explain(arguments) => return explain::run(&arguments, &connection).await,
        Verb::Policy(arguments) => return offline::run(&arguments),
        Verb::Watch(arguments) => watch::run(&arguments, &connection).await?,
        Verb::Set(arguments) => set::run(arguments, &connection).await?,
        Verb::Completion(arguments) => completion::run(&arguments)?,
        Verb::Version(arguments) => version::run(&arguments, &connection).await?,
    }
    Ok(Outcome::Done)
}
