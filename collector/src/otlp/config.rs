//! Lives: collector, the section `otlp` of its configuration.
//! Called by: `config`, `flags`; `rpc::otlp`, which acts by it.
//! May touch: nothing; files are opened later, once the whole configuration is known to be sound.
//! Never: holds a secret itself; headers are named by their file.

use std::path::PathBuf;

use serde::Deserialize;
use weir_transport::{Endpoint, ForeignTlsFiles, Security};

/// Longest time between two exports of metrics: a day.
const MAX_INTERVAL_SECONDS: u64 = 86_400;
/// Most records that may wait (about 4 GiB of them).
const MAX_QUEUE: usize = 10_000_000;

/// Where to export to, and how.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OtlpConfig {
    /// A receiver of OTLP over gRPC: `https://host:port`, `http://host:port` with `insecure`, or `unix:/path`.
    pub endpoint: Endpoint,
    /// Certificates for `https`.
    #[serde(default)]
    pub tls: Option<ForeignTlsFiles>,
    /// Accept an address that is not encrypted.
    #[serde(default)]
    pub insecure: bool,
    /// File of headers that go with every request, such as `authorization`; one `name: value` a line.
    #[serde(default)]
    pub headers_file: Option<PathBuf>,
    /// Seconds between two exports of metrics.
    #[serde(default = "default_interval")]
    pub metrics_interval_seconds: u64,
    /// Records that may wait for the receiver; then new ones are left out, and counted.
    #[serde(default = "default_queue")]
    pub queue_records: usize,
}

const fn default_interval() -> u64 {
    60
}

const fn default_queue() -> usize {
    65536
}

impl OtlpConfig {
    /// The defaults, with this receiver.
    #[must_use]
    pub const fn to(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            tls: None,
            insecure: false,
            headers_file: None,
            metrics_interval_seconds: default_interval(),
            queue_records: default_queue(),
        }
    }

    /// Every fault of the section.
    #[must_use]
    pub fn faults(&self, field: &str) -> Vec<String> {
        let security = Security { address: &self.endpoint, tls: self.tls.is_some(), insecure: self.insecure };
        let mut faults: Vec<String> = security.fault([field, "endpoint"], "ca").into_iter().collect();
        faults.extend(self.tls.iter().flat_map(|tls| tls.faults(&format!("{field}.tls"))));
        let seconds = self.metrics_interval_seconds;
        if !(1..=MAX_INTERVAL_SECONDS).contains(&seconds) {
            faults.push(format!("{field}.metricsIntervalSeconds: must be 1 to {MAX_INTERVAL_SECONDS} ({seconds})"));
        }
        if !(1..=MAX_QUEUE).contains(&self.queue_records) {
            faults.push(format!("{field}.queueRecords: must be 1 to {MAX_QUEUE} ({})", self.queue_records));
        }
        faults
    }
}
