//! Lives: host.
//! Called by: `warn`, for every policy of whatever kind.
//! May touch: nothing.
//! Never: warns about the rules of a policy that has expired; they are as if not written.

use weir_common::verdict::Direction;

use super::{Found, crowd::Crowd, rules, shadow};
use crate::{
    evaluate::{Member, selects},
    id::Kind,
    model::{OnChange, Policy, PolicyType, Resource, Tier, Timestamp},
};

const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

pub fn check(crowd: &Crowd<'_>, resource: &Resource, policy: &Policy, now: Timestamp, found: &mut Found) {
    if let Some(end) = policy.expires_at.filter(|_| !policy.in_force(now)) {
        found.note("spec.expiresAt", format!("it expired at {end} and does nothing any more; delete it"));
        return;
    }
    selects_nobody(crowd, resource, policy, found);
    drains_in_vain(crowd, resource, policy, found);
    for direction in DIRECTIONS {
        if policy.tier == Tier::Namespace && !policy.isolates(direction) {
            ignored(policy, direction, found);
            continue;
        }
        rules::check(crowd, resource, policy, direction, now, found);
        shadow::check(crowd, resource, policy, direction, now, found);
    }
}

fn selects_nobody(crowd: &Crowd<'_>, resource: &Resource, policy: &Policy, found: &mut Found) {
    let selects = match &policy.namespaces {
        Some(namespaces) => crowd.has_among(namespaces, &policy.workload_selector),
        None => {
            let member = |(other, workload)| Member::of(crowd.resources, other, workload);
            let mut own = crowd.resources.workloads_in(&resource.id().namespace).map(member);
            own.any(|member| selects(resource.id(), policy, &member))
        }
    };
    if !crowd.is_unknown() && !selects {
        let fields = [(Kind::Policy, "workloadSelector"), (Kind::NetworkPolicy, "podSelector")];
        let field = fields.iter().find(|(kind, _)| *kind == resource.id().kind);
        let selector = field.map_or("subject", |(_, field)| field);
        found.note(format!("spec.{selector}"), format!("its {selector} matches no workload"));
    }
}

/// What follows in a connection is judged packet by packet on an interface, without a memory of which connections live.
fn drains_in_vain(crowd: &Crowd<'_>, resource: &Resource, policy: &Policy, found: &mut Found) {
    if policy.on_change != OnChange::Drain {
        return;
    }
    let mut judged = crowd
        .wired()
        .iter()
        .filter(|(other, workload)| selects(resource.id(), policy, &Member::of(crowd.resources, other, workload)));
    if let Some((workload, _)) = judged.next() {
        let more = judged.count();
        let others = if more == 0 { String::new() } else { format!(" and of {more} more") };
        let id = workload.id();
        found.note(
            "spec.onChange",
            format!("living connections of {id}{others} stop all the same: packets are judged on its interface; leave out `interface`, or accept that they are cut"),
        );
    }
}

fn ignored(policy: &Policy, direction: Direction, found: &mut Found) {
    if !policy.rules(direction).is_empty() {
        let (rules, kind) = (direction.name(), PolicyType::of(direction).name());
        found.note(
            format!("spec.{rules}"),
            format!("its {rules} rules are ignored, as policyTypes does not list {kind}"),
        );
    }
}
