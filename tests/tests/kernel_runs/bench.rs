//! Lives: weir-tests, in-kernel test runs.
//! Called by: the tests.
//! May touch: the loaded programs, a cgroup of its own.
//! Never: two at a time.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
};

use weir_agent::kernel::{CounterCell, Events, IngressHook, Kernel, Neighbours, Options, PacketHook, XdpMode, tick_ns};
use weir_common::{
    event::{MergeKey, MergeValue},
    verdict::{Hook, Reason, Verdict},
};
use weir_policy::{Compiled, Kind, ResourceId};

/// The programs under one policy. One at a time: the kernel charges test runs of one process against one clock and two CPUs.
pub struct Bench {
    pub kernel: Kernel,
    pub events: Events,
    pub compiled: Compiled,
    pub cgroup: PathBuf,
    _one_at_a_time: MutexGuard<'static, ()>,
}

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

impl Bench {
    /// Packets at sockets are those of an unknown workload.
    pub fn new(name: &str, documents: &str, unknown: Verdict) -> Self {
        let mut bench = Self::bare(name, documents, unknown);
        let _ = bench.kernel.install(&bench.compiled).unwrap_or_else(|error| panic!("{error}"));
        bench
    }

    /// Packets at sockets are those of Workload `default/workload`.
    pub fn of_workload(name: &str, documents: &str, workload: &str) -> Self {
        let mut bench = Self::bare(name, documents, Verdict::Deny);
        let id = ResourceId::new(Kind::Workload, "default", workload);
        bench.kernel.install_for_dry_runs(&bench.compiled, &id).unwrap_or_else(|error| panic!("{error}"));
        bench
    }

    /// Packets at the interface come from Workload `default/workload` and go to it.
    pub fn on_wire(name: &str, documents: &str, workload: &str) -> Self {
        let mut bench = Self::bare(name, documents, Verdict::Deny);
        let id = ResourceId::new(Kind::Workload, "default", workload);
        bench.kernel.install_on_wire_for_dry_runs(&bench.compiled, &id).unwrap_or_else(|error| panic!("{error}"));
        bench
    }

    /// Says what the interface refuses, and whose own it is (1: that of [`Self::on_wire`]).
    pub fn edge(&mut self, refuses: u32, workload: u32) {
        self.kernel.edge_for_dry_runs(refuses, workload).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Another interface that stands where this one would be found first. Before [`Self::edge`].
    pub fn crowd(&mut self, refuses: u32) {
        self.kernel.crowd_for_dry_runs(refuses).unwrap_or_else(|error| panic!("{error}"));
    }

    fn bare(name: &str, documents: &str, unknown: Verdict) -> Self {
        let guard = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let cgroup = weir_tests::world::cgroup::mount()
            .expect("cgroup2 is mounted")
            .join(format!("weir-{name}-{}", std::process::id()));
        fs::create_dir_all(&cgroup).expect("a cgroup of our own; needs root");
        let (kernel, events) = load(&cgroup, false);
        Self { kernel, events, compiled: compiled(documents, unknown), cgroup, _one_at_a_time: guard }
    }

    /// Puts other documents in force.
    pub fn policy(&mut self, documents: &str, unknown: Verdict) {
        self.compiled = compiled(documents, unknown);
        let _ = self.kernel.install(&self.compiled).unwrap_or_else(|error| panic!("{error}"));
    }

    /// A second kernel side over the same cgroup.
    pub fn another(&self) -> Kernel {
        load(&self.cgroup, false).0
    }

    /// One with the programs that stand in front of others', too.
    pub fn sharing(&self) -> Kernel {
        load(&self.cgroup, true).0
    }

    pub fn run(&self, hook: PacketHook, frame: &[u8]) -> u32 {
        self.kernel.dry_run(hook, frame).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Whether a packet passes, whatever the hook's own word for that is.
    pub fn passes(&self, hook: PacketHook, frame: &[u8]) -> bool {
        match (hook, self.run(hook, frame)) {
            (PacketHook::Xdp, answer @ (1 | 2)) => answer == 2,
            (
                PacketHook::Ingress | PacketHook::Egress | PacketHook::UntoldIngress | PacketHook::UntoldEgress,
                answer @ (0 | 1),
            ) => answer == 1,
            (PacketHook::FromWorkload | PacketHook::ToWorkload, answer @ (2 | u32::MAX)) => answer == u32::MAX,
            (_, answer) => panic!("{hook:?} answers {answer}"),
        }
    }

    /// The packet is refused, for this reason and no other.
    pub fn refuses(&self, hook: PacketHook, frame: &[u8], reason: Reason, name: &str) {
        let before = self.decided(place(hook), Verdict::Deny, reason);
        assert!(!self.passes(hook, frame), "{name}: passes {hook:?}");
        let after = self.decided(place(hook), Verdict::Deny, reason);
        assert_eq!(after, before + 1, "{name}: refused at {hook:?}, but not as {}", reason.name());
    }

    /// How many packets this hook has refused, for whatever reason.
    pub fn refused(&self, hook: PacketHook) -> u64 {
        let cells = self.kernel.counters().unwrap_or_else(|error| panic!("{error}"));
        let here = cells.iter().filter(|cell| cell.hook == place(hook) && cell.verdict == Verdict::Deny);
        here.map(|cell| cell.decided).sum()
    }

    pub fn merged(&mut self) -> Vec<(MergeKey, MergeValue)> {
        self.events.take_merged().unwrap_or_else(|error| panic!("{error}")).entries
    }

    pub fn decided(&self, hook: Hook, verdict: Verdict, reason: Reason) -> u64 {
        self.counted(hook, verdict, reason).map_or(0, |cell| cell.decided)
    }

    pub fn counted(&self, hook: Hook, verdict: Verdict, reason: Reason) -> Option<CounterCell> {
        let cells = self.kernel.counters().unwrap_or_else(|error| panic!("{error}"));
        cells.into_iter().find(|cell| (cell.hook, cell.verdict, cell.reason) == (hook, verdict, reason))
    }
}

/// Where a program's decisions are counted.
pub const fn place(hook: PacketHook) -> Hook {
    match hook {
        PacketHook::Xdp => Hook::Xdp,
        PacketHook::Ingress | PacketHook::UntoldIngress => Hook::Ingress,
        PacketHook::Egress | PacketHook::UntoldEgress => Hook::Egress,
        PacketHook::FromWorkload => Hook::FromWorkload,
        PacketHook::ToWorkload => Hook::ToWorkload,
    }
}

fn load(cgroup: &Path, chain: bool) -> (Kernel, Events) {
    let options = Options {
        cgroup_root: cgroup.to_owned(),
        interfaces: Vec::new(),
        xdp_mode: XdpMode::Generic,
        neighbours: Neighbours { chain, ..Neighbours::default() },
        strict: false,
        ingress: IngressHook::Cgroup,
        count_runs: false,
        drop_bytes: 0,
        // All that only some ask for.
        kernel_drops: chain,
        pin: false,
    };
    Kernel::load(options).unwrap_or_else(|error| {
        // Nobody else will: there is no bench yet.
        let _ = fs::remove_dir(cgroup);
        panic!("{error}")
    })
}

/// Generation 7 of `documents`.
pub fn compiled(documents: &str, unknown: Verdict) -> Compiled {
    weir_tests::compiled::compiled(documents, 7, unknown, tick_ns()).unwrap_or_else(|faults| panic!("{faults:?}"))
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.cgroup);
    }
}
