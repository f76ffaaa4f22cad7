//! Lives: agent, user space.
//! Called by: `Kernel::reconcile`, about once a second and after each new generation.
//! May touch: the network namespaces of workloads: one link in each that a workload has to itself.
//! Never: the agent's own namespace, or one that several workloads or strangers of the managed tree share: there the address that is
//!   called does not tell whose policy counts.
//!
//! A namespace is found by the processes in it, so a workload is covered from its first process on, about a second late. Links that
//! are not wanted any more go only when the cgroups' own programs are in place again.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsFd as _, AsRawFd as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use aya::Ebpf;
use weir_policy::{CompiledWorkload, ResourceId};

use super::{
    attach,
    keep::{At, Keep, Kept},
    namespaces::{Inhabited, Namespaces},
};

/// What is linked where.
#[derive(Default)]
pub(super) struct Lookups {
    namespaces: Namespaces,
    /// By namespace: the program, and its link, held for what dropping it does.
    attached: BTreeMap<u64, (&'static str, Kept)>,
    wanted: BTreeSet<u64>,
}

impl Lookups {
    /// Links `program`, if any is wanted, to every namespace that one workload has to itself. The numbers of the workloads all of whose
    /// processes live in such namespaces.
    pub(super) fn attach(
        &mut self,
        (ebpf, keep): (&mut Ebpf, &Keep),
        root: &Path,
        numbers: &BTreeMap<ResourceId, u32>,
        workloads: &[Arc<CompiledWorkload>],
        program: Option<&'static str>,
    ) -> BTreeSet<u32> {
        self.wanted.clear();
        let Some(program) = program else { return BTreeSet::new() };
        let known: Vec<(u32, PathBuf)> = workloads
            .iter()
            .filter_map(|workload| Some((*numbers.get(&workload.id)?, root.join(workload.cgroup.as_ref()?))))
            .collect();
        let found = match self.namespaces.find(root, &known) {
            Ok(found) => found.namespaces,
            Err(error) => {
                tracing::warn!(%error, "the network namespaces of the workloads cannot be found");
                return BTreeSet::new();
            }
        };
        let addressed = workloads.iter().filter(|workload| !workload.addresses.is_empty());
        let addressed: BTreeSet<u32> = addressed.filter_map(|workload| numbers.get(&workload.id).copied()).collect();
        let (mut covered, mut open) = (BTreeSet::new(), BTreeSet::new());
        for inhabited in found {
            let number = only_one(&inhabited).filter(|number| addressed.contains(number));
            match number.filter(|_| self.attach_one((ebpf, keep), program, &inhabited)) {
                Some(number) => drop(covered.insert(number)),
                None => open.extend(inhabited.workloads),
            }
        }
        covered.difference(&open).copied().collect()
    }

    /// Whether the program is linked to the namespace now.
    fn attach_one(&mut self, (ebpf, keep): (&mut Ebpf, &Keep), program: &'static str, inhabited: &Inhabited) -> bool {
        let namespace = &inhabited.namespace;
        let target = (program, namespace.file().as_fd().as_raw_fd().cast_unsigned());
        let stands = |(linked, kept): &mut (&str, Kept)| {
            *linked == program && keep.stands(kept, target, attach::LOOKUP_ATTACH_TYPE, "a network namespace")
        };
        if !self.attached.get_mut(&namespace.id).is_some_and(stands) {
            let attach = || attach::to_namespace(ebpf, program, namespace.file(), namespace.id);
            match keep.hold(At::Netns(namespace.id), program, attach) {
                Ok(link) => drop(self.attached.insert(namespace.id, (program, link))),
                Err(error) => {
                    tracing::error!(error = %error, "a network namespace is not attached");
                    return false;
                }
            }
        }
        self.wanted.insert(namespace.id);
        true
    }

    /// Drops the links that the last [`Lookups::attach`] did not want.
    pub(super) fn detach_others(&mut self) {
        self.attached.retain(|id, _| self.wanted.contains(id));
    }
}

/// The one workload that lives in a namespace.
fn only_one(inhabited: &Inhabited) -> Option<u32> {
    let mut workloads = inhabited.workloads.iter();
    match (workloads.next(), workloads.next()) {
        (Some(number), None) if *number != 0 && !inhabited.namespace.own => Some(*number),
        _ => None,
    }
}
