//! Lives: weir-agent; the line between the agent's logic and the kernel.
//! Called by: `control`, which owns a [`Datapath`]; `telemetry`, which owns an [`EventSource`].
//! May touch: nothing; `kernel` implements these over aya, the tests over memory.
//! Never: names aya; lets a caller see a half-installed generation.

use std::{collections::BTreeMap, sync::Arc};

use std::{io, time::Duration};

use weir_common::event::{DropBytes, Event, LimitStats};
use weir_policy::{Compiled, CompiledWorkload, Prefix, ResourceId, sets::Loaded};

pub use crate::kernel::{
    AttachState, CounterCell, DropReasons, Fill, InterfaceSeen, InterfaceState, LimitTable, Merged, Observed,
    OthersLost, ProgramRuns, SetCount, Shield, WorkloadState, adopted::Adopted,
};

/// What a datapath reports when it cannot do what it was asked; the cause is underneath.
pub type DatapathError = Box<dyn std::error::Error + Send + Sync>;

/// The kernel programs and their tables.
pub trait Datapath: Send + 'static {
    /// Puts a generation in force. In force on return; nothing changed on error.
    ///
    /// # Errors
    /// The tables could not be written.
    fn install(&mut self, compiled: &Compiled, loaded: &Loaded) -> Result<(), DatapathError>;
    /// Numbers of the local workloads in what was installed last, attached or not: by them the kernel tells of what they do.
    fn numbers(&self) -> BTreeMap<ResourceId, u32>;
    /// Puts what was loaded into address sets in force without another generation, all at once; nothing changed on error.
    ///
    /// # Errors
    /// The tables could not be written.
    fn reload_sets(&mut self, compiled: &Compiled, loaded: &Loaded) -> Result<(), DatapathError>;
    /// Takes over one entry that was added, removed, or got another end; `false`: that takes [`Datapath::reload_sets`].
    fn change_sets(&mut self, loaded: &Loaded, prefix: Prefix) -> bool;
    /// What each address set in force has refused.
    ///
    /// # Errors
    /// The counters could not be read.
    fn set_counts(&self) -> Result<BTreeMap<String, SetCount>, DatapathError>;
    /// Bytes of kernel memory that the address sets take.
    fn set_bytes(&self) -> usize;
    /// Attaches what is missing and detaches what is gone; called after an install and every second.
    fn reconcile(&mut self, workloads: &[Arc<CompiledWorkload>]) -> Observed;
    /// Decisions counted so far.
    ///
    /// # Errors
    /// The counters could not be read.
    fn counters(&self) -> Result<Vec<CounterCell>, DatapathError>;
    /// What has no record and is no decision.
    ///
    /// # Errors
    /// The counters could not be read.
    fn others_lost(&self) -> Result<OthersLost, DatapathError>;
    /// Traffic charged against the first `limits` limits.
    ///
    /// # Errors
    /// The counters could not be read.
    fn limit_stats(&self, limits: usize) -> Result<Vec<LimitStats>, DatapathError>;
    /// How full the table of the limits' clients is.
    ///
    /// # Errors
    /// The table could not be read.
    fn limit_table(&self) -> Result<LimitTable, DatapathError>;
    /// What SYN protection does, by limit that asks for it.
    ///
    /// # Errors
    /// The counters could not be read.
    fn shields(&self) -> Result<Vec<Shield>, DatapathError>;
    /// Packets seen by XDP.
    ///
    /// # Errors
    /// The counters could not be read.
    fn seen(&self) -> Result<Vec<InterfaceSeen>, DatapathError>;
    /// How full the tables are that can fill, but for those that telemetry empties.
    ///
    /// # Errors
    /// A table could not be read.
    fn fill(&self) -> Result<Vec<Fill>, DatapathError>;
    /// How often programs ran and for how long, where the kernel counts it.
    ///
    /// # Errors
    /// The kernel does not tell.
    fn runs(&self) -> Result<Vec<ProgramRuns>, DatapathError>;
    /// Length of the kernel's tick; 0 when the coarse clock must not be used.
    fn tick_ns(&self) -> u64;
}

/// The stream of events and merged decisions.
pub trait EventSource: Send + 'static {
    /// Waits until events are there or the time is over.
    ///
    /// # Errors
    /// Waiting itself failed.
    fn wait(&mut self, timeout: Duration) -> io::Result<()>;
    /// Hands over up to `limit` events; the number handed over.
    fn drain(&mut self, limit: usize, sink: &mut dyn FnMut(&Event)) -> usize;
    /// Closes the merge epoch and returns what it counted. Blocks for a grace period.
    ///
    /// # Errors
    /// The merge tables could not be read.
    fn take_merged(&mut self) -> Result<Merged, DatapathError>;
    /// Whether dropped packets are shown.
    fn shows(&self) -> bool {
        false
    }
    /// Why the kernel drops packets by itself, by its own numbers; empty where that is not watched.
    fn drop_reasons(&self) -> DropReasons {
        DropReasons::new()
    }
    /// The table of connections whose ends are told of although they are older than the programs; handed out once, and `None` where they
    /// cannot be.
    fn take_adopted(&mut self) -> Option<Adopted> {
        None
    }
    /// How dropped packets began, of those that were drained since the last call.
    fn take_shown(&mut self) -> Vec<DropBytes> {
        Vec::new()
    }
}
