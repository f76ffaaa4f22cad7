//! Lives: host. The order in which policies are asked.
//! Called by: `modes`, with the policies that select the workload.
//! May touch: nothing.
//! Never: looks at ends or ports; whether a rule matches is told by its caller.
//!
//! ClusterNetworkPolicy, `tier`: the admin tier is asked before all others, the baseline tier after all others, NetworkPolicies
//! between them. What a tier decides is final. What nobody decides is allowed: pods may talk unless somebody forbids it.

use weir_common::verdict::{Direction, Reason, Verdict};

use super::{
    outcome::{Beyond, Deciding, Outcome, RulePlace},
    subject::Bound,
};
use crate::model::{Action, Rule, Tier};

/// Whether a rule of a policy in a namespace matches the opening in question.
pub type Matches<'m> = dyn Fn(&str, &Rule) -> bool + 'm;

/// Asks the tiers in turn. `by_service`: the workload calls itself through a Service, which the namespace tier leaves open.
pub fn tiers<'a>(bound: &[Bound<'a>], direction: Direction, by_service: bool, matches: &Matches<'_>) -> Outcome<'a> {
    let passed = match ordered(bound, Tier::Admin, direction, matches) {
        // Pass: the rest of the tier is left out, and the next tier asked.
        Some((deciding, Action::Pass)) => Some(deciding),
        // Accept and Deny: nothing after them is asked, at this end and in this direction.
        Some((deciding, action @ (Action::Allow | Action::Deny | Action::Refuse))) => {
            return decided(deciding, action, None);
        }
        None => None,
    };
    match isolated(bound, direction, matches) {
        Some(_) if by_service => return Outcome { passed, beyond: Some(Beyond::Service), ..Outcome::OPEN },
        Some(outcome) => return Outcome { passed, ..outcome },
        None => {}
    }
    match ordered(bound, Tier::Baseline, direction, matches) {
        Some((deciding, action)) => decided(deciding, action, passed),
        None => Outcome { passed, ..Outcome::OPEN },
    }
}

/// The rule of the admin or baseline tier that decides.
///
/// ClusterNetworkPolicy, `priority`: of the policies of a tier the one with the lower number is asked first. `ingress` and
/// `egress`: of the rules of a policy the one written first that matches; a policy without rules for a direction says nothing
/// about it. Policies of one number that disagree are undefined: here the most cautious is heard, Deny before Pass before
/// Accept, and of two that agree the first by name. A native rule that refuses is a Deny which is answered.
fn ordered<'a>(
    bound: &[Bound<'a>],
    tier: Tier,
    direction: Direction,
    matches: &Matches<'_>,
) -> Option<(Deciding<'a>, Action)> {
    let first_of = |bound: &Bound<'a>| {
        let mut rules = bound.policy.rules(direction).iter().enumerate();
        let (index, rule) = rules.find(|(_, rule)| matches(&bound.id.namespace, rule))?;
        Some((Deciding { bound: *bound, place: RulePlace::At(index) }, rule.action))
    };
    let of_tier = bound.iter().filter(|bound| bound.policy.tier == tier);
    of_tier
        .filter_map(first_of)
        .min_by_key(|(deciding, action)| (deciding.bound.policy.priority, caution(*action), deciding.bound.id))
}

const fn caution(action: Action) -> u8 {
    match action {
        Action::Deny | Action::Refuse => 0,
        Action::Pass => 1,
        Action::Allow => 2,
    }
}

/// The answer of the namespace tier; `None` where none of its policies isolates the workload in this direction.
///
/// NetworkPolicy: a pod is isolated in a direction as soon as one policy with that direction in its types selects it, and then
/// allowed is what some rule of some such policy allows, and nothing else. Policies add up; there is no order among them.
///
/// Native policies of this tier may also deny, and have priorities: of all rules that match, the lowest number decides, at one
/// number a deny before an allow, then the first by name and place. None matches: denied if the default of any of the policies
/// is deny.
fn isolated<'a>(bound: &[Bound<'a>], direction: Direction, matches: &Matches<'_>) -> Option<Outcome<'a>> {
    let isolates = |bound: &&Bound<'_>| bound.policy.tier == Tier::Namespace && bound.policy.isolates(direction);
    let isolating: Vec<_> = bound.iter().filter(isolates).copied().collect();
    let rules = isolating.iter().flat_map(|bound| {
        let rules = bound.policy.rules(direction).iter().enumerate();
        rules.map(|(index, rule)| (*bound, index, rule))
    });
    let matching = rules.filter(|(bound, _, rule)| matches(&bound.id.namespace, rule));
    let order = |(bound, index, rule): &(Bound<'a>, usize, &Rule)| {
        (bound.policy.priority, !rule.action.denies(), bound.id, *index)
    };
    if let Some((bound, index, rule)) = matching.min_by_key(order) {
        return Some(decided(Deciding { bound, place: RulePlace::At(index) }, rule.action, None));
    }
    let order = |bound: &&Bound<'a>| (!bound.policy.default_action.denies(), bound.policy.priority, bound.id);
    let default = isolating.iter().min_by_key(order)?;
    let deciding = Deciding { bound: *default, place: RulePlace::Default };
    Some(Outcome { reason: Reason::Default, ..decided(deciding, default.policy.default_action, None) })
}

const fn decided<'a>(deciding: Deciding<'a>, action: Action, passed: Option<Deciding<'a>>) -> Outcome<'a> {
    let verdict = match action {
        Action::Deny | Action::Refuse => Verdict::Deny,
        // What the last tier passes, nobody denies.
        Action::Allow | Action::Pass => Verdict::Allow,
    };
    Outcome { verdict, reason: Reason::Rule, deciding: Some(deciding), passed, beyond: None }
}
