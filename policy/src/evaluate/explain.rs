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
    judge::{Deciding, Outcome, RulePlace, bind, judge},
    peer::{Member, PeerEnd, entity_of},
};
use crate::{
    Context,
    id::ResourceId,
    model::{Policy, Resource, Resources, Spec, ip, protocol_name},
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
    let from = resolve(resources, context, &question.from)?;
    let to = resolve(resources, context, &question.to)?;
    let egress = from.answer(resources, Direction::Egress, &to, question);
    let ingress = to.answer(resources, Direction::Ingress, &from, question);
    let verdicts = || egress.iter().chain(&ingress).map(|answer| answer.verdict);
    let verdict = [Verdict::Deny, Verdict::Audit].into_iter().find(|verdict| verdicts().any(|given| given == *verdict));
    Ok(Explanation { verdict: verdict.unwrap_or(Verdict::Allow), egress, ingress })
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
    workload: Option<&'a Resource>,
    peer: PeerEnd<'a>,
}

fn resolve<'a>(resources: &'a Resources, context: &Context, end: &End) -> Result<Resolved<'a>, NoSuchWorkload> {
    let (workload, address) = match end {
        End::Workload(id) => {
            let resource = resources.get(id).ok_or_else(|| NoSuchWorkload(id.clone()))?;
            let Spec::Workload(workload) = resource.spec() else { return Err(NoSuchWorkload(id.clone())) };
            (Some(resource), workload.addresses.first().copied())
        }
        End::Address(address) => {
            let owner = resources.workloads().find(|(_, workload)| workload.addresses.contains(address));
            (owner.map(|(resource, _)| resource), Some(*address))
        }
    };
    let member = workload.map(|resource| Member { namespace: &resource.id().namespace, labels: resource.labels() });
    let entity = match (member, address) {
        (None, Some(address)) => Some(entity_of(&address, &context.host_addresses)),
        (Some(_), _) | (None, None) => None,
    };
    Ok(Resolved { workload, peer: PeerEnd { member, address, entity } })
}

impl Resolved<'_> {
    /// What this end's policies say to the other end.
    fn answer(&self, resources: &Resources, direction: Direction, other: &Self, question: &Question) -> Option<Answer> {
        let (resource, member) = (self.workload?, self.peer.member?);
        let bound = bind(resources, &member);
        let outcome = judge(&bound, direction, &other.peer, question.protocol, question.port);
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

fn why(outcome: &Outcome<'_>, workload: &ResourceId, direction: Direction, rule: &str, question: &Question) -> String {
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
