//! Lives: ctl.
//! Called by: see `view`.
//! May touch: nothing.
//! Never: shows bytes; addresses and times are text.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::Serialize;

/// What a record is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// A decision, or several equal ones.
    #[default]
    Verdict,
    /// A connection that ended.
    Close,
    /// Records that were lost.
    Loss,
    /// A living connection that was cut, because the policy forbids it.
    Cut,
    /// A connection older than enforcement that was judged and goes on.
    Adopted,
    /// A TCP connection lives; what it has come to.
    Progress,
    /// Something a newer collector knows.
    #[value(skip)]
    Unknown,
}

/// What was decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// It passed.
    Allow,
    /// It was refused.
    Deny,
    /// It passed and would have been refused.
    Audit,
    /// Not said.
    #[default]
    #[value(skip)]
    Unknown,
}

/// Which way the connection was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Direction {
    /// By the peer.
    Ingress,
    /// By the local workload.
    Egress,
    /// Not said.
    #[default]
    Unknown,
}

/// A record of a decision, a close or a loss.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    pub time: Timestamp,
    pub end: Option<Timestamp>,
    pub start: Option<Timestamp>,
    pub node: String,
    #[serde(rename = "type")]
    pub kind: Kind,
    pub verdict: Verdict,
    pub reason: String,
    pub hook: String,
    pub direction: Direction,
    pub policy: String,
    pub rule: String,
    pub refusal: String,
    pub kernel_reason: String,
    pub staged_verdict: Option<Verdict>,
    pub staged_policy: String,
    pub staged_rule: String,
    pub generation: u64,
    pub local: Option<End>,
    pub remote: Option<End>,
    pub protocol: String,
    #[serde(skip)]
    pub has_ports: bool,
    pub tcp_flags: String,
    pub icmp_type: Option<u32>,
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
    pub rtt_us: u32,
    pub retransmits: u32,
    pub interface: String,
    pub loss_cause: String,
    /// Hexadecimal.
    pub packet: String,
}

/// One end of a flow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct End {
    pub workload: String,
    pub labels: Vec<String>,
    pub identity: u32,
    pub address: Option<IpAddr>,
    pub port: u32,
    pub service: String,
}

/// The process behind the local end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    pub pid: u32,
    pub uid: u32,
    pub command: String,
    pub executable: String,
    pub start_ticks: u64,
    pub command_line_hash: String,
}

impl Verdict {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Audit => "audit",
            Self::Unknown => "?",
        }
    }
}

impl Direction {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
            Self::Unknown => "?",
        }
    }
}
