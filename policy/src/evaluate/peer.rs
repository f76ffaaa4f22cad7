//! Lives: host.
//! Called by: `judge` for every peer and port of a rule; `compile` to sort peers and ports into classes.
//! May touch: nothing.
//! Never: lets a selector match an address without a workload, or a reference to nothing match anything.

use weir_common::addr::{Addr, Protocol};

use crate::model::{Entity, IpBlock, Labels, Peer, PortMatch, Prefix, V4_BITS};

/// A workload as selectors see it.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its labels.
    pub labels: &'a Labels,
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
}

/// Whether a peer of a policy in `namespace` matches the other end.
pub fn peer_matches(peer: &Peer, namespace: &str, end: &PeerEnd<'_>) -> bool {
    match peer {
        Peer::Workloads { workload_selector, namespace_selector } => end.member.is_some_and(|member| {
            let workload = workload_selector.as_ref().is_none_or(|selector| selector.matches(member.labels));
            let space = match namespace_selector {
                Some(selector) => selector.matches_namespace(member.namespace),
                None => member.namespace == namespace,
            };
            workload && space
        }),
        Peer::IpBlock { ip_block } => end.address.is_some_and(|address| block_holds(ip_block, &address)),
        Peer::Entity { entity } => end.entity == Some(*entity),
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

/// What an address is when no workload claims it.
pub fn entity_of(address: &Addr, host_addresses: &[Addr]) -> Entity {
    if loopback().iter().any(|prefix| prefix.contains(address)) {
        Entity::Loopback
    } else if host_addresses.contains(address) {
        Entity::Host
    } else {
        Entity::World
    }
}

/// Loopback addresses, and the unspecified ones: connecting to those reaches this host (RFC 1122 section 3.2.1.3).
pub fn loopback() -> [Prefix; 4] {
    let mut one = [0; 16];
    one[15] = 1;
    [
        Prefix::new(Addr::v4([127, 0, 0, 0]), V4_BITS + 8),
        Prefix::host(Addr::v4([0; 4])),
        Prefix::host(Addr::v6(one)),
        Prefix::host(Addr::UNSPECIFIED),
    ]
}
