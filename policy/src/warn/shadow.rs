//! Lives: host. Rules that no traffic reaches, because others decide before them.
//! Called by: `policies`, for the rules of a direction that count.
//! May touch: nothing.
//! Never: calls a rule unreachable for a policy that may go away by itself, or that does not decide.

use weir_common::verdict::Direction;

use super::{Found, covers, crowd::Crowd};
use crate::{
    evaluate::{RulePlace, rule_name},
    model::{Mode, Policy, Resource, Rule, Tier, Timestamp},
};

pub fn check(
    crowd: &Crowd<'_>,
    resource: &Resource,
    policy: &Policy,
    direction: Direction,
    now: Timestamp,
    found: &mut Found,
) {
    let namespace = resource.id().namespace.as_str();
    let before: Vec<_> = asked_before(crowd, resource, policy).collect();
    for (index, rule) in policy.rules(direction).iter().enumerate().filter(|(_, rule)| rule.in_force(now)) {
        let own = first_in_same(policy, direction, index, namespace);
        let name = || rule_name(policy, direction, RulePlace::At(index));
        let by =
            own.map(|place| format!("its own {}", rule_name(policy, direction, RulePlace::At(place)))).or_else(|| {
                before.iter().find_map(|(other, theirs)| {
                    let of = other.id().namespace.as_str();
                    let place = lasting(theirs.rules_in_force(direction))
                        .find(|(_, wide)| covers::rule((of, wide), (namespace, rule)));
                    place.map(|(place, _)| {
                        format!("{} of {}", rule_name(theirs, direction, RulePlace::At(place)), other.id())
                    })
                })
            });
        if let Some(by) = by {
            let field = format!("spec.{}[{index}]", direction.name());
            found.note(
                field,
                format!("its rule {} decides nothing: {by} decides about all of its traffic before", name()),
            );
        }
    }
}

/// The rule of the same policy and direction that is asked before another and matches all of its traffic. In the namespace
/// tier a deny is asked before an allow; else, and in the other tiers, the written order counts.
fn first_in_same(policy: &Policy, direction: Direction, index: usize, namespace: &str) -> Option<usize> {
    let rules = policy.rules(direction);
    let rule = rules.get(index)?;
    let order = |place: usize, rule: &Rule| match policy.tier {
        Tier::Namespace => (!rule.action.denies(), place),
        Tier::Admin | Tier::Baseline => (false, place),
    };
    let mut before = lasting(rules).filter(|(place, other)| order(*place, other) < order(index, rule));
    before.find(|(_, other)| covers::rule((namespace, other), (namespace, rule))).map(|(place, _)| place)
}

/// The policies of the same tier that are asked before another about all of its workloads.
fn asked_before<'a>(
    crowd: &Crowd<'a>,
    resource: &Resource,
    policy: &Policy,
) -> impl Iterator<Item = (&'a Resource, &'a Policy)> {
    let id = resource.id();
    crowd.resources.policies_about(&id.namespace).filter(move |(other, theirs)| {
        let reaches = (other.id().namespace.as_str(), theirs.namespaces.as_ref());
        let lasts = theirs.mode == Mode::Enforce && theirs.expires_at.is_none();
        lasts
            && theirs.tier == policy.tier
            && theirs.priority < policy.priority
            && covers::namespaces(reaches, (&id.namespace, policy.namespaces.as_ref()))
            && covers::selector(&theirs.workload_selector, &policy.workload_selector)
    })
}

/// Rules that do not go away by themselves.
fn lasting(rules: &[Rule]) -> impl Iterator<Item = (usize, &Rule)> {
    rules.iter().enumerate().filter(|(_, rule)| rule.expires_at.is_none())
}
