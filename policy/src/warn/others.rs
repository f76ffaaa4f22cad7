//! Lives: host.
//! Called by: `warn`, for documents that are no policies.
//! May touch: nothing.
//! Never: repeats what the parser refuses.

use super::{Found, crowd::Crowd};
use crate::model::{RateLimit, Resource, Workload};

/// An Ethernet frame's worth: a smaller byte burst refuses full packets outright.
const FULL_PACKET: u64 = 1500;

pub fn rate_limit(crowd: &Crowd<'_>, resource: &Resource, limit: &RateLimit, found: &mut Found) {
    let selector = limit.workload_selector.as_ref();
    if !crowd.is_unknown() && selector.is_some_and(|selector| !crowd.has(&resource.id().namespace, selector)) {
        found.note("spec.workloadSelector", "its workloadSelector matches no workload");
    }
    let aggregate = limit.aggregate.and_then(|rates| rates.bytes);
    for (bytes, field) in [(limit.rates.bytes, "spec.bytes.burst"), (aggregate, "spec.aggregate.bytes.burst")] {
        if bytes.is_some_and(|bytes| bytes.burst < FULL_PACKET) {
            let text = format!(
                "packets larger than its byte burst never pass; {FULL_PACKET} lets full Ethernet packets through"
            );
            found.note(field, text);
        }
    }
}

/// A cgroup inside another workload's is judged by both.
pub fn workload(crowd: &Crowd<'_>, workload: &Workload, found: &mut Found) {
    if let Some(outer) = workload.cgroup.as_deref().and_then(|cgroup| crowd.cgroup_around(cgroup)) {
        found.note("spec.cgroup", format!("its cgroup lies inside {outer}, another workload's; both judge it"));
    }
}
