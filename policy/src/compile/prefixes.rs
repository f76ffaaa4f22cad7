//! Lives: host.
//! Called by: `identities`, to split the address space; `compile`, for the block list.
//! May touch: nothing.
//! Never: lets an IPv6 prefix reach IPv4 addresses in the kernel's table, where those lie inside `::/0`.

use std::collections::{BTreeMap, BTreeSet};

use weir_common::{addr::Addr, maps::MAX_BLOCKED};

use super::{faults::Problems, rules::Numbering};
use crate::model::{Prefix, Resources, Spec, V4_BITS};

/// For each prefix an address that is in it and in no smaller one of the set, if there is any.
pub fn own_addresses(prefixes: &BTreeSet<Prefix>) -> Vec<(Prefix, Addr)> {
    prefixes.iter().filter_map(|prefix| own_address(prefix, prefixes).map(|addr| (*prefix, addr))).collect()
}

fn own_address(prefix: &Prefix, all: &BTreeSet<Prefix>) -> Option<Addr> {
    let (mut candidate, last) = prefix.range();
    // In order of prefix, everything inside follows the prefix itself, outer before inner.
    let inside = all.range(prefix..).skip(1).take_while(|inner| prefix.covers(inner));
    for inner in inside {
        let (first, inner_last) = inner.range();
        if first > candidate {
            break;
        }
        candidate = candidate.max(inner_last.checked_add(1)?);
    }
    (candidate <= last).then(|| Addr(candidate.to_be_bytes()))
}

/// The blocked prefixes and the rule each is recorded with. Sets that share a prefix: the first by name is named.
pub fn blocked(resources: &Resources, numbering: &Numbering, problems: &mut Problems) -> Vec<(Prefix, u32)> {
    let mut blocked = BTreeMap::new();
    for resource in resources.iter() {
        let Spec::AddressSet(set) = resource.spec() else { continue };
        for prefix in set.addresses.iter().flat_map(without_v4) {
            blocked.entry(prefix).or_insert_with(|| numbering.single(resource.id()));
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

    #[test]
    fn an_own_address_is_in_no_smaller_prefix() {
        let v4 = |a, b, bits| Prefix::new(Addr::v4([a, b, 0, 0]), V4_BITS + bits);
        let all = BTreeSet::from([v4(10, 0, 8), v4(10, 0, 9), v4(10, 128, 9), v4(10, 0, 16), v4(10, 128, 16)]);
        let own: BTreeMap<_, _> = own_addresses(&all).into_iter().collect();
        assert_eq!(own.get(&v4(10, 0, 8)), None, "both halves are taken");
        assert_eq!(own.get(&v4(10, 0, 9)), Some(&Addr::v4([10, 1, 0, 0])));
        assert_eq!(own.get(&v4(10, 0, 16)), Some(&Addr::v4([10, 0, 0, 0])));
    }
}
