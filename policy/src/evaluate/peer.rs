//! Lives: host.
//! Called by: `judge` for every peer and port of a rule; `compile` to sort peers and ports into classes.
//! May touch: nothing.
//! Never: lets a selector match an address without a workload, or a reference to nothing match anything.

use weir_common::addr::{Addr, Protocol};

use super::entity::entity_matches;
use crate::model::{
    ContainerPort, Entity, IpBlock, Labels, Peer, PortMatch, PortName, Resource, Resources, ServiceRef, Workload,
};

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
            let workload = workload_selector.as_ref().is_none_or(|selector| selector.matches(member.labels));
            let space = match namespace_selector {
                Some(selector) => selector.matches_namespace(member.namespace, member.namespace_labels),
                None => member.namespace == namespace,
            };
            workload && space
        }),
        Peer::IpBlock { ip_block } => end.address.is_some_and(|address| block_holds(ip_block, &address)),
        Peer::Entity { entity } => end.entity.is_some_and(|found| entity_matches(*entity, found)),
        Peer::Nodes { node_selector } => {
            end.node.is_some_and(|node| node_selector.matches(node.labels.unwrap_or(&Labels::new())))
        }
        Peer::Service { service } => end.services.contains(service),
        Peer::Unknown => false,
    }
}

/// Whether an address is in a block and in none of its exceptions.
pub fn block_holds(block: &IpBlock, address: &Addr) -> bool {
    block.cidr.contains(address) && !block.except.iter().any(|except| except.contains(address))
}

/// Whether a port entry matches. An entry without ports matches its whole protocol.
pub fn port_matches(entry: &PortMatch, protocol: Protocol, port: u16) -> bool {
    entry.protocol == protocol && entry.ports.is_none_or(|(first, last)| (first..=last).contains(&port))
}

/// Whether a named port is the one that is called: the called pod gives name, protocol and number together.
pub fn name_matches(entry: &PortName, called: &[ContainerPort], protocol: Protocol, port: u16) -> bool {
    called.iter().any(|known| {
        let named = known.name == entry.name && entry.protocol.is_none_or(|wanted| wanted == known.protocol);
        named && known.protocol == protocol && known.port == port
    })
}
