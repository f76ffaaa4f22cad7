//! Lives: host.
//! Called by: `compiler`, when an address set has changed.
//! May touch: nothing.
//! Never: lets an IPv6 prefix reach IPv4 addresses in the kernel's table, where those lie inside `::/0`.

use std::{collections::BTreeMap, sync::Arc};

use weir_common::{addr::Addr, maps::MAX_BLOCKED};

use super::{faults::Problems, rules::Rules};
use crate::{
    id::ResourceId,
    model::{Prefix, Resource, Spec, V4_BITS},
};

/// The blocked prefixes and the rule each is recorded with. Sets that share a prefix: the first by name is named.
pub fn blocked(
    sets: &BTreeMap<ResourceId, Arc<Resource>>,
    rules: &mut Rules,
    problems: &mut Problems,
) -> Vec<(Prefix, u32)> {
    let mut blocked = BTreeMap::new();
    for (id, resource) in sets {
        let Spec::AddressSet(set) = resource.spec() else { continue };
        let rule = rules.put_single(id, "block");
        for prefix in set.addresses.iter().flat_map(without_v4) {
            blocked.entry(prefix).or_insert(rule);
        }
    }
    if blocked.len() > MAX_BLOCKED as usize {
        let problem =
            format!("the address sets hold {} prefixes; the kernel's table has room for {MAX_BLOCKED}", blocked.len());
        problems.of_all(problem, "join neighbouring prefixes, or remove some");
    }
    blocked.into_iter().collect()
}

/// An IPv6 prefix around the v4-mapped range becomes its parts outside of that range.
fn without_v4(prefix: &Prefix) -> Vec<Prefix> {
    if prefix.is_v4() || !prefix.covers(&Prefix::V4) {
        return vec![*prefix];
    }
    let siblings = (prefix.bits + 1..=V4_BITS).map(|bits| {
        let bit = 1u128 << (128 - u32::from(bits));
        let sibling = u128::from_be_bytes(Prefix::V4.addr.0) ^ bit;
        Prefix::new(Addr(sibling.to_be_bytes()), bits)
    });
    siblings.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_ipv6_leaves_out_exactly_ipv4() {
        let all = Prefix::new(Addr::UNSPECIFIED, 0);
        let parts = without_v4(&all);
        assert_eq!(parts.len(), 96);
        let size: u128 = parts.iter().map(|part| part.range().1 - part.range().0 + 1).sum();
        let (first, last) = Prefix::V4.range();
        assert_eq!(size, u128::MAX - (last - first));
        assert!(parts.iter().all(|part| !part.covers(&Prefix::V4) && !Prefix::V4.covers(part)));
    }
}
