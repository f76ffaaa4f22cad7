//! Lives: host. The judgement itself.
//! Called by: `explain` and `compile`.
//! May touch: nothing.
//! Never: looks at anything but the policies bound to the workload, the other end, the protocol and the port.
//!
//! 1. The policies that select the workload are bound to it. Per direction, the ones that name the direction isolate it.
//! 2. No policy isolates the direction: allowed, reason no_policy.
//! 3. Of all rules that match, the first decides: lower priority number, then deny before allow, then by name and place.
//! 4. No rule matches: denied if any isolating policy's default is deny, else allowed; reason default.
//! 5. Audit policies are judged on top: what enforcement lets pass, but all policies together would deny, is audit.

use weir_common::{
    addr::Protocol,
    verdict::{Direction, Reason, Verdict},
};

use super::peer::{Member, PeerEnd, peer_matches, port_matches};
use crate::{
    id::ResourceId,
    model::{Action, Mode, Policy, Resources, Rule, Socket},
};

/// A policy that selects the workload in question.
#[derive(Clone, Copy, Debug)]
pub struct Bound<'a> {
    /// Its place among all policies in order of id.
    pub number: usize,
    /// Its name.
    pub id: &'a ResourceId,
    /// What it says.
    pub policy: &'a Policy,
}

/// What was decided, and by what.
#[derive(Clone, Copy, Debug)]
pub struct Outcome<'a> {
    /// The verdict.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// The rule; `None` where no policy isolates the direction.
    pub deciding: Option<Deciding<'a>>,
}

/// The rule that decided.
#[derive(Clone, Copy, Debug)]
pub struct Deciding<'a> {
    /// Whose rule it is.
    pub bound: Bound<'a>,
    /// Which of its rules for the direction.
    pub place: RulePlace,
}

/// A rule's place in its policy and direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RulePlace {
    /// By its index.
    At(usize),
    /// The default action.
    Default,
}

/// The policies that select a workload, in order of id: those of its namespace whose selector matches its labels.
pub fn bind<'a>(resources: &'a Resources, workload: &Member<'_>) -> Vec<Bound<'a>> {
    let all = resources.policies().enumerate();
    let selecting = all.filter(|(_, (resource, policy))| {
        resource.id().namespace == workload.namespace && policy.workload_selector.matches(workload.labels)
    });
    selecting.map(|(number, (resource, policy))| Bound { number, id: resource.id(), policy }).collect()
}

/// Judges one opening.
pub fn judge<'a>(
    bound: &[Bound<'a>],
    direction: Direction,
    end: &PeerEnd<'_>,
    protocol: Protocol,
    port: u16,
) -> Outcome<'a> {
    with_audit(bound, direction, |namespace, rule| rule_matches(rule, namespace, end, protocol, port))
}

/// Judges an opening that no rule matches.
pub fn judge_unmatched<'a>(bound: &[Bound<'a>], direction: Direction) -> Outcome<'a> {
    with_audit(bound, direction, |_, _| false)
}

/// A rule matches when one of its peers and one of its ports do; a list that is not there does not restrict.
fn rule_matches(rule: &Rule, namespace: &str, end: &PeerEnd<'_>, protocol: Protocol, port: u16) -> bool {
    let peer = rule.peers.is_empty() || rule.peers.iter().any(|peer| peer_matches(peer, namespace, end));
    let port = rule.ports.is_empty() || rule.ports.iter().any(|entry| port_matches(entry, protocol, port));
    peer && port
}

/// Enforced policies decide; all policies together may turn what they let pass into audit, and nothing else.
fn with_audit<'a>(bound: &[Bound<'a>], direction: Direction, matches: impl Fn(&str, &Rule) -> bool) -> Outcome<'a> {
    let isolating: Vec<_> = bound.iter().filter(|bound| bound.policy.isolates(direction)).copied().collect();
    let enforced: Vec<_> = isolating.iter().filter(|bound| bound.policy.mode == Mode::Enforce).copied().collect();
    let in_force = first_match(&enforced, direction, &matches);
    if in_force.verdict == Verdict::Deny || enforced.len() == isolating.len() {
        return in_force;
    }
    let if_enforced = first_match(&isolating, direction, &matches);
    match if_enforced.verdict {
        Verdict::Deny => Outcome { verdict: Verdict::Audit, ..if_enforced },
        Verdict::Allow | Verdict::Audit => in_force,
    }
}

/// Steps 2 to 4 over policies that all isolate the direction.
fn first_match<'a>(
    isolating: &[Bound<'a>],
    direction: Direction,
    matches: &impl Fn(&str, &Rule) -> bool,
) -> Outcome<'a> {
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
        .min_by_key(|(bound, index, action)| (bound.policy.priority, *action != Action::Deny, bound.number, *index));
    if let Some((bound, index, action)) = first {
        let deciding = Deciding { bound, place: RulePlace::At(index) };
        return Outcome { verdict: verdict(action), reason: Reason::Rule, deciding: Some(deciding) };
    }
    let default = isolating
        .iter()
        .min_by_key(|bound| (bound.policy.default_action != Action::Deny, bound.policy.priority, bound.number));
    match default {
        Some(bound) => Outcome {
            verdict: verdict(bound.policy.default_action),
            reason: Reason::Default,
            deciding: Some(Deciding { bound: *bound, place: RulePlace::Default }),
        },
        None => Outcome { verdict: Verdict::Allow, reason: Reason::NoPolicy, deciding: None },
    }
}

const fn verdict(action: Action) -> Verdict {
    match action {
        Action::Allow => Verdict::Allow,
        Action::Deny => Verdict::Deny,
    }
}

/// The socket kinds a workload may open beside TCP and UDP; `None`: all, as nothing enforced isolates its egress.
pub fn isolating_sockets(bound: &[Bound<'_>]) -> Option<Vec<Socket>> {
    let enforced = || bound.iter().filter(|bound| bound.policy.mode == Mode::Enforce);
    let isolated = enforced().any(|bound| bound.policy.isolates(Direction::Egress));
    isolated.then(|| enforced().flat_map(|bound| bound.policy.sockets.iter().copied()).collect())
}
