//! Lives: host.
//! Called by: `rule` for every peer of a rule; `compile`, to sort peers into classes.
//! May touch: nothing.
//! Never: lets a selector match an address without a workload, or a reference to nothing match anything.

use weir_common::addr::Addr;

use super::entity::entity_matches;
use crate::model::{ContainerPort, Entity, IpBlock, Labels, Peer, Resource, Resources, Selector, ServiceRef, Workload};

/// A workload as selectors see it.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// The labels of its namespace, if that is described.
    pub namespace_labels: Option<&'a Labels>,
    /// Its labels.
    pub labels: &'a Labels,
    /// Its ports that have a name.
    pub ports: &'a [ContainerPort],
}

impl<'a> Member<'a> {
    /// A workload or pod as selectors see it.
    pub fn of(resources: &'a Resources, resource: &'a Resource, workload: &'a Workload) -> Self {
        let namespace = &resource.id().namespace;
        let namespace_labels = resources.namespace_labels(namespace);
        Self { namespace, namespace_labels, labels: resource.labels(), ports: &workload.ports }
    }
}

/// A machine as rules see it.
#[derive(Clone, Copy, Debug)]
pub struct NodeEnd<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its labels.
    pub labels: Option<&'a Labels>,
}

/// How a workload comes to be its own peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Itself {
    /// By its own address.
    Directly,
    /// Through a Service that leads back to it.
    ByService,
}

/// The other end of a connection, as far as rules can tell.
#[derive(Clone, Copy, Debug)]
pub struct PeerEnd<'a> {
    /// The workload it is, if any.
    pub member: Option<Member<'a>>,
    /// The address it is reached by, if any.
    pub address: Option<Addr>,
    /// What it is when it is no workload.
    pub entity: Option<Entity>,
    /// The machine it is, if any.
    pub node: Option<NodeEnd<'a>>,
    /// The services it is behind, as far as the policies that are asked name them, in order.
    pub services: &'a [ServiceRef],
    /// Whether it is the workload that asks.
    pub itself: Option<Itself>,
}

/// Whether a peer of a policy in `namespace` matches the other end.
pub fn peer_matches(peer: &Peer, namespace: &str, end: &PeerEnd<'_>) -> bool {
    match peer {
        Peer::Workloads { workload_selector, namespace_selector } => end.member.is_some_and(|member| {
            let selectors = (workload_selector.as_ref(), namespace_selector.as_ref());
            member_matches(selectors, namespace, &member)
        }),
        Peer::IpBlock { ip_block } => end.address.is_some_and(|address| block_holds(ip_block, &address)),
        // Native: what has no labels, by its kind.
        Peer::Entity { entity } => end.entity.is_some_and(|found| entity_matches(*entity, found)),
        // ClusterNetworkPolicy, `nodes`: machines with these labels, by the addresses they have; an empty selector is all.
        Peer::Nodes { node_selector } => {
            end.node.is_some_and(|node| node_selector.matches(node.labels.unwrap_or(&Labels::new())))
        }
        // Native: what is behind a service (`service`).
        Peer::Service { service } => end.services.contains(service),
        // ClusterNetworkPolicy, a peer of a later version: closed, which for a rule that allows is to match nothing. The parser
        // has made a rule of everything out of one that denies or passes.
        Peer::Unknown => false,
    }
}

/// Whether a workload is among those that two selectors select.
///
/// NetworkPolicy, `podSelector` alone: pods of the policy's own namespace. `namespaceSelector` alone: all pods of the
/// namespaces it selects. Both in one item: the pods with these labels in the namespaces with those. An empty selector selects
/// everything of its kind.
///
/// ClusterNetworkPolicy, `namespaces` and `pods`: as the second and third; they have no namespace of their own.
fn member_matches(
    (workloads, namespaces): (Option<&Selector>, Option<&Selector>),
    own_namespace: &str,
    member: &Member<'_>,
) -> bool {
    let by_labels = workloads.is_none_or(|selector| selector.matches(member.labels));
    let by_namespace = match namespaces {
        Some(selector) => selector.matches_namespace(member.namespace, member.namespace_labels),
        None => member.namespace == own_namespace,
    };
    by_labels && by_namespace
}

/// Whether an address is in a block.
///
/// NetworkPolicy, `ipBlock`: the addresses of `cidr` but those of `except`; another item may still name these. Whose address it
/// is makes no difference: pods have addresses too. ClusterNetworkPolicy, `networks`: blocks without exceptions.
pub fn block_holds(block: &IpBlock, address: &Addr) -> bool {
    block.cidr.contains(address) && !block.except.iter().any(|except| except.contains(address))
}
