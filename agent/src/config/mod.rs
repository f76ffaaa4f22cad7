//! Lives: weir-agent.
//! Called by: `main`, before anything else.
//! May touch: the configuration file, the command line; `host` looks at what they point to.
//! Never: changes the system; stops at the first fault.

mod args;
mod files;
mod host;
mod options;
mod reader;
mod sample;
mod sections;
mod tree;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

pub use crate::kernel::{IngressHook, InterfaceOption, Neighbours};
pub use args::Args;
pub use host::{check_host, is_bpffs};
pub use sample::sample;
use weir_common::verdict::Verdict;
pub use weir_policy::Fault;

/// What the agent is told to do, complete and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Name of this node in records.
    pub node: String,
    /// Managed cgroup2 tree.
    pub cgroup_root: PathBuf,
    /// Interfaces (names or patterns) for XDP, and what is refused there.
    pub interfaces: Vec<InterfaceOption>,
    /// How XDP is attached.
    pub xdp_mode: XdpMode,
    /// What is done where an interface has somebody else's XDP program.
    pub neighbours: Neighbours,
    /// Whether what is in force outlives the agent.
    pub pin: bool,
    /// What applies to processes of no known workload.
    pub unknown: Verdict,
    /// What applies to workloads that no policy selects.
    pub unselected: Verdict,
    /// Which program judges what is opened to a workload.
    pub ingress_hook: IngressHook,
    /// Lock file and last good policy.
    pub state_dir: PathBuf,
    /// Policy files applied at start.
    pub policy_dir: Option<PathBuf>,
    /// Where the API listens.
    pub grpc: Grpc,
    /// Where records go; `None` when they go nowhere.
    pub collector: Option<Collector>,
    /// Records that wait in memory to be packed into batches.
    pub queue_records: usize,
    /// How much is kept of what the collector has not acknowledged.
    pub spool: crate::spool::Limits,
    /// How often living connections are recorded; zero for never.
    pub progress: Duration,
    /// How many bytes of dropped packets are told; 0 for none.
    pub drop_bytes: u32,
    /// Whether what the kernel drops by itself is recorded.
    pub kernel_drops: bool,
    /// Where metrics and probes are served; `None` for nowhere.
    pub metrics: Option<Metrics>,
    /// What is logged and how.
    pub log: Log,
}

/// How XDP is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// Native where the driver has it, else generic.
    Auto,
    /// Native or not at all.
    Native,
    /// Generic.
    Generic,
}

/// Where the API listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grpc {
    /// Unix socket.
    pub socket: PathBuf,
    /// User ids that may connect to the socket; root always may.
    pub allowed_uids: Vec<u32>,
    /// The network, if at all.
    pub tcp: Option<Tcp>,
}

/// A listener on the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// Address and port.
    pub listen: SocketAddr,
    /// Mutual TLS, or `None` for none at all (insecure).
    pub tls: Option<TlsFiles>,
}

/// Where records go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    /// `unix:/path`, `https://host:port` or `http://host:port`.
    pub address: String,
    /// For https.
    pub tls: Option<TlsFiles>,
    /// Name expected in the collector's certificate.
    pub server_name: Option<String>,
    /// Plain http is meant.
    pub insecure: bool,
}

/// Where metrics and probes are served, and what is on the page that costs something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// Address and port.
    pub listen: SocketAddr,
    /// Decisions by policy: as many values as there are policies.
    pub per_policy: bool,
    /// The kernel counts and times every run of every program.
    pub program_stats: bool,
}

/// Files of one side of mutual TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Own certificate chain, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// Authorities the other side's certificate must come from, PEM.
    pub ca: PathBuf,
}

/// What is logged and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Level word.
    pub level: &'static str,
    /// JSON lines instead of text.
    pub json: bool,
}

/// Reads a configuration text.
///
/// # Errors
/// Every fault of it.
pub fn read(source: &str, text: &str) -> Result<Config, Vec<Fault>> {
    sections::read(&[(source.to_owned(), text.to_owned())], &Args::default())
}

/// Reads the configuration file the flags name (or the default one if it exists), lays the files of the folder beside it over it,
/// and the flags over those.
///
/// # Errors
/// Every fault of all of them.
pub fn load(args: &Args) -> Result<Config, Vec<Fault>> {
    sections::read(&files::read(args)?, args)
}

#[cfg(test)]
mod deploy_tests;
#[cfg(test)]
mod tests;
