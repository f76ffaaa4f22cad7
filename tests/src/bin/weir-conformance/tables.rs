//! Lives: weir-conformance.
//! Called by: check, for what the kernel would say.
//! May touch: nothing.
//! Never: lets the tables be more open than the evaluator.

use std::collections::BTreeMap;
use std::net::IpAddr;

use weir_common::addr::{Addr, Protocol};
use weir_common::verdict::Verdict;
use weir_policy::{Answer, Compiled, Compiler, Context, Fault, Kind, ResourceId, Resources, addr, compile};

use crate::case::State;
use crate::check::context;
use crate::walk;

/// The tables of every node, and on which of them each pod is judged.
pub struct Tables {
    nodes: BTreeMap<String, Compiled>,
    places: BTreeMap<ResourceId, String>,
}

/// What each node's agent has, from state to state.
pub type Compilers = BTreeMap<String, Compiler>;

impl Tables {
    /// Compiles the state as each node does that starts now.
    pub fn of(state: &State, resources: &Resources) -> Result<Self, String> {
        Self::by(state, resources, |_, context, placed| compile(&placed, &context))
    }

    /// Changes what each node has to the state, by what differs and in an order that `seed` decides.
    pub fn changed(compilers: &mut Compilers, state: &State, resources: &Resources, seed: u64) -> Result<Self, String> {
        Self::by(state, resources, |node, context, placed| {
            let compiler = compilers.entry(node.to_owned()).or_insert_with(|| Compiler::new(context));
            compiler.apply(walk::edits(compiler.resources(), &placed, seed))?;
            Ok(compiler.compiled())
        })
    }

    fn by(
        state: &State,
        resources: &Resources,
        mut tables_of: impl FnMut(&str, Context, Resources) -> Result<Compiled, Vec<Fault>>,
    ) -> Result<Self, String> {
        let mut tables = Self { nodes: BTreeMap::new(), places: BTreeMap::new() };
        for pod in state.pods.iter().filter(|pod| !pod.host_network) {
            let id = ResourceId::new(Kind::Pod, &pod.namespace, &pod.name);
            tables.places.insert(id, pod.node.clone().unwrap_or_default());
        }
        let nodes: std::collections::BTreeSet<_> = tables.places.values().cloned().collect();
        for node in nodes {
            let here = |id: &ResourceId| tables.places.get(id) == Some(&node);
            let placed = resources.iter().cloned().map(|resource| {
                let cgroup = resource.id().to_string();
                if here(resource.id()) { resource.running_in(&cgroup) } else { resource }
            });
            let ips = state.nodes.iter().filter(|known| known.name == node).flat_map(|known| &known.ips);
            let host_addresses = ips.filter_map(|ip| ip.parse::<IpAddr>().ok()).map(addr).collect();
            let context = Context { host_addresses, ..context() };
            let compiled = tables_of(&node, context, placed.collect()).map_err(|faults| {
                let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
                format!("does not compile: {}", faults.join("; "))
            })?;
            tables.nodes.insert(node, compiled);
        }
        Ok(tables)
    }

    /// Compares the tables with one answer, its rule included. `true`: they are more closed, as they may be for SCTP.
    pub fn agree(&self, answer: &Answer, remote: Addr, (protocol, port): (Protocol, u16)) -> Result<bool, String> {
        let compiled = self.places.get(&answer.workload).and_then(|node| self.nodes.get(node));
        let compiled = compiled.ok_or_else(|| format!("no node judges {}", answer.workload))?;
        let local = compiled.workloads.get(&answer.workload);
        let local = local.ok_or_else(|| format!("the tables do not know {}", answer.workload))?;
        let said = compiled.seen_by(local).decide(answer.direction, remote, protocol, port);
        let said = said.ok_or("the image does not open")?;
        let rule = usize::try_from(said.rule).ok().and_then(|rule| compiled.rules.get(rule));
        let rule = rule.ok_or_else(|| format!("the tables name rule {}, which is none", said.rule))?;
        if (said.verdict, said.reason, &rule.policy, &rule.rule)
            == (answer.verdict, answer.reason, &answer.policy, &answer.rule)
        {
            return Ok(false);
        }
        if protocol == Protocol::SCTP && (said.verdict == Verdict::Deny || said.verdict == answer.verdict) {
            return Ok(said.verdict != answer.verdict);
        }
        let by_tables = format!("{} by {:?} {} {}", said.verdict.name(), said.reason, rule.policy, rule.rule);
        let (direction, workload) = (answer.direction.name(), &answer.workload);
        Err(format!(
            "the tables say {by_tables}, the evaluator {} of {workload}: {}: {}",
            direction,
            answer.verdict.name(),
            answer.why
        ))
    }
}
