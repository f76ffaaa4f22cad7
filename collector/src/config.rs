//! Lives: collector.
//! Called by: `run`, before anything of the system is touched.
//! May touch: the configuration file.
//! Never: stops at the first fault; accepts a key it does not know.
//!
//! ```yaml
//! listen:
//!   socket: {path: /run/weir/collector.sock, allowedUids: [0]}
//!   tcp: {listen: "0.0.0.0:7444", tls: {certificate: f, key: f, clientCa: f}}   # or insecure: true instead of tls
//! history:
//!   records: 65536                                                              # in memory
//!   directory: /var/lib/weir-collector                                          # and on disk; default: $STATE_DIRECTORY, as systemd sets it
//!   mebibytes: 1024                                                             # of disk
//!   hours: 720
//! otlp:                                                                         # absent: nothing is exported
//!   endpoint: https://otel.example:4317                                         # or http:// with insecure: true
//!   tls: {ca: f, certificate: f, key: f, serverName: n}                         # only ca is needed
//!   headersFile: /etc/weir/otlp-headers                                         # one "name: value" a line
//!   metricsIntervalSeconds: 60
//!   queueRecords: 65536
//! metrics: {listen: "127.0.0.1:9478"}                                           # /metrics, without TLS; absent: nowhere
//! log: {level: info, format: text}                                              # text | json
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use weir_transport::{ListenConfig, SocketConfig};

use crate::archive::Limits;
use crate::flags::Flags;
use crate::logging::LogConfig;
use crate::otlp::OtlpConfig;

/// Socket used when neither file nor flags name a place to listen.
pub const DEFAULT_SOCKET: &str = "/run/weir/collector.sock";
/// Most records a history may be told to keep (about 40 GiB of them).
const MAX_RECORDS: usize = 100_000_000;
/// Most MiB it may be told to keep on disk: 64 TiB.
const MAX_MEBIBYTES: u64 = 64 << 20;
/// Longest time it may be told to keep them: 100 years.
const MAX_HOURS: u64 = 876_600;
/// Where systemd says that a service keeps what outlives it (`StateDirectory=`).
const STATE_DIRECTORY: &str = "STATE_DIRECTORY";

/// The whole configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Where to listen.
    pub listen: ListenConfig,
    /// What to keep.
    pub history: HistoryConfig,
    /// Where to export to by OTLP, if anywhere.
    pub otlp: Option<OtlpConfig>,
    /// Where metrics are served.
    pub metrics: MetricsConfig,
    /// How to log.
    pub log: LogConfig,
}

/// Where metrics are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// Address and port; `None` for nowhere.
    pub listen: Option<SocketAddr>,
}

/// What to keep.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HistoryConfig {
    /// Records kept in memory; the oldest go first. A record takes about 400 bytes.
    pub records: usize,
    /// Folder for what is kept on disk; `None` for what the variable `STATE_DIRECTORY` says, and without that: nowhere.
    pub directory: Option<PathBuf>,
    /// Most MiB on disk; the oldest go first.
    pub mebibytes: u64,
    /// How long records are kept on disk.
    pub hours: u64,
}

impl Default for HistoryConfig {
    fn default() -> Self {
        Self { records: 65536, directory: None, mebibytes: 1024, hours: 720 }
    }
}

impl HistoryConfig {
    /// How much is kept on disk.
    #[must_use]
    pub const fn limits(&self) -> Limits {
        Limits { bytes: self.mebibytes << 20, age: Duration::from_secs(self.hours * 3600) }
    }

    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if !(1..=MAX_RECORDS).contains(&self.records) {
            faults.push(format!("history.records: must be 1 to {MAX_RECORDS} ({})", self.records));
        }
        if let Some(directory) = self.directory.as_ref().filter(|directory| !directory.is_absolute()) {
            faults.push(format!("history.directory: must be an absolute path ({})", directory.display()));
        }
        for (name, most, said) in [("mebibytes", MAX_MEBIBYTES, self.mebibytes), ("hours", MAX_HOURS, self.hours)] {
            if !(1..=most).contains(&said) {
                faults.push(format!("history.{name}: must be 1 to {most} ({said})"));
            }
        }
        faults
    }
}

/// All faults of file and flags.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigFaults(pub Vec<String>);

impl Config {
    /// Reads the file the flags name, if any, and lets the flags override it.
    ///
    /// # Errors
    /// Every fault that was found, one a line.
    pub fn read(flags: &Flags) -> Result<Self, ConfigFaults> {
        let mut faults = Vec::new();
        let mut config = match &flags.config {
            Some(path) => from_file(path, &mut faults),
            None => Self::default(),
        };
        // A faulty section reads as absent; defaults would then hide that, or report it twice.
        let faulty = !faults.is_empty();
        flags.override_config(&mut config);
        if flags.otlp_insecure && config.otlp.is_none() && !faulty {
            faults.push("--otlp-insecure: there is no otlp.endpoint; add --otlp-endpoint".to_owned());
        }
        if config.listen == ListenConfig::default() && !faulty {
            config.listen.socket = Some(SocketConfig { path: DEFAULT_SOCKET.into(), allowed_uids: Vec::new() });
        }
        if config.history.directory.is_none() {
            config.history.directory = std::env::var_os(STATE_DIRECTORY).map(PathBuf::from);
        }
        if config.listen != ListenConfig::default() {
            faults.extend(config.listen.faults("listen"));
        }
        faults.extend(config.history.faults());
        faults.extend(config.otlp.iter().flat_map(|otlp| otlp.faults("otlp")));
        faults.extend(config.log.faults("log"));
        if faults.is_empty() { Ok(config) } else { Err(ConfigFaults(faults)) }
    }
}

fn from_file(path: &Path, faults: &mut Vec<String>) -> Config {
    let read = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()));
    match read.map(|text| from_text(&text)) {
        Ok((config, found)) => {
            faults.extend(found.into_iter().map(|fault| format!("{}: {fault}", path.display())));
            config
        }
        Err(fault) => {
            faults.push(fault);
            Config::default()
        }
    }
}

/// Reads section by section, so that a fault in one does not hide those of another.
fn from_text(text: &str) -> (Config, Vec<String>) {
    let mut faults = Vec::new();
    if text.trim().is_empty() {
        return (Config::default(), faults);
    }
    let mut sections: BTreeMap<String, Value> = match serde_saphyr::from_str(text) {
        Ok(sections) => sections,
        Err(error) => return (Config::default(), vec![error.to_string()]),
    };
    let mut listen = sections.remove("listen");
    let config = Config {
        listen: ListenConfig {
            socket: section(take(&mut listen, "socket"), "listen.socket", &mut faults),
            tcp: section(take(&mut listen, "tcp"), "listen.tcp", &mut faults),
        },
        history: section(sections.remove("history"), "history", &mut faults).unwrap_or_default(),
        otlp: section(sections.remove("otlp"), "otlp", &mut faults),
        metrics: section(sections.remove("metrics"), "metrics", &mut faults).unwrap_or_default(),
        log: section(sections.remove("log"), "log", &mut faults).unwrap_or_default(),
    };
    // What is left of `listen` is an unknown key or no mapping at all.
    if let Some(rest) = listen {
        let _faulty: Option<ListenConfig> = section(Some(rest), "listen", &mut faults);
    }
    faults.extend(
        sections.keys().map(|key| format!("{key}: unknown key; known are listen, history, metrics, otlp and log")),
    );
    (config, faults)
}

fn take(section: &mut Option<Value>, key: &str) -> Option<Value> {
    section.as_mut()?.as_object_mut()?.remove(key)
}

fn section<T: DeserializeOwned>(value: Option<Value>, field: &str, faults: &mut Vec<String>) -> Option<T> {
    match serde_json::from_value(value?) {
        Ok(section) => section,
        Err(error) => {
            faults.push(format!("{field}: {error}"));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn read(text: &str, flags: &[&str]) -> Result<Config, Vec<String>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        let path = file.path().to_str().unwrap();
        let flags = Flags::try_parse_from([&["weir-collector", "--config", path][..], flags].concat()).unwrap();
        Config::read(&flags).map_err(|faults| faults.0)
    }

    #[test]
    fn defaults_work_and_flags_override_the_file() {
        let config = read("", &[]).unwrap();
        assert_eq!(config.listen.socket.unwrap().path, Path::new(DEFAULT_SOCKET));
        assert_eq!(config.history.records, 65536);

        let text = "listen:\n  socket: {path: /a.sock, allowedUids: [7]}\nhistory: {records: 10}\nlog: {format: json}\n\
             metrics: {listen: '127.0.0.1:9'}\n";
        let config = read(text, &["--socket", "/b.sock", "--history", "20", "--metrics-listen", "[::1]:8"]).unwrap();
        let listens = |config: &Config| config.metrics.listen.map(|at| at.to_string());
        assert_eq!(listens(&config).as_deref(), Some("[::1]:8"));
        assert_eq!(listens(&read(text, &[]).unwrap()).as_deref(), Some("127.0.0.1:9"));
        let socket = config.listen.socket.unwrap();
        assert_eq!((socket.path.to_str(), socket.allowed_uids), (Some("/b.sock"), vec![7]));
        assert_eq!(config.history.records, 20);
        assert_eq!(read(text, &[]).unwrap().history.records, 10);
    }

    #[test]
    fn records_are_kept_where_the_file_or_a_flag_says() {
        let text = "history: {directory: /a, mebibytes: 3, hours: 4}";
        let kept = read(text, &[]).unwrap().history;
        assert_eq!((kept.directory.as_deref(), kept.records), (Some(Path::new("/a")), 65536));
        assert_eq!(kept.limits(), Limits { bytes: 3 << 20, age: Duration::from_secs(4 * 3600) });
        let elsewhere = read(text, &["--history-directory", "/b"]).unwrap().history;
        assert_eq!(elsewhere.directory.as_deref(), Some(Path::new("/b")));
    }

    #[test]
    fn all_faults_are_reported_together() {
        let text = "listen:\n  socket: {path: a.sock, mode: 7}\n  tcp: {listen: nowhere}\n  pipe: 1\n\
                    history: {records: 0, directory: here, mebibytes: 0, hours: 1000000}\n\
                    log: {level: loud, format: xml}\ncolour: red\nmetrics: {listen: 9}\n";
        let faults = read(text, &["--history", "0"]).unwrap_err();
        for part in [
            "listen.socket: unknown field `mode`",
            "listen.tcp: ",
            "listen: unknown field `pipe`",
            "log: unknown variant `xml`",
            "metrics: ",
            "colour: unknown key",
            "history.records: must be",
            "history.directory: must be an absolute path (here)",
            "history.mebibytes: must be 1 to",
            "history.hours: must be 1 to",
        ] {
            assert!(faults.iter().any(|fault| fault.contains(part)), "{part} in {faults:#?}");
        }
        assert_eq!(faults.len(), 10, "{faults:#?}");
    }

    #[test]
    fn an_export_is_configured_by_file_or_flag_and_never_by_accident() {
        assert_eq!(read("", &[]).unwrap().otlp, None);
        let otlp = read("", &["--otlp-endpoint", "http://127.0.0.1:4317", "--otlp-insecure"]).unwrap().otlp.unwrap();
        assert_eq!((otlp.metrics_interval_seconds, otlp.queue_records), (60, 65536));
        let text = "otlp:\n  endpoint: https://a:4317\n  tls: {ca: /ca.pem}\n  queueRecords: 7\n";
        let otlp = read(text, &["--otlp-endpoint", "https://b:4317"]).unwrap().otlp.unwrap();
        assert_eq!((otlp.endpoint.to_string().as_str(), otlp.queue_records), ("https://b:4317", 7));
        for (text, flags, parts) in [
            ("", &["--otlp-endpoint", "http://a:4317"][..], vec!["otlp.endpoint: http://a:4317 is not encrypted"]),
            ("", &["--otlp-endpoint", "https://a:4317"], vec!["otlp.tls: https://a:4317 needs ca"]),
            ("", &["--otlp-insecure"], vec!["--otlp-insecure: there is no otlp.endpoint"]),
            ("otlp: {}", &[], vec!["otlp: missing field `endpoint`"]),
            ("otlp: {endpoint: 'unix:/a', compression: gzip}", &[], vec!["otlp: unknown field `compression`"]),
            (
                "otlp: {endpoint: 'https://a:1', tls: {ca: c, key: k}, metricsIntervalSeconds: 0, queueRecords: 0}",
                &[],
                vec![
                    "otlp.tls: certificate and key",
                    "otlp.metricsIntervalSeconds: must be",
                    "otlp.queueRecords: must be",
                ],
            ),
        ] {
            let faults = read(text, flags).unwrap_err();
            assert_eq!(faults.len(), parts.len(), "{faults:#?}");
            for part in parts {
                assert!(faults.iter().any(|fault| fault.contains(part)), "{part} in {faults:#?}");
            }
        }
    }

    #[test]
    fn what_is_no_yaml_or_no_file_is_named() {
        assert!(read("listen: [", &[]).unwrap_err()[0].contains("line"));
        assert!(read("listen: 7", &[]).unwrap_err()[0].contains("listen: "));
        let flags = Flags::try_parse_from(["weir-collector", "--config", "/no/such/file"]).unwrap();
        assert!(Config::read(&flags).unwrap_err().to_string().contains("/no/such/file"));
    }

    #[test]
    fn a_network_port_needs_tls_or_the_word_insecure() {
        assert!(read("", &["--listen", "127.0.0.1:0"]).unwrap_err()[0].contains("needs tls"));
        assert!(read("", &["--listen", "127.0.0.1:0", "--insecure"]).is_ok());
    }

    #[test]
    fn a_log_level_is_a_level_or_a_filter() {
        for (level, sound) in [("info", true), ("DEBUG", true), ("warn,weir_collector=debug", true), ("loud", false)] {
            assert_eq!(read("", &["--log-level", level]).is_ok(), sound, "{level}");
        }
    }
}
