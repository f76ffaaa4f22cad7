//! Lives: host. The judgement of one end about one opening.
//! Called by: `explain` and `compile`.
//! May touch: nothing.
//! Never: looks at anything but the policies bound to the workload, the other end, the protocol and the port.
//!
//! 1. Some ends are beyond policy: a pod's own address, and what its own node sends it.
//! 2. The tiers are asked in order (`tiers`); the first that decides is final. None decides: allowed, reason no_policy.
//! 3. Audit policies are judged on top: what enforcement lets pass, but audit policies with it would deny, is audit (`modes`).
//! 4. Staged policies have no part in that; `judge_staged` takes them as enforced, to tell what they would change.

use weir_common::{
    addr::Protocol,
    verdict::{Direction, Verdict},
};

use super::{
    modes::{Trial, by_mode},
    outcome::{Beyond, Outcome},
    peer::{Itself, PeerEnd},
    rule::{Opening, rule_matches},
    subject::Bound,
};
use crate::model::{ContainerPort, Rule, Timestamp};

/// The workload whose policies are asked.
#[derive(Clone, Copy, Debug)]
pub struct Local<'l, 'a> {
    /// The policies that select it.
    pub bound: &'l [Bound<'a>],
    /// Its ports that have a name.
    pub ports: &'l [ContainerPort],
    /// Of a pod, its node.
    pub node: Option<&'l str>,
    /// What applies where no policy in force selects the workload.
    pub unselected: Verdict,
    /// The time; rules that have expired match nothing.
    pub now: Timestamp,
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
pub fn judge_unmatched<'a>(trial: Trial, local: Local<'_, 'a>, direction: Direction) -> Outcome<'a> {
    by_mode(trial, local, direction, false, &|_, _| false)
}

/// Judges one opening by what is in force on this trial.
pub fn judge_as<'a>(
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
    let opening = Opening::new(direction, local.ports, end, protocol, port);
    let matches = |namespace: &str, rule: &Rule| rule.in_force(local.now) && rule_matches(rule, namespace, &opening);
    by_mode(trial, local, direction, end.itself == Some(Itself::ByService), &matches)
}

/// The directions in which a workload's policies are asked about an end.
///
/// Who calls itself by a Service is asked both ways as it calls. Nobody could ask on arrival: what a proxy translates back comes
/// from the pod's own address or its node's, and from those it is never kept.
pub const fn ways(direction: Direction, end: &PeerEnd<'_>) -> &'static [Direction] {
    match (direction, end.itself) {
        (Direction::Egress, Some(Itself::ByService)) => &[Direction::Egress, Direction::Ingress],
        (Direction::Egress, _) => &[Direction::Egress],
        (Direction::Ingress, _) => &[Direction::Ingress],
    }
}

/// What no policy can forbid.
///
/// NetworkPolicy: a pod cannot be kept from its own address; and traffic from the node a pod runs on to the pod is always
/// allowed, whichever of the node's addresses it comes from, as probes must arrive. Other nodes are ends like any other.
fn beyond(local: Local<'_, '_>, direction: Direction, end: &PeerEnd<'_>) -> Option<Beyond> {
    if end.itself == Some(Itself::Directly) {
        return Some(Beyond::Address);
    }
    let (own, other) = (local.node?, end.node?);
    (direction == Direction::Ingress && own == other.name).then_some(Beyond::Node)
}
