//! Lives: host. The judgement itself.
//! Called by: `explain` and `compile`.
//! May touch: nothing.
//! Never: looks at anything but the policies bound to the workload, the other end, the protocol and the port.
//!
//! 1. The policies that select the workload are bound to it. Per direction, the ones that name the direction isolate it.
//! 2. Some ends are beyond policy: a pod's own address, and what its own node sends it.
//! 3. The tiers are asked in order (`tiers`); the first that decides is final. None decides: allowed, reason no_policy.
//! 4. Audit policies are judged on top: what enforcement lets pass, but all policies together would deny, is audit.

use weir_common::{
    addr::Protocol,
    verdict::{Direction, Reason, Verdict},
};

use super::{
    peer::{Itself, Member, PeerEnd, name_matches, peer_matches, port_matches},
    tiers::tiers,
};
use crate::{
    id::ResourceId,
    model::{ContainerPort, Mode, Policy, Resources, Rule, Socket},
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

/// The workload whose policies are asked.
#[derive(Clone, Copy, Debug)]
pub struct Local<'l, 'a> {
    /// The policies that select it.
    pub bound: &'l [Bound<'a>],
    /// Its ports that have a name.
    pub ports: &'l [ContainerPort],
    /// Of a pod, its node.
    pub node: Option<&'l str>,
}

/// What was decided, and by what.
#[derive(Clone, Copy, Debug)]
pub struct Outcome<'a> {
    /// The verdict.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// The rule; `None` where no policy has a say.
    pub deciding: Option<Deciding<'a>>,
    /// The rule of the admin tier that left it to the tiers below.
    pub passed: Option<Deciding<'a>>,
    /// Why policies have no say.
    pub beyond: Option<Beyond>,
}

/// What policies have no say in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beyond {
    /// A pod reaches its own address.
    Address,
    /// The node of a pod reaches it, to probe whether it lives.
    Node,
    /// A pod reaches itself through a Service, which NetworkPolicies leave open.
    Service,
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

impl Outcome<'_> {
    /// Nobody has a say: allowed.
    pub const OPEN: Self =
        Self { verdict: Verdict::Allow, reason: Reason::NoPolicy, deciding: None, passed: None, beyond: None };
}

/// The policies that select a workload, in order of id: by namespace (their own, or those they name) and by labels.
pub fn bind<'a>(resources: &'a Resources, workload: &Member<'_>) -> Vec<Bound<'a>> {
    let all = resources.policies().enumerate();
    let selecting = all.filter(|(_, (resource, policy))| selects(resource.id(), policy, workload));
    selecting.map(|(number, (resource, policy))| Bound { number, id: resource.id(), policy }).collect()
}

/// Whether a policy applies to a workload.
pub fn selects(id: &ResourceId, policy: &Policy, workload: &Member<'_>) -> bool {
    let namespace = match &policy.namespaces {
        Some(selector) => selector.matches_namespace(workload.namespace, workload.namespace_labels),
        None => id.namespace == workload.namespace,
    };
    namespace && policy.workload_selector.matches(workload.labels)
}

/// Judges one opening.
pub fn judge<'a>(
    local: Local<'_, 'a>,
    direction: Direction,
    end: &PeerEnd<'_>,
    protocol: Protocol,
    port: u16,
) -> Outcome<'a> {
    if let Some(beyond) = beyond(local, direction, end) {
        return Outcome { beyond: Some(beyond), ..Outcome::OPEN };
    }
    // Names are the called pod's.
    let called = match direction {
        Direction::Ingress => local.ports,
        Direction::Egress => end.member.map_or(&[][..], |member| member.ports),
    };
    let matches = |namespace: &str, rule: &Rule| rule_matches(rule, namespace, end, called, protocol, port);
    with_audit(local.bound, direction, end.itself == Some(Itself::ByService), matches)
}

/// Judges an opening that no rule matches.
pub fn judge_unmatched<'a>(local: Local<'_, 'a>, direction: Direction) -> Outcome<'a> {
    with_audit(local.bound, direction, false, |_, _| false)
}

/// A pod always reaches its own address, and is always reached by its own node; other nodes are ends like any other.
fn beyond(local: Local<'_, '_>, direction: Direction, end: &PeerEnd<'_>) -> Option<Beyond> {
    if end.itself == Some(Itself::Directly) {
        return Some(Beyond::Address);
    }
    let (own, other) = (local.node?, end.node?);
    (direction == Direction::Ingress && own == other.name).then_some(Beyond::Node)
}

/// A rule matches when one of its peers and one of its ports do; a list that is not there does not restrict.
fn rule_matches(
    rule: &Rule,
    namespace: &str,
    end: &PeerEnd<'_>,
    called: &[ContainerPort],
    protocol: Protocol,
    port: u16,
) -> bool {
    let peer = rule.peers.is_empty() || rule.peers.iter().any(|peer| peer_matches(peer, namespace, end));
    let any_port = rule.ports.is_empty() && rule.named_ports.is_empty();
    let by_number = || rule.ports.iter().any(|entry| port_matches(entry, protocol, port));
    let by_name = || rule.named_ports.iter().any(|entry| name_matches(entry, called, protocol, port));
    peer && (any_port || by_number() || by_name())
}

/// Enforced policies decide; all policies together may turn what they let pass into audit, and nothing else.
fn with_audit<'a>(
    bound: &[Bound<'a>],
    direction: Direction,
    by_service: bool,
    matches: impl Fn(&str, &Rule) -> bool,
) -> Outcome<'a> {
    let enforced: Vec<_> = bound.iter().filter(|bound| bound.policy.mode == Mode::Enforce).copied().collect();
    let in_force = tiers(&enforced, direction, by_service, &matches);
    if in_force.verdict == Verdict::Deny || enforced.len() == bound.len() {
        return in_force;
    }
    let if_enforced = tiers(bound, direction, by_service, &matches);
    match if_enforced.verdict {
        Verdict::Deny => Outcome { verdict: Verdict::Audit, ..if_enforced },
        Verdict::Allow | Verdict::Audit => in_force,
    }
}

/// The socket kinds a workload may open beside TCP and UDP; `None`: all, as nothing enforced isolates its egress.
pub fn isolating_sockets(bound: &[Bound<'_>]) -> Option<Vec<Socket>> {
    let enforced = || bound.iter().filter(|bound| bound.policy.mode == Mode::Enforce);
    let isolated = enforced().any(|bound| bound.policy.isolates(Direction::Egress));
    isolated.then(|| enforced().flat_map(|bound| bound.policy.sockets.iter().copied()).collect())
}
