//! Lives: host.
//! Called by: `reach`.
//! May touch: nothing.
//! Never: takes a pod in its host's network for an end of its own: it counts as its node.

use std::{collections::BTreeSet, fmt};

use weir_common::addr::Addr;

use super::regions::regions;
use crate::{
    Context,
    evaluate::End,
    id::ResourceId,
    model::{Labels, Prefix, Resources},
};

/// One end of connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    /// Who it is.
    pub who: Who,
    /// The same as the evaluator is asked about it.
    pub end: End,
    /// Its labels, if it can have some.
    pub labels: Labels,
    /// Those of its namespace, if that is described.
    pub namespace_labels: Labels,
}

/// Who an end is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// A workload or pod; where rules speak of addresses, by its first one.
    Workload(ResourceId),
    /// A machine of the cluster, by its name.
    Node(String),
    /// This host, which is only there when the context gives it addresses.
    Host,
    /// Addresses that are nobody's, less the smaller prefixes that policies name inside.
    Outside(Prefix),
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload(id) => write!(f, "{id}"),
            Self::Node(name) => write!(f, "node:{name}"),
            Self::Host => f.write_str("host"),
            Self::Outside(prefix) => write!(f, "{prefix}"),
        }
    }
}

/// Every end, in order.
pub fn parties(resources: &Resources, context: &Context, boundaries: &BTreeSet<Prefix>) -> Vec<Party> {
    let mut parties: Vec<Party> = resources
        .workloads()
        .map(|(resource, _)| Party {
            who: Who::Workload(resource.id().clone()),
            end: End::Workload(resource.id().clone()),
            labels: resource.labels().clone(),
            namespace_labels: resources.namespace_labels(&resource.id().namespace).cloned().unwrap_or_default(),
        })
        .collect();
    let nodes = resources.nodes().filter_map(|(resource, node)| {
        let end = End::Address(*node.addresses.first()?);
        let (labels, namespace_labels) = (resource.labels().clone(), Labels::new());
        Some(Party { who: Who::Node(resource.id().name.clone()), end, labels, namespace_labels })
    });
    parties.extend(nodes);
    let owned = owned(resources, context);
    let bare = |who, address| {
        let (labels, namespace_labels) = (Labels::new(), Labels::new());
        Party { who, end: End::Address(address), labels, namespace_labels }
    };
    let host = context.host_addresses.iter().find(|address| !of_cluster(resources, address));
    parties.extend(host.map(|address| bare(Who::Host, *address)));
    // What is loopback is no end of a connection between two.
    let mut outside = regions(boundaries, &owned);
    outside.retain(|region| !is_loopback(&region.address));
    // The widest first, and IPv4 before IPv6.
    outside.sort_by_key(|region| (region.prefix != Prefix::V4, region.prefix.bits > 0, region.prefix));
    parties.extend(outside.into_iter().map(|region| bare(Who::Outside(region.prefix), region.address)));
    parties
}

/// Every address somebody has.
fn owned(resources: &Resources, context: &Context) -> BTreeSet<Addr> {
    let workloads = resources.workloads().flat_map(|(_, workload)| workload.addresses.iter().copied());
    let services = resources.services().flat_map(|(_, service)| service.addresses.iter().copied());
    let nodes = resources.node_addresses().map(|(address, _)| address);
    workloads.chain(services).chain(nodes).chain(context.host_addresses.iter().copied()).collect()
}

fn of_cluster(resources: &Resources, address: &Addr) -> bool {
    is_loopback(address)
        || resources.node_addresses().any(|(known, _)| known == *address)
        || resources.workloads().any(|(_, workload)| workload.addresses.contains(address))
}

fn is_loopback(address: &Addr) -> bool {
    crate::evaluate::loopback().iter().any(|prefix| prefix.contains(address))
}
