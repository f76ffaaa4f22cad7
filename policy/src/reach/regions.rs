//! Lives: host.
//! Called by: `parties`, to find what lies outside.
//! May touch: nothing.
//! Never: gives an outside address to two regions, or one that a workload, node or Service has.

use std::collections::BTreeSet;

use weir_common::addr::Addr;

use crate::{
    evaluate::loopback,
    model::{Peer, Prefix, Resources},
};

/// All of IPv6; IPv4 is told apart from it by [`Prefix::V4`].
const V6: Prefix = Prefix { addr: Addr::UNSPECIFIED, bits: 0 };

/// Every prefix at whose edge policies may change their mind.
pub fn boundaries(resources: &Resources) -> BTreeSet<Prefix> {
    let rules = resources.policies().flat_map(|(_, policy)| policy.ingress.iter().chain(&policy.egress));
    let mut found = BTreeSet::from([V6, Prefix::V4]);
    found.extend(loopback());
    found.extend(resources.pod_ranges());
    for peer in rules.flat_map(|rule| &rule.peers) {
        if let Peer::IpBlock { ip_block } = peer {
            found.insert(ip_block.cidr);
            found.extend(&ip_block.except);
        } else if let Peer::Service { service } = peer {
            let listed = resources.slices_of(service).flat_map(|slice| &slice.endpoints);
            found.extend(listed.flat_map(|endpoint| &endpoint.addresses).map(|address| Prefix::host(*address)));
        }
    }
    found
}

/// A prefix less the smaller ones inside it, with an address that stands for it.
#[derive(Clone, Debug)]
pub struct Region {
    /// The prefix.
    pub prefix: Prefix,
    /// An address of its own that is nobody's.
    pub address: Addr,
}

/// The regions that have an address left that nobody owns.
pub fn regions(boundaries: &BTreeSet<Prefix>, owned: &BTreeSet<Addr>) -> Vec<Region> {
    let region = |prefix: &Prefix| {
        let address = own_address(prefix, boundaries, owned)?;
        Some(Region { prefix: *prefix, address })
    };
    boundaries.iter().filter_map(region).collect()
}

fn own_address(prefix: &Prefix, all: &BTreeSet<Prefix>, owned: &BTreeSet<Addr>) -> Option<Addr> {
    let (mut candidate, last) = prefix.range();
    // In order of prefix, everything inside follows the prefix itself, outer before inner.
    let mut inside = all.range(prefix..).skip(1).take_while(|inner| prefix.covers(inner)).peekable();
    while candidate <= last {
        if let Some(inner) = inside.next_if(|inner| inner.range().0 <= candidate) {
            candidate = candidate.max(inner.range().1.checked_add(1)?);
        } else if owned.contains(&Addr(candidate.to_be_bytes())) {
            candidate = candidate.checked_add(1)?;
        } else {
            return Some(Addr(candidate.to_be_bytes()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::V4_BITS;

    #[test]
    fn a_region_is_what_smaller_ones_and_owners_leave_of_a_prefix() {
        let v4 = |bytes, bits| Prefix::new(Addr::v4(bytes), V4_BITS + bits);
        let all = BTreeSet::from([v4([10, 0, 0, 0], 8), v4([10, 0, 0, 0], 31), v4([10, 0, 0, 0], 32)]);
        let found: Vec<_> = regions(&all, &BTreeSet::from([Addr::v4([10, 0, 0, 2])]))
            .into_iter()
            .map(|region| (region.prefix, region.address))
            .collect();
        let expected = [
            (v4([10, 0, 0, 0], 8), Addr::v4([10, 0, 0, 3])),
            (v4([10, 0, 0, 0], 31), Addr::v4([10, 0, 0, 1])),
            (v4([10, 0, 0, 0], 32), Addr::v4([10, 0, 0, 0])),
        ];
        assert_eq!(found, expected);
        assert!(
            regions(&BTreeSet::from([v4([10, 0, 0, 2], 32)]), &BTreeSet::from([Addr::v4([10, 0, 0, 2])])).is_empty()
        );
    }
}
