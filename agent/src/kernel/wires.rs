//! Lives: agent, user space.
//! Called by: `Kernel::reconcile`.
//! May touch: the node's ends of workloads' interfaces, in the agent's own network namespace; the table that says whose they are.
//! Never: replaces another program; an interface that no workload names. (On kernels before 6.6 an empty clsact qdisc stays behind.)
//!
//! An interface is known by its index: one that was deleted and made again is a new one, attached anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aya::{
    Ebpf,
    maps::{HashMap, MapData},
    programs::{
        ProgramError, SchedClassifier, TcAttachType,
        tc::{SchedClassifierLink, TcError, qdisc_add_clsact},
    },
    util::KernelVersion,
};
use nix::net::if_::if_nametoindex;
use weir_common::maps;
use weir_policy::{CompiledWorkload, ResourceId};

use super::{
    attach::WIRE_PROGRAMS,
    cgroups::{AttachState, LocalWords, WorkloadState},
    error::{self, KernelError},
    generation::take,
};

/// What no hook of a cgroup sees, and only the programs here do. The words of `WorkloadStatus.uncovered`; `docs/coverage.md` explains
/// each.
const UNCOVERED: [&str; 4] = ["af_packet", "forwarded", "icmp_echo", "source"];

/// TCX, whose links need no qdisc.
const TCX_SINCE: KernelVersion = KernelVersion::new(6, 6, 0);

/// What is attached where.
pub(super) struct Wires {
    owners: HashMap<MapData, u32, LocalWords>,
    attached: BTreeMap<ResourceId, Attached>,
}

struct Attached {
    index: u32,
    number: u32,
    /// Held for what dropping them does.
    _links: Vec<SchedClassifierLink>,
}

impl Wires {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        Ok(Self { owners: take(ebpf, maps::INTERFACES)?, attached: BTreeMap::new() })
    }

    /// Attaches what is missing, detaches what is no longer wanted, and adds to each workload's state what is covered here and what
    /// is not. `states` are those of `workloads`, in their order.
    pub(super) fn reconcile(
        &mut self,
        ebpf: &mut Ebpf,
        numbers: &BTreeMap<ResourceId, u32>,
        workloads: &[Arc<CompiledWorkload>],
        states: &mut [WorkloadState],
    ) {
        let wanted: BTreeSet<&ResourceId> = workloads.iter().filter(|w| w.interface.is_some()).map(|w| &w.id).collect();
        self.attached.retain(|id, _| wanted.contains(id));
        for (workload, state) in workloads.iter().zip(states) {
            if let Some(number) = numbers.get(&workload.id) {
                self.reconcile_one(ebpf, *number, workload, state);
            }
        }
        self.forget_owners();
    }

    fn reconcile_one(&mut self, ebpf: &mut Ebpf, number: u32, workload: &CompiledWorkload, state: &mut WorkloadState) {
        state.uncovered = UNCOVERED.to_vec();
        let Some(name) = &workload.interface else { return };
        let Ok(index) = if_nametoindex(name.as_str()) else {
            self.attached.remove(&workload.id);
            add(&mut state.detail, format!("interface {name} does not exist yet"));
            return;
        };
        match self.attach(ebpf, name, index, number, &workload.id) {
            Ok(()) => {
                state.uncovered.clear();
                state.hooks.extend(WIRE_PROGRAMS.map(|(program, _)| program));
            }
            Err(error) => {
                tracing::error!(error = %error, "a workload's interface is not attached");
                state.state = AttachState::Failed;
                add(&mut state.detail, error.to_string());
            }
        }
    }

    /// Says whose the interface is, then links both programs, unless they are linked to this very interface.
    fn attach(
        &mut self,
        ebpf: &mut Ebpf,
        name: &str,
        index: u32,
        number: u32,
        id: &ResourceId,
    ) -> Result<(), KernelError> {
        if self.attached.get(id).is_some_and(|attached| attached.index == index && attached.number == number) {
            return Ok(());
        }
        self.attached.remove(id);
        self.owners.insert(index, [number, 0], 0).map_err(error::map(maps::INTERFACES))?;
        let mut links = Vec::new();
        for (program, way) in WIRE_PROGRAMS {
            let target = || format!("interface {name}");
            let link = link(ebpf, program, name, way);
            links.push(link.map_err(|source| KernelError::Attach { program, target: target(), source })?);
        }
        self.attached.insert(id.clone(), Attached { index, number, _links: links });
        Ok(())
    }

    /// Numbers of the workloads whose interfaces are attached, by index.
    pub(super) fn owners(&self) -> BTreeMap<u32, u32> {
        self.attached.values().map(|attached| (attached.index, attached.number)).collect()
    }

    /// For dry runs, which come in by the loopback interface.
    pub(super) fn own_for_dry_runs(&mut self, index: u32, number: u32) -> Result<(), KernelError> {
        self.owners.insert(index, [number, 0], 0).map_err(error::map(maps::INTERFACES))
    }

    /// Removes interfaces that are nobody's any more, after their programs.
    fn forget_owners(&mut self) {
        let living: BTreeSet<u32> = self.attached.values().map(|attached| attached.index).collect();
        let gone: Vec<u32> = self.owners.keys().filter_map(Result::ok).filter(|id| !living.contains(id)).collect();
        for index in gone {
            // Already gone is what we want.
            let _ = self.owners.remove(&index);
        }
    }
}

fn add(detail: &mut String, more: String) {
    if !detail.is_empty() {
        detail.push_str("; ");
    }
    detail.push_str(&more);
}

/// Links one of the two programs to an interface of the calling thread's network namespace.
pub(super) fn link(
    ebpf: &mut Ebpf,
    program: &'static str,
    name: &str,
    way: TcAttachType,
) -> Result<SchedClassifierLink, ProgramError> {
    let loaded = ebpf.program_mut(program).ok_or(ProgramError::UnexpectedProgramType)?;
    let classifier: &mut SchedClassifier = loaded.try_into()?;
    if KernelVersion::current().is_ok_and(|version| version < TCX_SINCE) {
        add_qdisc(name)?;
    }
    let id = classifier.attach(name, way)?;
    classifier.take_link(id)
}

/// The place where filters of older kernels hang; there may be one already, with filters of others.
fn add_qdisc(name: &str) -> Result<(), TcError> {
    match qdisc_add_clsact(name) {
        Err(error) if !is_there(&error) => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn is_there(error: &TcError) -> bool {
    matches!(error, TcError::AlreadyAttached) || error::causes(error).contains("File exists")
}
