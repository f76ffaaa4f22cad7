//! Lives: host. Questions and their answers.
//! Called by: `explain`, which answers; `weirctl`, the agent and the tests, which ask.
//! May touch: nothing.
//! Never: an answer without its reason.

use std::fmt;

use weir_common::{
    addr::{Addr, Protocol},
    verdict::{Direction, Reason, Verdict},
};

use crate::{
    id::{Kind, ResourceId},
    model::{Tier, ip},
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
    /// The port that is called: behind a Service another than the one asked about.
    pub port: u16,
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
    /// Who was asked before and did not decide, in order, each as a sentence: rules that pass, policies without a rule for it.
    pub passed: Vec<String>,
    /// What staged policies would change, if anything.
    pub staged: Option<Staged>,
    /// Whether a denial is answered, where the kernel can.
    pub refused: bool,
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

/// A question about a workload that is not there, or a service that leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", nobody(.0))]
pub struct NoSuchWorkload(pub ResourceId);

fn nobody(id: &ResourceId) -> String {
    match id.kind == Kind::Service {
        true => format!("nothing is behind {id} at this port"),
        false => format!("there is no {id}"),
    }
}

/// Denied if either end denies; else audit if either end does.
pub fn strictest(verdicts: impl Iterator<Item = Verdict> + Clone) -> Verdict {
    let mut by_strictness = [Verdict::Deny, Verdict::Audit].into_iter();
    by_strictness.find(|verdict| verdicts.clone().any(|given| given == *verdict)).unwrap_or(Verdict::Allow)
}

impl fmt::Display for Staged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "were staged policies enforced, the verdict would be {}", self.verdict.name())?;
        if self.policy.is_empty() { Ok(()) } else { write!(f, " by {} {}", self.policy, self.rule) }
    }
}

impl Answer {
    /// The reason, and what else there is to say: what staged policies would change, and that no record is made.
    #[must_use]
    pub fn in_full(&self) -> String {
        let staged = self.staged.iter().map(ToString::to_string);
        let silent = (!self.logged).then(|| "it makes no record".to_owned());
        [self.why.clone()].into_iter().chain(staged).chain(silent).collect::<Vec<_>>().join("; ")
    }
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
            write!(f, "; {} of {}: {}", answer.direction.name(), answer.workload, answer.in_full())?;
        }
        if self.egress.is_none() && self.ingress.is_none() {
            write!(f, "; neither end is a workload, so no policy applies")?;
        }
        Ok(())
    }
}
