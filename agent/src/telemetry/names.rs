//! Lives: weir-agent, between control and telemetry.
//! Called by: `control`, which publishes a generation before it is installed and the attachments after each reconcile;
//!   `telemetry`, which takes a snapshot per batch of events.
//! May touch: its own memory.
//! Never: changes a snapshot somebody holds; keeps more than [`KEPT`] generations.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use foldhash::HashMap;
use weir_common::addr::Addr;
use weir_policy::{Compiled, CompiledWorkload, ResourceId, ServiceNames};

use super::record::{RuleName, WorkloadName};
use crate::datapath::Observed;

/// Generations whose tables are kept, so that late events are attributed by the generation in the record.
pub const KEPT: usize = 64;

/// The names behind the numbers in events.
#[derive(Debug, Default)]
pub struct Names {
    current: RwLock<Arc<Snapshot>>,
}

/// The names at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Counts the changes: two snapshots of one version are one.
    version: u64,
    generations: BTreeMap<u64, Arc<Generation>>,
    /// By number, and by the generation since which a workload has it: a late event is about the one that had it.
    numbers: HashMap<u32, Holders>,
    cgroups: HashMap<u64, Arc<str>>,
    interfaces: HashMap<u32, Arc<str>>,
}

/// Who has had a number, each since a generation, the oldest first. Most numbers have had one.
type Holders = Vec<(u64, Arc<WorkloadName>)>;

/// The names of one generation.
#[derive(Debug, Default)]
struct Generation {
    rules: Vec<Arc<RuleName>>,
    by_addr: HashMap<Addr, Arc<WorkloadName>>,
    by_id: HashMap<ResourceId, Arc<WorkloadName>>,
    services: ServiceNames,
}

impl Names {
    /// The names now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds a generation. Before it is installed: its first event may be read before `install` returns.
    pub fn publish(&self, compiled: &Compiled) {
        self.change(|snapshot| {
            snapshot.generations.insert(compiled.generation, Arc::new(Generation::of(compiled)));
            while snapshot.generations.len() > KEPT {
                snapshot.generations.pop_first();
            }
        });
    }

    /// Takes a generation back that could not be installed.
    pub fn retract(&self, generation: u64) {
        self.change(|snapshot| {
            snapshot.generations.remove(&generation);
        });
    }

    /// Takes over which workload has which number. Numbers that are gone stay until they are given to another: events may be late.
    pub fn number(&self, numbers: &BTreeMap<ResourceId, u32>) {
        self.change(|snapshot| snapshot.number(numbers.iter().map(|(id, number)| (id, *number)), |_, _| ()));
    }

    /// Takes over what a reconcile found.
    pub fn attach(&self, observed: &Observed) {
        self.change(|snapshot| {
            let attached = observed.workloads.iter().filter(|workload| workload.number != 0);
            let cgroups: BTreeMap<u32, u64> = attached.clone().map(|state| (state.number, state.cgroup_id)).collect();
            snapshot.number(attached.map(|workload| (&workload.id, workload.number)), |snapshot, (number, name)| {
                if let (Some(cgroup), Some(id)) = (&name.cgroup, cgroups.get(&number)) {
                    snapshot.cgroups.insert(*id, Arc::clone(cgroup));
                }
            });
            let named = observed.interfaces.iter().filter(|interface| interface.index != 0);
            snapshot.interfaces.extend(named.map(|interface| (interface.index, Arc::from(interface.name.as_str()))));
        });
    }

    fn change(&self, edit: impl FnOnce(&mut Snapshot)) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let mut next = Snapshot::clone(&current);
        next.version += 1;
        edit(&mut next);
        *current = Arc::new(next);
    }
}

impl Snapshot {
    /// Another after each change.
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// Gives numbers to workloads of the newest generation, and tells of each.
    fn number<'i>(
        &mut self,
        numbers: impl Iterator<Item = (&'i ResourceId, u32)>,
        mut tell: impl FnMut(&mut Self, (u32, &Arc<WorkloadName>)),
    ) {
        let Some((since, latest)) = self.generations.last_key_value() else { return };
        let (since, latest) = (*since, Arc::clone(latest));
        let oldest = self.generations.keys().next().copied().unwrap_or(since);
        for (id, number) in numbers {
            let Some(name) = latest.by_id.get(id) else { continue };
            take_over(self.numbers.entry(number).or_default(), since, oldest, name);
            tell(self, (number, name));
        }
    }

    /// The rule `number` of `generation`; `None` for 0, and for a generation too old to be kept.
    pub fn rule(&self, generation: u64, number: u32) -> Option<Arc<RuleName>> {
        let index = usize::try_from(number).ok().filter(|index| *index != 0)?;
        self.generations.get(&generation)?.rules.get(index).cloned()
    }

    /// The workload that claims `addr` in `generation`, or in the latest where the event carries none.
    pub fn by_addr(&self, generation: u64, addr: &Addr) -> Option<Arc<WorkloadName>> {
        let latest = || self.generations.last_key_value().map(|(_, generation)| generation);
        self.generations.get(&generation).or_else(latest)?.by_addr.get(addr).cloned()
    }

    /// The service that has `addr`, likewise.
    pub fn service(&self, generation: u64, addr: &Addr) -> Option<Arc<str>> {
        let latest = || self.generations.last_key_value().map(|(_, generation)| generation);
        self.generations.get(&generation).or_else(latest)?.services.get(addr).cloned()
    }

    /// The workload that has this number on this node in `generation`, or the one that had it last before; where the event
    /// carries no generation, the latest.
    pub fn by_number(&self, generation: u64, number: u32) -> Option<Arc<WorkloadName>> {
        let had = self.numbers.get(&number)?;
        let until = if generation == 0 { u64::MAX } else { generation };
        let then = had.iter().rev().find(|(since, _)| *since <= until);
        then.or_else(|| had.first()).map(|(_, name)| Arc::clone(name))
    }

    /// The path of a workload's cgroup.
    pub fn cgroup(&self, id: u64) -> Option<Arc<str>> {
        self.cgroups.get(&id).cloned()
    }

    /// The name of an interface.
    pub fn interface(&self, index: u32) -> Option<Arc<str>> {
        (index != 0).then(|| self.interfaces.get(&index).cloned())?
    }
}

/// Notes that a workload has a number since this generation, and forgets who had it before the oldest that is kept.
fn take_over(had: &mut Holders, since: u64, oldest: u64, name: &Arc<WorkloadName>) {
    if had.last().map(|(_, last)| last) != Some(name) {
        had.retain(|(other, _)| *other < since);
        had.push((since, Arc::clone(name)));
    }
    let forgotten = had.iter().skip(1).take_while(|(next, _)| *next <= oldest).count();
    had.drain(..forgotten);
}

impl Generation {
    fn of(compiled: &Compiled) -> Self {
        let rule =
            |info: &weir_policy::RuleInfo| Arc::new(RuleName { policy: info.policy.clone(), rule: info.rule.clone() });
        let rules = compiled.rules.iter().map(rule).collect();
        let mut names = Self { rules, services: compiled.service_names.clone(), ..Self::default() };
        for workload in compiled.workloads.values() {
            let name = Arc::new(WorkloadName::of(workload));
            names.by_addr.extend(workload.addresses.iter().map(|addr| (*addr, Arc::clone(&name))));
            names.by_id.insert(workload.id.clone(), name);
        }
        names
    }
}

impl WorkloadName {
    fn of(workload: &CompiledWorkload) -> Self {
        Self {
            name: format!("{}/{}", workload.id.namespace, workload.id.name),
            labels: workload.labels.iter().map(|(key, value)| format!("{key}={value}")).collect(),
            cgroup: workload.cgroup.as_deref().map(Arc::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use weir_common::verdict::Verdict;
    use weir_policy::{Context, Kind, Timestamp, compile, parse};

    use super::*;
    use crate::datapath::{AttachState, WorkloadState};

    fn generation(names: &Names, generation: u64, workload: &str) {
        let text = format!(
            "apiVersion: weir.dev/v1alpha1\nkind: Workload\nmetadata: {{name: {workload}}}\nspec: {{cgroup: {workload}}}\n"
        );
        let resources = parse("t.yaml", &text).unwrap().into_iter().collect();
        let context = Context {
            generation,
            unknown: Verdict::Allow,
            unselected: Verdict::Allow,
            host_addresses: vec![],
            tick_ns: 0,
            now: Timestamp(0),
        };
        names.publish(&compile(&resources, &context).unwrap());
        let state = WorkloadState {
            id: ResourceId::new(Kind::Workload, "default", workload),
            number: 1,
            lingering: 0,
            cgroup_id: generation,
            state: AttachState::Attached,
            detail: String::new(),
            hooks: vec![],
            uncovered: vec![],
        };
        names.attach(&Observed { workloads: vec![state], interfaces: vec![], enforcing: true, ..Observed::default() });
    }

    /// Merged decisions are read up to a second after they were made.
    #[test]
    fn a_late_event_names_the_workload_that_had_the_number_then() {
        let names = Names::default();
        for (number, workload) in [(2, "a"), (3, "a"), (5, "b")] {
            generation(&names, number, workload);
        }
        let named = |generation| names.snapshot().by_number(generation, 1).unwrap().name.clone();
        let rows = [(1, "a"), (2, "a"), (3, "a"), (4, "a"), (5, "b"), (9, "b"), (0, "b")];
        for (generation, expected) in rows {
            assert_eq!(named(generation), format!("default/{expected}"), "{generation}");
        }
        assert!(names.snapshot().by_number(5, 2).is_none());
    }

    #[test]
    fn who_had_a_number_is_forgotten_with_the_generations() {
        let names = Names::default();
        for number in 1..=KEPT as u64 * 3 {
            generation(&names, number, if number % 2 == 0 { "a" } else { "b" });
        }
        let snapshot = names.snapshot();
        assert_eq!((snapshot.generations.len(), snapshot.numbers[&1].len()), (KEPT, KEPT));
    }
}
