//! Lives: weir-tests, a flow record as `weirctl observe -o json` prints it.
//! Called by: harness, live tests, the demo.
//! May touch: nothing.
//! Never: guesses a field that is not there; absent is empty or 0, as in the protocol.

use std::fmt;
use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

/// One record.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields are those of weir.v1.FlowRecord, documented there")]
pub struct Record {
    #[serde(rename = "type")]
    pub kind: String,
    pub time: Timestamp,
    pub verdict: String,
    pub reason: String,
    pub hook: String,
    pub direction: String,
    pub policy: String,
    pub rule: String,
    pub refusal: String,
    pub kernel_reason: String,
    pub staged_verdict: Option<String>,
    pub staged_policy: String,
    pub staged_rule: String,
    pub generation: u64,
    #[serde(deserialize_with = "or_default")]
    pub local: End,
    #[serde(deserialize_with = "or_default")]
    pub remote: End,
    pub protocol: String,
    pub icmp_type: Option<u8>,
    pub process: Option<Process>,
    pub cgroup: String,
    pub container: String,
    pub unit: String,
    pub cookie: u64,
    pub count: u64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub packets_sent: u64,
    pub packets_received: u64,
    pub interface: String,
    pub loss_cause: String,
    pub packet: String,
    pub node: String,
}

/// One end of a flow.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields are those of weir.v1.Endpoint, documented there")]
pub struct End {
    pub workload: String,
    pub labels: Vec<String>,
    pub identity: u32,
    pub address: Option<IpAddr>,
    pub port: u16,
    pub service: String,
}

/// The process behind the local end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields are those of weir.v1.Process, documented there")]
pub struct Process {
    pub pid: u32,
    pub uid: u32,
    pub command: String,
    pub executable: String,
    pub start_ticks: u64,
    pub command_line_hash: String,
}

/// A record of a loss has no ends.
fn or_default<'de, D: Deserializer<'de>>(deserializer: D) -> Result<End, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Record {
    /// Whether it is a decision of Weir's, and not a drop of the kernel's own.
    #[must_use]
    pub fn is_decided(&self) -> bool {
        self.kind == "verdict" && self.hook != "kernel"
    }

    /// Whether it is a decision of this verdict at this hook.
    #[must_use]
    pub fn is(&self, verdict: &str, hook: &str) -> bool {
        self.kind == "verdict" && self.verdict == verdict && self.hook == hook
    }

    /// Whether the ends have these addresses, v4-mapped ones counting as IPv4. At `connect` and `sendmsg` a socket that
    /// was not bound has no address of its own yet.
    #[must_use]
    pub fn between(&self, local: IpAddr, remote: IpAddr) -> bool {
        let same =
            |end: &End, address: IpAddr| end.address.is_some_and(|own| own.to_canonical() == address.to_canonical());
        let early = matches!(self.hook.as_str(), "connect" | "sendmsg");
        let unbound = early && self.local.address.is_none();
        (same(&self.local, local) || unbound) && same(&self.remote, remote)
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let arrow = if self.direction == "ingress" { "<-" } else { "->" };
        let (local, remote) = (&self.local, &self.remote);
        match self.kind.as_str() {
            kind @ ("cut" | "adopted") => write!(f, "{kind} {local} {arrow} {remote}")?,
            _ => write!(f, "{} {}/{} {local} {arrow} {remote}", self.verdict, self.hook, self.reason)?,
        }
        if !self.policy.is_empty() {
            write!(f, " by {} {}", self.policy, self.rule)?;
        }
        if let Some(verdict) = &self.staged_verdict {
            write!(f, ", staged {verdict} by {} {}", self.staged_policy, self.staged_rule)?;
        }
        if let Some(process) = self.process.as_ref().filter(|process| process.pid != 0) {
            write!(f, " {}[{}]", process.command, process.pid)?;
        }
        if self.count > 1 {
            write!(f, " x{}", self.count)?;
        }
        if self.kind == "close" {
            write!(f, " closed: {} B sent, {} B received", self.bytes_sent, self.bytes_received)?;
        }
        write!(f, " (generation {})", self.generation)
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            _ if !self.workload.is_empty() => write!(f, "{}:{}", self.workload, self.port),
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
            Some(IpAddr::V4(address)) => write!(f, "{address}:{}", self.port),
            None => write!(f, "?:{}", self.port),
        }
    }
}
