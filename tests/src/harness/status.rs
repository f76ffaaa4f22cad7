//! Lives: weir-tests, what `weirctl status -o json` says.
//! Called by: harness, live tests, the demo.
//! May touch: nothing.
//! Never: forgives a difference between kernel, agent and collector.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Both programs.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    /// The agent's part.
    pub agent: Agent,
    /// The collector's part.
    pub collector: Collector,
}

/// weir.v1.StatusResponse, what tests look at.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields are those of weir.v1.StatusResponse, documented there")]
pub struct Agent {
    pub node: String,
    #[serde(default)]
    pub version: String,
    #[serde(default)]
    pub abi_version: u32,
    pub generation: u64,
    pub enforcing: bool,
    /// Whether what is attached stays in force without the agent.
    #[serde(default)]
    pub pinned: bool,
    /// How often something was found taken away.
    #[serde(default)]
    pub repairs: u64,
    /// Whether the agent can load or execute programs no more.
    #[serde(default)]
    pub sealed: bool,
    /// What Landlock holds.
    #[serde(default)]
    pub landlock: String,
    pub workloads: Vec<Workload>,
    pub interfaces: Vec<Interface>,
    pub counters: Vec<Counter>,
    pub exporter: Option<Exporter>,
    #[serde(default)]
    pub connections: Connections,
    #[serde(default)]
    pub node_only: Vec<NodeOnly>,
}

/// weir.v1.NodeOnlyStatus.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields are those of weir.v1.NodeOnlyStatus, documented there")]
pub struct NodeOnly {
    pub pod: String,
    pub cgroup: String,
    pub processes: u64,
}

/// weir.v1.ConnectionStatus.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the fields are those of weir.v1.ConnectionStatus, documented there")]
pub struct Connections {
    pub known: u64,
    pub cut: u64,
    pub adopted: u64,
    pub draining: u64,
    pub blocked: Vec<Blocked>,
    pub clean_generation: u64,
    pub sweep_us: u64,
    pub sockets: u64,
}

/// weir.v1.BlockedConnection.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields are those of weir.v1.BlockedConnection, documented there")]
pub struct Blocked {
    pub workload: String,
    pub connection: String,
    pub rule: String,
    pub waited_ms: u64,
}

/// weir.v1.WorkloadStatus.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields are those of weir.v1.WorkloadStatus, documented there")]
pub struct Workload {
    pub workload: String,
    pub state: String,
    #[serde(default)]
    pub detail: String,
    #[serde(default)]
    pub hooks: Vec<String>,
    #[serde(default)]
    pub uncovered: Vec<String>,
}

/// weir.v1.InterfaceStatus.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields are those of weir.v1.InterfaceStatus, documented there")]
pub struct Interface {
    pub name: String,
    pub mode: String,
    #[serde(default)]
    pub detail: String,
    #[serde(default)]
    pub refuses: Vec<String>,
    #[serde(default)]
    pub packets_seen: u64,
}

/// weir.v1.Counter.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields are those of weir.v1.Counter, documented there")]
pub struct Counter {
    pub hook: String,
    pub verdict: String,
    pub reason: String,
    pub decided: u64,
    #[serde(default)]
    pub recorded: u64,
    #[serde(default)]
    pub lost: u64,
    #[serde(default)]
    pub quiet: u64,
}

/// weir.v1.ExporterStatus.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields are those of weir.v1.ExporterStatus, documented there")]
pub struct Exporter {
    pub state: String,
    #[serde(default)]
    pub records_lost: u64,
    #[serde(default)]
    pub records_queued: u64,
    #[serde(default)]
    pub records_acknowledged: u64,
    #[serde(default)]
    pub boot_id: String,
    #[serde(default)]
    pub spool_bytes: u64,
    #[serde(default)]
    pub spool_fault: String,
}

/// weir.v1.CollectorStatusResponse, what tests look at.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields are those of weir.v1.CollectorStatusResponse, documented there")]
pub struct Collector {
    pub nodes: Vec<Node>,
}

/// weir.v1.CollectorStatusResponse.Node.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields are those of weir.v1.CollectorStatusResponse.Node, documented there")]
pub struct Node {
    pub node: String,
    #[serde(default)]
    pub boot_id: String,
    #[serde(default)]
    pub decisions: BTreeMap<String, u64>,
    #[serde(default)]
    pub losses: BTreeMap<String, u64>,
    #[serde(default)]
    pub duplicates: u64,
    #[serde(default)]
    pub missing_batches: u64,
}

impl Status {
    /// Whether the agent enforces and its records reach the collector.
    #[must_use]
    pub fn ready(&self) -> bool {
        let agent = &self.agent;
        agent.enforcing
            && agent.exporter.as_ref().is_some_and(|exporter| exporter.state == "connected")
            && agent.interfaces.iter().all(Interface::attached)
    }

    /// Whether every workload with a cgroup is attached.
    #[must_use]
    pub fn all_attached(&self) -> bool {
        self.agent.workloads.iter().all(|workload| matches!(workload.state.as_str(), "attached" | "remote"))
    }

    /// Whether a sweep by the generation in force has found nothing left to cut.
    #[must_use]
    pub fn clean(&self) -> bool {
        self.agent.connections.clean_generation == self.agent.generation
    }

    /// Every place where kernel, agent and collector do not agree; empty when all do.
    #[must_use]
    pub fn disagreements(&self) -> Vec<String> {
        let boot = self.agent.exporter.as_ref().map_or("", |exporter| exporter.boot_id.as_str());
        let ours = |node: &&Node| node.node == self.agent.node && node.boot_id == boot;
        // A node that has decided nothing yet has sent nothing.
        let mut left = self.collector.nodes.iter().find(ours).map(|node| node.decisions.clone()).unwrap_or_default();
        let mut found = Vec::new();
        for counter in &self.agent.counters {
            let name = format!("{}/{}/{}", counter.hook, counter.verdict, counter.reason);
            let Counter { decided, recorded, lost, quiet, .. } = *counter;
            let collected = left.remove(&name).unwrap_or(0);
            if decided != recorded + lost + quiet || recorded != collected {
                found.push(format!(
                    "{name}: decided {decided}, recorded {recorded}, lost {lost}, quiet {quiet}, collected {collected}"
                ));
            }
        }
        found.extend(left.iter().map(|(name, count)| format!("{name}: collected {count}, not counted by the agent")));
        found
    }

    /// Decisions counted by the kernel.
    #[must_use]
    pub fn decided(&self) -> u64 {
        self.agent.counters.iter().map(|counter| counter.decided).sum()
    }

    /// Decisions of one kind counted by the kernel.
    #[must_use]
    pub fn counted(&self, hook: &str, verdict: &str, reason: &str) -> u64 {
        let same =
            |counter: &&Counter| (&*counter.hook, &*counter.verdict, &*counter.reason) == (hook, verdict, reason);
        self.agent.counters.iter().filter(same).map(|counter| counter.decided).sum()
    }
}

impl Interface {
    fn attached(&self) -> bool {
        matches!(self.mode.as_str(), "native" | "generic")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One counter, and what the collector has of it.
    fn status(decided: u64, recorded: u64, lost: u64, collected: &[(&str, u64)]) -> Status {
        let counter = serde_json::json!({
            "hook": "connect", "verdict": "deny", "reason": "default",
            "decided": decided, "recorded": recorded, "lost": lost, "quiet": 0,
        });
        let decisions: BTreeMap<&str, u64> = collected.iter().copied().collect();
        let node = |boot: &str, decisions| serde_json::json!({"node": "n", "bootId": boot, "decisions": decisions});
        let text = serde_json::json!({
            "agent": {
                "node": "n", "generation": 1, "enforcing": true, "workloads": [], "interfaces": [],
                "counters": [counter], "exporter": {"state": "connected", "bootId": "now"},
            },
            "collector": {"nodes": [node("before", BTreeMap::from([("connect/deny/default", 99)])), node("now", decisions)]},
        });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn every_difference_between_kernel_agent_and_collector_is_seen() {
        let name = "connect/deny/default";
        let rows: [(Status, usize); 6] = [
            (status(5, 5, 0, &[(name, 5)]), 0),
            (status(5, 3, 2, &[(name, 3)]), 0),
            (status(5, 4, 0, &[(name, 4)]), 1),
            (status(5, 5, 0, &[(name, 4)]), 1),
            (status(5, 5, 0, &[]), 1),
            (status(5, 5, 0, &[(name, 5), ("xdp/deny/blocklist", 1)]), 1),
        ];
        for (status, differences) in rows {
            assert_eq!(status.disagreements().len(), differences, "{status:?}");
        }
    }
}
