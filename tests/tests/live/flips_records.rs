//! Lives: weir-tests, what the records of a change under fire must say.
//! Called by: flips.
//! May touch: the harness it is given, to read records.
//! Never: accepts a record that the policy of its generation does not explain.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use weir_common::addr::Protocol;
use weir_common::verdict::Verdict;
use weir_policy::{Answer, Context, End, Kind, Question, ResourceId, Resources, addr, evaluate};
use weir_tests::harness::ctl::{ARRIVE_WITHIN, Mark};
use weir_tests::harness::{Harness, KEPT, Record};
use weir_tests::world::Who;

use crate::flips::{Fate, calls};

/// What makes two records the same question to one policy.
type Asked = (usize, String, String, IpAddr, String, u16);

/// How often records are looked at under way: the collector of a world keeps a million, and what it has dropped nobody checks. Seldom:
/// while they are read on a slow machine, more come than were read.
pub const LOOK: Duration = Duration::from_secs(90);
/// A record may come so much later than what it tells of; what came earlier is looked at again.
const OVERLAP: Duration = ARRIVE_WITHIN;
/// How many refusals are kept for a failure.
const SHOWN: usize = 20;

/// Looks at all records in turn.
pub struct Watch {
    states: Vec<Resources>,
    known: HashMap<Asked, Option<Answer>>,
    from: Mark,
    pub looked: Instant,
    /// How many records were found explained; those looked at twice count twice.
    pub checked: usize,
    /// Refused between ends that may always talk.
    pub refused: Vec<String>,
}

impl Watch {
    pub fn new(documents: &[String; 3]) -> Result<Watch> {
        let state = |text: &String| -> Result<Resources> {
            let parsed = weir_policy::parse("flips", text).map_err(|faults| anyhow::anyhow!("{faults:?}"))?;
            Ok(parsed.into_iter().collect())
        };
        let states = documents.iter().map(state).collect::<Result<Vec<_>>>()?;
        let (from, looked) = (Mark::now(), Instant::now());
        Ok(Watch { states, known: HashMap::new(), from, looked, checked: 0, refused: Vec::new() })
    }

    /// Checks what came since the last look.
    pub fn look(&mut self, harness: &Harness, sides: &BTreeMap<u64, usize>) -> Result<()> {
        let next = Mark::before(OVERLAP);
        let records = harness.records_since(self.from)?;
        (self.from, self.looked) = (self.from.max(next), Instant::now());
        ensure!(records.len() < KEPT, "{} records: more than are kept, so look more often", records.len());
        for record in records.iter().filter(|record| record.is_decided() && !record.local.workload.is_empty()) {
            self.check(record, sides)?;
        }
        let room = SHOWN.saturating_sub(self.refused.len());
        self.refused.extend(refusals(&records).take(room));
        Ok(())
    }

    fn check(&mut self, record: &Record, sides: &BTreeMap<u64, usize>) -> Result<()> {
        let Some((protocol, port, remote)) = called(record) else { return Ok(()) };
        let (_, side) =
            sides.range(..=record.generation).next_back().with_context(|| format!("too early: {record}"))?;
        let asked =
            (*side, record.local.workload.clone(), record.direction.clone(), remote, record.protocol.clone(), port);
        let answer = match self.known.get(&asked) {
            Some(answer) => answer.clone(),
            None => {
                let state = self.states.get(*side).context("no such side")?;
                let answer = answer(state, record, protocol, port, remote);
                self.known.insert(asked, answer.clone());
                answer
            }
        };
        let answer = answer.with_context(|| format!("nobody asked: {record}"))?;
        let explained = if record.reason == "reply" {
            // What a rule let ask lets answer; the question has a record of its own.
            record.verdict == "allow"
        } else {
            let said = (record.verdict.as_str(), record.reason.as_str(), &record.policy, &record.rule);
            said == (answer.verdict.name(), answer.reason.name(), &answer.policy, &answer.rule)
        };
        ensure!(explained, "{record}: the policy of side {side} says {answer:?}");
        self.checked += 1;
        Ok(())
    }
}

/// What was called, and the other end's address; nothing of what has no ports.
fn called(record: &Record) -> Option<(Protocol, u16, IpAddr)> {
    let protocol = match record.protocol.as_str() {
        "TCP" => Protocol::TCP,
        "UDP" => Protocol::UDP,
        _ => return None,
    };
    let port = if record.direction == "ingress" { record.local.port } else { record.remote.port };
    Some((protocol, port, record.remote.address?.to_canonical()))
}

fn answer(state: &Resources, record: &Record, protocol: Protocol, port: u16, remote: IpAddr) -> Option<Answer> {
    let (namespace, name) = record.local.workload.split_once('/')?;
    let own = End::Workload(ResourceId::new(Kind::Workload, namespace, name));
    let other = End::Address(addr(remote));
    let egress = record.direction == "egress";
    let (from, to) = if egress { (own, other) } else { (other, own) };
    let context = Context {
        generation: record.generation,
        unknown: Verdict::Allow,
        unselected: Verdict::Allow,
        host_addresses: Vec::new(),
        tick_ns: 0,
        now: weir_policy::Timestamp(0),
    };
    let explanation = evaluate(state, &context, &Question { from, to, protocol, port }).ok()?;
    if egress { explanation.egress } else { explanation.ingress }
}

/// What was refused between ends of which all policies say that they may talk.
fn refusals(records: &[Record]) -> impl Iterator<Item = String> {
    let always = |from: &str, to: &str, port: u16| {
        let name = |who: Who| format!("shop/{}", who.name());
        calls().iter().any(|call| {
            call.3 == Fate::Always && (name(call.0).as_str(), name(call.1).as_str(), call.2) == (from, to, port)
        })
    };
    let refused = move |record: &&Record| {
        let (local, remote) = (&record.local, &record.remote);
        record.is_decided()
            && record.verdict == "deny"
            && (always(&local.workload, &remote.workload, remote.port)
                || always(&remote.workload, &local.workload, local.port))
    };
    records.iter().filter(refused).map(|record| format!("  {} {record}", record.time))
}
