//! Lives: collector.
//! Called by: `main`.
//! May touch: the command line.
//! Never: has a setting the file has not.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use weir_transport::{Endpoint, SocketConfig, TcpConfig};

use crate::config::Config;
use crate::logging::LogFormat;
use crate::otlp::OtlpConfig;

/// Collects flow records from Weir agents, keeps a bounded history and serves it to `weirctl observe`.
#[derive(Clone, Debug, Default, Parser)]
#[command(name = "weir-collector", version, after_help = EXAMPLES)]
pub struct Flags {
    /// Configuration file (YAML); flags override it.
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Listen on this Unix socket (default /run/weir/collector.sock when nothing else is configured).
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Users that may connect to the socket besides root; may be repeated.
    #[arg(long = "allow-uid", value_name = "UID")]
    pub allow_uids: Vec<u32>,
    /// Listen on this TCP address; certificates come from the configuration file.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// Listen on TCP without TLS. Anyone who reaches the port may send and read records.
    #[arg(long)]
    pub insecure: bool,
    /// Records to keep in memory.
    #[arg(long, value_name = "RECORDS")]
    pub history: Option<usize>,
    /// Folder to keep records in, so that they outlive this process; without it and $STATE_DIRECTORY they do not.
    #[arg(long, value_name = "FOLDER")]
    pub history_directory: Option<PathBuf>,
    /// Export records and metrics by OTLP (gRPC) to https://HOST:PORT, http://HOST:PORT or unix:/PATH; certificates and
    /// headers come from the configuration file.
    #[arg(long, value_name = "ADDRESS")]
    pub otlp_endpoint: Option<Endpoint>,
    /// Export without TLS. Anyone on the way may read the records.
    #[arg(long)]
    pub otlp_insecure: bool,
    /// Serve /metrics for Prometheus here, without TLS.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics_listen: Option<SocketAddr>,
    /// error, warn, info, debug or trace; or a filter such as "info,weir_collector=debug".
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// How to write the log.
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// Check the configuration, report every fault, and exit.
    #[arg(long)]
    pub check: bool,
}

const EXAMPLES: &str = "Examples:
  weir-collector
  weir-collector --config /etc/weir/collector.yaml --check
  weir-collector --socket /tmp/collector.sock --history-directory /tmp/records
  weir-collector --otlp-endpoint http://127.0.0.1:4317 --otlp-insecure

Exit codes: 0 stopped as asked, 1 failed, 2 configuration or usage refused.";

impl Flags {
    /// Lets what is set here win over the file.
    pub fn override_config(&self, config: &mut Config) {
        let socket = &mut config.listen.socket;
        if let Some(path) = &self.socket {
            socket
                .get_or_insert_with(|| SocketConfig { path: PathBuf::new(), allowed_uids: Vec::new() })
                .path
                .clone_from(path);
        }
        if let (Some(socket), false) = (socket, self.allow_uids.is_empty()) {
            socket.allowed_uids.clone_from(&self.allow_uids);
        }
        if let Some(listen) = self.listen {
            config.listen.tcp.get_or_insert(TcpConfig { listen, tls: None, insecure: false }).listen = listen;
        }
        if let (Some(tcp), true) = (&mut config.listen.tcp, self.insecure) {
            tcp.insecure = true;
        }
        if let Some(records) = self.history {
            config.history.records = records;
        }
        if let Some(directory) = &self.history_directory {
            config.history.directory = Some(directory.clone());
        }
        if let Some(endpoint) = &self.otlp_endpoint {
            config.otlp.get_or_insert_with(|| OtlpConfig::to(endpoint.clone())).endpoint.clone_from(endpoint);
        }
        if let (Some(otlp), true) = (&mut config.otlp, self.otlp_insecure) {
            otlp.insecure = true;
        }
        if let Some(listen) = self.metrics_listen {
            config.metrics.listen = Some(listen);
        }
        if let Some(level) = &self.log_level {
            config.log.level.clone_from(level);
        }
        if let Some(format) = self.log_format {
            config.log.format = format;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_starts_a_collector_by_flags_that_exist() {
        let unit = include_str!("../../deploy/systemd/weir-collector.service");
        let commands: Vec<&str> = unit.lines().filter_map(|line| line.strip_prefix("ExecStart=")).collect();
        assert_eq!(commands.len(), 1);
        let flags = Flags::try_parse_from(commands[0].split_whitespace()).unwrap();
        assert_eq!(flags.config, Some(PathBuf::from("/etc/weir/collector.yaml")));
        // With the second, records outlive it: `STATE_DIRECTORY` is its folder.
        for line in ["CapabilityBoundingSet=", "StateDirectory=weir-collector"] {
            assert!(unit.lines().any(|found| found == line), "{line}");
        }
    }
}
