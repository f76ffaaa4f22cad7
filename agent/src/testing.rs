//! Lives: weir-agent, tests only.
//! Called by: the tests of `control`, `telemetry` and `runtime`.
//! May touch: memory shared with the test that made it.
//! Never: succeeds where it was told to fail.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use weir_common::{
    addr::{Addr, Port},
    counters,
    event::{Event, Kind, LimitStats, Process, Totals},
    verdict::{Direction, Hook, Reason, Verdict},
};
use weir_policy::{Compiled, CompiledWorkload, Prefix, ResourceId, sets::Loaded};

use crate::datapath::{
    AttachState, CounterCell, Datapath, DatapathError, EventSource, Fill, InterfaceSeen, InterfaceState, LimitTable,
    Merged, Observed, OthersLost, ProgramRuns, SetCount, Shield, WorkloadState,
};

/// What a fake kernel holds; the test keeps a handle.
#[derive(Default)]
pub struct Inner {
    pub installed: Vec<Compiled>,
    pub reconciled: Vec<Vec<ResourceId>>,
    pub fail_install: bool,
    /// What was taken over of address sets, how often whole, and whether to refuse that, or single entries.
    pub loaded: Loaded,
    pub reloaded: u32,
    pub fail_sets: bool,
    pub sets_full: bool,
    /// Events that arrive while the next merge epoch is closed.
    pub late: Vec<Event>,
    /// How many more single entries find room; as many as come where it is not said.
    pub sets_room: Option<u32>,
    pub fail_counters: bool,
    pub fail_merged: bool,
    pub break_wait: bool,
    pub counters: Vec<CounterCell>,
    pub events: VecDeque<Event>,
    pub merged: VecDeque<Merged>,
    pub dropped: bool,
}

/// A kernel in memory.
#[derive(Clone, Default)]
pub struct Fake(Arc<Mutex<Inner>>);

/// The datapath half of a fake; its end is noted.
pub struct FakeDatapath(Fake);

impl Fake {
    pub fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    pub fn datapath(&self) -> FakeDatapath {
        FakeDatapath(self.clone())
    }

    /// A decision of the fake kernel: counted, and an event in the ring.
    pub fn decide(&self, event: Event) {
        let cell = (Hook::from_u8(event.hook), Verdict::from_u8(event.verdict), Reason::from_u8(event.reason));
        let (Some(hook), Some(verdict), Some(reason)) = cell else { panic!("not a decision") };
        let mut inner = self.inner();
        inner.events.push_back(event);
        let index = counters::cell(hook, verdict, reason);
        let found = inner.counters.iter_mut().find(|c| counters::cell(c.hook, c.verdict, c.reason) == index);
        match found {
            Some(cell) => cell.decided += 1,
            None => inner.counters.push(CounterCell { hook, verdict, reason, decided: 1, lost: 0, quiet: 0 }),
        }
    }
}

impl Drop for FakeDatapath {
    fn drop(&mut self) {
        self.0.inner().dropped = true;
    }
}

#[derive(Debug, thiserror::Error)]
#[error("told to fail")]
pub struct ToldToFail;

impl Datapath for FakeDatapath {
    fn install(&mut self, compiled: &Compiled, loaded: &Loaded) -> Result<(), DatapathError> {
        let mut inner = self.0.inner();
        if inner.fail_install {
            return Err(ToldToFail.into());
        }
        inner.installed.push(compiled.clone());
        inner.loaded = loaded.clone();
        Ok(())
    }

    fn numbers(&self) -> BTreeMap<ResourceId, u32> {
        BTreeMap::new()
    }

    fn reload_sets(&mut self, _: &Compiled, loaded: &Loaded) -> Result<(), DatapathError> {
        let mut inner = self.0.inner();
        if inner.fail_sets {
            return Err(ToldToFail.into());
        }
        inner.loaded = loaded.clone();
        inner.reloaded += 1;
        Ok(())
    }

    fn change_sets(&mut self, loaded: &Loaded, prefix: Prefix) -> bool {
        let mut inner = self.0.inner();
        // One that goes needs no room.
        let comes = loaded.iter().any(|(_, set)| set.entries.get(&prefix).is_some());
        let refused = inner.sets_full || comes && inner.sets_room == Some(0);
        if !refused {
            inner.sets_room = inner.sets_room.map(|room| room - u32::from(comes));
            // What of a change is still to come is not known here yet.
            let known = inner.loaded.get("bad").map(|set| set.entries.clone()).unwrap_or_default();
            let given = loaded.get("bad").and_then(|set| set.entries.get(&prefix));
            let mut entries = known;
            match given {
                Some(ends) => drop(entries.insert(prefix, ends)),
                None => drop(entries.remove(&prefix)),
            }
            inner.loaded.put("bad", entries);
        }
        !refused
    }

    fn set_counts(&self) -> Result<BTreeMap<String, SetCount>, DatapathError> {
        Ok(BTreeMap::from([("bad".to_owned(), SetCount { packets: 3, bytes: 300 })]))
    }

    fn set_bytes(&self) -> usize {
        4096
    }

    fn reconcile(&mut self, workloads: &[Arc<CompiledWorkload>]) -> Observed {
        let mut inner = self.0.inner();
        assert!(!inner.installed.is_empty(), "attached before a generation was in force");
        inner.reconciled.push(workloads.iter().map(|workload| workload.id.clone()).collect());
        let state = |(index, workload): (usize, &Arc<CompiledWorkload>)| WorkloadState {
            id: workload.id.clone(),
            number: if workload.cgroup.is_some() { index as u32 + 1 } else { 0 },
            lingering: 0,
            cgroup_id: if workload.cgroup.is_some() { index as u64 + 1001 } else { 0 },
            state: if workload.cgroup.is_some() { AttachState::Attached } else { AttachState::Remote },
            detail: String::new(),
            hooks: vec!["ingress"],
            uncovered: vec!["icmp_echo"],
        };
        let interfaces = vec![InterfaceState {
            name: "eth0".into(),
            index: 7,
            mode: "native",
            detail: String::new(),
            refuses: vec!["martian"],
        }];
        Observed {
            workloads: workloads.iter().enumerate().map(state).collect(),
            interfaces,
            enforcing: true,
            pinned: true,
            repairs: 0,
            own: None,
        }
    }

    fn others_lost(&self) -> Result<OthersLost, DatapathError> {
        Ok(OthersLost::default())
    }

    fn counters(&self) -> Result<Vec<CounterCell>, DatapathError> {
        let inner = self.0.inner();
        if inner.fail_counters { Err(ToldToFail.into()) } else { Ok(inner.counters.clone()) }
    }

    fn limit_stats(&self, limits: usize) -> Result<Vec<LimitStats>, DatapathError> {
        Ok((0..limits as u64).map(|n| LimitStats { passed_packets: n * 10, ..LimitStats::default() }).collect())
    }

    fn limit_table(&self) -> Result<LimitTable, DatapathError> {
        Ok(LimitTable { slots: 8, busy_permille: 500 })
    }

    fn shields(&self) -> Result<Vec<Shield>, DatapathError> {
        Ok(Vec::new())
    }

    fn seen(&self) -> Result<Vec<InterfaceSeen>, DatapathError> {
        Ok(vec![InterfaceSeen { index: 7, seen: 5, passed: 3 }])
    }

    fn fill(&self) -> Result<Vec<Fill>, DatapathError> {
        Ok(vec![Fill::new("addresses", 3, 8)])
    }

    fn runs(&self) -> Result<Vec<ProgramRuns>, DatapathError> {
        Ok(vec![ProgramRuns { program: "ingress", runs: 4, time: Duration::from_nanos(1_500) }])
    }

    fn tick_ns(&self) -> u64 {
        4_000_000
    }
}

impl EventSource for Fake {
    fn wait(&mut self, _: Duration) -> io::Result<()> {
        if self.inner().break_wait {
            return Err(io::Error::other(ToldToFail));
        }
        // What a poll without events does, only shorter.
        std::thread::sleep(Duration::from_millis(2));
        Ok(())
    }

    fn drain(&mut self, limit: usize, sink: &mut dyn FnMut(&Event)) -> usize {
        let mut inner = self.inner();
        let count = inner.events.len().min(limit);
        inner.events.drain(..count).for_each(|event| sink(&event));
        count
    }

    fn take_merged(&mut self) -> Result<Merged, DatapathError> {
        let mut inner = self.inner();
        let late = std::mem::take(&mut inner.late);
        inner.events.extend(late);
        if inner.fail_merged { Err(ToldToFail.into()) } else { Ok(inner.merged.pop_front().unwrap_or_default()) }
    }
}

/// `10.0.0.LAST`.
pub fn addr(last: u8) -> Addr {
    Addr::v4([10, 0, 0, last])
}

/// An event between 10.0.0.1:4000 and 10.0.0.2:80 at one second, of generation 2.
pub fn event(kind: Kind, hook: Hook, direction: Direction, cookie: u64) -> Event {
    Event {
        time_ns: 1_000_000_000,
        generation: 2,
        cookie,
        cgroup: 0,
        local: addr(1),
        remote: addr(2),
        rule: 0,
        local_identity: 16,
        remote_identity: 17,
        workload: 0,
        local_port: Port::new(4000),
        remote_port: Port::new(80),
        kind: kind as u8,
        hook: hook as u8,
        direction: direction as u8,
        verdict: if kind == Kind::Verdict { Verdict::Allow as u8 } else { 0 },
        reason: if kind == Kind::Verdict { Reason::Rule as u8 } else { 0 },
        protocol: 6,
        tcp_flags: 0,
        old_state: 0,
        ifindex: 0,
        detail: [0; 32],
    }
}

/// The detail of an event that names a process.
pub fn process(pid: u32, command: &str) -> [u8; 32] {
    let mut comm = [0; 16];
    comm[..command.len()].copy_from_slice(command.as_bytes());
    bytes(&Process { pid, uid: 5, comm, staged: 0, reserved: 0 })
}

/// The detail of a close.
pub fn totals(totals: Totals) -> [u8; 32] {
    bytes(&totals)
}

fn bytes(value: &(impl zerocopy::IntoBytes + zerocopy::Immutable)) -> [u8; 32] {
    value.as_bytes().try_into().unwrap()
}
