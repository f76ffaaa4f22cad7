//! Lives: weir-agent, configuration.
//! Called by: `main`, which parses it; `sections`, which lays it over the file.
//! May touch: the command line.
//! Never: has a flag without an option of the same meaning in the file.

use std::path::PathBuf;

use clap::Parser;

/// Where the configuration is looked for when no flag says so.
const DEFAULT_PATH: &str = "/etc/weir/agent.yaml";

/// Weir's node agent: attaches the kernel programs, keeps policy in force, streams records.
#[derive(Clone, Debug, Default, Parser)]
#[command(
    name = "weir-agent",
    version = crate::VERSION,
    after_help = "Examples:\n  weir-agent --print-sample-config > /etc/weir/agent.yaml\n  weir-agent --config agent.yaml --check\n  weir-agent --config agent.yaml --doctor\n  weir-agent --config agent.yaml --detach\n  \
                  weir-agent --cgroup-root /sys/fs/cgroup/weir --interface eth0 --collector unix:/run/weir/collector.sock"
)]
pub struct Args {
    /// Configuration file; *.yaml in the folder of its name that ends in .d are laid over it [default: /etc/weir/agent.yaml if it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Name of this node in records [file: node]
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// Managed cgroup2 tree [file: cgroupRoot]
    #[arg(long, value_name = "DIR")]
    pub cgroup_root: Option<PathBuf>,
    /// Interface for XDP, a name or a pattern; repeat for more [file: interfaces]
    #[arg(long = "interface", value_name = "PATTERN")]
    pub interfaces: Vec<String>,
    /// auto, native or generic [file: xdpMode]
    #[arg(long, value_name = "MODE")]
    pub xdp_mode: Option<String>,
    /// refuse or chain, where an interface already has an XDP program [file: xdpNeighbour]
    #[arg(long, value_name = "WHAT")]
    pub xdp_neighbour: Option<String>,
    /// allow or deny, for processes of no known workload [file: unknownWorkloads]
    #[arg(long, value_name = "VERDICT")]
    pub unknown_workloads: Option<String>,
    /// Unix socket of the API [file: grpc.socket.path]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Where records go: unix:/PATH, https://HOST:PORT, http://HOST:PORT or none [file: collector.address]
    #[arg(long, value_name = "URI")]
    pub collector: Option<String>,
    /// Directory of policy files applied at start [file: policyDir]
    #[arg(long, value_name = "DIR")]
    pub policy_dir: Option<PathBuf>,
    /// Lock file and last good policy [file: stateDir]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// error, warn, info, debug or trace [file: log.level]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// text or json [file: log.format]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Check the configuration and the host, report every fault, and exit
    #[arg(long)]
    pub check: bool,
    /// Try everything a start needs, change nothing, print what was found (text or json), and exit: 1 if the agent would not enforce
    #[arg(long, value_name = "FORMAT", num_args = 0..=1, require_equals = true, default_missing_value = "text", value_parser = ["text", "json"])]
    pub doctor: Option<String>,
    /// Take everything out of force that agents of this cgroup root left there, and exit; no agent may run
    #[arg(long)]
    pub detach: bool,
    /// Be the porter of an agent: looks into processes and network namespaces for it; started by the agent itself
    #[arg(long, hide = true)]
    pub porter: bool,
    /// Print a commented sample configuration and exit
    #[arg(long)]
    pub print_sample_config: bool,
}

impl Args {
    /// The file to read.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_PATH))
    }
}
