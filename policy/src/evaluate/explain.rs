//! Lives: host.
//! Called by: `weirctl` and the agent with questions of people, the tests with many.
//! May touch: nothing.
//! Never: decides; it finds out who the ends are, has each judged (`judge`), and says why (`words`).

use weir_common::{
    addr::Protocol,
    verdict::{Direction, Verdict},
};

use super::{
    judge::{Local, judge, judge_staged},
    outcome::Outcome,
    peer::{Itself, PeerEnd},
    question::{Answer, End, Explanation, NoSuchWorkload, Question, Staged, strictest},
    resolve::{Resolved, resolve},
    service::{Called, backends, named_services},
    subject::bind,
    words::{names, passed, why},
};
use crate::{
    Context,
    id::{Kind, ResourceId},
    model::Resources,
};

/// Answers a question.
///
/// # Errors
/// An end names a workload that is not there.
pub fn evaluate(resources: &Resources, context: &Context, question: &Question) -> Result<Explanation, NoSuchWorkload> {
    if let End::Address(address) = &question.to
        && let Some(service) = resources.service_at(address)
    {
        let v4 = Some(address.as_v4().is_some());
        let called = Called { protocol: question.protocol, port: question.port, v4 };
        return through_service(resources, context, &question.from, service, called);
    }
    let from = resolve(resources, context, &question.from)?;
    let to = resolve(resources, context, &question.to)?;
    let asked = Asked { protocol: question.protocol, port: question.port, by_service: false };
    Ok(explain(resources, context, &from, &to, &asked))
}

/// May `from` open a connection to a Service? Judged is the pod behind it, at the port the Service leads to. With several
/// pods all must be open: it is the proxy's choice which one is called.
///
/// # Errors
/// There is no such Service, it has no such port, or nothing is behind it.
pub fn evaluate_service(
    resources: &Resources,
    context: &Context,
    from: &End,
    service: &ResourceId,
    (protocol, port): (Protocol, u16),
) -> Result<Explanation, NoSuchWorkload> {
    let v4 = match from {
        End::Address(address) => Some(address.as_v4().is_some()),
        End::Workload(_) => None,
    };
    through_service(resources, context, from, service, Called { protocol, port, v4 })
}

fn through_service(
    resources: &Resources,
    context: &Context,
    from: &End,
    service: &ResourceId,
    called: Called,
) -> Result<Explanation, NoSuchWorkload> {
    let from = resolve(resources, context, from)?;
    let mut last = None;
    for backend in backends(resources, service, called) {
        let to = resolve(resources, context, &backend.end)?;
        let asked = Asked { protocol: called.protocol, port: backend.port, by_service: true };
        let explanation = explain(resources, context, &from, &to, &asked);
        if explanation.verdict != Verdict::Allow {
            return Ok(explanation);
        }
        last = Some(explanation);
    }
    last.ok_or_else(|| NoSuchWorkload(service.clone()))
}

/// What is asked of both ends.
pub struct Asked {
    pub protocol: Protocol,
    pub port: u16,
    pub by_service: bool,
}

/// Both ends must agree: the caller's egress and the called one's ingress. NetworkPolicy and ClusterNetworkPolicy: what one end's
/// policies allow does not excuse the other's. Replies of an allowed connection are no question: they belong to it.
fn explain(
    resources: &Resources,
    context: &Context,
    from: &Resolved<'_>,
    to: &Resolved<'_>,
    asked: &Asked,
) -> Explanation {
    let egress = from.answer(resources, context, Direction::Egress, to, asked);
    let ingress = to.answer(resources, context, Direction::Ingress, from, asked);
    let verdict = strictest(egress.iter().chain(&ingress).map(|answer| answer.verdict));
    Explanation { verdict, egress, ingress }
}

impl Resolved<'_> {
    /// What this end's policies say to the other end.
    fn answer(
        &self,
        resources: &Resources,
        context: &Context,
        direction: Direction,
        other: &Self,
        question: &Asked,
    ) -> Option<Answer> {
        let (resource, member) = (self.resource?, self.peer.member?);
        let bound = bind(resources, &member, context.now);
        let local = Local {
            bound: &bound,
            ports: member.ports,
            node: self.node,
            unselected: context.unselected,
            now: context.now,
        };
        let services = named_services(resources, &bound, other.resource, other.peer.address);
        let end = PeerEnd { itself: self.is_itself(other, question), services: &services, ..other.peer };
        let outcome = judge(local, direction, &end, question.protocol, question.port);
        let staged = judge_staged(local, direction, &end, question.protocol, question.port);
        let (policy, rule) = names(outcome.deciding, direction);
        Some(Answer {
            workload: resource.id().clone(),
            direction,
            verdict: outcome.verdict,
            reason: outcome.reason,
            tier: outcome.deciding.map(|deciding| deciding.bound.policy.tier),
            passed: passed(&outcome, &bound, direction),
            refused: outcome.refuses(direction),
            logged: outcome.deciding.is_none_or(|deciding| deciding.logs(direction)),
            staged: differs(&outcome, &staged, direction),
            why: why(&outcome, &bound, resource.id(), direction, question),
            policy,
            rule,
        })
    }

    /// Only pods are exempt from policy towards themselves; a native workload that isolates itself means it.
    fn is_itself(&self, other: &Self, question: &Asked) -> Option<Itself> {
        let (here, there) = (self.resource?.id(), other.resource?.id());
        let itself = if question.by_service { Itself::ByService } else { Itself::Directly };
        (here.kind == Kind::Pod && here == there).then_some(itself)
    }
}

fn differs(in_force: &Outcome<'_>, staged: &Outcome<'_>, direction: Direction) -> Option<Staged> {
    let (policy, rule) = names(staged.deciding, direction);
    (staged.verdict != in_force.verdict).then_some(Staged { verdict: staged.verdict, policy, rule })
}
