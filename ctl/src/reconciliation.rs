//! Lives: ctl.
//! Called by: the verb `reconcile`.
//! May touch: nothing.
//! Never: lets one kind of decision make up for another, but for what a damaged spool held, of which only the number is known; takes what is under way for lost.
//!
//! ```text
//! kernel: decided ─► ring (lost) ─► agent: recorded ─► queue, spool (lost, told) ─► collector: collected
//!            └─ quiet
//! ```
//! Of each hook, verdict and reason: decided = quiet + collected + told as lost. While there is traffic the numbers of the two sides are of
//! different moments, so rounds are made until each kind was seen closed once: what was decided before it was asked for and is missing
//! stays missing in every round.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::view::{Agent, Collector, Exporter, Node};

/// What a loss is called that is about an earlier run of the agent.
const EARLIER: &str = "earlier_run";
/// What a loss is called that happened before the agent.
const RING: &str = "ring_full";

/// One kind of decision, as far as it could be followed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// "hook/verdict/reason".
    pub what: String,
    pub decided: u64,
    pub quiet: u64,
    pub recorded: u64,
    pub collected: u64,
    /// Losses that were told to the collector, by cause.
    pub told: BTreeMap<String, u64>,
    /// Whether nothing was missing or invented in one round.
    pub closed: bool,
    /// The fewest decisions that were missing behind the kernel, and behind the agent, in any round.
    pub missing_in_agent: u64,
    pub missing_on_the_way: u64,
    /// The fewest that were there without having been decided.
    pub invented: u64,
}

/// All kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reconciliation {
    pub closed: bool,
    /// One sentence.
    pub says: String,
    pub rounds: u32,
    pub lines: Vec<Line>,
}

/// Follows rounds.
#[derive(Debug, Default)]
pub struct Follower {
    lines: BTreeMap<String, Line>,
    rounds: u32,
    boot_id: String,
}

impl Follower {
    /// Takes one round: what the agent said, then what the collector said.
    ///
    /// # Errors
    /// The two cannot be compared, and why.
    pub fn round(&mut self, agent: &Agent, collector: &Collector) -> Result<Reconciliation, String> {
        let exporter = agent.exporter.as_ref().filter(|exporter| !exporter.boot_id.is_empty());
        let exporter = exporter.ok_or("the agent sends no records: no collector is configured")?;
        let this = |node: &&Node| node.node == agent.node && node.boot_id == exporter.boot_id;
        let nothing = Node { first_sequence: 1, ..Node::default() };
        let node = collector.nodes.iter().find(this).unwrap_or(&nothing);
        if node.first_sequence > 1 {
            let first = node.first_sequence;
            return Err(format!(
                "the collector joined at batch {first} of this run of the agent and never saw those before: compare after the \
                 agent's next start, or look at the records"
            ));
        }
        if self.boot_id != exporter.boot_id {
            // The agent was started again: its counters began anew.
            *self = Self { boot_id: exporter.boot_id.clone(), ..Self::default() };
        }
        self.rounds += 1;
        let told = told(node);
        let known: BTreeSet<String> = (agent.counters.iter().map(crate::view::Counter::key))
            .chain(node.decisions.keys().cloned())
            .chain(told.keys().map(|what| (*what).to_owned()))
            .collect();
        for what in known {
            let line = seen(&what, agent, node, told.get(what.as_str()));
            let fewest = |before: Option<u64>, now: u64| before.map_or(now, |before| before.min(now));
            let before = self.lines.get(&what);
            let kept = Line {
                closed: line.closed || before.is_some_and(|before| before.closed),
                missing_in_agent: fewest(before.map(|line| line.missing_in_agent), line.missing_in_agent),
                missing_on_the_way: fewest(before.map(|line| line.missing_on_the_way), line.missing_on_the_way),
                invented: fewest(before.map(|line| line.invented), line.invented),
                ..line
            };
            self.lines.insert(what, kept);
        }
        Ok(self.so_far(exporter, node))
    }

    fn so_far(&self, exporter: &Exporter, node: &Node) -> Reconciliation {
        let lines: Vec<Line> = self.lines.values().cloned().collect();
        let sum = |field: fn(&Line) -> u64| lines.iter().map(field).sum::<u64>();
        let open = |field: fn(&Line) -> u64| lines.iter().filter(|line| !line.closed).map(field).sum::<u64>();
        let (in_agent, on_the_way, invented) =
            (open(|line| line.missing_in_agent), open(|line| line.missing_on_the_way), open(|line| line.invented));
        // Of a batch that could not be read any more only the number of its decisions is known.
        let damaged = node.losses.get("spool_damaged").copied().unwrap_or(0);
        // It makes up for exactly as many, never for some of more.
        let excused = if on_the_way == damaged { damaged } else { 0 };
        let on_the_way = on_the_way - excused;
        let each = lines.iter().all(|line| line.closed);
        let closed = each || excused > 0 && in_agent == 0 && invented == 0;
        let says = match () {
            () if closed => {
                let lost = sum(|line| line.told.values().sum()) + excused;
                let (decided, collected, quiet) =
                    (sum(|line| line.decided), sum(|line| line.collected), sum(|line| line.quiet));
                format!("closed: {decided} decided = {collected} collected + {lost} told as lost + {quiet} quiet")
            }
            () if in_agent > 0 => {
                format!("NOT CLOSED: {in_agent} decisions went missing between the kernel and the agent")
            }
            () if invented > 0 => {
                format!("NOT CLOSED: {invented} decisions were collected that the kernel did not make")
            }
            () if node.missing_batches > 0 => format!(
                "NOT CLOSED: {on_the_way} decisions went missing between agent and collector; {} batches never came",
                node.missing_batches
            ),
            () if exporter.records_queued > 0 => format!(
                "not closed yet: {on_the_way} decisions are not at the collector, and {} records wait in the agent ({}{})",
                exporter.records_queued,
                exporter.state,
                if exporter.detail.is_empty() { String::new() } else { format!(": {}", exporter.detail) }
            ),
            () if on_the_way == 0 => "not closed yet: decisions are under way".to_owned(),
            () => format!("NOT CLOSED: {on_the_way} decisions went missing between agent and collector"),
        };
        Reconciliation { closed, says, rounds: self.rounds, lines }
    }
}

/// Losses of this run by what was lost, and by cause.
fn told(node: &Node) -> BTreeMap<&str, BTreeMap<String, u64>> {
    let mut told: BTreeMap<&str, BTreeMap<String, u64>> = BTreeMap::new();
    for (key, count) in &node.lost_decisions {
        if let Some((cause, what)) = key.split_once(' ').filter(|(cause, _)| *cause != EARLIER) {
            told.entry(what).or_default().insert(cause.to_owned(), *count);
        }
    }
    told
}

fn seen(what: &str, agent: &Agent, node: &Node, told: Option<&BTreeMap<String, u64>>) -> Line {
    let counter = agent.counters.iter().find(|counter| counter.key() == what).cloned().unwrap_or_default();
    let collected = node.decisions.get(what).copied().unwrap_or(0);
    let told = told.cloned().unwrap_or_default();
    let ring = told.get(RING).copied().unwrap_or(0);
    let later: u64 = told.iter().filter(|(cause, _)| *cause != RING).map(|(_, count)| count).sum();
    let accounted = counter.recorded + counter.lost + counter.quiet;
    let arrived = collected + later;
    // A loss in the ring that was not told yet is missing as well.
    let on_the_way = counter.recorded.saturating_sub(arrived) + counter.lost.saturating_sub(ring);
    let (in_agent, invented) = (
        counter.decided.saturating_sub(accounted),
        arrived.saturating_sub(counter.recorded)
            + ring.saturating_sub(counter.lost)
            + accounted.saturating_sub(counter.decided),
    );
    Line {
        closed: in_agent == 0 && on_the_way == 0 && invented == 0,
        what: what.to_owned(),
        decided: counter.decided,
        quiet: counter.quiet,
        recorded: counter.recorded,
        collected,
        told,
        missing_in_agent: in_agent,
        missing_on_the_way: on_the_way,
        invented,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Counter;

    const WHAT: &str = "connect/deny/default";

    fn agent(decided: u64, recorded: u64, lost: u64, quiet: u64, queued: u64) -> Agent {
        let words = ["connect", "deny", "default"].map(str::to_owned);
        let [hook, verdict, reason] = words;
        let counter = Counter { hook, verdict, reason, decided, recorded, lost, quiet };
        let exporter = Exporter { boot_id: "b".to_owned(), records_queued: queued, ..Exporter::default() };
        Agent { node: "n".to_owned(), counters: vec![counter], exporter: Some(exporter), ..Agent::default() }
    }

    fn collector(collected: u64, told: &[(&str, u64)]) -> Collector {
        let node = Node {
            node: "n".to_owned(),
            boot_id: "b".to_owned(),
            first_sequence: 1,
            decisions: BTreeMap::from([(WHAT.to_owned(), collected)]),
            losses: told.iter().map(|(cause, count)| ((*cause).to_owned(), *count)).collect(),
            lost_decisions: told
                .iter()
                .filter(|(cause, _)| *cause != "spool_damaged")
                .map(|(cause, count)| (format!("{cause} {WHAT}"), *count))
                .collect(),
            ..Node::default()
        };
        Collector { nodes: vec![node], ..Collector::default() }
    }

    #[test]
    fn a_sum_closes_or_the_leak_is_named() {
        for (agent, collector, closed, word) in [
            (agent(10, 10, 0, 0, 0), collector(10, &[]), true, "10 decided = 10 collected + 0 told as lost + 0 quiet"),
            (
                agent(20, 10, 3, 7, 0),
                collector(10, &[("ring_full", 3)]),
                true,
                "10 collected + 3 told as lost + 7 quiet",
            ),
            (agent(20, 20, 0, 0, 0), collector(8, &[("quota", 5), ("spool_full", 7)]), true, "12 told as lost"),
            (agent(20, 20, 0, 0, 0), collector(15, &[("spool_damaged", 5)]), true, "5 told as lost"),
            (agent(20, 20, 0, 0, 0), collector(16, &[("spool_damaged", 5)]), false, "4 decisions went missing"),
            (agent(20, 20, 0, 0, 0), collector(14, &[("spool_damaged", 5)]), false, "6 decisions went missing"),
            (agent(20, 20, 0, 0, 0), collector(20, &[("earlier_run", 9)]), true, "0 told as lost"),
            (
                agent(20, 18, 0, 0, 0),
                collector(18, &[]),
                false,
                "2 decisions went missing between the kernel and the agent",
            ),
            (agent(20, 18, 2, 0, 0), collector(18, &[]), false, "2 decisions went missing between agent and collector"),
            (
                agent(20, 20, 0, 0, 0),
                collector(14, &[("quota", 5)]),
                false,
                "1 decisions went missing between agent and",
            ),
            (agent(20, 20, 0, 0, 9), collector(14, &[]), false, "not closed yet: 6 decisions are not at the collector"),
            (
                agent(20, 20, 0, 0, 0),
                collector(21, &[]),
                false,
                "1 decisions were collected that the kernel did not make",
            ),
        ] {
            let found = Follower::default().round(&agent, &collector).unwrap();
            assert_eq!(found.closed, closed, "{found:?}");
            assert!(found.says.contains(word), "{word}: {}", found.says);
        }
    }

    #[test]
    fn while_there_is_traffic_each_kind_must_be_seen_closed_once() {
        let mut follower = Follower::default();
        assert!(!follower.round(&agent(10, 9, 0, 0, 0), &collector(9, &[])).unwrap().closed);
        assert!(!follower.round(&agent(20, 20, 0, 0, 0), &collector(12, &[])).unwrap().closed);
        assert!(follower.round(&agent(30, 30, 0, 0, 0), &collector(30, &[])).unwrap().closed);
        // One that leaks stays open.
        let mut follower = Follower::default();
        for n in 1..50 {
            assert!(!follower.round(&agent(10 * n, 10 * n, 0, 0, 0), &collector(10 * n - 1, &[])).unwrap().closed);
        }
    }

    #[test]
    fn what_cannot_be_compared_is_said() {
        let silent = Agent { exporter: None, ..agent(1, 1, 0, 0, 0) };
        assert!(Follower::default().round(&silent, &collector(1, &[])).unwrap_err().contains("no collector"));
        let mut late = collector(1, &[]);
        late.nodes[0].first_sequence = 9;
        assert!(Follower::default().round(&agent(1, 1, 0, 0, 0), &late).unwrap_err().contains("batch 9"));
    }
}
