//! Lives: weir-agent, on a thread of its own.
//! Called by: `actor`, one command after the other; so nothing here needs a lock.
//! May touch: the datapath, the file of the last good policy; publishes names and losses.
//! Never: changes its state before the kernel has taken it over; judges traffic.
//!
//! ```text
//! sources ─ parse ─► candidate ─ compile ─► names published ─► install ─► state replaced ─► saved ─► watchers told ─► reconcile
//!             └───── faults, all of them, nothing changed ─────┘  └─ error: names taken back, nothing changed
//! ```

pub mod actor;
mod apply;
pub mod arrivals;
mod change;
mod error;
mod expiry;
pub mod explain;
mod format;
mod host;
mod living;
pub mod node;
mod pods;
mod set_store;
pub mod sets;
mod store;
pub mod timing;
pub mod view;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use arrivals::{Arrivals, where_it_appears};
pub use change::{Action, Applied, Apply, ChangeSet, Changed, Doomed};
pub use error::ControlError;
use pods::Pods;
pub use store::{policy_files, stored_policy};
use timing::Timing;
use tokio::sync::broadcast;
use weir_common::verdict::Verdict;
use weir_policy::{
    Compiled, Compiler, Context, ResourceId, Resources, Timestamp,
    sets::{Expiry, Loaded},
};

use crate::{
    datapath::{AttachState, Datapath, Observed},
    exporter::Queue,
    revoke::Revoker,
    telemetry::{clock, loss::RingLosses, names::Names},
};

/// Changes a slow watcher may lag behind before it has to begin anew.
const WATCH_BACKLOG: usize = 256;

/// Looks in a row for what has appeared: so many parts of one path may.
const LOOKS: usize = 8;

/// What control needs beside the datapath.
pub struct Settings {
    /// This node's name in the cluster, as `spec.nodeName` of its pods.
    pub node: String,
    /// The managed tree, below which the cgroups of pods are found.
    pub cgroup_root: PathBuf,
    /// What applies to processes of no known workload.
    pub unknown: Verdict,
    /// What applies to workloads that no policy selects.
    pub unselected: Verdict,
    /// Where the last good policy is kept.
    pub state_dir: PathBuf,
    /// The names telemetry uses.
    pub names: Arc<Names>,
    /// Where losses of the ring are reported.
    pub queue: Arc<Queue>,
    /// Cuts living connections that a new generation forbids.
    pub revoker: Arc<Revoker>,
    /// The wall clock, by which policies expire.
    pub clock: WallClock,
    /// Where to watch for cgroups that are not there yet.
    pub arrivals: Arrivals,
}

/// Tells the time.
pub type WallClock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Owns the policy and the datapath.
pub struct Control<D> {
    datapath: D,
    settings: Settings,
    force: InForce,
    pods: Pods,
    /// What was loaded into address sets beside their documents.
    loaded: Loaded,
    next_set_expiry: Option<Expiry>,
    observed: Observed,
    /// Generation by which telemetry was told the names of what is attached; 0 before the first time.
    named: u64,
    /// What is in force could not be saved yet.
    unsaved: bool,
    /// Address sets whose load could not be saved; tried again at each tick.
    unsaved_sets: BTreeSet<String>,
    /// Deleted ones whose files go once the policy without them is on disk: before, a restart would bring them back empty.
    gone_sets: BTreeSet<String>,
    ring: RingLosses,
    changes: broadcast::Sender<Arc<ChangeSet>>,
    start_ns: u64,
    timing: Timing,
}

/// What is in force.
struct InForce {
    /// Makes the next generation from this one, at the cost of the change.
    compiler: Compiler,
    resources: Resources,
    /// Generation that last changed each resource.
    changed_in: BTreeMap<ResourceId, u64>,
    compiled: Arc<Compiled>,
    /// What the tables were made for; `now` is when.
    context: Context,
    /// When something expires next.
    next_expiry: Option<Timestamp>,
    time_ns: u64,
}

impl<D: Datapath> Control<D> {
    /// Puts an empty generation in force, so that every program finds tables before it is attached.
    ///
    /// # Errors
    /// The kernel did not take it, or the file of the last good policy cannot be read.
    pub fn start(mut datapath: D, settings: Settings) -> Result<Self, ControlError> {
        let last = store::last_generation(&settings.state_dir)?;
        let context = Context {
            generation: last + 1,
            unknown: settings.unknown,
            unselected: settings.unselected,
            host_addresses: host::addresses(),
            tick_ns: datapath.tick_ns(),
            now: (settings.clock)(),
        };
        let loaded = set_store::read(&settings.state_dir, context.now.0)?;
        let compiler = Compiler::new(context.clone());
        let compiled = compiler.compiled();
        settings.names.publish(&compiled);
        datapath
            .install(&compiled, &loaded)
            .map_err(|source| ControlError::Install { generation: context.generation, source })?;
        let now = clock::wall_now();
        let mut control = Self {
            datapath,
            pods: Pods::new(&settings.node, settings.cgroup_root.clone()),
            settings,
            force: InForce {
                compiler,
                resources: Resources::default(),
                changed_in: BTreeMap::new(),
                compiled: Arc::new(compiled),
                context,
                next_expiry: None,
                time_ns: now,
            },
            loaded,
            next_set_expiry: None,
            observed: Observed::default(),
            named: 0,
            unsaved: false,
            unsaved_sets: BTreeSet::new(),
            gone_sets: BTreeSet::new(),
            ring: RingLosses::default(),
            changes: broadcast::channel(WATCH_BACKLOG).0,
            start_ns: now,
            timing: Timing::default(),
        };
        control.next_set_expiry = control.next_of_sets();
        Ok(control)
    }

    /// The number of the generation in force.
    pub fn generation(&self) -> u64 {
        self.force.compiled.generation
    }

    /// Whether programs are attached and a generation is in force.
    pub fn enforcing(&self) -> bool {
        self.observed.enforcing
    }

    /// What is due about once a second: take out of force what expired, follow the host's addresses and the cgroups of pods,
    /// attach what appeared, report what the ring lost.
    pub fn tick(&mut self) {
        self.expire();
        self.expire_sets();
        self.follow_host_addresses(host::addresses());
        self.follow_pods();
        self.reconcile();
        if self.expect() {
            self.look();
        }
        // Told when it failed first.
        let _ = self.save_again();
        self.save_sets_again();
        self.report_losses();
    }

    /// What is due once a directory has appeared where one is waited for: find the cgroups of pods, attach.
    pub fn look(&mut self) {
        // What came before a directory was watched has told nobody: one look more, as often as there is another part of a path.
        for _ in 0..LOOKS {
            self.follow_pods();
            self.reconcile();
            if !self.expect() {
                return;
            }
        }
    }

    /// Watches the directories in which cgroups will appear that somebody waits for; whether one was not watched before.
    fn expect(&mut self) -> bool {
        let mut directories = self.pods.searched();
        let waiting = self.observed.workloads.iter().filter(|state| state.state == AttachState::Waiting);
        for state in waiting {
            let path = self.force.compiled.workloads.get(&state.id).and_then(|workload| workload.cgroup.as_ref());
            directories.extend(path.and_then(|path| where_it_appears(&self.settings.cgroup_root.join(path))));
        }
        self.settings.arrivals.watch(directories)
    }

    /// The wall clock's time.
    fn now(&self) -> Timestamp {
        (self.settings.clock)()
    }

    /// Attaches what is missing and publishes what is attached.
    fn reconcile(&mut self) {
        let observed = self.datapath.reconcile(&self.force.compiled.local());
        if observed.interfaces != self.observed.interfaces
            && !self.force.compiled.interface_lists.is_empty()
            // Limits that name interfaces know them by index. A failure is tried again with the next tick.
            && let Err(error) = self.datapath.install(&self.force.compiled, &self.loaded)
        {
            tracing::error!(error = %error, "limits on interfaces do not follow these");
            return;
        }
        let generation = self.generation();
        // A new generation may have renamed what is attached as before.
        if observed != self.observed || self.named != generation {
            let (enforcing, workloads) = (observed.enforcing, observed.workloads.len());
            tracing::debug!(enforcing, workloads, "attachments taken over");
            self.settings.names.attach(&observed);
            self.observed = observed;
            self.named = generation;
            self.settings.revoker.look(self.living_view(&self.force.compiled, &self.force.resources));
        }
    }

    /// Reports decisions and closes whose events found no room in the ring.
    pub fn report_losses(&mut self) {
        let counted = self.datapath.counters().and_then(|cells| Ok((cells, self.datapath.others_lost()?)));
        match counted {
            Ok((cells, others)) => self.ring.update(&cells, others, &self.settings.queue),
            Err(error) => tracing::error!(error = %error, "the kernel's counters could not be read"),
        }
    }
}

#[cfg(test)]
mod set_tests;
#[cfg(test)]
mod tests;
