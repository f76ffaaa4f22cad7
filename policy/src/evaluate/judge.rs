//! Lives: host. The judgement itself.
//! Called by: `explain` and `compile`.
//! May touch: nothing.
//! Never: looks at anything but the policies bound to the workload, the other end, the protocol and the port.
//!
//! 1. The policies that select the workload are bound to it. Per direction, the ones that name the direction isolate it.
//! 2. Some ends are beyond policy: a pod's own address, and what its own node sends it.
//! 3. The tiers are asked in order (`tiers`); the first that decides is final. None decides: allowed, reason no_policy.
//! 4. Audit policies are judged on top: what enforcement lets pass, but audit policies with it would deny, is audit.
//! 5. Staged policies have no part in that; `judge_staged` takes them as enforced, to tell what they would change.

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
    model::{ContainerPort, Mode, Policy, Resources, Rule, Socket, Timestamp},
};

/// A policy that selects the workload in question.
#[derive(Clone, Copy, Debug)]
pub struct Bound<'a> {
    /// Its name; policies that agree in all else are asked in order of their names.
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
    /// The time; rules that have expired match nothing.
    pub now: Timestamp,
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

impl Deciding<'_> {
    /// Whether what it decides makes records.
    pub fn logs(&self, direction: Direction) -> bool {
        match self.place {
            RulePlace::At(index) => self.bound.policy.rules(direction).get(index).is_none_or(|rule| rule.log),
            RulePlace::Default => true,
        }
    }
}

impl Outcome<'_> {
    /// Nobody has a say: allowed.
    pub const OPEN: Self =
        Self { verdict: Verdict::Allow, reason: Reason::NoPolicy, deciding: None, passed: None, beyond: None };
}

/// The policies that select a workload, in order of id: by namespace (their own, or those they name) and by labels. What has
/// expired selects nothing.
pub fn bind<'a>(resources: &'a Resources, workload: &Member<'_>, now: Timestamp) -> Vec<Bound<'a>> {
    let in_force = resources.policies_about(workload.namespace).filter(|(_, policy)| policy.in_force(now));
    let selecting = in_force.filter(|(resource, policy)| selects(resource.id(), policy, workload));
    let mut bound: Vec<_> = selecting.map(|(resource, policy)| Bound { id: resource.id(), policy }).collect();
    bound.sort_by_key(|bound| bound.id);
    bound
}

/// Whether a policy applies to a workload.
pub fn selects(id: &ResourceId, policy: &Policy, workload: &Member<'_>) -> bool {
    let namespace = match &policy.namespaces {
        Some(selector) => selector.matches_namespace(workload.namespace, workload.namespace_labels),
        None => id.namespace == workload.namespace,
    };
    namespace && policy.workload_selector.matches(workload.labels)
}

/// Judges one opening by what is in force.
pub fn judge<'a>(
    local: Local<'_, 'a>,
    direction: Direction,
    end: &PeerEnd<'_>,
    protocol: Protocol,
    port: u16,
) -> Outcome<'a> {
    judge_as(Trial::InForce, local, direction, end, protocol, port)
}

/// Judges one opening as it would be were staged policies enforced too.
pub fn judge_staged<'a>(
    local: Local<'_, 'a>,
    direction: Direction,
    end: &PeerEnd<'_>,
    protocol: Protocol,
    port: u16,
) -> Outcome<'a> {
    judge_as(Trial::Staged, local, direction, end, protocol, port)
}

/// Judges an opening that no rule matches.
pub fn judge_unmatched<'a>(local: Local<'_, 'a>, direction: Direction) -> Outcome<'a> {
    by_mode(Trial::InForce, local.bound, direction, false, |_, _| false)
}

/// Which policies are taken to be in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trial {
    InForce,
    Staged,
}

impl Trial {
    /// Whether a policy of this mode decides.
    fn enforces(self, mode: Mode) -> bool {
        match mode {
            Mode::Enforce => true,
            Mode::Staged => self == Self::Staged,
            Mode::Audit => false,
        }
    }

    /// Whether a policy of this mode is asked at all.
    fn hears(self, mode: Mode) -> bool {
        mode == Mode::Audit || self.enforces(mode)
    }
}

fn judge_as<'a>(
    trial: Trial,
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
    let matches = |namespace: &str, rule: &Rule| {
        rule.in_force(local.now) && rule_matches(rule, namespace, end, called, protocol, port)
    };
    by_mode(trial, local.bound, direction, end.itself == Some(Itself::ByService), matches)
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

/// Enforced policies decide; audit policies with them may turn what they let pass into audit, and nothing else.
fn by_mode<'a>(
    trial: Trial,
    bound: &[Bound<'a>],
    direction: Direction,
    by_service: bool,
    matches: impl Fn(&str, &Rule) -> bool,
) -> Outcome<'a> {
    let heard: Vec<_> = bound.iter().filter(|bound| trial.hears(bound.policy.mode)).copied().collect();
    let enforced: Vec<_> = heard.iter().filter(|bound| trial.enforces(bound.policy.mode)).copied().collect();
    let in_force = tiers(&enforced, direction, by_service, &matches);
    if in_force.verdict == Verdict::Deny || enforced.len() == heard.len() {
        return in_force;
    }
    let if_enforced = tiers(&heard, direction, by_service, &matches);
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
