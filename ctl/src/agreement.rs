//! Lives: ctl.
//! Called by: `status`.
//! May touch: nothing.
//! Never: calls a difference agreement because it is small.
//!
//! Two comparisons. In the agent: what the kernel decided is what was recorded, plus what was lost before it could be read, plus
//! what rules with `log: false` decided. Between agent and collector: what the collector summed is what the kernel decided, less
//! what the agent knows it lost and what was not to be recorded.
//! Records on their way make the second one short for a moment; then it says how many.

use serde::Serialize;

use crate::view::{Agent, Collector, Counter, Node};

/// The outcome of a comparison.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Agreement {
    /// Whether the numbers are the same.
    pub agree: bool,
    /// A sentence for people.
    pub says: String,
}

impl Counter {
    /// "hook/verdict/reason", as the collector names its sums.
    pub fn key(&self) -> String {
        format!("{}/{}/{}", self.hook, self.verdict, self.reason)
    }

    /// Whether every decision is accounted for.
    pub const fn agrees(&self) -> bool {
        self.decided == self.recorded.saturating_add(self.lost).saturating_add(self.quiet)
    }

    /// Decisions the collector should have.
    const fn collectable(&self) -> u64 {
        self.decided.saturating_sub(self.lost).saturating_sub(self.quiet)
    }
}

/// Compares the agent's own numbers.
pub fn within(agent: &Agent) -> Agreement {
    let total = |field: fn(&Counter) -> u64| agent.counters.iter().map(field).sum::<u64>();
    let (decided, recorded, lost) = (total(|c| c.decided), total(|c| c.recorded), total(|c| c.lost));
    let quiet = quiet(agent);
    let unequal = agent.counters.iter().filter(|counter| !counter.agrees()).count();
    match unequal {
        0 => Agreement {
            agree: true,
            says: format!("agree: {decided} decided = {recorded} recorded + {lost} lost{quiet}"),
        },
        _ => Agreement {
            agree: false,
            says: format!(
                "differ in {unequal} of {} counters: {decided} decided, {recorded} recorded + {lost} lost{quiet} \
                 (records are read in short intervals; ask again)",
                agent.counters.len()
            ),
        },
    }
}

/// Compares the agent's counters with the sums the collector made of this boot's records.
pub fn across(agent: &Agent, collector: &Collector) -> Agreement {
    let differ = |says: String| Agreement { agree: false, says };
    let Some(exporter) = agent.exporter.as_ref().filter(|exporter| !exporter.boot_id.is_empty()) else {
        return differ("not compared: the agent sends no records".to_owned());
    };
    let this = |node: &&Node| node.node == agent.node && node.boot_id == exporter.boot_id;
    let Some(node) = collector.nodes.iter().find(this) else {
        return differ(format!("not compared: the collector has nothing yet from this run of node {}", agent.node));
    };
    let (missing, extra) = difference(agent, node);
    let sum: u64 = node.decisions.values().sum();
    let queue = exporter.records_lost;
    let explained = if queue > 0 { format!(" + {queue} lost in the agent's queue") } else { String::new() };
    if extra == 0 && missing == queue {
        let lost: u64 = agent.counters.iter().map(|counter| counter.lost).sum();
        let decided = agent.counters.iter().map(|counter| counter.decided).sum::<u64>();
        let says = format!(
            "agree: {decided} decided in the kernel = {sum} collected + {lost} lost{explained}{}",
            quiet(agent)
        );
        return Agreement { agree: true, says };
    }
    differ(describe(node, sum, missing.saturating_sub(queue), extra))
}

/// What rules with `log: false` decided, for the end of a sum.
fn quiet(agent: &Agent) -> String {
    match agent.counters.iter().map(|counter| counter.quiet).sum::<u64>() {
        0 => String::new(),
        quiet => format!(" + {quiet} quiet"),
    }
}

/// Decisions the collector does not have, and decisions it has that the counters did not show yet.
fn difference(agent: &Agent, node: &Node) -> (u64, u64) {
    let expected = agent.counters.iter().map(|counter| (counter.key(), counter.collectable()));
    let expected: std::collections::BTreeMap<_, _> = expected.collect();
    let keys = expected.keys().chain(node.decisions.keys().filter(|key| !expected.contains_key(*key)));
    let of = |sums: &std::collections::BTreeMap<String, u64>, key: &String| sums.get(key).copied().unwrap_or(0);
    keys.fold((0, 0), |(missing, extra), key| {
        let (want, have) = (of(&expected, key), of(&node.decisions, key));
        (missing + want.saturating_sub(have), extra + have.saturating_sub(want))
    })
}

fn describe(node: &Node, sum: u64, missing: u64, extra: u64) -> String {
    let mut says = format!("differ: {sum} collected, {missing} more decided in the kernel");
    if extra > 0 {
        says.push_str(&format!(", {extra} newer than the counters shown"));
    }
    if node.first_sequence > 1 {
        let first = node.first_sequence;
        says.push_str(&format!("; this collector joined at batch {first} and never saw the ones before"));
    } else if node.missing_batches > 0 {
        says.push_str(&format!("; {} batches are missing", node.missing_batches));
    } else {
        says.push_str("; records may be on their way, ask again");
    }
    says
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Exporter;

    fn counter(decided: u64, recorded: u64, lost: u64) -> Counter {
        let words = ["connect", "deny", "default"].map(str::to_owned);
        let [hook, verdict, reason] = words;
        Counter { hook, verdict, reason, decided, recorded, lost, quiet: 0 }
    }

    fn with_quiet(quiet: u64, counter: Counter) -> Counter {
        Counter { decided: counter.decided + quiet, quiet, ..counter }
    }

    fn agent(counter: Counter, records_lost: u64) -> Agent {
        let exporter = Exporter { boot_id: "b".to_owned(), records_lost, ..Exporter::default() };
        Agent { node: "n".to_owned(), counters: vec![counter], exporter: Some(exporter), ..Agent::default() }
    }

    fn collector(sums: &[(&str, u64)], first_sequence: u64, missing_batches: u64) -> Collector {
        let decisions = sums.iter().map(|(key, sum)| ((*key).to_owned(), *sum)).collect();
        let (node, boot_id) = ("n".to_owned(), "b".to_owned());
        let node = Node { node, boot_id, decisions, first_sequence, missing_batches, ..Node::default() };
        Collector { nodes: vec![node], ..Collector::default() }
    }

    #[test]
    fn decided_is_recorded_plus_lost() {
        for (decided, recorded, lost, agree) in
            [(0, 0, 0, true), (10, 10, 0, true), (10, 8, 2, true), (10, 8, 1, false)]
        {
            assert_eq!(within(&agent(counter(decided, recorded, lost), 0)).agree, agree, "{decided} {recorded} {lost}");
        }
    }

    #[test]
    fn quiet_decisions_are_accounted_for_and_not_expected_at_the_collector() {
        let agent = agent(with_quiet(7, counter(10, 8, 2)), 0);
        let (within, across) = (within(&agent), across(&agent, &collector(&[("connect/deny/default", 8)], 1, 0)));
        assert!(within.agree && within.says == "agree: 17 decided = 8 recorded + 2 lost + 7 quiet", "{within:?}");
        assert!(across.agree && across.says.ends_with("8 collected + 2 lost + 7 quiet"), "{across:?}");
    }

    #[test]
    fn the_collector_has_what_was_decided_less_what_was_lost() {
        let key = "connect/deny/default";
        for (counted, queue_lost, collected, agree, word) in [
            (counter(10, 10, 0), 0, collector(&[(key, 10)], 1, 0), true, "10 collected"),
            (counter(10, 8, 2), 0, collector(&[(key, 8)], 1, 0), true, "2 lost"),
            (counter(10, 10, 0), 3, collector(&[(key, 7)], 1, 0), true, "agent's queue"),
            (counter(10, 10, 0), 0, collector(&[(key, 7)], 1, 0), false, "on their way"),
            (counter(10, 10, 0), 0, collector(&[(key, 12)], 1, 0), false, "2 newer"),
            (counter(10, 10, 0), 0, collector(&[(key, 10), ("xdp/deny/blocklist", 1)], 1, 0), false, "1 newer"),
            (counter(10, 10, 0), 0, collector(&[(key, 2)], 9, 0), false, "joined at batch 9"),
            (counter(10, 10, 0), 0, collector(&[(key, 2)], 1, 4), false, "4 batches are missing"),
            (counter(10, 10, 0), 0, Collector::default(), false, "nothing yet"),
        ] {
            let agreement = across(&agent(counted, queue_lost), &collected);
            assert_eq!(agreement.agree, agree, "{agreement:?}");
            assert!(agreement.says.contains(word), "{word}: {}", agreement.says);
        }
    }

    #[test]
    fn an_agent_without_a_collector_is_not_compared() {
        let silent = Agent { exporter: None, ..agent(counter(1, 1, 0), 0) };
        assert!(across(&silent, &collector(&[], 1, 0)).says.contains("sends no records"));
    }
}
