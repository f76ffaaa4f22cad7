//! Lives: weir-agent, control.
//! Called by: `actor`, for Explain.
//! May touch: the compiled generation in force, through the kernel's own decision function; the reference evaluator.
//! Never: answers from anything but what is in force; hides that the two disagree.

use std::{net::IpAddr, sync::Arc};

use weir_common::{
    addr::{Addr, Protocol},
    decide::{Decision, Image},
    verdict::{Direction, Hook, Reason, Refusal, Verdict},
};
use weir_policy::{Answer, Compiled, CompiledWorkload, End, Question, ResourceId, evaluate};

use super::{Control, ControlError};
use crate::datapath::Datapath;

/// A question as a person asks it.
#[derive(Clone, Debug)]
pub struct Ask {
    /// "namespace/name", "name" or an address.
    pub from: String,
    /// As above.
    pub to: String,
    /// IP protocol number.
    pub protocol: u8,
    /// Port that is called.
    pub port: u16,
}

/// An end that cannot be judged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndError {
    /// No workload of that name.
    #[error("there is no workload {0:?}; write namespace/name, or an IP address")]
    Unknown(String),
    /// Several workloads of that name.
    #[error("several workloads are called {name:?}: {}; write namespace/name", candidates.join(", "))]
    Ambiguous {
        /// The name.
        name: String,
        /// Each as namespace/name.
        candidates: Vec<String>,
    },
    /// The other side would have to be judged by an address it does not have.
    #[error("workload {0} has no addresses, and a peer is known by its address; ask with an address instead")]
    NoAddress(String),
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// What follows from both sides.
    pub verdict: Verdict,
    /// The generation that was asked.
    pub generation: u64,
    /// The side that opens.
    pub egress: Side,
    /// The side that is called.
    pub ingress: Side,
    /// Names of the rate limits on the destination.
    pub limits: Vec<String>,
}

/// One side of the answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Side {
    /// `None` when this node does not judge the side.
    pub decided: Option<(Verdict, Reason)>,
    /// The policy that decided.
    pub policy: String,
    /// Its rule.
    pub rule: String,
    /// How a denial reaches the one that opens; `None` where it passes.
    pub refusal: Option<Refusal>,
    /// What staged policies would decide, where that is another verdict: the verdict, policy and rule.
    pub staged: Option<(Verdict, String, String)>,
    /// A sentence.
    pub why: String,
}

/// An end that was found.
struct Found<'a> {
    end: End,
    workload: Option<&'a CompiledWorkload>,
    addr: Option<Addr>,
    shown: String,
    /// Of a pod of this node that is not policed: why not.
    unplaced: Option<String>,
}

impl<D: Datapath> Control<D> {
    /// May `from` open a connection to `to`?
    ///
    /// # Errors
    /// An end cannot be found.
    pub fn explain(&self, ask: &Ask) -> Result<Explained, ControlError> {
        let compiled = &*self.force.compiled;
        let (mut from, mut to) = (find(compiled, &ask.from)?, find(compiled, &ask.to)?);
        for end in [&mut from, &mut to] {
            end.unplaced = end.workload.and_then(|workload| self.unplaced(workload));
        }
        let protocol = Protocol(ask.protocol);
        let question = Question { from: from.end.clone(), to: to.end.clone(), protocol, port: ask.port };
        let answers = evaluate(&self.force.resources, &self.force.context, &question).ok();
        let (out, into) = answers.map_or((None, None), |answers| (answers.egress, answers.ingress));
        let egress = side(compiled, &from, &to, Direction::Egress, &question, out.as_ref())?;
        // Behind a service's address others are called, at ports of their own.
        let others = |workload: &&Arc<CompiledWorkload>| to.workload.is_none_or(|called| called.id != workload.id);
        let behind = into.as_ref().and_then(|answer| compiled.workloads.get(&answer.workload)).filter(others);
        let behind = behind.map(|workload| Found { unplaced: self.unplaced(workload), ..found(workload) });
        let called = behind.as_ref().unwrap_or(&to);
        let question = Question { port: into.as_ref().map_or(ask.port, |answer| answer.port), ..question };
        let mut ingress = side(compiled, called, &from, Direction::Ingress, &question, into.as_ref())?;
        if let Some(workload) = called.workload {
            self.answered(&workload.id, protocol, into.is_some_and(|answer| answer.refused), &mut ingress);
        }
        let verdicts = || [&egress, &ingress].into_iter().filter_map(|side| side.decided.map(|(verdict, _)| verdict));
        let verdict = [Verdict::Deny, Verdict::Audit].into_iter().find(|verdict| verdicts().any(|v| v == *verdict));
        Ok(Explained {
            verdict: verdict.unwrap_or(Verdict::Allow),
            generation: compiled.generation,
            limits: limits(compiled, called, protocol, question.port),
            egress,
            ingress,
        })
    }
}

impl<D> Control<D> {
    /// Of a pod of this node that is not policed: why not.
    fn unplaced(&self, workload: &CompiledWorkload) -> Option<String> {
        self.force.resources.get(&workload.id).and_then(|resource| self.pods.unplaced(resource))
    }

    /// Says how a denial at the called side reaches the caller, which depends on the hook that denies it.
    fn answered(&self, called: &ResourceId, protocol: Protocol, refuses: bool, side: &mut Side) {
        let Some(refusal) = &mut side.refusal else { return };
        let state = self.observed.workloads.iter().find(|state| state.id == *called);
        let has = |hook: Hook| state.is_some_and(|state| state.hooks.contains(&hook.name()));
        let (looked_up, alone) = (has(Hook::SkLookup), !has(Hook::Ingress));
        // The kernel looks a socket up for nothing but TCP and UDP.
        let answers = looked_up && (refuses || alone) && matches!(protocol, Protocol::TCP | Protocol::UDP);
        *refusal = if answers { Refusal::Refused } else { Refusal::Silence };
        side.why.push_str(match (answers, refuses) {
            (true, _) => "; the caller is answered at once: ECONNREFUSED",
            (false, true) => {
                "; nothing comes back to the caller, as this workload has no network namespace known to be its own"
            }
            (false, false) => "; nothing comes back to the caller",
        });
    }
}

fn find<'a>(compiled: &'a Compiled, text: &str) -> Result<Found<'a>, EndError> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        let addr = match ip {
            IpAddr::V4(v4) => Addr::v4(v4.octets()),
            IpAddr::V6(v6) => Addr::v6(v6.octets()),
        };
        let workload =
            compiled.workloads.values().find(|workload| workload.addresses.contains(&addr)).map(AsRef::as_ref);
        return Ok(Found {
            end: End::Address(addr),
            workload,
            addr: Some(addr),
            shown: text.to_owned(),
            unplaced: None,
        });
    }
    let named = |workload: &&CompiledWorkload| match text.split_once('/') {
        Some((namespace, name)) => workload.id.namespace == namespace && workload.id.name == name,
        None => workload.id.name == text,
    };
    let mut candidates = compiled.workloads.values().map(AsRef::as_ref).filter(named);
    let workload = candidates.next().ok_or_else(|| EndError::Unknown(text.to_owned()))?;
    let others: Vec<String> = candidates.map(shown).collect();
    if !others.is_empty() {
        let candidates = [shown(workload)].into_iter().chain(others).collect();
        return Err(EndError::Ambiguous { name: text.to_owned(), candidates });
    }
    Ok(found(workload))
}

fn found(workload: &CompiledWorkload) -> Found<'_> {
    let addr = workload.addresses.first().copied();
    let end = End::Workload(workload.id.clone());
    Found { end, workload: Some(workload), addr, shown: shown(workload), unplaced: None }
}

fn shown(workload: &CompiledWorkload) -> String {
    format!("{}/{}", workload.id.namespace, workload.id.name)
}

/// One side, judged as the kernel of this node judges it.
fn side(
    compiled: &Compiled,
    local: &Found<'_>,
    remote: &Found<'_>,
    direction: Direction,
    question: &Question,
    answer: Option<&Answer>,
) -> Result<Side, EndError> {
    let unjudged = |why: String| Ok(Side { why, ..Side::default() });
    let Some(workload) = local.workload else {
        return unjudged(format!(
            "{} is no workload known here, so no policy of this node judges its {}",
            local.shown,
            direction.name()
        ));
    };
    if let Some(why) = &local.unplaced {
        return unjudged(format!("{} is not policed although it runs here: {why}", local.shown));
    }
    if workload.cgroup.is_none() {
        return unjudged(format!(
            "{} has no cgroup here; the node it runs on judges its {}",
            local.shown,
            direction.name()
        ));
    }
    let remote_addr = remote.addr.ok_or_else(|| EndError::NoAddress(remote.shown.clone()))?;
    let decision = compiled.seen_by(workload).decide(direction, remote_addr, question.protocol, question.port);
    let Some(decision) = decision else { return unjudged("the tables in force are not readable".to_owned()) };
    let mut side = judged(compiled, decision, answer);
    if side.decided.is_some_and(|(verdict, _)| !verdict.passes()) {
        side.refusal = Some(Refusal::Eperm);
        if direction == Direction::Egress {
            side.why.push_str("; the call fails at once: EPERM");
        }
    }
    Ok(side)
}

fn judged(compiled: &Compiled, decision: Decision, answer: Option<&Answer>) -> Side {
    let named = |number: u32| {
        let rule = usize::try_from(number).ok().filter(|number| *number != 0);
        let rule = rule.and_then(|number| compiled.rules.get(number));
        rule.map(|rule| (rule.policy.clone(), rule.rule.clone())).unwrap_or_default()
    };
    let staged = decision.staged.verdict().map(|verdict| {
        let (policy, rule) = named(decision.staged.rule());
        (verdict, policy, rule)
    });
    let (policy, rule) = named(decision.rule);
    let mut why = answer.map(Answer::in_full).unwrap_or_default();
    let agrees = answer.is_none_or(|answer| (answer.verdict, answer.reason) == (decision.verdict, decision.reason));
    if !agrees {
        tracing::error!(
            rule = decision.rule,
            "the compiled tables and the reference evaluator disagree; please report this"
        );
        why = format!("the kernel's tables say {}, although: {why} (please report this)", decision.verdict.name());
    }
    Side { decided: Some((decision.verdict, decision.reason)), policy, rule, refusal: None, staged, why }
}

/// The rate limits XDP applies to what arrives at `to`.
fn limits(compiled: &Compiled, to: &Found<'_>, protocol: Protocol, port: u16) -> Vec<String> {
    let Some((image, addr)) = Image::open(compiled).zip(to.addr) else { return Vec::new() };
    let class = image.identity(image.identify(&addr)).service_class;
    let Some(atom) = image.atom(protocol, port) else { return Vec::new() };
    let word = image.limits_of(class, image.atoms(), atom);
    (0..4)
        .map(|place| (word >> (place * 16)) & 0xffff)
        .filter(|number| *number != 0)
        .filter_map(|number| compiled.limits.get(usize::try_from(number).ok()?))
        .map(|limit| limit.policy.clone())
        .collect()
}
