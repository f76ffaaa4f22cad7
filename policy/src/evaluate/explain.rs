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
    judge::{Beyond, Deciding, Local, Outcome, RulePlace, bind, judge},
    peer::{Itself, Member, NodeEnd, PeerEnd, entity_of},
    service::{backends, service_at},
};
use crate::{
    Context,
    id::{Kind, ResourceId},
    model::{Policy, Resource, Resources, Spec, Workload, ip, protocol_name},
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
    /// The reason as a sentence.
    pub why: String,
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
        && let Some(service) = service_at(resources, *address)
    {
        return evaluate_service(resources, context, &question.from, service, (question.protocol, question.port));
    }
    let from = resolve(resources, context, &question.from)?;
    let to = resolve(resources, context, &question.to)?;
    let asked = Asked { protocol: question.protocol, port: question.port, by_service: false };
    Ok(explain(resources, &from, &to, &asked))
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
        let explanation = explain(resources, &from, &to, &Asked { protocol, port: backend.port, by_service: true });
        if explanation.verdict != Verdict::Allow {
            return Ok(explanation);
        }
        last = Some(explanation);
    }
    last.ok_or_else(|| NoSuchWorkload(service.clone()))
}

/// What is asked of both ends.
struct Asked {
    protocol: Protocol,
    port: u16,
    by_service: bool,
}

/// Both ends must agree: the caller's egress and the called one's ingress.
fn explain(resources: &Resources, from: &Resolved<'_>, to: &Resolved<'_>, asked: &Asked) -> Explanation {
    let egress = from.answer(resources, Direction::Egress, to, asked);
    let ingress = to.answer(resources, Direction::Ingress, from, asked);
    let verdicts = || egress.iter().chain(&ingress).map(|answer| answer.verdict);
    let verdict = [Verdict::Deny, Verdict::Audit].into_iter().find(|verdict| verdicts().any(|given| given == *verdict));
    Explanation { verdict: verdict.unwrap_or(Verdict::Allow), egress, ingress }
}

impl Explanation {
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

/// An end with all that is known of it.
struct Resolved<'a> {
    resource: Option<&'a Resource>,
    /// Of a pod, the node it runs on.
    node: Option<&'a str>,
    peer: PeerEnd<'a>,
}

fn resolve<'a>(resources: &'a Resources, context: &Context, end: &End) -> Result<Resolved<'a>, NoSuchWorkload> {
    let address = match end {
        End::Workload(id) => {
            let resource = resources.get(id).ok_or_else(|| NoSuchWorkload(id.clone()))?;
            let Spec::Workload(workload) = resource.spec() else { return Err(NoSuchWorkload(id.clone())) };
            if !workload.host_network {
                return Ok(of_workload(resources, resource, workload, workload.addresses.first().copied()));
            }
            workload.addresses.first().copied().ok_or_else(|| NoSuchWorkload(id.clone()))?
        }
        End::Address(address) => *address,
    };
    let owner = resources.workloads().find(|(_, workload)| workload.addresses.contains(&address));
    Ok(match owner {
        Some((resource, workload)) => of_workload(resources, resource, workload, Some(address)),
        None => Resolved { resource: None, node: None, peer: of_address(resources, context, address) },
    })
}

fn of_workload<'a>(
    resources: &'a Resources,
    resource: &'a Resource,
    workload: &'a Workload,
    address: Option<Addr>,
) -> Resolved<'a> {
    let member = Some(Member::of(resources, resource, workload));
    let peer = PeerEnd { member, address, entity: None, node: None, itself: None };
    Resolved { resource: Some(resource), node: workload.node.as_deref(), peer }
}

/// An address that is no workload's: this host's, a machine's of the cluster, or the world's.
fn of_address<'a>(resources: &'a Resources, context: &Context, address: Addr) -> PeerEnd<'a> {
    let entity = Some(entity_of(&address, &context.host_addresses));
    let machine = resources.node_addresses().find(|(known, _)| *known == address);
    let node = machine.map(|(_, name)| NodeEnd { name, labels: resources.node_labels(name) });
    PeerEnd { member: None, address: Some(address), entity, node, itself: None }
}

impl Resolved<'_> {
    /// What this end's policies say to the other end.
    fn answer(&self, resources: &Resources, direction: Direction, other: &Self, question: &Asked) -> Option<Answer> {
        let (resource, member) = (self.resource?, self.peer.member?);
        let bound = bind(resources, &member);
        let local = Local { bound: &bound, ports: member.ports, node: self.node };
        let end = PeerEnd { itself: self.is_itself(other, question), ..other.peer };
        let outcome = judge(local, direction, &end, question.protocol, question.port);
        let rule = outcome.deciding.map(|deciding| rule_name(deciding.bound.policy, direction, deciding.place));
        Some(Answer {
            workload: resource.id().clone(),
            direction,
            verdict: outcome.verdict,
            reason: outcome.reason,
            policy: outcome.deciding.map(|deciding| deciding.bound.id.to_string()).unwrap_or_default(),
            why: why(&outcome, resource.id(), direction, rule.as_deref().unwrap_or_default(), question),
            rule: rule.unwrap_or_default(),
        })
    }

    /// Only pods are exempt from policy towards themselves; a native workload that isolates itself means it.
    fn is_itself(&self, other: &Self, question: &Asked) -> Option<Itself> {
        let (here, there) = (self.resource?.id(), other.resource?.id());
        let itself = if question.by_service { Itself::ByService } else { Itself::Directly };
        (here.kind == Kind::Pod && here == there).then_some(itself)
    }
}

/// How a rule is called in records: "ingress[0] name" or "default ingress".
pub fn rule_name(policy: &Policy, direction: Direction, place: RulePlace) -> String {
    match place {
        RulePlace::Default => format!("default {}", direction.name()),
        RulePlace::At(index) => match policy.rules(direction).get(index).and_then(|rule| rule.name.as_ref()) {
            Some(name) => format!("{}[{index}] {name}", direction.name()),
            None => format!("{}[{index}]", direction.name()),
        },
    }
}

fn why(outcome: &Outcome<'_>, workload: &ResourceId, direction: Direction, rule: &str, question: &Asked) -> String {
    let passed = outcome.passed.map_or_else(String::new, |passed| {
        let rule = rule_name(passed.bound.policy, direction, passed.place);
        format!("{} passes it on by its rule {rule}; ", passed.bound.id)
    });
    passed + &last_word(outcome, workload, direction, rule, question)
}

/// What the tier says that decided.
fn last_word(
    outcome: &Outcome<'_>,
    workload: &ResourceId,
    direction: Direction,
    rule: &str,
    question: &Asked,
) -> String {
    match outcome.beyond {
        Some(Beyond::Address) => return format!("{workload} always reaches its own address"),
        Some(Beyond::Node) => return format!("the node of {workload} always reaches it"),
        Some(Beyond::Service) => {
            return format!("{workload} reaches itself through a Service, which policies of its namespace leave open");
        }
        None => {}
    }
    let Some(Deciding { bound, place }) = outcome.deciding else {
        return format!("no policy in force isolates {workload} for {}", direction.name());
    };
    let does = match outcome.verdict {
        Verdict::Allow => "allows it",
        Verdict::Deny => "denies it",
        Verdict::Audit => "would deny it if every audit policy were enforced",
    };
    let (id, priority) = (bound.id, bound.policy.priority);
    match place {
        RulePlace::At(_) => format!("{id} (priority {priority}) {does} by its rule {rule}, the first that matches"),
        RulePlace::Default => {
            let asked = format!("{}/{}", question.port, protocol_name(question.protocol));
            format!("{id} (priority {priority}) {does} by its default, as no rule matches the peer and {asked}")
        }
    }
}
