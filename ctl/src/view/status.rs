//! Lives: ctl.
//! Called by: see `view`.
//! May touch: nothing.
//! Never: judges; whether numbers agree is said by `agreement`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

/// An agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Agent {
    pub node: String,
    pub version: String,
    pub abi_version: u32,
    pub generation: u64,
    pub generation_time: Option<Timestamp>,
    pub start: Option<Timestamp>,
    pub enforcing: bool,
    /// Whether what is attached stays in force without the agent.
    pub pinned: bool,
    /// How often something was found taken away and attached again.
    pub repairs: u64,
    /// Whether the agent can load or execute programs no more.
    pub sealed: bool,
    /// What Landlock closes of files, ports and other processes: full, partial, none or off.
    pub landlock: String,
    pub unknown_workloads: String,
    pub unselected_workloads: String,
    pub cgroup_root: String,
    pub resources: BTreeMap<String, u64>,
    pub workloads: Vec<Workload>,
    pub interfaces: Vec<Interface>,
    pub counters: Vec<Counter>,
    pub limits: Vec<Limit>,
    /// Where limits keep the state of clients; absent while there is no limit.
    pub limit_table: Option<LimitTable>,
    pub exporter: Option<Exporter>,
    pub connections: Option<Connections>,
    pub node_only: Vec<NodeOnly>,
}

/// What no policy selects: a pod in the node's network, or processes of no workload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeOnly {
    pub pod: String,
    pub cgroup: String,
    pub processes: u64,
}

/// What became of living connections when the policy changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Connections {
    pub known: u64,
    pub cut: u64,
    pub adopted: u64,
    pub draining: u64,
    pub blocked: Vec<Blocked>,
    /// Generation by which the last sweep found nothing left to cut; 0 while there is something.
    pub clean_generation: u64,
    pub swept: Option<Timestamp>,
    pub sweep_us: u64,
    pub sockets: u64,
    pub namespaces: u64,
}

/// A connection that could not be cut yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Blocked {
    pub workload: String,
    pub connection: String,
    pub rule: String,
    pub waited_ms: u64,
}

/// A workload on the agent's node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    pub workload: String,
    pub identity: u32,
    pub cgroup: String,
    pub state: String,
    pub detail: String,
    pub addresses: Vec<String>,
    pub hooks: Vec<String>,
    pub uncovered: Vec<String>,
    pub interface: String,
}

/// An interface with a program on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Interface {
    pub name: String,
    pub mode: String,
    pub detail: String,
    pub packets_seen: u64,
    pub packets_passed: u64,
    pub packets_dropped: u64,
    pub refuses: Vec<String>,
}

/// Decisions of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counter {
    pub hook: String,
    pub verdict: String,
    pub reason: String,
    pub decided: u64,
    pub recorded: u64,
    pub lost: u64,
    pub quiet: u64,
}

/// A rate limit and what it let through.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Limit {
    pub limit: String,
    pub passed_packets: u64,
    pub passed_bytes: u64,
    pub exceeded_packets: u64,
    pub exceeded_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub syn_protection: Option<SynProtection>,
}

/// What became of SYNs of a limit's destinations while they were answered by cookies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SynProtection {
    pub protection: String,
    pub threshold: u64,
    pub state: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
    pub answered: u64,
    pub completed: u64,
    pub left_no_cookie: u64,
    pub left_no_listener: u64,
    pub left_elsewhere: u64,
    pub left_unusual: u64,
    pub failed: u64,
}

/// How full the table of the limits' clients is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LimitTable {
    pub slots: u64,
    pub busy_permille: u32,
    pub crowded_permille: u32,
}

/// The agent's way to its collector.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Exporter {
    pub collector: String,
    pub state: String,
    pub detail: String,
    pub records_queued: u64,
    pub queue_capacity: u64,
    pub records_sent: u64,
    pub records_acknowledged: u64,
    pub records_lost: u64,
    pub boot_id: String,
    pub records_pending: u64,
    pub spool_bytes: u64,
    pub spool_capacity: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spool_oldest: Option<Timestamp>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub spool_fault: String,
}

/// A collector.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Collector {
    pub version: String,
    pub start: Option<Timestamp>,
    pub history_records: u64,
    pub history_capacity: u64,
    pub evicted: u64,
    /// Absent where records are kept in memory only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<Disk>,
    pub nodes: Vec<Node>,
    /// Absent where nothing is exported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp: Option<Otlp>,
}

/// What the collector has on disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Disk {
    pub records: u64,
    pub bytes: u64,
    pub capacity: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest: Option<Timestamp>,
}

/// The collector's export by OTLP, in records.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Otlp {
    pub sent: u64,
    pub retried: u64,
    pub queued: u64,
    pub capacity: u64,
    pub dropped: BTreeMap<String, u64>,
}

/// One boot of a node as the collector knows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    pub node: String,
    pub boot_id: String,
    pub connected: bool,
    pub records: u64,
    pub duplicates: u64,
    pub first_sequence: u64,
    pub last_sequence: u64,
    pub missing_batches: u64,
    pub last_seen: Option<Timestamp>,
    pub decisions: BTreeMap<String, u64>,
    pub losses: BTreeMap<String, u64>,
    pub lost_decisions: BTreeMap<String, u64>,
}
