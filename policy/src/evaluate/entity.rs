//! Lives: host. What an address is when no workload has it.
//! Called by: `resolve`, for the ends of questions; `compile`, for addresses and ranges of addresses.
//! May touch: nothing.
//! Never: gives an address two names; `node` as a peer holds this host too, which `entity_matches` says.

use weir_common::addr::Addr;

use crate::{
    Context,
    model::{Entity, Prefix, Resources, V4_BITS},
};

/// What an address is that no workload has: loopback before this host, this host before the cluster's machines, those before
/// the ranges of pods, and the world is what remains.
pub fn entity_of(resources: &Resources, context: &Context, address: &Addr) -> Entity {
    let by_range = entity_of_range(resources, address);
    if by_range == Entity::Loopback {
        Entity::Loopback
    } else if context.host_addresses.contains(address) {
        Entity::Host
    } else if resources.node_at(address).is_some() {
        Entity::Node
    } else {
        by_range
    }
}

/// What an address is that is in no list: no workload's, no machine's. Addresses between the edges of
/// [`Resources::pod_ranges`] and [`loopback`] share the answer.
pub fn entity_of_range(resources: &Resources, address: &Addr) -> Entity {
    if loopback().iter().any(|prefix| prefix.contains(address)) {
        Entity::Loopback
    } else if resources.in_pod_range(address) {
        Entity::Unknown
    } else {
        Entity::World
    }
}

/// Whether a rule that names `asked` is about an end that is `found`: this host is also a node of the cluster.
pub const fn entity_matches(asked: Entity, found: Entity) -> bool {
    match asked {
        Entity::Node => matches!(found, Entity::Node | Entity::Host),
        Entity::World => matches!(found, Entity::World),
        Entity::Host => matches!(found, Entity::Host),
        Entity::Loopback => matches!(found, Entity::Loopback),
        Entity::Unknown => matches!(found, Entity::Unknown),
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
