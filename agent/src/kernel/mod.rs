//! Lives: agent, user space. The only folder that names aya.
//! Called by: `control`, which installs generations and reconciles attachments; `telemetry`, which owns [`Events`].
//! May touch: BPF objects, cgroup directories and interfaces the agent was given.
//! Never: the root cgroup, another program's attachment, or an interface that was not named.

pub mod adopted;
mod attach;
mod batch;
mod cgroups;
mod content;
mod counters;
mod dry_run;
mod error;
mod events;
pub mod fence;
mod generation;
mod interfaces;
mod keep;
mod kernel_drops;
mod limit_state;
mod limits;
mod links;
mod load;
mod lookups;
mod mapped;
pub mod namespaces;
mod neighbours;
mod own;
mod pins;
mod places;
pub mod porter;
pub mod preflight;
mod query;
pub mod seal;
mod sets;
mod shields;
mod slot;
pub mod sockets;
pub mod threads;
mod tracepoints;
pub mod unowned;
mod usage;
mod verifier;
mod wires;

use std::sync::Arc;

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::OwnedFd,
    path::PathBuf,
};

use aya::Ebpf;
pub use cgroups::{AttachState, WorkloadState};
pub use counters::{CounterCell, InterfaceSeen, OthersLost};
pub use dry_run::{PacketHook, ProgramSize, Runner};
pub use error::{KernelError, Obstacle};
pub use events::{Events, Merged};
pub use interfaces::{InterfaceOption, InterfaceState, REFUSALS, XdpMode};
use keep::{At, Keep};
pub use keep::{Detached, detach, left_in_force};
pub use kernel_drops::DropReasons;
pub use limit_state::LimitTable;
pub use load::tick_ns;
pub use neighbours::Neighbours;
use nix::time::{ClockId, clock_gettime};
pub use pins::shares_slots;
use places::Places;
pub use sets::SetCount;
pub use shields::Shield;
pub use slot::{ReadBack, Written};
pub use usage::{Fill, ProgramRuns};
use weir_common::{
    decide::Image,
    image::{FLAG_REFUSE, SET_REFUSES},
    maps,
    sets::MAX_SETS,
    verdict::{Direction, Hook},
};
use weir_policy::{Compiled, CompiledWorkload, LimitInfo, Prefix, ResourceId, sets::Loaded};

use crate::faults;

/// What the kernel side is to manage.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory in the cgroup2 tree below which workloads live. Never the tree's own root.
    pub cgroup_root: PathBuf,
    /// Where XDP goes, and what it refuses there.
    pub interfaces: Vec<InterfaceOption>,
    /// How XDP programs are attached.
    pub xdp_mode: XdpMode,
    /// What is done where somebody else's program is there already.
    pub neighbours: Neighbours,
    /// Judge the packets of sockets that no workload owns, too: for nodes where unknown workloads are denied.
    pub strict: bool,
    /// Which program judges what is opened to a workload.
    pub ingress: IngressHook,
    /// Have the kernel count and time the runs of programs.
    pub count_runs: bool,
    /// How many bytes of dropped packets are told; 0 for none.
    pub drop_bytes: u32,
    /// Whether what the kernel drops by itself is recorded, where it can be watched.
    pub kernel_drops: bool,
    /// Leave everything in force when the agent ends: links are pinned below [`Neighbours::bpffs`].
    pub pin: bool,
}

/// Which program judges what is opened to a workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IngressHook {
    /// The one at its cgroup, which sees every packet.
    #[default]
    Cgroup,
    /// The one at its network namespace, which sees openings, where the workload has a namespace to itself; no program sees its
    /// packets then.
    SkLookup,
}

/// The loaded programs and their attachments. Dropping it detaches everything, unless it is pinned.
pub struct Kernel {
    ebpf: Ebpf,
    options: Options,
    keep: Keep,
    /// Nothing is left of agents before.
    rules_alone: bool,
    tables: generation::Slots,
    numbers: BTreeMap<ResourceId, u32>,
    limits: Arc<Vec<LimitInfo>>,
    cgroups: cgroups::Cgroups,
    interfaces: interfaces::Interfaces,
    wires: wires::Wires,
    lookups: lookups::Lookups,
    refusing: Refusing,
    shields: shields::Shields,
    /// The kernel counts runs for as long as it is open.
    _runs: Option<OwnedFd>,
    _logger: Option<load::LogTask>,
}

/// What is attached after a [`Kernel::reconcile`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// One entry per workload, in the order given.
    pub workloads: Vec<WorkloadState>,
    /// One entry per interface or pattern without an interface.
    pub interfaces: Vec<InterfaceState>,
    /// True when the root programs, every workload whose cgroup exists and every interface that exists are attached, by a
    /// generation in force.
    pub enforcing: bool,
    /// Whether what is attached outlives the agent.
    pub pinned: bool,
    /// How often something of ours was found taken away, and was attached again.
    pub repairs: u64,
    /// The agent's own cgroup, if it is in the managed tree: nobody judges it.
    pub own: Option<PathBuf>,
}

impl Kernel {
    /// Loads every program into the kernel, which verifies them. Attaches nothing; what an agent before left in force stays until
    /// [`Kernel::reconcile`] has put this one's programs beside it.
    ///
    /// # Errors
    /// Names the program and shows the verifier's telling lines, or says which privilege or kernel feature is missing.
    pub fn load(options: Options) -> Result<(Self, Events), KernelError> {
        cgroups::check_root(&options.cgroup_root)?;
        let mut places = Places::of_running_kernel();
        places.drops = places.drops.filter(|_| options.kernel_drops);
        let mut ebpf = load::load(options.neighbours.chain, options.drop_bytes, &places)?;
        let mut keep = match options.pin {
            true => Keep::open(&options.neighbours.bpffs, &options.cgroup_root)?,
            false => Keep::nothing(),
        };
        keep.know(attach::ids(&ebpf));
        let logger = load::forward_logs(&mut ebpf);
        let tables = generation::Slots::take(&mut ebpf)?;
        let reasons = match options.kernel_drops {
            true => kernel_drops::watch(&mut ebpf, places.drops),
            false => DropReasons::new(),
        };
        let adopted = adopted::watch(&mut ebpf, places.sockets.is_some());
        let events = Events::take(&mut ebpf, options.drop_bytes > 0, reasons, adopted)?;
        let cgroups = cgroups::Cgroups::take(&mut ebpf)?;
        let interfaces = interfaces::Interfaces::take(&mut ebpf, &options)?;
        let wires = wires::Wires::take(&mut ebpf)?;
        let (numbers, lookups, refusing) = (BTreeMap::new(), lookups::Lookups::default(), Refusing::default());
        let limits = Arc::default();
        let runs = if options.count_runs { usage::count_runs() } else { None };
        let kernel = Self {
            ebpf,
            options,
            keep,
            rules_alone: false,
            tables,
            numbers,
            limits,
            cgroups,
            interfaces,
            wires,
            lookups,
            refusing,
            shields: shields::Shields::default(),
            _runs: runs,
            _logger: logger,
        };
        Ok((kernel, events))
    }

    /// Puts a compiled policy in force: writes into the idle slot what it does not hold yet, then switches with one store. On return
    /// every new decision is made by it.
    ///
    /// # Errors
    /// On an error the generation before stays in force, untouched.
    pub fn install(&mut self, compiled: &Compiled) -> Result<Written, KernelError> {
        self.install_with(compiled, &Loaded::default())
    }

    /// Numbers of local workloads in what was installed last.
    #[must_use]
    pub const fn numbers(&self) -> &BTreeMap<ResourceId, u32> {
        &self.numbers
    }

    /// The same, with what was loaded into address sets beside their documents.
    ///
    /// # Errors
    /// As there.
    pub fn install_with(&mut self, compiled: &Compiled, loaded: &Loaded) -> Result<Written, KernelError> {
        let numbers = cgroups::number(&self.numbers, &compiled.local())?;
        self.prepare_limits(compiled)?;
        let (written, new_sets) = self.tables.install(compiled, &numbers, &self.interfaces.names(), loaded)?;
        // In force from here on: nothing below may fail.
        faults::passed("install.settled");
        self.take_over_limits(compiled);
        self.refusing = Refusing::of(compiled, &numbers);
        self.numbers = numbers;
        if let Err(error) = sets::clear(&mut self.ebpf, &new_sets) {
            tracing::warn!(error = %error, "the counts of new address sets begin with those of old ones");
        }
        let Written { pages, endpoints, cidrs, sets, whole } = written;
        tracing::debug!(generation = compiled.generation, pages, endpoints, cidrs, sets, whole, "tables written");
        Ok(written)
    }

    /// Takes over what was loaded into address sets, without another generation: what is new is in force on return, all at once.
    ///
    /// # Errors
    /// On an error what was loaded before stays in force.
    pub fn reload_sets(&mut self, compiled: &Compiled, loaded: &Loaded) -> Result<(), KernelError> {
        self.tables.reload_sets(compiled, loaded)
    }

    /// Takes over that one entry of a loaded set was added, removed, or got another end; `false` when there is no room for it in
    /// the tables in force, which [`Kernel::reload_sets`] makes.
    pub fn change_sets(&mut self, loaded: &Loaded, prefix: Prefix) -> bool {
        self.tables.sets_mut().change(loaded, prefix)
    }

    /// What each address set in force has refused, by its name.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn set_counts(&self) -> Result<BTreeMap<String, SetCount>, KernelError> {
        sets::counts(&self.ebpf, self.tables.sets().numbers().iter())
    }

    /// Bytes of kernel memory that the address sets' images take.
    #[must_use]
    pub fn set_bytes(&self) -> usize {
        self.tables.sets().bytes()
    }

    /// What must be so before the generation is in force: a number that goes from one limit to another starts at nothing.
    fn prepare_limits(&mut self, compiled: &weir_policy::Compiled) -> Result<(), KernelError> {
        error::map_point("install.limits").map_err(error::map(maps::LIMIT_STATS))?;
        for (number, limit) in (0u32..).zip(compiled.limits.iter()).filter(|(_, limit)| limit.is_some()) {
            if self.limits.get(number as usize).is_none_or(|before| before.policy != limit.policy) {
                limit_state::forget(&mut self.ebpf, number)?;
                shields::forget(&mut self.ebpf, number)?;
            }
        }
        self.shields.prepare(&mut self.ebpf, compiled)
    }

    /// The limits of the generation in force.
    fn take_over_limits(&mut self, compiled: &weir_policy::Compiled) {
        self.limits = Arc::clone(&compiled.limits);
        self.shields.take_over(&mut self.ebpf, compiled);
    }

    /// Brings attachments in line with `workloads` and with the interfaces that exist now. Call after `install` and
    /// regularly: cgroups and interfaces come and go.
    pub fn reconcile(&mut self, workloads: &[Arc<CompiledWorkload>]) -> Observed {
        self.keep.look();
        let own = self.cgroups.exempt_agent(&self.options.cgroup_root).unwrap_or_else(|error| {
            tracing::error!(error = %error, "the agent's own cgroup could not be made known to the kernel programs");
            None
        });
        let local = workloads;
        let (mut workloads, covered) = self.reconcile_workloads(local);
        // Only now: to a strict node's programs at the root, a workload that is not attached yet would be a stranger. Meanwhile what an
        // agent before has left there judges.
        let (root, strict) = (&self.options.cgroup_root, self.options.strict);
        let root = self.cgroups.reconcile_root(&mut self.ebpf, &self.keep, root, strict);
        if let Err(error) = &root {
            tracing::error!(error = %error, "the programs at the root of the managed tree are not attached");
        }
        self.wires.reconcile((&mut self.ebpf, &self.keep), &self.numbers, local, &mut workloads);
        self.tell(&covered, &mut workloads);
        let limits = self.limits.iter().any(LimitInfo::is_some);
        let (shields, owners) = (&self.shields, self.wires.owners());
        let answers = |interface: &str| shields.act_on(interface);
        let needs = interfaces::Needs { owners: &owners, limits, answers: &answers };
        let interfaces = self.interfaces.reconcile((&mut self.ebpf, &self.keep), &self.options, &needs);
        self.shields.watch(&self.ebpf, &interfaces);
        let failed = workloads.iter().any(|workload| workload.state == AttachState::Failed)
            || interfaces.iter().any(|interface| interface.mode == interfaces::FAILED);
        let in_force = root.is_ok() && self.tables.generation() > 0;
        // A crash would take what is not pinned out of force: until then what an agent before left stays beside it.
        if in_force && !self.rules_alone && !self.keep.lacks_pins() {
            self.release_before();
        }
        let (pinned, repairs) = (self.keep.keeps(), self.keep.repairs());
        Observed { workloads, interfaces, enforcing: in_force && !failed, pinned, repairs, own }
    }

    /// Lets go of what an agent before kept, where this one's programs stand in its place or nothing should.
    fn release_before(&mut self) {
        let (root, cgroups, wires, interfaces) =
            (&self.options.cgroup_root, &self.cgroups, &self.wires, &self.interfaces);
        self.keep.release_before(|pin| match pin.at {
            At::Cgroup(id) => pin.is_attached() && cgroups.needs_before(root, id),
            At::Xdp(index) => !interfaces.has(index) && interfaces.has_failed(index),
            At::Tcx(index) => !wires.has(index) && wires.wants(index),
            At::Netns(_) => false,
        });
        self.interfaces.restore();
        self.rules_alone = self.keep.is_alone();
    }

    /// Programs at namespaces first, then those at cgroups that they stand in for. Also the numbers of the workloads whose namespaces
    /// are covered.
    fn reconcile_workloads(&mut self, workloads: &[Arc<CompiledWorkload>]) -> (Vec<WorkloadState>, BTreeSet<u32>) {
        let alone = self.options.ingress == IngressHook::SkLookup;
        let program = match alone {
            true => Some(attach::ALONE_LOOKUP),
            false => Some(attach::LOOKUP).filter(|_| self.refusing.any),
        };
        let (root, numbers) = (&self.options.cgroup_root, &self.numbers);
        let covered = self.lookups.attach((&mut self.ebpf, &self.keep), root, numbers, workloads, program);
        let none = BTreeSet::new();
        let judged_alone = if alone { &covered } else { &none };
        let states = self.cgroups.reconcile((&mut self.ebpf, &self.keep), root, numbers, workloads, judged_alone);
        self.lookups.detach_others();
        (states, covered)
    }

    /// Says where `sk_lookup` is in place, what it does not see where it judges alone, and whose refusals are silent.
    fn tell(&self, covered: &BTreeSet<u32>, workloads: &mut [WorkloadState]) {
        let alone = self.options.ingress == IngressHook::SkLookup;
        for state in workloads.iter_mut().filter(|state| state.state == AttachState::Attached) {
            if covered.contains(&state.number) {
                state.hooks.push(Hook::SkLookup.name());
                state.uncovered.extend(UNSEEN_ALONE.iter().filter(|_| alone));
            } else if self.refusing.workloads.contains(&state.number) {
                state.uncovered.push("refuse");
            }
        }
    }

    /// Decisions and losses by hook, verdict and reason; only cells that are not zero.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn counters(&self) -> Result<Vec<CounterCell>, KernelError> {
        counters::read(&self.ebpf)
    }

    /// What has no record and is no decision.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn others_lost(&self) -> Result<OthersLost, KernelError> {
        Ok(OthersLost {
            closes: counters::closes_lost(&self.ebpf)?,
            kernel_drops: tracepoints::missed(&self.ebpf, kernel_drops::PROGRAM),
        })
    }

    /// Packets and bytes by limit number, for the first `limits` numbers.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn limit_stats(&self, limits: usize) -> Result<Vec<weir_common::event::LimitStats>, KernelError> {
        limit_state::stats(&self.ebpf, limits)
    }

    /// How full the table of the limits' clients is.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn limit_table(&self) -> Result<LimitTable, KernelError> {
        limit_state::table(&self.ebpf)
    }

    /// What SYN protection does, by limit that asks for it.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn shields(&self) -> Result<Vec<Shield>, KernelError> {
        self.shields.status(&self.ebpf)
    }

    /// Packets XDP saw and passed, by interface index.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn seen(&self) -> Result<Vec<InterfaceSeen>, KernelError> {
        self.interfaces.seen()
    }

    /// How full the tables are that can fill, but for those that telemetry empties.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn fill(&self) -> Result<Vec<Fill>, KernelError> {
        let count = |count: usize| count as u64;
        let (addresses, prefixes) = self.tables.entries();
        let limits = self.limits.iter().filter(|limit| limit.is_some()).count();
        Ok(vec![
            Fill::new("addresses", count(addresses), maps::MAX_ENDPOINTS),
            Fill::new("prefixes", count(prefixes), maps::MAX_CIDRS),
            // Number 0 is nobody's.
            Fill::new("workloads", count(self.numbers.len()), maps::MAX_WORKLOADS - 1),
            Fill::new("cgroups", count(self.cgroups.callers()), maps::MAX_CGROUPS),
            Fill::new("interfaces", count(self.interfaces.placed()), maps::MAX_EDGES),
            Fill::new("limits", count(limits), maps::MAX_LIMITS - 1),
            Fill::new("address_sets", count(self.tables.sets().numbers().iter().count()), MAX_SETS),
            usage::replies(&self.ebpf, self.numbers.values().copied())?,
        ])
    }

    /// How often programs ran and for how long, where the kernel counts it.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn runs(&self) -> Result<Vec<ProgramRuns>, KernelError> {
        usage::runs(&self.ebpf, self.options.neighbours.chain)
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        if self.options.pin {
            self.keep.leave();
            self.interfaces.leave();
        }
    }
}

/// What `sk_lookup` does not see where it judges alone: nothing else does (`docs/modes.md`).
const UNSEEN_ALONE: [&str; 3] = ["loopback", "multicast", "udp_connected"];

/// Which workloads' policies refuse, in the generation in force.
#[derive(Default)]
struct Refusing {
    any: bool,
    workloads: BTreeSet<u32>,
}

impl Refusing {
    fn of(compiled: &weir_policy::Compiled, numbers: &BTreeMap<ResourceId, u32>) -> Self {
        let Some(image) = Image::open(compiled).filter(|image| image.flags() & FLAG_REFUSE != 0) else {
            return Self::default();
        };
        let refuses = |id: &ResourceId| {
            let set = compiled.workloads.get(id).map(|workload| image.identity(workload.identity).set);
            let entry = set.and_then(|set| image.set(set, Direction::Ingress));
            entry.is_some_and(|entry| entry.sockets & SET_REFUSES != 0)
        };
        let workloads = numbers.iter().filter(|(id, _)| refuses(id)).map(|(_, number)| *number).collect();
        Self { any: true, workloads }
    }
}

/// The object with what our programs are measured beside, for the tests that do so.
#[must_use]
pub fn bench_object() -> &'static [u8] {
    load::BENCH
}

/// The object with every program, for tests that inspect it.
#[must_use]
pub fn object() -> &'static [u8] {
    load::OBJECT
}

/// `CLOCK_MONOTONIC`, nanoseconds, as the programs read it.
fn monotonic_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |time| u64::try_from(time.tv_sec() * 1_000_000_000 + time.tv_nsec()).unwrap_or(0))
}
