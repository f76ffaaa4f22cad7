//! Lives: host.
//! Called by: `weirctl explain` through the agent, and the tests.
//! May touch: nothing.
//! Never: answers without saying why.

use std::fmt;

use weir_common::{
    addr::{Addr, Protocol},
    verdict::{Direction, Reason, Verdict},
};

use super::{
    judge::{Deciding, Local, Outcome, bind, judge, judge_staged},
    peer::{Itself, PeerEnd},
    resolve::{Resolved, resolve},
    service::{backends, named_services},
    words::{rule_name, why},
};
use crate::{
    Context,
    id::{Kind, ResourceId},
    model::{Resources, Tier, ip},
};

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// A workload; rules about addresses see its first one.
    Workload(ResourceId),
    /// An address: the workload's that claims it, else this host, loopback or the world.
    Address(Addr),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload(id) => write!(f, "{id}"),
            Self::Address(addr) => write!(f, "{}", ip(*addr)),
        }
    }
}

/// May `from` open a connection to `to`?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The end that opens.
    pub from: End,
    /// The end that is called.
    pub to: End,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port that is called; 0 where there are none.
    pub port: u16,
}

/// The whole answer: what each end's policies say, and what follows.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Explanation {
    /// Denied if either end denies; else audit if either end does.
    pub verdict: Verdict,
    /// What the opening workload's egress policies say; `None` when no workload opens.
    pub egress: Option<Answer>,
    /// What the called workload's ingress policies say; `None` when no workload is called.
    pub ingress: Option<Answer>,
}

/// What the policies of one end say.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Answer {
    /// The workload whose policies were asked.
    pub workload: ResourceId,
    /// Which way the connection runs, seen from it.
    pub direction: Direction,
    /// What they say.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// The policy that decided, as "Policy/namespace/name"; empty where none isolates.
    pub policy: String,
    /// Its rule, as `ingress[0] name` or "default ingress"; empty where none isolates.
    pub rule: String,
    /// The tier that decided; `None` where no policy has a say.
    pub tier: Option<Tier>,
    /// The rules that left it to the tiers below, each as "policy rule".
    pub passed: Vec<String>,
    /// What staged policies would change, if anything.
    pub staged: Option<Staged>,
    /// Whether the connection makes records; it is counted in any case.
    pub logged: bool,
    /// The reason as a sentence.
    pub why: String,
}

/// What would be said were staged policies enforced too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Staged {
    /// The verdict, which is another than the one in force.
    pub verdict: Verdict,
    /// The policy that would decide; empty where none would.
    pub policy: String,
    /// Its rule.
    pub rule: String,
}

/// A question about a workload that is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no {0}")]
pub struct NoSuchWorkload(pub ResourceId);

/// Answers a question.
///
/// # Errors
/// An end names a workload that is not there.
pub fn evaluate(resources: &Resources, context: &Context, question: &Question) -> Result<Explanation, NoSuchWorkload> {
    if let End::Address(address) = &question.to
        && let Some(service) = resources.service_at(address)
    {
        return evaluate_service(resources, context, &question.from, service, (question.protocol, question.port));
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
    let from = resolve(resources, context, from)?;
    let mut last = None;
    for backend in backends(resources, service, protocol, port) {
        let to = resolve(resources, context, &backend.end)?;
        let asked = Asked { protocol, port: backend.port, by_service: true };
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

/// Both ends must agree: the caller's egress and the called one's ingress.
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

/// Denied if either end denies; else audit if either end does.
fn strictest(verdicts: impl Iterator<Item = Verdict> + Clone) -> Verdict {
    let mut by_strictness = [Verdict::Deny, Verdict::Audit].into_iter();
    by_strictness.find(|verdict| verdicts.clone().any(|given| given == *verdict)).unwrap_or(Verdict::Allow)
}

impl Explanation {
    /// The verdict there would be were staged policies enforced too, if that is another.
    #[must_use]
    pub fn staged(&self) -> Option<Verdict> {
        let staged = |answer: &Answer| answer.staged.as_ref().map_or(answer.verdict, |staged| staged.verdict);
        let verdict = strictest(self.egress.iter().chain(&self.ingress).map(staged));
        (verdict != self.verdict).then_some(verdict)
    }

    /// The answer that gave the verdict: the first that refuses, else the last in which a policy lets pass.
    pub fn deciding(&self) -> Option<&Answer> {
        let answers = || self.egress.iter().chain(&self.ingress);
        match self.verdict {
            Verdict::Allow => answers().rfind(|answer| !answer.policy.is_empty()).or(answers().next_back()),
            Verdict::Deny | Verdict::Audit => answers().find(|answer| answer.verdict == self.verdict),
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.verdict.name())?;
        for answer in self.egress.iter().chain(&self.ingress) {
            write!(f, "; {} of {}: {}", answer.direction.name(), answer.workload, answer.why)?;
        }
        if self.egress.is_none() && self.ingress.is_none() {
            write!(f, "; neither end is a workload, so no policy applies")?;
        }
        Ok(())
    }
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
        let local = Local { bound: &bound, ports: member.ports, node: self.node, now: context.now };
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
            passed: outcome.passed.map(|rule| in_words(rule, direction)).into_iter().collect(),
            logged: outcome.deciding.is_none_or(|deciding| deciding.logs(direction)),
            staged: differs(&outcome, &staged, direction),
            why: why(&outcome, resource.id(), direction, &rule, question),
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

/// Policy and rule in words; empty for none.
fn names(deciding: Option<Deciding<'_>>, direction: Direction) -> (String, String) {
    deciding.map_or_else(Default::default, |deciding| {
        (deciding.bound.id.to_string(), rule_name(deciding.bound.policy, direction, deciding.place))
    })
}

fn in_words(deciding: Deciding<'_>, direction: Direction) -> String {
    let (policy, rule) = names(Some(deciding), direction);
    format!("{policy} {rule}")
}

fn differs(in_force: &Outcome<'_>, staged: &Outcome<'_>, direction: Direction) -> Option<Staged> {
    let (policy, rule) = names(staged.deciding, direction);
    (staged.verdict != in_force.verdict).then_some(Staged { verdict: staged.verdict, policy, rule })
}
