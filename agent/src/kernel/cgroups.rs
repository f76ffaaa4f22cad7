//! Lives: agent, user space.
//! Called by: `Kernel::reconcile`, about once a second and after each new generation.
//! May touch: cgroup directories below the configured root, their attachments, attach-point storage, the table of callers.
//! Never: the root cgroup; a directory that no workload names.
//!
//! A cgroup is known by its id (inode), not its path: one that was deleted and made again is a new one, attached anew.

#![expect(
    deprecated,
    reason = "attach-point storage: the newer map type names the calling task's cgroup (DESIGN.md D3)"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use aya::{
    Ebpf,
    maps::{CgroupStorage, HashMap, MapData, cgroup_storage::CgroupStorageKey},
};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use weir_common::maps;
use weir_policy::{CompiledWorkload, ResourceId};

use super::{
    attach::{self, ALONE_HOOKS, CgroupHook, ROOT_PROGRAMS, STRICT_PROGRAMS, WORKLOAD_HOOKS},
    error::{self, KernelError},
    generation::take,
    keep::{At, Keep, Kept},
    own::Own,
};

/// Whether a workload's programs are in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachState {
    /// Every hook is attached.
    Attached,
    /// Its cgroup does not exist (yet).
    Waiting,
    /// It has no cgroup on this node.
    Remote,
    /// Attaching failed; tried again at the next reconcile.
    Failed,
}

/// One workload's attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadState {
    /// The workload.
    pub id: ResourceId,
    /// Its number as in `Event::workload`; 0 when it is not attached.
    pub number: u32,
    /// Its number where programs stay for the sockets of a cgroup that was deleted, and there is none yet to attach to; else 0.
    pub lingering: u32,
    /// Its cgroup's id; 0 when there is none.
    pub cgroup_id: u64,
    /// Whether it is attached.
    pub state: AttachState,
    /// Why not, if it is not.
    pub detail: String,
    /// Hooks in place.
    pub hooks: Vec<&'static str>,
    /// What of its traffic no hook in place sees (`docs/coverage.md`).
    pub uncovered: Vec<&'static str>,
}

/// `struct weir_common::event::Local` as bytes of the map: number, then the low half of the cgroup's id or zero.
pub(super) type LocalWords = [u32; size_of::<weir_common::event::Local>() / 4];

/// What the map holds of a workload's cgroup.
pub(super) fn local_words(number: u32, cgroup: u32) -> LocalWords {
    zerocopy::transmute!(weir_common::event::Local::of(number, cgroup))
}

/// What is attached where.
pub(super) struct Cgroups {
    storage: CgroupStorage<MapData, LocalWords>,
    callers: HashMap<MapData, u64, LocalWords>,
    root: Option<(u64, BTreeMap<&'static str, Kept>)>,
    attached: BTreeMap<ResourceId, Attached>,
    departed: Vec<(ResourceId, Attached)>,
    /// Ids of cgroups that should be attached and are not.
    failed: BTreeSet<u64>,
    own: Own,
    /// Id of the agent's own cgroup as the kernel programs know it.
    exempt: Option<u64>,
}

struct Attached {
    number: u32,
    cgroup_id: u64,
    /// Whether the table of callers has it.
    known: bool,
    /// By program; held for what dropping them does.
    links: BTreeMap<&'static str, Kept>,
}

impl Cgroups {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        let (storage, callers) = (take(ebpf, maps::LOCAL)?, take(ebpf, maps::CALLERS)?);
        let (attached, departed, failed) = (BTreeMap::new(), Vec::new(), BTreeSet::new());
        Ok(Self { storage, callers, root: None, attached, departed, failed, own: Own::default(), exempt: None })
    }

    /// Cgroups that the programs at the root tell apart.
    pub(super) fn callers(&self) -> usize {
        self.attached.len() + self.departed.len() + usize::from(self.exempt.is_some())
    }

    /// The agent's own cgroup, if it is in the managed tree: no program judges what it does. Called before the root's programs are
    /// attached, which would know it no more than other strangers.
    pub(super) fn exempt_agent(&mut self, root: &Path) -> Result<Option<PathBuf>, KernelError> {
        let path = self.own.look(root).map(Path::to_owned);
        let id = path.as_deref().map(Cgroup::open).transpose()?.map(|cgroup| cgroup.id);
        if let (Some(id), true) = (id, id != self.exempt) {
            self.callers.insert(id, local_words(maps::AGENT, 0), 0).map_err(error::map(maps::CALLERS))?;
        }
        self.exempt = id;
        Ok(path)
    }

    /// Attaches the programs that judge by the calling task, again if the root was deleted and made anew.
    pub(super) fn reconcile_root(
        &mut self,
        ebpf: &mut Ebpf,
        keep: &Keep,
        root: &Path,
        strict: bool,
    ) -> Result<(), KernelError> {
        let cgroup = Cgroup::open(root)?;
        let target = root.display().to_string();
        let kept = self.root.take().filter(|(id, _)| *id == cgroup.id);
        let (_, links) = self.root.insert(kept.unwrap_or((cgroup.id, BTreeMap::new())));
        let strict_programs = STRICT_PROGRAMS.iter().filter(|_| strict);
        for (program, attach_type) in ROOT_PROGRAMS.iter().chain(strict_programs) {
            let stands = |kept: &mut Kept| keep.stands(kept, (program, cgroup.descriptor()), *attach_type, &target);
            if !links.get_mut(program).is_some_and(stands) {
                let attach = || attach::to_cgroup(ebpf, program, &cgroup.directory, &target);
                // What was there before goes only then.
                links.insert(program, keep.hold(At::Cgroup(cgroup.id), program, attach)?);
            }
        }
        Ok(())
    }

    /// Whether a link of an agent before has to stay: this one's own does not stand in its place, and should.
    pub(super) fn needs_before(&self, root: &Path, id: u64) -> bool {
        if self.failed.contains(&id) {
            return true;
        }
        if self.root.as_ref().is_some_and(|(root, _)| *root == id) || self.is_attached(id) {
            return false;
        }
        // One that was deleted: whoever still holds its sockets stays under the policy that they were opened under.
        !exists(root, id, MAX_DEPTH)
    }

    fn is_attached(&self, id: u64) -> bool {
        self.attached.values().any(|attached| attached.cgroup_id == id)
    }

    /// Detaches everything.
    pub(super) fn detach(&mut self) {
        self.root = None;
        self.attached.clear();
        self.forget_callers();
    }

    /// Attaches what is missing and detaches what is no longer wanted. `alone`: numbers of the workloads whose openings `sk_lookup`
    /// judges alone.
    pub(super) fn reconcile(
        &mut self,
        (ebpf, keep): (&mut Ebpf, &Keep),
        root: &Path,
        numbers: &BTreeMap<ResourceId, u32>,
        workloads: &[Arc<CompiledWorkload>],
        alone: &BTreeSet<u32>,
    ) -> Vec<WorkloadState> {
        self.failed.clear();
        let wanted: BTreeSet<&ResourceId> = workloads.iter().filter(|w| w.cgroup.is_some()).map(|w| &w.id).collect();
        self.attached.retain(|id, _| wanted.contains(id));
        self.forget_departed(numbers);
        let one = |workload: &Arc<_>| self.reconcile_one((ebpf, keep), root, numbers, workload, alone);
        let states = workloads.iter().map(one).collect();
        self.forget_callers();
        states
    }

    fn reconcile_one(
        &mut self,
        (ebpf, keep): (&mut Ebpf, &Keep),
        root: &Path,
        numbers: &BTreeMap<ResourceId, u32>,
        workload: &CompiledWorkload,
        alone: &BTreeSet<u32>,
    ) -> WorkloadState {
        let state = |state, detail: String| WorkloadState {
            id: workload.id.clone(),
            number: 0,
            lingering: 0,
            cgroup_id: 0,
            state,
            detail,
            hooks: Vec::new(),
            uncovered: Vec::new(),
        };
        let (Some(path), Some(number)) = (&workload.cgroup, numbers.get(&workload.id)) else {
            return state(AttachState::Remote, String::new());
        };
        let path = root.join(path);
        let cgroup = match Cgroup::open(&path) {
            Ok(cgroup) => cgroup,
            Err(error) if is_missing(&error) => {
                self.depart(&workload.id);
                let stays = self.departed.iter().any(|(id, _)| *id == workload.id);
                let waiting = state(AttachState::Waiting, format!("{} does not exist yet", path.display()));
                return WorkloadState { lingering: if stays { *number } else { 0 }, ..waiting };
            }
            Err(error) => return state(AttachState::Failed, error.to_string()),
        };
        if self.own.path().is_some_and(|own| own.starts_with(&path)) {
            // It may have been moved there.
            self.attached.remove(&workload.id);
            let problem = format!("the agent itself runs in {}: start it in a cgroup of its own", path.display());
            return state(AttachState::Failed, problem);
        }
        let hooks: &[CgroupHook] = if alone.contains(number) { &ALONE_HOOKS } else { &WORKLOAD_HOOKS };
        if let Err(error) = self.attach((ebpf, keep), &path, &cgroup, (*number, hooks), &workload.id) {
            tracing::error!(error = %error, "a workload is not attached");
            self.failed.insert(cgroup.id);
            return state(AttachState::Failed, error.to_string());
        }
        WorkloadState {
            number: *number,
            cgroup_id: cgroup.id,
            hooks: hooks.iter().map(|hook| hook.label).collect(),
            ..state(AttachState::Attached, String::new())
        }
    }

    /// Links every hook that is not linked to this very cgroup, and says who it is.
    fn attach(
        &mut self,
        (ebpf, keep): (&mut Ebpf, &Keep),
        path: &Path,
        cgroup: &Cgroup,
        (number, hooks): (u32, &[CgroupHook]),
        id: &ResourceId,
    ) -> Result<(), KernelError> {
        if self.attached.get(id).is_some_and(|attached| attached.cgroup_id != cgroup.id) {
            self.depart(id);
        }
        let kept = self.attached.remove(id).filter(|old| old.cgroup_id == cgroup.id && old.number == number);
        let new = || Attached { number, cgroup_id: cgroup.id, known: false, links: BTreeMap::new() };
        let mut attached = kept.unwrap_or_else(new);
        let linked = self.link((ebpf, keep), path, cgroup, hooks, &mut attached);
        // Also what failed halfway: what stands of it judges, and the rest is tried again.
        self.attached.insert(id.clone(), attached);
        linked
    }

    fn link(
        &mut self,
        (ebpf, keep): (&mut Ebpf, &Keep),
        path: &Path,
        cgroup: &Cgroup,
        hooks: &[CgroupHook],
        attached: &mut Attached,
    ) -> Result<(), KernelError> {
        // The id's low half is enough to know a caller that lives right here.
        let local = local_words(attached.number, cgroup.id as u32);
        let target = path.display().to_string();
        for hook in hooks {
            // Once its packets are judged here and before it may open anything: else the root's programs of a strict node would drop
            // the packets of what it was allowed to open, or nobody judge what is no opening.
            if !PACKETS.contains(&hook.attach_type) {
                self.make_known(cgroup.id, attached)?;
            }
            let stands =
                |kept: &mut Kept| keep.stands(kept, (hook.program, cgroup.descriptor()), hook.attach_type, &target);
            if attached.links.get_mut(hook.program).is_some_and(stands) {
                continue;
            }
            let attach = || attach::to_cgroup(ebpf, hook.program, &cgroup.directory, &target);
            let link = keep.hold(At::Cgroup(cgroup.id), hook.program, attach)?;
            // The storage exists from the attachment on; until it is written the hook sees an unknown workload, and refuses nothing.
            let key = CgroupStorageKey::new(cgroup.id, hook.attach_type);
            error::map_point("attach.storage").map_err(error::map(maps::LOCAL))?;
            self.storage.insert(key, local, 0).map_err(error::map(maps::LOCAL))?;
            // Only now: a link without it would be taken for one that stands.
            attached.links.insert(hook.program, link);
        }
        // Only now, so that at no time nothing judges.
        attached.links.retain(|program, _| hooks.iter().any(|hook| hook.program == *program));
        Ok(())
    }

    /// Has the programs at the root know whom a call comes from, and that its packets are judged.
    fn make_known(&mut self, id: u64, attached: &mut Attached) -> Result<(), KernelError> {
        if !attached.known {
            error::map_point("attach.caller").map_err(error::map(maps::CALLERS))?;
            self.callers.insert(id, local_words(attached.number, 0), 0).map_err(error::map(maps::CALLERS))?;
            attached.known = true;
        }
        Ok(())
    }

    /// A deleted cgroup's sockets may live on, in processes that were moved or were handed them: they stay under its policy until the
    /// last is closed.
    fn depart(&mut self, id: &ResourceId) {
        self.departed.extend(self.attached.remove_entry(id));
    }

    /// Lets go of cgroups that the kernel has let go of, with their last socket: it frees the storage then. And of workloads that are
    /// no more, or have another number.
    fn forget_departed(&mut self, numbers: &BTreeMap<ResourceId, u32>) {
        let storage = &self.storage;
        let lives = |attached: &Attached| {
            let [hook, ..] = WORKLOAD_HOOKS;
            storage.get(CgroupStorageKey::new(attached.cgroup_id, hook.attach_type), 0).is_ok()
        };
        self.departed.retain(|(id, attached)| numbers.get(id) == Some(&attached.number) && lives(attached));
    }

    /// Removes callers whose workload is gone.
    fn forget_callers(&mut self) {
        let attached = self.attached.values().map(|attached| attached.cgroup_id);
        let living: BTreeSet<u64> = attached.chain(self.exempt).collect();
        let gone: Vec<u64> = self.callers.keys().filter_map(Result::ok).filter(|id| !living.contains(id)).collect();
        for id in gone {
            // Already gone is what we want.
            let _ = self.callers.remove(&id);
        }
    }
}

/// An open cgroup directory and its id, which is its inode number.
struct Cgroup {
    directory: File,
    id: u64,
}

impl Cgroup {
    fn open(path: &Path) -> Result<Self, KernelError> {
        let error = |source| KernelError::Cgroup { path: path.to_owned(), source };
        let directory = File::open(path).map_err(error)?;
        let id = directory.metadata().map_err(error)?.ino();
        Ok(Self { directory, id })
    }

    /// By which the kernel is asked about it.
    fn descriptor(&self) -> u32 {
        self.directory.as_raw_fd().cast_unsigned()
    }
}

/// `enum bpf_attach_type` of the hooks that see packets, which come first of a workload's.
const PACKETS: [u32; 2] = [0, 1];

/// Levels below the root in which a cgroup is looked for.
const MAX_DEPTH: usize = 12;

/// Whether the cgroup with this id is at or below `path`.
fn exists(path: &Path, id: u64, depth: usize) -> bool {
    if path.metadata().is_ok_and(|found| found.ino() == id) {
        return true;
    }
    let Some(below) = fs::read_dir(path).ok().filter(|_| depth > 0) else { return false };
    let mut directories = below.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.any(|entry| exists(&entry.path(), id, depth - 1))
}

fn is_missing(error: &KernelError) -> bool {
    matches!(error, KernelError::Cgroup { source, .. } if source.kind() == io::ErrorKind::NotFound)
}

/// Refuses a root that is no cgroup2 directory, or is the tree's own root.
pub(super) fn check_root(path: &Path) -> Result<(), KernelError> {
    let problem = |problem: String| KernelError::CgroupRoot { path: PathBuf::from(path), problem };
    let found =
        statfs(path).map_err(|error| problem(format!("{error}; create the directory or name one that exists")))?;
    if found.filesystem_type() != CGROUP2_SUPER_MAGIC {
        return Err(problem(
            "is not on a cgroup2 filesystem; /proc/self/mountinfo says where one is mounted".to_owned(),
        ));
    }
    // Every cgroup but the tree's root has cgroup.type (Documentation/admin-guide/cgroup-v2.rst).
    if !path.join("cgroup.type").exists() {
        return Err(problem(
            "is the root of the cgroup tree, which is never managed; name a directory below it".to_owned(),
        ));
    }
    Ok(())
}

/// Gives each workload with a cgroup a number of its own, keeping those already given.
pub(super) fn number(
    old: &BTreeMap<ResourceId, u32>,
    workloads: &[Arc<CompiledWorkload>],
) -> Result<BTreeMap<ResourceId, u32>, KernelError> {
    let local: Vec<&ResourceId> = workloads.iter().filter(|w| w.cgroup.is_some()).map(|w| &w.id).collect();
    let mut numbers: BTreeMap<ResourceId, u32> =
        local.iter().filter_map(|id| old.get(*id).map(|number| ((*id).clone(), *number))).collect();
    let used: BTreeSet<u32> = numbers.values().copied().collect();
    let mut free = (1..maps::MAX_WORKLOADS).filter(|number| !used.contains(number));
    for id in local.iter().filter(|id| !old.contains_key(**id)) {
        let number =
            free.next().ok_or(KernelError::TooManyWorkloads { count: local.len(), max: maps::MAX_WORKLOADS - 1 })?;
        numbers.insert((*id).clone(), number);
    }
    Ok(numbers)
}
