//! Lives: weir-bench. The node a cluster is seen from.
//! Called by: the measurements and the tests.
//! May touch: nothing.
//! Never: differs between two runs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weir_common::verdict::Verdict;
use weir_policy::{Context, Timestamp, addr};

use crate::cluster::others::node_addresses;

/// Nothing in a cluster expires, so any moment does.
const NOW: Timestamp = Timestamp(0);

/// The first node: its own addresses, unknown workloads denied, a tick as most kernels have it.
#[must_use]
pub fn context() -> Context {
    let (v4, v6) = node_addresses(0);
    let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let host = [IpAddr::V4(v4), IpAddr::V6(v6)].into_iter().chain(loopback);
    Context {
        generation: 1,
        unknown: Verdict::Deny,
        unselected: Verdict::Allow,
        host_addresses: host.map(addr).collect(),
        tick_ns: 4_000_000,
        now: NOW,
    }
}
