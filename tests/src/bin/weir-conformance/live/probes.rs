//! Lives: weir-conformance, questions of a case as traffic.
//! Called by: run, for each state.
//! May touch: the workers of the cluster, through `Cluster`.
//! Never: counts as refused what failed for another reason than a refusal.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use weir_common::addr::Addr;
use weir_policy::{Answer, End, Explanation, Question, ResourceId, Resources, addr, evaluate, evaluate_service, ip};
use weir_tests::worker::{Opening, Order, Said, Transport};

use super::cluster::{Cluster, Front, Seat, node_of, transport};
use super::flows::{Key, Says, Wanted};
use super::services::{self, Backend};
use crate::case::{Expected, State};
use crate::check::{context, shown};
use crate::ends;

/// How long an opening that must fail is waited for: a denied server is silent.
const SILENCE_MS: u64 = 400;
/// How long one that must succeed may take on a busy machine.
const PATIENCE_MS: u64 = 5_000;
/// Until a worker must have answered everything.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// How a refusal of a policy looks to a client: an error at once, or silence.
const REFUSALS: [&str; 3] = ["EPERM", "EACCES", "ETIMEDOUT"];

/// One opening.
#[derive(Clone)]
pub struct Probe {
    from: Seat,
    target: SocketAddr,
    source: IpAddr,
    transport: Transport,
    allowed: bool,
    /// Who must listen where: the ends behind a Service, or the one end that is called.
    ends: Vec<(Seat, u16)>,
    explanation: Explanation,
    /// Where it may arrive, and what is said of a call to there.
    arrives: Vec<(SocketAddr, Explanation)>,
    /// What a proxy has to translate for it.
    front: Option<Front>,
}

/// What is to be done about one question.
pub enum Plan {
    /// These openings; all must succeed for the question to be answered by yes.
    Ask(Vec<Probe>),
    /// It cannot be asked here, and why.
    NotRunnable(&'static str),
}

/// What a question is asked of.
pub struct Asked<'a> {
    pub cluster: &'a Cluster,
    pub state: &'a State,
    pub resources: &'a Resources,
    pub expected: &'a Expected,
}

impl Asked<'_> {
    /// Plans the question; a fault of the case is an error.
    pub fn plan(&self) -> Result<Plan, String> {
        let Some(transport) = transport(&self.expected.protocol) else {
            return Ok(Plan::NotRunnable(
                "about ICMP: an echo request is answered by the kernel, before any socket of the pod",
            ));
        };
        if transport == Transport::Sctp && !self.cluster.sctp {
            return Ok(Plan::NotRunnable("about SCTP: this kernel has none"));
        }
        let End::Address(source) = ends::from(self.state, self.expected)? else {
            return Ok(Plan::NotRunnable("about a pod without an address"));
        };
        match ends::to(self.state, self.expected)? {
            ends::To::End(End::Address(to)) => {
                let to = (self.expected.to.clone(), ip(to), self.expected.port);
                Ok(Plan::Ask(vec![self.direct(transport, source, &to, self.expected.allowed)?]))
            }
            ends::To::End(End::Workload(_)) => Ok(Plan::NotRunnable("about a pod without an address")),
            ends::To::Service(service) => self.by_service(transport, source, &service),
        }
    }

    fn direct(&self, transport: Transport, source: Addr, to: &Backend, allowed: bool) -> Result<Probe, String> {
        let (word, target, port) = to;
        let explanation = self.explain(source, to)?;
        let target = SocketAddr::new(*target, *port);
        Ok(Probe {
            from: self.seat(&self.expected.from)?,
            target,
            source: ip(source),
            transport,
            allowed,
            ends: vec![(self.seat(word)?, *port)],
            arrives: vec![(target, explanation.clone())],
            explanation,
            front: None,
        })
    }

    /// What is said of a call of this end's own address.
    fn explain(&self, source: Addr, (_, target, port): &Backend) -> Result<Explanation, String> {
        let protocol = ends::protocol(self.expected)?;
        let question = Question { from: End::Address(source), to: End::Address(addr(*target)), protocol, port: *port };
        evaluate(self.resources, &context(), &question).map_err(|error| error.to_string())
    }

    /// A Service is called at its address where there is a program to translate it, as often as there are ends behind it, which
    /// then are called in turn; else each of them is called at its own address.
    fn by_service(&self, transport: Transport, source: Addr, service: &ResourceId) -> Result<Plan, String> {
        let v6 = self.expected.family.as_deref() == Some("ipv6");
        let called = (self.expected.protocol.as_str(), self.expected.port);
        let behind = services::backends(self.state, &self.expected.to, called, v6);
        if behind.is_empty() {
            return Ok(Plan::NotRunnable("about a Service with nothing behind it: a proxy's answer"));
        }
        let address = services::address(self.state, &self.expected.to, v6).filter(|_| self.cluster.nat);
        let Some(address) = address else { return self.each(transport, source, &behind) };
        let asked = (ends::protocol(self.expected)?, self.expected.port);
        let explanation = evaluate_service(self.resources, &context(), &End::Address(source), service, asked);
        let front = Front {
            protocol: self.expected.protocol.to_lowercase(),
            address: (address, self.expected.port),
            ends: behind.iter().map(|(_, address, port)| (*address, *port)).collect(),
        };
        let ends = behind.iter().map(|(word, _, port)| Ok((self.seat(word)?, *port)));
        let arrives = |end: &Backend| Ok((SocketAddr::new(end.1, end.2), self.explain(source, end)?));
        let probe = Probe {
            from: self.seat(&self.expected.from)?,
            target: SocketAddr::new(address, self.expected.port),
            source: ip(source),
            transport,
            allowed: self.expected.allowed,
            ends: ends.collect::<Result<_, String>>()?,
            explanation: explanation.map_err(|error| error.to_string())?,
            arrives: behind.iter().map(arrives).collect::<Result<_, String>>()?,
            front: Some(front),
        };
        Ok(Plan::Ask(vec![probe; behind.len()]))
    }

    fn each(&self, transport: Transport, source: Addr, behind: &[Backend]) -> Result<Plan, String> {
        let others: Vec<_> = behind.iter().filter(|(word, _, _)| *word != self.expected.from).collect();
        if others.is_empty() {
            return Ok(Plan::NotRunnable("about a pod that reaches itself through a Service: it takes a proxy"));
        }
        let probe = |backend: &&Backend| {
            let probe = self.direct(transport, source, backend, true)?;
            Ok(Probe { allowed: probe.explanation.verdict.passes(), ..probe })
        };
        Ok(Plan::Ask(others.iter().map(probe).collect::<Result<_, String>>()?))
    }

    fn seat(&self, word: &str) -> Result<Seat, String> {
        self.cluster.seat(self.state, word).ok_or_else(|| format!("{word} is not in the case"))
    }
}

/// The ports that must be served for these openings.
pub fn served<'p>(probes: impl Iterator<Item = &'p Probe>) -> BTreeMap<Seat, BTreeSet<(Transport, u16)>> {
    let mut wanted: BTreeMap<Seat, BTreeSet<(Transport, u16)>> = BTreeMap::new();
    for probe in probes {
        for (seat, port) in &probe.ends {
            wanted.entry(seat.clone()).or_default().insert((probe.transport, *port));
        }
    }
    wanted
}

/// What must be translated for these openings, and where.
pub fn fronts<'p>(probes: impl Iterator<Item = &'p Probe>) -> BTreeMap<Seat, Vec<Front>> {
    let mut wanted: BTreeMap<Seat, Vec<Front>> = BTreeMap::new();
    for probe in probes {
        let fronts = wanted.entry(probe.from.clone()).or_default();
        fronts.extend(probe.front.iter().filter(|front| !fronts.contains(front)).cloned().collect::<Vec<_>>());
    }
    wanted.retain(|_, fronts| !fronts.is_empty());
    wanted
}

/// Makes all of them at once; what each client saw, in their order.
pub fn run(cluster: &mut Cluster, probes: &[&Probe]) -> Result<Vec<String>> {
    let mut by_seat: BTreeMap<&Seat, Vec<Opening>> = BTreeMap::new();
    for (id, probe) in probes.iter().enumerate() {
        let patience_ms = if probe.allowed { PATIENCE_MS } else { SILENCE_MS };
        let Probe { source: from, target: to, transport, .. } = **probe;
        by_seat.entry(&probe.from).or_default().push(Opening { id, transport, from, to, patience_ms });
    }
    for (seat, openings) in &by_seat {
        cluster.worker(seat)?.order(&Order::Try { openings: openings.clone() })?;
    }
    let mut results = vec![String::new(); probes.len()];
    for (seat, openings) in &by_seat {
        let worker = cluster.worker(seat)?;
        for _ in openings {
            let said = worker.answer(ANSWERS_WITHIN).with_context(|| format!("{seat:?}"))?;
            if let Said::Tried { id, result } = said
                && let Some(place) = results.get_mut(id)
            {
                *place = result;
            }
        }
    }
    Ok(results)
}

/// Compares what the clients saw with the case. `None`: as it must be.
pub fn judge(expected: &Expected, probes: &[Probe], results: &[String]) -> Option<String> {
    let odd = results.iter().find(|result| *result != "ok" && !REFUSALS.contains(&result.as_str()));
    let allowed = results.iter().all(|result| result == "ok");
    if odd.is_none() && allowed == expected.allowed {
        return None;
    }
    let wanted = if expected.allowed { "allowed" } else { "refused" };
    let saw: Vec<_> =
        probes.iter().zip(results).map(|(probe, result)| format!("{result} from {}", probe.target)).collect();
    let explained: Vec<_> = probes.iter().map(|probe| probe.explanation.to_string()).collect();
    Some(format!("{}: must be {wanted}; the client saw {}; {}", shown(expected), saw.join(", "), explained.join("; ")))
}

/// The records that must come of an opening: of the end that denies, or of both.
///
/// A caller's record names the address that was called, or after a translation that of the end: whichever there are, each must say
/// what is said of that address. Where there are several ends, any of them may be the one that was called.
pub fn wanted(state: &State, expected: &Expected, probe: &Probe, generations: &BTreeMap<String, u64>) -> Vec<Wanted> {
    let out = probe.explanation.egress.as_ref();
    let leaves = out.is_none_or(|answer| answer.verdict.passes());
    let mut egress: Vec<_> = out.map(|answer| (answer, probe.target)).into_iter().collect();
    let mut ingress = Vec::new();
    for (target, explanation) in probe.arrives.iter().filter(|_| leaves) {
        let translated = *target != probe.target;
        egress.extend(explanation.egress.as_ref().filter(|_| translated).map(|answer| (answer, *target)));
        let from = SocketAddr::new(probe.source, target.port());
        ingress.extend(explanation.ingress.as_ref().map(|answer| (answer, from)));
    }
    let record = |(answer, remote): &(&Answer, SocketAddr)| {
        let id = &answer.workload;
        let pod = state.pods.iter().find(|pod| pod.namespace == id.namespace && pod.name == id.name)?;
        let node = node_of(pod);
        let generation = generations.get(&node).copied()?;
        let key = Key {
            node,
            generation,
            direction: answer.direction.name(),
            workload: format!("{}/{}", id.namespace, id.name),
            remote: remote.ip(),
            port: remote.port(),
            protocol: expected.protocol.clone(),
        };
        answer.logged.then(|| (key, Says::of(answer)))
    };
    let sides = [egress, ingress].into_iter().filter(|side| !side.is_empty());
    // Where one of them makes no record, there need not be any.
    let one_of = sides.filter_map(|side| side.iter().map(&record).collect::<Option<Vec<_>>>());
    one_of.map(|one_of| Wanted { one_of, about: shown(expected) }).collect()
}
