//! Lives: host. The order in which policies are asked.
//! Called by: `judge`, with the policies that select the workload.
//! May touch: nothing.
//! Never: looks at ends or ports; whether a rule matches is told by its caller.
//!
//! 1. Admin tier: lower priority number first, rules in written order, the first match decides; Pass goes on to 2.
//! 2. Namespace tier, final if any of its policies isolates the direction. Of all rules that match, the first decides:
//!    lower priority number, then deny before allow, then by name and place. None matches: denied if any isolating
//!    policy's default is deny, else allowed; reason default. (NetworkPolicies only allow, so there it is their union.)
//! 3. Baseline tier: as the admin tier; Pass is allowed.
//! 4. Nobody decided: allowed, reason no_policy.

use weir_common::verdict::{Direction, Reason, Verdict};

use super::judge::{Beyond, Bound, Deciding, Outcome, RulePlace};
use crate::model::{Action, Rule, Tier};

/// Asks the tiers in turn. `by_service`: the workload calls itself through a Service, which the namespace tier leaves open.
pub fn tiers<'a>(
    bound: &[Bound<'a>],
    direction: Direction,
    by_service: bool,
    matches: &impl Fn(&str, &Rule) -> bool,
) -> Outcome<'a> {
    let passed = match ordered(bound, Tier::Admin, direction, matches) {
        Some((deciding, Action::Pass)) => Some(deciding),
        Some((deciding, action @ (Action::Allow | Action::Deny))) => return decided(deciding, action, None),
        None => None,
    };
    let of_namespace = |bound: &&Bound<'_>| bound.policy.tier == Tier::Namespace && bound.policy.isolates(direction);
    let isolating: Vec<_> = bound.iter().filter(of_namespace).copied().collect();
    match unordered(&isolating, direction, matches) {
        Some(_) if by_service => return Outcome { passed, beyond: Some(Beyond::Service), ..Outcome::OPEN },
        Some(outcome) => return Outcome { passed, ..outcome },
        None => {}
    }
    match ordered(bound, Tier::Baseline, direction, matches) {
        Some((deciding, action)) => decided(deciding, action, passed),
        None => Outcome { passed, ..Outcome::OPEN },
    }
}

/// The rule of the admin or baseline tier that decides. Policies of one priority that disagree are undefined in the API:
/// the most cautious is heard.
fn ordered<'a>(
    bound: &[Bound<'a>],
    tier: Tier,
    direction: Direction,
    matches: &impl Fn(&str, &Rule) -> bool,
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
        Action::Deny => 0,
        Action::Pass => 1,
        Action::Allow => 2,
    }
}

/// The answer of policies that all isolate the direction; `None` if there are none.
fn unordered<'a>(
    isolating: &[Bound<'a>],
    direction: Direction,
    matches: &impl Fn(&str, &Rule) -> bool,
) -> Option<Outcome<'a>> {
    let mut matching = Vec::new();
    for bound in isolating {
        for (index, rule) in bound.policy.rules(direction).iter().enumerate() {
            if matches(&bound.id.namespace, rule) {
                matching.push((*bound, index, rule.action));
            }
        }
    }
    let first = matching
        .into_iter()
        .min_by_key(|(bound, index, action)| (bound.policy.priority, *action != Action::Deny, bound.id, *index));
    if let Some((bound, index, action)) = first {
        return Some(decided(Deciding { bound, place: RulePlace::At(index) }, action, None));
    }
    let default = isolating
        .iter()
        .min_by_key(|bound| (bound.policy.default_action != Action::Deny, bound.policy.priority, bound.id))?;
    let deciding = Deciding { bound: *default, place: RulePlace::Default };
    let outcome = decided(deciding, default.policy.default_action, None);
    Some(Outcome { reason: Reason::Default, ..outcome })
}

const fn decided<'a>(deciding: Deciding<'a>, action: Action, passed: Option<Deciding<'a>>) -> Outcome<'a> {
    let verdict = match action {
        Action::Deny => Verdict::Deny,
        // What the last tier passes, nobody denies.
        Action::Allow | Action::Pass => Verdict::Allow,
    };
    Outcome { verdict, reason: Reason::Rule, deciding: Some(deciding), passed, beyond: None }
}
