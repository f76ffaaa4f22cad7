//! Lives: ctl, the verb support-bundle.
//! Called by: `verbs`.
//! May touch: this host, the agent and the collector, reading; one new file.
//! Never: overwrites a file; fails because a part cannot be had: the manifest names it.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::bundle::{archive, gather};
use crate::cli::Connection;
use crate::doctor::Host;
use crate::failure::Failure;
use crate::render::output::{self, remark};

const EXAMPLES: &str = "Examples:
  weirctl support-bundle                          # weir-support-NODE-TIME.tar.gz in this directory
  weirctl support-bundle -o /tmp/node-7.tar.gz --config /etc/weir/agent.yaml
  weirctl support-bundle --log /var/log/weir-agent.log

In it: what doctor, status and get say, metrics, limits, versions, the agent's log. Not in it: keys, certificates, environments,
command lines of processes, entries of address sets. manifest.json says what is inside, what is missing and why. The policy, names and
addresses of workloads are inside: look before you send it to somebody who must not know them.";

/// Arguments of support-bundle.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The file to write; it must not exist yet.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The agent's log, where it goes to a file [default: the journal of the unit weir-agent].
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    #[command(flatten)]
    host: Host,
}

/// Runs it.
pub async fn run(arguments: &Arguments, connection: &Connection) -> Result<(), Failure> {
    let now = Timestamp::now();
    let given = arguments.output.clone();
    // Before the work: a name that is taken is known at once.
    given.as_deref().map_or(Ok(()), archive::is_free)?;
    let bundle = gather(&arguments.host, arguments.log.as_deref(), connection, now).await;
    let stem =
        format!("weir-support-{}-{}", file_name(&bundle.node), now.to_zoned(TimeZone::UTC).strftime("%Y%m%dT%H%M%SZ"));
    let path = given.unwrap_or_else(|| PathBuf::from(format!("{stem}.tar.gz")));
    archive::write(&path, &stem, &bundle.members, now)?;
    for (name, why) in &bundle.missing {
        remark(&format!("not in it: {name}: {why}"));
    }
    let mut out = output::open();
    writeln!(out, "{}", path.display())?;
    Ok(out.flush()?)
}

/// A node's name as part of a file's.
fn file_name(node: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' };
    let name: String = node.chars().take(64).map(safe).collect();
    if name.trim_matches('.').is_empty() { "node".to_owned() } else { name }
}
