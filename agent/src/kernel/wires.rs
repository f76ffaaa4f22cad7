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
        links::FdLink,
        tc::{SchedClassifierLink, TcError, qdisc_add_clsact},
    },
    util::KernelVersion,
};
use nix::net::if_::if_nametoindex;
use weir_common::maps;
use weir_policy::{CompiledWorkload, ResourceId};

use super::{
    attach::{WIRE_ATTACH_TYPES, WIRE_PROGRAMS},
    cgroups::{AttachState, LocalWords, WorkloadState, local_words},
    error::{self, KernelError},
    generation::take,
    keep::{At, Keep, Kept},
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
    /// Indices of interfaces that should be attached and are not.
    failed: BTreeSet<u32>,
}

struct Attached {
    index: u32,
    number: u32,
    links: Vec<Link>,
}

/// Held for what dropping it does.
enum Link {
    Kept(Kept),
    /// On kernels before TCX, where nothing can be pinned: it goes with the agent, unless that crashes.
    Filter(#[expect(dead_code, reason = "held for what dropping it does")] SchedClassifierLink),
}

impl Wires {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        Ok(Self { owners: take(ebpf, maps::INTERFACES)?, attached: BTreeMap::new(), failed: BTreeSet::new() })
    }

    /// Attaches what is missing, detaches what is no longer wanted, and adds to each workload's state what is covered here and what
    /// is not. `states` are those of `workloads`, in their order.
    pub(super) fn reconcile(
        &mut self,
        (ebpf, keep): (&mut Ebpf, &Keep),
        numbers: &BTreeMap<ResourceId, u32>,
        workloads: &[Arc<CompiledWorkload>],
        states: &mut [WorkloadState],
    ) {
        let wanted: BTreeSet<&ResourceId> = workloads.iter().filter(|w| w.interface.is_some()).map(|w| &w.id).collect();
        self.attached.retain(|id, _| wanted.contains(id));
        self.failed.clear();
        for (workload, state) in workloads.iter().zip(states) {
            if let Some(number) = numbers.get(&workload.id) {
                self.reconcile_one((ebpf, keep), *number, workload, state);
            }
        }
        self.forget_owners();
    }

    fn reconcile_one(
        &mut self,
        (ebpf, keep): (&mut Ebpf, &Keep),
        number: u32,
        workload: &CompiledWorkload,
        state: &mut WorkloadState,
    ) {
        state.uncovered = UNCOVERED.to_vec();
        let Some(name) = &workload.interface else { return };
        let Ok(index) = if_nametoindex(name.as_str()) else {
            self.attached.remove(&workload.id);
            add(&mut state.detail, format!("interface {name} does not exist yet"));
            return;
        };
        match self.attach((ebpf, keep), name, index, number, &workload.id) {
            Ok(()) => {
                state.uncovered.clear();
                state.hooks.extend(WIRE_PROGRAMS.map(|(program, _)| program));
            }
            Err(error) => {
                tracing::error!(error = %error, "a workload's interface is not attached");
                self.failed.insert(index);
                state.state = AttachState::Failed;
                add(&mut state.detail, error.to_string());
            }
        }
    }

    /// Says whose the interface is, then links both programs, unless they are linked to this very interface.
    fn attach(
        &mut self,
        (ebpf, keep): (&mut Ebpf, &Keep),
        name: &str,
        index: u32,
        number: u32,
        id: &ResourceId,
    ) -> Result<(), KernelError> {
        let is_this = |attached: &&mut Attached| attached.index == index && attached.number == number;
        let stand = |attached: &mut Attached| {
            let mut hooks = WIRE_PROGRAMS.iter().zip(WIRE_ATTACH_TYPES).zip(&mut attached.links);
            hooks.all(|((hook, kind), link)| link.stands(keep, *hook, (index, kind), name))
        };
        if self.attached.get_mut(id).filter(is_this).is_some_and(stand) {
            return Ok(());
        }
        self.owners.insert(index, local_words(number, 0), 0).map_err(error::map(maps::INTERFACES))?;
        let links = WIRE_PROGRAMS.into_iter().map(|(program, way)| hold((ebpf, keep), program, (index, name), way));
        let links = links.collect::<Result<_, _>>()?;
        // What was there before goes only now.
        self.attached.insert(id.clone(), Attached { index, number, links });
        Ok(())
    }

    /// Whether an interface should have its programs, and has not.
    pub(super) fn wants(&self, index: u32) -> bool {
        self.failed.contains(&index)
    }

    /// Whether an interface has its programs.
    pub(super) fn has(&self, index: u32) -> bool {
        self.attached.values().any(|attached| attached.index == index)
    }

    /// Numbers of the workloads whose interfaces are attached, by index.
    pub(super) fn owners(&self) -> BTreeMap<u32, u32> {
        self.attached.values().map(|attached| (attached.index, attached.number)).collect()
    }

    /// For dry runs, which come in by the loopback interface.
    pub(super) fn own_for_dry_runs(&mut self, index: u32, number: u32) -> Result<(), KernelError> {
        self.owners.insert(index, local_words(number, 0), 0).map_err(error::map(maps::INTERFACES))
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

impl Link {
    fn stands(
        &mut self,
        keep: &Keep,
        (program, _): (&str, TcAttachType),
        (index, kind): (u32, u32),
        name: &str,
    ) -> bool {
        match self {
            Self::Kept(kept) => keep.stands(kept, (program, index), kind, name),
            Self::Filter(_) => true,
        }
    }
}

fn hold(
    (ebpf, keep): (&mut Ebpf, &Keep),
    program: &'static str,
    (index, name): (u32, &str),
    way: TcAttachType,
) -> Result<Link, KernelError> {
    let mut attach = || {
        let linked = link(ebpf, program, name, way);
        linked.map_err(|source| KernelError::Attach { program, target: format!("interface {name}"), source })
    };
    if !has_tcx() {
        return attach().map(Link::Filter);
    }
    let linked = || FdLink::try_from(attach()?).map_err(|_| KernelError::NoProgram(program));
    keep.hold(At::Tcx(index), program, linked).map(Link::Kept)
}

fn has_tcx() -> bool {
    KernelVersion::current().map_or(true, |version| version >= TCX_SINCE)
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
    error::program_point("attach.wire")?;
    if !has_tcx() {
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
