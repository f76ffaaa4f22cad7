//! Lives: ctl, the verb policy.
//! Called by: `verbs`.
//! May touch: the files named, standard input and output.
//! Never: speaks to an agent; what it says of files is what an agent would say that was given them.

mod ask;
mod check;
mod diff;
mod ends;
mod eval;
mod explained;
mod load;
mod matrix;
mod test;

use clap::{Args, Subcommand};

use crate::failure::{Failure, Outcome};

const EXAMPLES: &str = "Examples:
  weirctl policy check policies/ cluster.yaml
  weirctl policy eval -f policies/ -f cluster.yaml --from shop/web --to data/db --port 5432/tcp
  weirctl policy matrix -f policies/ -f cluster.yaml -o svg > matrix.svg
  weirctl policy diff main/ branch/ -f cluster.yaml
  weirctl policy test expectations.yaml

Who there is must be in the files too. Of a cluster:
  kubectl get namespaces,nodes,pods,services,endpointslices -A -o yaml > cluster.yaml

Exit codes: 0 done, 1 faults or a failed test, 2 usage, 4 eval: denied, 5 diff: something changes.";

/// Arguments of policy.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, subcommand_required = true, arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say whether documents are valid together, and what is legal in them but probably not meant.
    Check(check::Arguments),
    /// Say whether a connection is allowed, and why.
    Eval(eval::Arguments),
    /// Show who can reach whom.
    Matrix(matrix::Arguments),
    /// Say which connections change between two states.
    Diff(diff::Arguments),
    /// Check expectations.
    Test(test::Arguments),
}

/// Runs it.
pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    match &arguments.command {
        Command::Check(arguments) => check::run(arguments),
        Command::Eval(arguments) => eval::run(arguments),
        Command::Matrix(arguments) => matrix::run(arguments),
        Command::Diff(arguments) => diff::run(arguments),
        Command::Test(arguments) => test::run(arguments),
    }
}
