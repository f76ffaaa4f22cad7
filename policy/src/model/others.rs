//! Lives: host.
//! Called by: `parse`, which builds these; `compile`, which turns limits into GCRA parameters and sets into prefixes.
//! May touch: nothing.
//! Never: holds a value that the parser would refuse.

use std::collections::BTreeSet;

use serde::{Serialize, Serializer};
use weir_common::addr::Addr;

use super::{ContainerPort, Mode, PortMatch, Prefix, Selector, SynProtection, ip};

/// Where a workload runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Workload {
    /// Directory below the agent's cgroup root; `None`: it runs elsewhere and is known by its addresses only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// The node's end of its network interface, where what no socket's hook sees is judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Its addresses.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "addresses")]
    pub addresses: Vec<Addr>,
    /// Of a pod: the node it runs on.
    #[serde(skip)]
    pub node: Option<String>,
    /// Of a pod: the UID that its node names the pod's cgroup after.
    #[serde(skip)]
    pub uid: Option<String>,
    /// Its ports that have a name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<ContainerPort>,
    /// Of a pod: it shares its node's addresses, and counts as its node.
    #[serde(skip)]
    pub host_network: bool,
}

/// A machine of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its addresses.
    pub addresses: Vec<Addr>,
    /// Where the addresses of its pods come from.
    pub pod_ranges: Vec<Prefix>,
}

fn addresses<S: Serializer>(addresses: &[Addr], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(addresses.iter().map(|addr| ip(*addr).to_string()))
}

/// How much clients may send to the selected destinations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RateLimit {
    /// Interfaces whose incoming traffic it is about, by name or pattern; empty: all, and what arrives at sockets otherwise.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub interfaces: BTreeSet<String>,
    /// Destination workloads of the namespace; `None`: every destination.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload_selector: Option<Selector>,
    /// Destination addresses; empty: all.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub addresses: BTreeSet<Prefix>,
    /// Destination ports; empty: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortMatch>,
    /// What makes one client.
    pub client: Client,
    /// What one client may send.
    #[serde(flatten)]
    pub rates: Rates,
    /// What all clients together may send.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aggregate: Option<Rates>,
    /// When connections to the selected destinations are opened by SYN cookies.
    #[serde(skip_serializing_if = "SynProtection::is_off")]
    pub syn_protection: SynProtection,
    /// Of `auto`: new connections a second, of all clients together, above which they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub syn_threshold: Option<u64>,
    /// Whether exceeding traffic is dropped.
    pub mode: Mode,
}

/// Rates by what they count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rates {
    /// Packets a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packets: Option<Rate>,
    /// Bytes of IP packets a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Rate>,
    /// New TCP connections a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<Rate>,
}

/// Whose traffic counts together. Addresses that share this many leading bits are one client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Client {
    /// Of IPv4 addresses, 0 to 32.
    #[serde(rename = "prefixLengthIPv4")]
    pub prefix_v4: u8,
    /// Of IPv6 addresses, 0 to 128.
    #[serde(rename = "prefixLengthIPv6")]
    pub prefix_v6: u8,
    /// Workloads of one namespace that share the values of these labels are one client, whatever their addresses.
    #[serde(rename = "workloadLabels", skip_serializing_if = "BTreeSet::is_empty")]
    pub labels: BTreeSet<String>,
}

impl Default for Client {
    fn default() -> Self {
        Self { prefix_v4: 32, prefix_v6: 64, labels: BTreeSet::new() }
    }
}

/// A rate and how much of it may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rate {
    /// Units a second.
    pub per_second: u64,
    /// Units at once.
    pub burst: u64,
}

/// Source addresses that are refused, or that alone may pass, before anything else looks at a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AddressSet {
    /// What it says of a packet from one of them.
    pub action: SetAction,
    /// What it is asked about; empty: every packet.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortMatch>,
    /// The addresses. More may be loaded beside the document.
    pub addresses: BTreeSet<Prefix>,
}

/// What an address set says of a packet from one of its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetAction {
    /// It is dropped.
    Block,
    /// It may pass; one that no such set holds is dropped.
    Allow,
}

impl SetAction {
    /// As documents say it.
    pub const WORDS: [(&'static str, Self); 2] = [("block", Self::Block), ("allow", Self::Allow)];

    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Allow => "allow",
        }
    }
}

impl Serialize for SetAction {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}
