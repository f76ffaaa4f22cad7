//! Lives: weir-conformance, questions of a case as traffic.
//! Called by: run, for each state.
//! May touch: the workers of the cluster, through `Cluster`.
//! Never: counts as refused what failed for another reason than a refusal.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use weir_policy::{Answer, End, Explanation, Question, Resources, addr, evaluate, ip};
use weir_tests::worker::{Opening, Order, Said, Transport};

use super::cluster::{Cluster, Seat, node_of, transport};
use super::flows::{Key, Says, Wanted};
use super::services;
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
pub struct Probe {
    from: Seat,
    to: Seat,
    target: SocketAddr,
    source: IpAddr,
    transport: Transport,
    allowed: bool,
    explanation: Explanation,
}

/// What is to be done about one question.
pub enum Plan {
    /// These openings; all must succeed for the question to be answered by yes.
    Ask(Vec<Probe>),
    /// It cannot be asked here, and why.
    NotRunnable(&'static str),
}

/// Plans a question; a fault of the case is an error.
pub fn plan(cluster: &Cluster, state: &State, resources: &Resources, expected: &Expected) -> Result<Plan, String> {
    let Some(transport) = transport(&expected.protocol) else {
        return Ok(Plan::NotRunnable(
            "about ICMP: an echo request is answered by the kernel, before any socket of the pod",
        ));
    };
    if transport == Transport::Sctp && !cluster.sctp {
        return Ok(Plan::NotRunnable("about SCTP: this kernel has none"));
    }
    let End::Address(source) = ends::from(state, expected)? else {
        return Ok(Plan::NotRunnable("about a pod without an address"));
    };
    let v6 = expected.family.as_deref() == Some("ipv6");
    let targets = match ends::to(state, expected)? {
        ends::To::End(End::Address(to)) => vec![(expected.to.clone(), ip(to), expected.port)],
        ends::To::End(End::Workload(_)) => return Ok(Plan::NotRunnable("about a pod without an address")),
        ends::To::Service(_) => {
            let mut behind = services::backends(state, &expected.to, (&expected.protocol, expected.port), v6);
            if behind.is_empty() {
                return Ok(Plan::NotRunnable("about a Service with nothing behind it: a proxy's answer"));
            }
            behind.retain(|(word, _, _)| *word != expected.from);
            if behind.is_empty() {
                return Ok(Plan::NotRunnable("about a pod that reaches itself through a Service: it takes a proxy"));
            }
            behind
        }
    };
    let by_service = expected.to.starts_with("svc:");
    let mut probes = Vec::new();
    for (word, target, port) in targets {
        let seat = |word: &str| cluster.seat(state, word).ok_or_else(|| format!("{word} is not in the case"));
        let question = Question {
            from: End::Address(source),
            to: End::Address(addr(target)),
            protocol: ends::protocol(expected)?,
            port,
        };
        let explanation = evaluate(resources, &context(), &question).map_err(|error| error.to_string())?;
        probes.push(Probe {
            from: seat(&expected.from)?,
            to: seat(&word)?,
            target: SocketAddr::new(target, port),
            source: ip(source),
            transport,
            allowed: if by_service { explanation.verdict.passes() } else { expected.allowed },
            explanation,
        });
    }
    Ok(Plan::Ask(probes))
}

/// The ports that must be served for these openings.
pub fn served<'p>(probes: impl Iterator<Item = &'p Probe>) -> BTreeMap<Seat, BTreeSet<(Transport, u16)>> {
    let mut wanted: BTreeMap<Seat, BTreeSet<(Transport, u16)>> = BTreeMap::new();
    for probe in probes {
        wanted.entry(probe.to.clone()).or_default().insert((probe.transport, probe.target.port()));
    }
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
pub fn wanted(state: &State, expected: &Expected, probe: &Probe, generations: &BTreeMap<String, u64>) -> Vec<Wanted> {
    let Explanation { egress, ingress, .. } = &probe.explanation;
    let leaves = egress.as_ref().is_none_or(|answer| answer.verdict.passes());
    let ends = [
        egress.as_ref().map(|answer| (answer, probe.target.ip())),
        ingress.as_ref().filter(|_| leaves).map(|answer| (answer, probe.source)),
    ];
    let record = |(answer, remote): (&Answer, IpAddr)| {
        let id = &answer.workload;
        let pod = state.pods.iter().find(|pod| pod.namespace == id.namespace && pod.name == id.name)?;
        let node = node_of(pod);
        let generation = generations.get(&node).copied()?;
        let key = Key {
            node,
            generation,
            direction: answer.direction.name(),
            workload: format!("{}/{}", id.namespace, id.name),
            remote,
            port: probe.target.port(),
            protocol: expected.protocol.clone(),
        };
        answer.logged.then(|| Wanted { key, says: Says::of(answer), about: shown(expected) })
    };
    ends.into_iter().flatten().filter_map(record).collect()
}
