//! Lives: ctl, what an agent that runs says of itself.
//! Called by: the verb doctor, and `bundle`.
//! May touch: the agent, the collector.
//! Never: fails because no agent runs: the doctor's main question is why not.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{Check, Facts, Outcome};
use crate::cli::Connection;
use crate::failure::Failure;
use crate::verbs::status::{self, Round};
use crate::view::{Agent, Collector, Exporter};

/// How long numbers that are on their way may take to agree.
const PATIENCE: Duration = Duration::from_secs(3);
/// Clocks of two hosts may differ by so much before it is worth a word.
const SLACK: SignedDuration = SignedDuration::from_secs(2);
/// How many names a sentence has.
const SHOWN: usize = 5;

/// What the agent says, and whether the collector agrees. `version`: that of the agent's program on this host.
pub async fn checks(connection: &Connection, facts: &Facts, version: &str) -> Vec<Check> {
    let round = match status::ask(connection, PATIENCE).await {
        Ok(round) => round,
        Err(failure) => return vec![silent(&failure, facts)],
    };
    let agent = &round.agent;
    let mut checks = vec![answers(agent, version), enforcing(agent), workloads(agent), interfaces(agent)];
    checks.push(exporter(agent.exporter.as_ref()));
    let counters = if round.counters.agree { Outcome::Ok } else { Outcome::Warn };
    checks.push(Check::new("running-counters", counters, round.counters.says.clone(), ""));
    checks.extend(collector(&round));
    checks
}

/// No answer is a fault only where an agent runs.
fn silent(failure: &Failure, facts: &Facts) -> Check {
    match facts.agent_pid {
        Some(pid) => Check::new(
            "running",
            Outcome::Fail,
            format!("process {pid} runs with this configuration, and does not answer: {failure}"),
            "name its socket with --agent; if that is right, look at its log",
        ),
        None => Check::new("running", Outcome::Skipped, format!("no agent answers: {failure}"), ""),
    }
}

fn answers(agent: &Agent, version: &str) -> Check {
    let found = format!("weir-agent {} on {}", agent.version, agent.node);
    if agent.version == version {
        return Check::new("running", Outcome::Ok, found, "");
    }
    let found = format!("{found}; the program on this host is {version}");
    Check::new("running", Outcome::Warn, found, "restart the agent, or name its program with --agent-binary")
}

fn enforcing(agent: &Agent) -> Check {
    let found = format!("generation {}", agent.generation);
    match agent.enforcing {
        true => Check::new("running-enforcing", Outcome::Ok, format!("yes, {found}"), ""),
        false => Check::new(
            "running-enforcing",
            Outcome::Fail,
            format!("no, {found}"),
            "weirctl status says what is not attached",
        ),
    }
}

fn workloads(agent: &Agent) -> Check {
    const NAME: &str = "running-workloads";
    let failed = agent.workloads.iter().filter(|workload| workload.state == "failed");
    let failed: Vec<String> = failed.map(|one| format!("{}: {}", one.workload, one.detail)).collect();
    if !failed.is_empty() {
        return Check::new(NAME, Outcome::Fail, format!("not attached: {}", some(&failed)), "weirctl status shows all");
    }
    let uncovered =
        agent.workloads.iter().filter(|workload| workload.state == "attached" && !workload.uncovered.is_empty());
    let uncovered: Vec<String> =
        uncovered.map(|one| format!("{} ({})", one.workload, one.uncovered.join(","))).collect();
    let count = |state| agent.workloads.iter().filter(|workload| workload.state == state).count();
    let found = format!("{} attached, {} wait for their cgroup", count("attached"), count("waiting"));
    if uncovered.is_empty() {
        return Check::new(NAME, Outcome::Ok, found, "");
    }
    let found = format!("{found}; NOT COVERED: {}", some(&uncovered));
    Check::new(NAME, Outcome::Warn, found, "docs/coverage.md says what that means and what covers it")
}

fn interfaces(agent: &Agent) -> Check {
    const NAME: &str = "running-interfaces";
    let failed = agent.interfaces.iter().filter(|interface| interface.mode == "failed");
    let failed: Vec<String> = failed.map(|one| format!("{}: {}", one.name, one.detail)).collect();
    if failed.is_empty() {
        let found = agent.interfaces.iter().map(|one| format!("{} {}", one.name, one.mode)).collect::<Vec<_>>();
        return Check::new(NAME, Outcome::Ok, if found.is_empty() { "none".to_owned() } else { some(&found) }, "");
    }
    Check::new(NAME, Outcome::Fail, some(&failed), "weirctl status shows all")
}

fn exporter(exporter: Option<&Exporter>) -> Check {
    const NAME: &str = "running-exporter";
    let Some(exporter) = exporter.filter(|exporter| !exporter.collector.is_empty()) else {
        return Check::new(NAME, Outcome::Ok, "records go nowhere: no collector is configured", "");
    };
    let Exporter { collector, state, detail, records_queued, records_lost, spool_fault, .. } = exporter;
    let detail = if detail.is_empty() { String::new() } else { format!(" ({detail})") };
    let disk = if spool_fault.is_empty() { String::new() } else { format!("; the spool's disk: {spool_fault}") };
    let found =
        format!("{collector} {state}{detail}; {records_queued} records not acknowledged, {records_lost} lost{disk}");
    match state == "connected" && *records_lost == 0 && spool_fault.is_empty() {
        true => Check::new(NAME, Outcome::Ok, found, ""),
        false => Check::new(
            NAME,
            Outcome::Warn,
            found,
            "records wait in the agent's spool; what finds no room there is lost and counted",
        ),
    }
}

fn collector(round: &Round) -> Vec<Check> {
    const NAME: &str = "running-collector";
    let (collector, sums) = match (&round.collector, &round.sums) {
        (Ok(collector), Some(sums)) => (collector, sums),
        (Err(failure), _) => {
            let found = format!("not asked whether it has the same numbers: {failure}");
            return vec![Check::new(NAME, Outcome::Skipped, found, "name it with --collector")];
        }
        (Ok(_), None) => return Vec::new(),
    };
    // Without a record there is nothing to compare.
    let nothing = round.agent.counters.iter().all(|counter| counter.decided == 0);
    let outcome = match (sums.agree, nothing) {
        (true, _) => Outcome::Ok,
        (false, true) => Outcome::Skipped,
        (false, false) => Outcome::Warn,
    };
    let mut checks = vec![Check::new(NAME, outcome, sums.says.clone(), "")];
    checks.extend(clock(&round.agent, collector, Timestamp::now()));
    checks
}

/// The collector notes by its own clock when it heard of a node: that cannot be later than now.
fn clock(agent: &Agent, collector: &Collector, now: Timestamp) -> Option<Check> {
    const NAME: &str = "running-collector-clock";
    let seen = collector.nodes.iter().filter(|node| node.node == agent.node).filter_map(|node| node.last_seen).max()?;
    let ahead = seen.duration_since(now);
    if ahead <= SLACK {
        return Some(Check::new(NAME, Outcome::Ok, "not ahead of this host's", ""));
    }
    let found = format!("{} s ahead of this host's", ahead.as_secs());
    Some(Check::new(NAME, Outcome::Warn, found, "set one of the two clocks: times of records are the nodes' own"))
}

fn some(all: &[String]) -> String {
    let mut shown = all.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("; ");
    if all.len() > SHOWN {
        shown.push_str(&format!("; and {} more", all.len() - SHOWN));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::{Interface, Node, Workload};

    #[test]
    fn what_is_not_attached_fails_and_what_is_not_covered_warns() {
        let workload = |state: &str, uncovered: &[&str]| Workload {
            workload: "shop/web".to_owned(),
            state: state.to_owned(),
            uncovered: uncovered.iter().map(|word| (*word).to_owned()).collect(),
            ..Workload::default()
        };
        for (states, outcome, word) in [
            (vec![workload("attached", &[]), workload("waiting", &["forwarded"])], Outcome::Ok, "1 attached, 1 wait"),
            (vec![workload("attached", &["forwarded"])], Outcome::Warn, "NOT COVERED: shop/web (forwarded)"),
            (vec![workload("failed", &[]), workload("attached", &["x"])], Outcome::Fail, "not attached: shop/web"),
        ] {
            let check = workloads(&Agent { workloads: states, ..Agent::default() });
            assert!(check.outcome == outcome && check.found.contains(word), "{check:?}");
        }
        let taken = Interface { name: "eth0".to_owned(), mode: "failed".to_owned(), ..Interface::default() };
        assert_eq!(interfaces(&Agent { interfaces: vec![taken], ..Agent::default() }).outcome, Outcome::Fail);
        assert_eq!(enforcing(&Agent::default()).outcome, Outcome::Fail);
    }

    #[test]
    fn a_collector_that_heard_of_us_in_the_future_has_another_clock() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let agent = Agent { node: "n".to_owned(), ..Agent::default() };
        for (second, outcome) in [(999_000, Outcome::Ok), (1_000_001, Outcome::Ok), (1_000_100, Outcome::Warn)] {
            let last_seen = Some(Timestamp::from_second(second).unwrap());
            let nodes = vec![Node { node: "n".to_owned(), last_seen, ..Node::default() }];
            let check = clock(&agent, &Collector { nodes, ..Collector::default() }, now).unwrap();
            assert_eq!(check.outcome, outcome, "{second}: {check:?}");
        }
        assert!(clock(&agent, &Collector::default(), now).is_none());
    }

    #[test]
    fn an_agent_that_runs_and_does_not_answer_is_a_fault_and_none_at_all_is_not() {
        let failure = Failure::Usage("x".to_owned());
        assert_eq!(silent(&failure, &Facts::default()).outcome, Outcome::Skipped);
        let facts = Facts { agent_pid: Some(7), ..Facts::default() };
        assert_eq!(silent(&failure, &facts).outcome, Outcome::Fail);
    }
}
