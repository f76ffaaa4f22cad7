//! Lives: weir-agent, control.
//! Called by: `actor`, for Get, List, Watch and Status.
//! May touch: the state of `Control`, read only; the kernel's counters.
//! Never: shows a state between two generations.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::broadcast;
use weir_common::event::LimitStats;
use weir_policy::{Compiled, Kind, LimitInfo, Resource, ResourceId};

use super::{ChangeSet, Control, ControlError, timing::Timing};
use crate::datapath::{CounterCell, Datapath, Fill, InterfaceSeen, LimitTable, Observed, ProgramRuns, Shield};

/// A resource and the generation that last changed it.
#[derive(Clone, Debug)]
pub struct ResourceView {
    /// The resource.
    pub resource: Resource,
    /// The generation.
    pub generation: u64,
}

/// Resources at one moment.
#[derive(Clone, Debug)]
pub struct Listing {
    /// In order of their ids.
    pub resources: Vec<ResourceView>,
    /// The generation in force.
    pub generation: u64,
}

/// A listing, and what comes after it.
#[derive(Debug)]
pub struct Watch {
    /// What there is.
    pub listing: Listing,
    /// What changes from then on, without a gap.
    pub changes: broadcast::Receiver<Arc<ChangeSet>>,
}

/// Everything control knows about itself.
#[derive(Clone, Debug)]
pub struct Status {
    /// The generation in force.
    pub generation: u64,
    /// Since when, wall clock.
    pub generation_time_ns: u64,
    /// Start of the agent, wall clock.
    pub start_ns: u64,
    /// What is attached.
    pub observed: Observed,
    /// The compiled generation: workloads, limits.
    pub compiled: Arc<Compiled>,
    /// Decisions.
    pub counters: Vec<CounterCell>,
    /// By limit number; the first is none.
    pub limits: Vec<LimitStats>,
    /// What SYN protection does, by limit that asks for it.
    pub shields: Vec<Shield>,
    /// How full the table of clients is; `None` while there is no limit.
    pub limit_table: Option<LimitTable>,
    /// Packets seen by XDP.
    pub seen: Vec<InterfaceSeen>,
    /// How full the tables are that can fill.
    pub fill: Vec<Fill>,
    /// Bytes of kernel memory that address sets take.
    pub set_bytes: usize,
    /// How often programs ran and for how long, where the kernel counts it.
    pub runs: Vec<ProgramRuns>,
    /// How changes of the policy went.
    pub timing: Timing,
    /// Resources by kind.
    pub resources: BTreeMap<Kind, u64>,
    /// Pods of this node without a cgroup, and why.
    pub unplaced: BTreeMap<ResourceId, String>,
}

impl<D: Datapath> Control<D> {
    /// One resource.
    ///
    /// # Errors
    /// It is not there.
    pub fn get(&self, id: &ResourceId) -> Result<ResourceView, ControlError> {
        let resource = self.force.resources.get(id).ok_or_else(|| ControlError::NotFound(vec![id.clone()]))?;
        Ok(self.view(resource))
    }

    /// The resources of a kind (or all) in a namespace (or all).
    pub fn list(&self, kind: Option<Kind>, namespace: Option<&str>) -> Listing {
        let wanted = |resource: &&Resource| {
            let id = resource.id();
            kind.is_none_or(|kind| kind == id.kind) && namespace.is_none_or(|namespace| namespace == id.namespace)
        };
        let resources = self.force.resources.iter().filter(wanted).map(|resource| self.view(resource)).collect();
        Listing { resources, generation: self.generation() }
    }

    /// The resources of a kind (or all), and what changes from now on.
    pub fn watch(&self, kind: Option<Kind>) -> Watch {
        Watch { changes: self.changes.subscribe(), listing: self.list(kind, None) }
    }

    /// Everything control knows about itself.
    ///
    /// # Errors
    /// The kernel's counters cannot be read.
    pub fn status(&self) -> Result<Status, ControlError> {
        let (mut resources, mut unplaced) = (BTreeMap::new(), BTreeMap::new());
        for resource in self.force.resources.iter() {
            *resources.entry(resource.id().kind).or_default() += 1;
            unplaced.extend(self.pods.unplaced(resource).map(|why| (resource.id().clone(), why)));
        }
        let compiled = Arc::clone(&self.force.compiled);
        Ok(Status {
            generation: self.generation(),
            generation_time_ns: self.force.time_ns,
            start_ns: self.start_ns,
            observed: self.observed.clone(),
            counters: self.datapath.counters().map_err(ControlError::Counters)?,
            limits: self.datapath.limit_stats(compiled.limits.len()).map_err(ControlError::Counters)?,
            shields: self.datapath.shields().map_err(ControlError::Counters)?,
            limit_table: match compiled.limits.iter().any(LimitInfo::is_some) {
                true => Some(self.datapath.limit_table().map_err(ControlError::Counters)?),
                false => None,
            },
            seen: self.datapath.seen().map_err(ControlError::Counters)?,
            fill: self.datapath.fill().map_err(ControlError::Counters)?,
            set_bytes: self.datapath.set_bytes(),
            runs: self.datapath.runs().map_err(ControlError::Counters)?,
            timing: self.timing.clone(),
            compiled,
            resources,
            unplaced,
        })
    }

    fn view(&self, resource: &Resource) -> ResourceView {
        let generation = self.force.changed_in.get(resource.id()).copied().unwrap_or(0);
        ResourceView { resource: resource.clone(), generation }
    }
}
