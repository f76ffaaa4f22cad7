//! Lives: host.
//! Called by: `weirctl` and the agent with questions of people, the tests with many.
//! May touch: nothing.
//! Never: decides; it finds out who the ends are, has each judged (`judge`), and says why (`words`).

use weir_common::{addr::Protocol, verdict::Direction};

use super::{
    judge::{Local, judge, judge_staged, ways},
    outcome::{OneWay, Outcome, rank, worst},
    peer::{Itself, PeerEnd},
    question::{Answer, End, Explanation, NoSuchWorkload, Question, Staged, strictest},
    resolve::{Resolved, resolve},
    service::{Called, backends, named_services},
    subject::bind,
    words::{end_in_words, names, of_address, of_backend, of_itself, passed, why},
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
    let Question { protocol, port, .. } = *question;
    let from = resolve(resources, context, &question.from)?;
    let asked = Asked { protocol, port, by_service: false };
    let plain = |from| -> Result<Explanation, NoSuchWorkload> {
        let to = resolve(resources, context, &question.to)?;
        Ok(explain(resources, context, from, vec![(to, asked)]).0)
    };
    let End::Address(address) = &question.to else { return plain(&from) };
    let Some(service) = resources.service_at(address) else { return plain(&from) };
    let called = Called { protocol, port, v4: Some(address.as_v4().is_some()) };
    match through_service(resources, context, &from, service, called)? {
        Some(explanation) => Ok(explanation),
        // No proxy translates it: a packet to it keeps the address it has, and that is judged.
        None => Ok(untranslated(plain(&from)?, service, &asked)),
    }
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
    let from = resolve(resources, context, from)?;
    let explanation = through_service(resources, context, &from, service, Called { protocol, port, v4 })?;
    explanation.ok_or_else(|| NoSuchWorkload(service.clone()))
}

/// `None`: nothing is behind it.
fn through_service(
    resources: &Resources,
    context: &Context,
    from: &Resolved<'_>,
    service: &ResourceId,
    called: Called,
) -> Result<Option<Explanation>, NoSuchWorkload> {
    let mut behind = Vec::new();
    for backend in backends(resources, service, called) {
        let asked = Asked { protocol: called.protocol, port: backend.port, by_service: true };
        behind.push((resolve(resources, context, &backend.end)?, asked));
    }
    if behind.is_empty() {
        return Ok(None);
    }
    let shown: Vec<String> = behind.iter().map(|(end, asked)| end_in_words(end, asked)).collect();
    let (mut explanation, by) = explain(resources, context, from, behind);
    let answers = [(&mut explanation.egress, by.0), (&mut explanation.ingress, by.1)];
    for (answer, by) in answers.into_iter().filter_map(|(answer, by)| Some((answer.as_mut()?, by))) {
        answer.why = of_backend(service, &shown, by, &answer.why);
    }
    Ok(Some(explanation))
}

fn untranslated(mut explanation: Explanation, service: &ResourceId, asked: &Asked) -> Explanation {
    for answer in explanation.egress.iter_mut().chain(&mut explanation.ingress) {
        answer.why = of_address(service, asked, &answer.why);
    }
    explanation
}

/// What is asked of both ends.
#[derive(Clone, Copy)]
pub struct Asked {
    pub protocol: Protocol,
    pub port: u16,
    pub by_service: bool,
}

/// Both ends must agree: the caller's egress and the called one's ingress. NetworkPolicy and ClusterNetworkPolicy: what one end's
/// policies allow does not excuse the other's. Replies of an allowed connection are no question: they belong to it.
///
/// Of several called ends each direction has the answer of the one that is most closed. Also tells which those are.
fn explain(
    resources: &Resources,
    context: &Context,
    from: &Resolved<'_>,
    to: Vec<(Resolved<'_>, Asked)>,
) -> (Explanation, (usize, usize)) {
    let egress = from.answer(resources, context, Direction::Egress, to.iter().map(|(end, asked)| (end, *asked)));
    let answers = to.iter().enumerate().filter_map(|(index, (end, asked))| {
        let answer = end.answer(resources, context, Direction::Ingress, [(from, *asked)].into_iter())?.0;
        Some((answer, index))
    });
    let ingress = most_closed(answers.collect());
    let by = (egress.as_ref().map_or(0, |found| found.1), ingress.as_ref().map_or(0, |found| found.1));
    let (egress, ingress) = (egress.map(|found| found.0), ingress.map(|found| found.0));
    let verdict = strictest(egress.iter().chain(&ingress).map(|answer| answer.verdict));
    (Explanation { verdict, egress, ingress }, by)
}

/// The strictest of the answers of several called ends; what staged policies would change is the strictest of that.
fn most_closed(answers: Vec<(Answer, usize)>) -> Option<(Answer, usize)> {
    let staged_verdict = |answer: &Answer| answer.staged.as_ref().map_or(answer.verdict, |staged| staged.verdict);
    let staged = answers.iter().map(|(answer, _)| answer).min_by_key(|answer| rank(staged_verdict(answer)))?;
    let staged = staged.staged.clone().unwrap_or_else(|| Staged {
        verdict: staged.verdict,
        policy: staged.policy.clone(),
        rule: staged.rule.clone(),
    });
    let (answer, index) = answers.into_iter().min_by_key(|(answer, _)| rank(answer.verdict))?;
    let staged = (staged.verdict != answer.verdict).then_some(staged);
    Some((Answer { staged, ..answer }, index))
}

impl Resolved<'_> {
    /// What this end's policies say to the other end; of several to the one they are most closed to, and which that is.
    fn answer<'o>(
        &self,
        resources: &Resources,
        context: &Context,
        direction: Direction,
        others: impl Iterator<Item = (&'o Resolved<'o>, Asked)>,
    ) -> Option<(Answer, usize)> {
        let (resource, member) = (self.resource?, self.peer.member?);
        let bound = bind(resources, &member, context.now);
        let local = Local {
            bound: &bound,
            ports: member.ports,
            node: self.node,
            unselected: context.unselected,
            now: context.now,
        };
        let mut judged = Vec::new();
        for (index, (other, asked)) in others.enumerate() {
            let services = named_services(resources, &bound, other.resource, other.peer.address);
            let end = PeerEnd { itself: self.is_itself(other, &asked), services: &services, ..other.peer };
            for way in ways(direction, &end) {
                let outcome = judge(local, *way, &end, asked.protocol, asked.port);
                let staged = judge_staged(local, *way, &end, asked.protocol, asked.port);
                judged.push(((*way, outcome), (*way, staged), asked, index));
            }
        }
        let (place, (way, outcome)) = worst(direction, judged.iter().map(|(outcome, ..)| *outcome))?;
        let (_, staged) = worst(direction, judged.iter().map(|(_, staged, ..)| *staged))?;
        let (_, _, asked, index) = *judged.get(place)?;
        let (policy, rule) = names(outcome.deciding, way);
        let why = why(&outcome, &bound, resource.id(), way, &asked);
        let answer = Answer {
            workload: resource.id().clone(),
            direction,
            port: asked.port,
            verdict: outcome.verdict,
            reason: outcome.reason,
            tier: outcome.deciding.map(|deciding| deciding.bound.policy.tier),
            passed: passed(&outcome, &bound, way),
            refused: outcome.refuses(direction),
            logged: outcome.deciding.is_none_or(|deciding| deciding.logs(way)),
            staged: differs(&outcome, &staged),
            why: if way == direction { why } else { of_itself(resource.id(), &why) },
            policy,
            rule,
        };
        Some((answer, index))
    }

    /// Only pods are exempt from policy towards themselves; a native workload that isolates itself means it.
    fn is_itself(&self, other: &Self, question: &Asked) -> Option<Itself> {
        let (here, there) = (self.resource?.id(), other.resource?.id());
        let itself = if question.by_service { Itself::ByService } else { Itself::Directly };
        (here.kind == Kind::Pod && here == there).then_some(itself)
    }
}

fn differs(in_force: &Outcome<'_>, (way, staged): &OneWay<'_>) -> Option<Staged> {
    let (policy, rule) = names(staged.deciding, *way);
    (staged.verdict != in_force.verdict).then_some(Staged { verdict: staged.verdict, policy, rule })
}
