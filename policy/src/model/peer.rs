//! Lives: host.
//! Called by: `parse`, which builds it; `evaluate`, which asks whether it matches.
//! May touch: nothing.
//! Never: says what a reference leads to; a peer is what was written.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{Entity, Prefix, Selector, ServiceRef};

/// A kind of other end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(untagged)]
pub enum Peer {
    /// Workloads by their labels and namespace.
    #[serde(rename_all = "camelCase")]
    Workloads {
        /// Workloads; absent: all.
        #[serde(skip_serializing_if = "Option::is_none")]
        workload_selector: Option<Selector>,
        /// Namespaces; absent: the policy's own.
        #[serde(skip_serializing_if = "Option::is_none")]
        namespace_selector: Option<Selector>,
    },
    /// Addresses, of workloads and others.
    #[serde(rename_all = "camelCase")]
    IpBlock {
        /// The addresses.
        ip_block: IpBlock,
    },
    /// Everything of a kind that has no labels.
    Entity {
        /// The kind.
        entity: Entity,
    },
    /// Machines of the cluster, by their labels.
    #[serde(rename_all = "camelCase")]
    Nodes {
        /// Nodes.
        node_selector: Selector,
    },
    /// What is behind a service.
    Service {
        /// The service.
        service: ServiceRef,
    },
    /// Something this version does not know; it matches nothing.
    Unknown,
}

impl Peer {
    /// Whether it means something else in policies of other namespaces.
    #[must_use]
    pub const fn is_read_in_its_namespace(&self) -> bool {
        matches!(self, Self::Workloads { namespace_selector: None, .. })
    }
}

/// A prefix less some prefixes inside it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct IpBlock {
    /// The addresses it is about.
    pub cidr: Prefix,
    /// The ones among them it is not about.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub except: BTreeSet<Prefix>,
}
