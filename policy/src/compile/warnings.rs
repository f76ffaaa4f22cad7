//! Lives: host.
//! Called by: `compile`, for the sentences shown beside a success.
//! May touch: nothing.
//! Never: refuses anything; what is here is legal and probably not meant.

use std::collections::BTreeSet;

use super::classes::DIRECTIONS;
use crate::{
    evaluate::{Member, selects},
    id::Kind,
    model::{Policy, PolicyType, RateLimit, Resource, Resources, Selector, Spec, Tier, Workload},
};

/// An Ethernet frame's worth: a smaller byte burst refuses full packets outright.
const FULL_PACKET: u64 = 1500;

/// Everything worth a second look, in order of id.
pub fn warnings(resources: &Resources) -> Vec<String> {
    let mut warnings = nested_cgroups(resources);
    for resource in resources.iter() {
        let found = match resource.spec() {
            Spec::Policy(policy) => of_policy(resources, resource, policy),
            Spec::RateLimit(limit) => of_limit(resources, resource, limit),
            Spec::Workload(_) | Spec::AddressSet(_) | Spec::Namespace | Spec::Node(_) => Vec::new(),
            Spec::Service(_) | Spec::EndpointSlice(_) => Vec::new(),
        };
        warnings.extend(found.into_iter().map(|text| format!("{}: {text}", resource.id())));
    }
    warnings
}

fn of_policy(resources: &Resources, resource: &Resource, policy: &Policy) -> Vec<String> {
    let mut found = Vec::new();
    let selected = |(other, workload): (&Resource, &Workload)| {
        selects(resource.id(), policy, &Member::of(resources, other, workload))
    };
    if !resources.workloads().any(selected) {
        let selector = if resource.id().kind == Kind::Policy { "workloadSelector" } else { "selector" };
        found.push(format!("its {selector} matches no workload"));
    }
    if policy.tier != Tier::Namespace {
        return found;
    }
    for direction in DIRECTIONS {
        if !policy.isolates(direction) && !policy.rules(direction).is_empty() {
            let (rules, kind) = (direction.name(), PolicyType::of(direction).name());
            found.push(format!("its {rules} rules are ignored, as policyTypes does not list {kind}"));
        }
    }
    found
}

fn of_limit(resources: &Resources, resource: &Resource, limit: &RateLimit) -> Vec<String> {
    let mut found = Vec::new();
    if limit.workload_selector.as_ref().is_some_and(|selector| !selects_any(resources, resource, selector)) {
        found.push("its workloadSelector matches no workload".to_owned());
    }
    if limit.bytes.is_some_and(|bytes| bytes.burst < FULL_PACKET) {
        found.push(format!(
            "packets larger than its byte burst never pass; {FULL_PACKET} lets full Ethernet packets through"
        ));
    }
    found
}

fn selects_any(resources: &Resources, owner: &Resource, selector: &Selector) -> bool {
    resources
        .workloads()
        .any(|(resource, _)| resource.id().namespace == owner.id().namespace && selector.matches(resource.labels()))
}

/// A cgroup inside another workload's is judged by both.
fn nested_cgroups(resources: &Resources) -> Vec<String> {
    let all: BTreeSet<&str> = resources.workloads().filter_map(|(_, workload)| workload.cgroup.as_deref()).collect();
    let mut found = Vec::new();
    for (resource, workload) in resources.workloads() {
        let Some(cgroup) = &workload.cgroup else { continue };
        let outer = cgroup.match_indices('/').find_map(|(end, _)| all.get(cgroup.get(..end)?));
        if let Some(outer) = outer {
            found.push(format!("{}: its cgroup lies inside {outer}, another workload's; both judge it", resource.id()));
        }
    }
    found
}
