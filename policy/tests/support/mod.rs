//! Lives: host tests.
//! Called by: the tests of this crate.
//! May touch: the public surface of the crate.
//! Never: decides anything.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod generate;

use std::net::IpAddr;

use weir_common::{
    addr::{Addr, Protocol},
    verdict::{Direction, Reason, Verdict},
};
use weir_policy::{
    Answer, Compiled, Context, End, Explanation, Kind, PROTOCOLS, Question, ResourceId, Resources, Spec, addr,
    cases::Probe,
};

/// The node of every test: one host address, unknown workloads denied.
pub fn context() -> Context {
    Context {
        generation: 7,
        unknown: Verdict::Deny,
        unselected: Verdict::Allow,
        host_addresses: vec![address("10.0.0.1"), address("fd00::1"), address("127.0.0.1")],
        tick_ns: 4_000_000,
        now: "2026-11-22T12:00:00Z".parse().unwrap(),
    }
}

pub fn address(text: &str) -> Addr {
    addr(text.parse::<IpAddr>().unwrap())
}

pub fn resources(texts: &[&str]) -> Resources {
    texts
        .iter()
        .flat_map(|text| weir_policy::parse("case", text).unwrap_or_else(|faults| panic!("{faults:#?}")))
        .collect()
}

pub fn tables(resources: &Resources) -> Compiled {
    weir_policy::compile(resources, &context()).unwrap_or_else(|faults| panic!("{faults:#?}"))
}

pub fn protocol(word: &str) -> Protocol {
    let known = PROTOCOLS.iter().find(|(name, _)| *name == word).map(|(_, protocol)| *protocol);
    known.unwrap_or_else(|| Protocol(word.parse().unwrap()))
}

pub fn question(probe: &Probe) -> Question {
    let end = |text: &str| match text.split_once('/') {
        Some((namespace, name)) => End::Workload(ResourceId::new(Kind::Workload, namespace, name)),
        None => End::Address(address(text)),
    };
    Question { from: end(probe.from), to: end(probe.to), protocol: protocol(probe.protocol), port: probe.port }
}

/// One end that is judged here, and what the evaluator says of it.
pub struct Ends {
    answer: Answer,
    remote: Addr,
    protocol: Protocol,
    port: u16,
}

/// What one side says, with rules in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub verdict: Verdict,
    pub reason: Reason,
    /// Policy and rule.
    pub by: (String, String),
    pub logged: bool,
    pub refused: bool,
    /// What staged policies would change: the verdict, policy and rule.
    pub staged: Option<(Verdict, String, String)>,
}

impl From<Answer> for Said {
    fn from(answer: Answer) -> Self {
        Self {
            verdict: answer.verdict,
            reason: answer.reason,
            by: (answer.policy, answer.rule),
            logged: answer.logged,
            refused: answer.refused,
            staged: answer.staged.map(|staged| (staged.verdict, staged.policy, staged.rule)),
        }
    }
}

impl Ends {
    /// The ends of a question that run here and see the other by an address.
    pub fn of(resources: &Resources, question: &Question, explanation: &Explanation) -> Vec<Self> {
        let sides = [(&explanation.egress, &question.to), (&explanation.ingress, &question.from)];
        let judged = sides.into_iter().filter_map(|(answer, other)| {
            let answer = answer.clone().filter(|answer| runs_here(resources, &answer.workload))?;
            Some(Self {
                answer,
                remote: reached_by(resources, other)?,
                protocol: question.protocol,
                port: question.port,
            })
        });
        judged.collect()
    }

    pub fn by_evaluator(&self) -> Said {
        self.answer.clone().into()
    }

    pub fn by_tables(&self, compiled: &Compiled) -> Said {
        ask(compiled, &self.answer.workload, self.answer.direction, self.remote, self.protocol, self.port)
    }
}

/// What the tables say.
pub fn ask(
    compiled: &Compiled,
    workload: &ResourceId,
    direction: Direction,
    remote: Addr,
    protocol: Protocol,
    port: u16,
) -> Said {
    let own = compiled.seen_by(compiled.workloads.get(workload).unwrap());
    let decision = own.decide(direction, remote, protocol, port).unwrap();
    let name = |rule: u32| {
        let rule = &compiled.rules[rule as usize];
        (rule.policy.clone(), rule.rule.clone())
    };
    let staged = decision.staged.verdict().map(|verdict| (verdict, name(decision.staged.rule())));
    Said {
        verdict: decision.verdict,
        reason: decision.reason,
        by: name(decision.rule),
        logged: !decision.quiet,
        refused: decision.refuse,
        staged: staged.map(|(verdict, (policy, rule))| (verdict, policy, rule)),
    }
}

fn runs_here(resources: &Resources, id: &ResourceId) -> bool {
    matches!(resources.get(id).unwrap().spec(), Spec::Workload(workload) if workload.cgroup.is_some())
}

fn reached_by(resources: &Resources, end: &End) -> Option<Addr> {
    match end {
        End::Address(address) => Some(*address),
        End::Workload(id) => match resources.get(id).unwrap().spec() {
            Spec::Workload(workload) => workload.addresses.first().copied(),
            Spec::Policy(_)
            | Spec::RateLimit(_)
            | Spec::AddressSet(_)
            | Spec::Namespace
            | Spec::Node(_)
            | Spec::Service(_)
            | Spec::EndpointSlice(_) => panic!("{id} is no workload"),
        },
    }
}
