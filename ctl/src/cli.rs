//! Lives: ctl.
//! Called by: `main`.
//! May touch: the command line and the environment.
//! Never: holds what belongs to one verb; that is in the verb's file.

use std::path::PathBuf;

use clap::{Args, Parser};
use weir_transport::Endpoint;

use crate::verbs::Verb;

/// Shown at the end of `weirctl --help`.
const AFTER: &str = "Exit codes:
  0  done (explain, policy eval: allowed; policy diff: nothing changes)
  1  refused: the documents are invalid, the resource does not exist, a policy test failed, the doctor found a fault, ...
  2  usage: the command line makes no sense, or a file cannot be read
  3  the agent or the collector cannot be reached
  4  explain, policy eval: denied
  5  policy diff: something changes

Examples:
  weirctl apply -f policy.yaml
  weirctl status
  weirctl observe --follow --verdict deny
  weirctl explain --from shop/web --to shop/db --port 5432/tcp
  weirctl policy check policies/                  # the verbs of policy need no agent
  weirctl VERB --help shows more for each verb.";

/// Talks to a Weir agent about policy, and to a Weir collector about flows.
#[derive(Debug, Parser)]
#[command(name = "weirctl", version, after_help = AFTER, subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    pub connection: Connection,
    #[command(subcommand)]
    pub verb: Verb,
}

/// Where the services are and how to speak to them.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Connection")]
pub struct Connection {
    /// The agent: unix:/PATH or https://HOST:PORT.
    #[arg(
        long,
        global = true,
        env = "WEIR_AGENT",
        hide_env_values = true,
        value_name = "ADDRESS",
        default_value = "unix:/run/weir/agent.sock"
    )]
    pub agent: Endpoint,
    /// The collector: unix:/PATH or https://HOST:PORT.
    #[arg(
        long,
        global = true,
        env = "WEIR_COLLECTOR",
        hide_env_values = true,
        value_name = "ADDRESS",
        default_value = "unix:/run/weir/collector.sock"
    )]
    pub collector: Endpoint,
    /// Certificate to show, PEM.
    #[arg(long, global = true, env = "WEIR_TLS_CERTIFICATE", hide_env_values = true, value_name = "FILE")]
    pub tls_certificate: Option<PathBuf>,
    /// Key of the certificate, PEM.
    #[arg(long, global = true, env = "WEIR_TLS_KEY", hide_env_values = true, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Authorities that sign the services' certificates, PEM.
    #[arg(long, global = true, env = "WEIR_TLS_CA", hide_env_values = true, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// Name expected in the service's certificate, if it is not the host of the address.
    #[arg(long, global = true, env = "WEIR_TLS_SERVER_NAME", hide_env_values = true, value_name = "NAME")]
    pub tls_server_name: Option<String>,
    /// Allow http:// addresses, which protect nothing.
    #[arg(long, global = true)]
    pub insecure: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound_and_every_verb_shows_examples() {
        let mut command = Cli::command();
        command.build();
        command.clone().debug_assert();
        for verb in command.get_subcommands_mut().filter(|verb| verb.get_name() != "help") {
            let help = verb.render_long_help().to_string();
            assert!(help.contains("Examples:"), "{}", verb.get_name());
        }
    }
}
