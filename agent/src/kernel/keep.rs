//! Lives: agent, user space.
//! Called by: `Kernel`, which opens it and ends it; `cgroups`, `interfaces`, `wires` and `lookups`, for each link they make; `detach`.
//! May touch: the folder `weir/TREE` of a BPF file system.
//! Never: reads a pin as if it were its own: what an agent before kept judges until this one's programs stand beside it, then goes.
//!
//! ```text
//!   BPFFS/weir/TREE/run-N/KIND-TARGET-WHAT-SERIAL     one link of the N-th agent of this managed tree
//!                         cgroup-ID-PROGRAM           at the cgroup with this id
//!                         xdp-INDEX-MODE              at the interface with this index
//!                         tcx-INDEX-PROGRAM           there too
//!                         netns-ID-PROGRAM            at the network namespace with this id
//! ```
//! A pinned link holds its program, a program its maps, and so the whole of what an agent put in force stays when it ends, however that
//! happens. The next one brings maps and programs of its own and reads nothing of the old (`docs/decisions/0009-beside-and-not-into.md`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use aya::programs::links::{FdLink, PinnedLink};

use super::{
    error::{self, KernelError},
    neighbours, query,
};
use crate::{config::is_bpffs, faults};

/// Folder of all pins below `bpffs`.
const FOLDER: &str = "weir";
/// What the names of runs begin with.
const RUN: &str = "run-";

/// Where this agent's links are kept, and those of agents before it.
pub(super) struct Keep {
    /// `None`: links end with the agent.
    folder: Option<Folder>,
    shared: Arc<Shared>,
    ids: BTreeMap<&'static str, u32>,
    /// One thread attaches; the lock is for the type.
    state: Mutex<State>,
}

struct Folder {
    bpffs: PathBuf,
    run: PathBuf,
}

#[derive(Default)]
struct State {
    /// Counts pins, for names that never come again.
    serial: u64,
    repairs: u64,
    /// It was said that links cannot be pinned.
    told: bool,
    /// Links of agents before.
    before: Vec<Pin>,
    /// Names found in this run's folder when it was looked at last; `None`: nothing can be pinned now.
    present: Option<BTreeSet<String>>,
}

/// What a link of ours is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum At {
    /// A cgroup, by its id.
    Cgroup(u64),
    /// The XDP slot of an interface, by its index.
    Xdp(u32),
    /// A workload's interface, by its index.
    Tcx(u32),
    /// A network namespace, by its id.
    Netns(u64),
}

/// A link that an agent before kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pin {
    /// Where it is attached.
    pub at: At,
    /// Its program, or in an XDP slot its mode.
    pub what: String,
    path: PathBuf,
}

/// What links know of the agent.
#[derive(Default)]
struct Shared {
    /// It ends: nothing is detached any more.
    leaving: AtomicBool,
    /// Pins of its own that are to go and could not be removed: their links are still attached.
    stuck: Mutex<Vec<PathBuf>>,
}

/// A link. Dropping it detaches, unless the agent is ending.
pub(super) struct Kept {
    /// `None`: it was lost when it was to be pinned again.
    link: Option<FdLink>,
    at: At,
    what: String,
    /// Its pin.
    pin: Option<PathBuf>,
    shared: Arc<Shared>,
}

impl Keep {
    /// One that keeps nothing: links end with the agent.
    pub(super) fn nothing() -> Self {
        Self { folder: None, shared: Arc::default(), ids: BTreeMap::new(), state: Mutex::default() }
    }

    /// Makes the folder of this run, beside those of agents before that managed the same tree.
    pub(super) fn open(bpffs: &Path, cgroup_root: &Path) -> Result<Self, KernelError> {
        let tree = tree(bpffs, cgroup_root)?;
        let runs = runs(&tree);
        let next = runs.last().map_or(1, |(number, _)| number + 1);
        let run = tree.join(format!("{RUN}{next}"));
        let before: Vec<Pin> = runs.iter().flat_map(|(_, path)| pins(path)).collect();
        faults::point("start.run").and_then(|()| fs::create_dir_all(&run)).map_err(pin_error(&run))?;
        if !before.is_empty() {
            tracing::info!(
                links = before.len(),
                "what an agent before put in force stays until this one's programs stand beside it"
            );
        }
        let state = State { before, present: Some(BTreeSet::new()), ..State::default() };
        let folder = Folder { bpffs: bpffs.to_owned(), run };
        Ok(Self { folder: Some(folder), state: Mutex::new(state), ..Self::nothing() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the ids of this agent's programs, to know them where they are attached.
    pub(super) fn know(&mut self, ids: BTreeMap<&'static str, u32>) {
        self.ids = ids;
    }

    /// The id of one of this agent's programs.
    pub(super) fn id(&self, program: &str) -> Option<u32> {
        self.ids.get(program).copied()
    }

    /// Whether a link is as it was made: pinned, its program where it was attached (`target`: a descriptor, or an interface's index).
    /// Else it says so.
    pub(super) fn stands(&self, kept: &mut Kept, (program, target): (&str, u32), attach_type: u32, name: &str) -> bool {
        self.stands_in(kept, program, name, || query::attached(target, attach_type))
    }

    /// The same, the kernel asked by `ask` for the programs in the place.
    pub(super) fn stands_in(
        &self,
        kept: &mut Kept,
        program: &str,
        name: &str,
        ask: impl FnOnce() -> io::Result<Vec<u32>>,
    ) -> bool {
        // A kernel that does not answer has not said that it is gone.
        let gone = self.id(program).is_some_and(|id| ask().is_ok_and(|found| !found.contains(&id)));
        if gone || kept.link.is_none() {
            self.repair(program, name, "it was detached");
            return false;
        }
        if self.has(kept) {
            return true;
        }
        // One that could not be pinned when it was made is nobody's doing.
        if kept.pin.is_some() {
            self.repair(program, name, "its pin was removed");
        }
        self.pin_again(kept)
    }

    /// Looks at what is pinned; before each round of attaching.
    pub(super) fn look(&self) {
        let Some(folder) = &self.folder else { return };
        self.shared.detach_stuck();
        let found = folder.look();
        let mut state = self.state();
        match (&found, state.told) {
            (Err(error), false) => tracing::error!(
                %error, folder = %folder.run.display(),
                "links cannot be pinned: what is attached from now on ends with the agent"
            ),
            (Ok(_), true) => tracing::info!(folder = %folder.run.display(), "links can be pinned again"),
            (Err(_), true) | (Ok(_), false) => {}
        }
        state.told = found.is_err();
        state.present = found.ok();
    }

    /// Attaches, and pins the link; one that cannot be pinned ends with the agent.
    pub(super) fn hold(
        &self,
        at: At,
        what: &str,
        mut attach: impl FnMut() -> Result<FdLink, KernelError>,
    ) -> Result<Kept, KernelError> {
        let link = attach()?;
        let pinned = match self.pin(at, what, link) {
            Ok(kept) => return Ok(kept),
            Err(error) => error,
        };
        // The link went with the failure.
        tracing::error!(error = %pinned, "a link ends with the agent");
        self.state().told = true;
        Ok(self.unpinned(at, what, attach()?))
    }

    /// Pins a link; on an error it is detached, unless it has another pin.
    pub(super) fn pin(&self, at: At, what: &str, link: FdLink) -> Result<Kept, KernelError> {
        let mut state = self.state();
        let folder = self.folder.as_ref().filter(|_| state.present.is_some());
        let Some(folder) = folder else { return Ok(self.unpinned(at, what, link)) };
        state.serial += 1;
        let name = format!("{}-{what}-{}", at.name(), state.serial);
        let path = folder.run.join(&name);
        faults::point("pin.link").map_err(pin_error(&path))?;
        let link =
            link.pin(&path).map_err(|error| KernelError::Pin { path: path.clone(), why: error::causes(&error) })?;
        faults::passed("pin.pinned");
        state.present.get_or_insert_default().insert(name);
        let mut kept = self.unpinned(at, what, link.into());
        kept.pin = Some(path);
        Ok(kept)
    }

    fn unpinned(&self, at: At, what: &str, link: FdLink) -> Kept {
        let shared = Arc::clone(&self.shared);
        Kept { link: Some(link), at, what: what.to_owned(), pin: None, shared }
    }

    /// Pins a link again whose pin is gone; `false`: it was lost over that, and must be made anew.
    fn pin_again(&self, kept: &mut Kept) -> bool {
        kept.pin = None;
        let Some(link) = kept.link.take() else { return false };
        match self.pin(kept.at, &kept.what, link) {
            Ok(new) => {
                *kept = new;
                true
            }
            Err(error) => {
                tracing::error!(%error, "a link could not be pinned again");
                false
            }
        }
    }

    /// Whether a link of ours is pinned as it should be; one that cannot be pinned now is.
    fn has(&self, kept: &Kept) -> bool {
        let state = self.state();
        let Some(present) = state.present.as_ref() else { return true };
        let name = kept.pin.as_ref().and_then(|pin| pin.file_name()?.to_str());
        name.is_some_and(|name| present.contains(name))
    }

    /// Says that something of ours was taken away and is put back.
    fn repair(&self, what: &str, target: &str, why: &str) {
        self.state().repairs += 1;
        tracing::error!(program = what, target, why, "somebody took away what Weir had attached: it is attached again");
    }

    /// How often something was put back.
    pub(super) fn repairs(&self) -> u64 {
        self.state().repairs
    }

    /// Whether what is attached outlives the agent; `false` also where that is not asked for.
    pub(super) fn keeps(&self) -> bool {
        self.folder.is_some() && !self.state().told
    }

    /// The link that an agent before kept in the XDP slot of an interface, and its mode.
    pub(super) fn xdp_before(&self, index: u32) -> Option<(FdLink, String)> {
        let state = self.state();
        // Of several the last: an agent that was ended in between took over from the one before it by the same link.
        let pin = state.before.iter().rev().find(|pin| pin.at == At::Xdp(index))?;
        let link = PinnedLink::from_pin(&pin.path).ok()?;
        Some((link.into(), pin.what.clone()))
    }

    /// Whether something that was attached in this round would end with the agent, though it should not.
    pub(super) fn lacks_pins(&self) -> bool {
        self.folder.is_some() && self.state().told
    }

    /// Lets go of links of agents before for which `stays` is false: they are detached. Those that cannot be are tried again next time.
    pub(super) fn release_before(&self, mut stays: impl FnMut(&Pin) -> bool) {
        let Some(folder) = &self.folder else { return };
        let before = std::mem::take(&mut self.state().before);
        if before.is_empty() {
            return;
        }
        let (mut kept, gone): (Vec<Pin>, Vec<Pin>) = before.into_iter().partition(|pin| stays(pin));
        let (gone, stuck): (Vec<Pin>, Vec<Pin>) = gone.into_iter().partition(Pin::remove);
        kept.extend(stuck);
        if !gone.is_empty() {
            tracing::info!(
                links = gone.len(),
                left = kept.len(),
                "links of the agent before are detached: this one's stand in their place"
            );
        }
        self.state().before = kept;
        faults::passed("release.run");
        folder.remove_empty_runs();
    }

    /// Whether nothing is left of agents before.
    pub(super) fn is_alone(&self) -> bool {
        self.state().before.is_empty()
    }

    /// From here on nothing is detached any more: the agent ends.
    pub(super) fn leave(&self) {
        if self.folder.is_some() {
            self.shared.leaving.store(true, Ordering::Relaxed);
        }
    }
}

impl Folder {
    /// The names of what is pinned. A folder that is gone is made again.
    fn look(&self) -> io::Result<BTreeSet<String>> {
        if !is_bpffs(&self.bpffs) {
            return Err(io::Error::other(format!("{} is no BPF file system any more", self.bpffs.display())));
        }
        fs::create_dir_all(&self.run)?;
        Ok(names(&self.run)?.into_iter().collect())
    }

    /// Removes the folders of agents before of which nothing is left.
    fn remove_empty_runs(&self) {
        let Some(tree) = self.run.parent() else { return };
        for (_, path) in runs(tree).into_iter().filter(|(_, path)| *path != self.run) {
            // Not empty: what is in there stays for now.
            let _ = fs::remove_dir(path);
        }
    }
}

impl At {
    fn name(self) -> String {
        match self {
            Self::Cgroup(id) => format!("cgroup-{id}"),
            Self::Xdp(index) => format!("xdp-{index}"),
            Self::Tcx(index) => format!("tcx-{index}"),
            Self::Netns(id) => format!("netns-{id}"),
        }
    }

    fn read(kind: &str, target: &str) -> Option<Self> {
        Some(match kind {
            "cgroup" => Self::Cgroup(target.parse().ok()?),
            "xdp" => Self::Xdp(target.parse().ok()?),
            "tcx" => Self::Tcx(target.parse().ok()?),
            "netns" => Self::Netns(target.parse().ok()?),
            _ => return None,
        })
    }
}

impl Pin {
    fn read(path: PathBuf) -> Option<Self> {
        let name = path.file_name()?.to_str()?.to_owned();
        let mut words = name.split('-');
        let at = At::read(words.next()?, words.next()?)?;
        Some(Self { at, what: words.next()?.to_owned(), path })
    }

    /// Whether it still judges anybody. One that cannot be asked does.
    pub(super) fn is_attached(&self) -> bool {
        query::is_attached(&self.path).unwrap_or(true)
    }

    /// `false`: it is still there.
    fn remove(&self) -> bool {
        match faults::point("release.link").and_then(|()| fs::remove_file(&self.path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::error!(path = %self.path.display(), %error, "a link of an agent before could not be detached");
                false
            }
            Ok(()) | Err(_) => true,
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let Some(path) = self.pin.take().filter(|_| !self.shared.leaving.load(Ordering::Relaxed)) else { return };
        if let Err(error) = unpin(&path) {
            tracing::error!(path = %path.display(), %error, "a link stays attached for now: its pin could not be removed");
            self.shared.stuck().push(path);
        }
    }
}

impl Shared {
    fn stuck(&self) -> MutexGuard<'_, Vec<PathBuf>> {
        self.stuck.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tries again to remove what could not be removed.
    fn detach_stuck(&self) {
        self.stuck().retain(|path| {
            let removed = unpin(path);
            if removed.is_ok() {
                tracing::info!(path = %path.display(), "a link that stayed attached is detached now");
            }
            removed.is_err()
        });
    }
}

/// Removes a pin of this agent's; one that is gone is what is wanted.
fn unpin(path: &Path) -> io::Result<()> {
    match faults::point("detach.link").and_then(|()| fs::remove_file(path)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// What [`detach`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Detached {
    /// Links that were detached.
    pub links: usize,
    /// XDP programs that Weir stood in front of and that have their slot to themselves again.
    pub neighbours: usize,
    /// Such that Weir still stands in front of: their interfaces are in another network namespace.
    pub behind: usize,
}

/// Detaches whatever agents of this managed tree left in force. None may run.
///
/// # Errors
/// Something could not be removed; it says what. The rest is removed all the same.
pub fn detach(bpffs: &Path, cgroup_root: &Path) -> Result<Detached, KernelError> {
    let tree = tree(bpffs, cgroup_root)?;
    let (neighbours, behind) = neighbours::put_all_back(&tree);
    let (mut detached, mut failed) = (Detached { links: 0, neighbours, behind }, None);
    for (_, run) in runs(&tree) {
        for name in names(&run).unwrap_or_default() {
            let path = run.join(name);
            match fs::remove_file(&path) {
                Ok(()) => detached.links += 1,
                Err(error) => failed = Some(pin_error(&path)(error)),
            }
        }
        if let Err(error) = fs::remove_dir(&run) {
            failed.get_or_insert_with(|| pin_error(&run)(error));
        }
    }
    // Others' trees may be below the same folder.
    let _ = fs::remove_dir(&tree);
    let _ = fs::remove_dir(bpffs.join(FOLDER));
    failed.map_or(Ok(detached), Err)
}

/// Links that agents of this managed tree, which do not run, left in force.
#[must_use]
pub fn left_in_force(bpffs: &Path, cgroup_root: &Path) -> usize {
    let runs = tree(bpffs, cgroup_root).map(|tree| runs(&tree)).unwrap_or_default();
    runs.iter().map(|(_, run)| pins(run).len()).sum()
}

fn pin_error(path: &Path) -> impl Fn(io::Error) -> KernelError {
    move |error| KernelError::Pin { path: path.to_owned(), why: error.to_string() }
}

/// The folder of a managed tree: named by its path below the mount, which is the same inside a container and outside.
pub(super) fn tree(bpffs: &Path, cgroup_root: &Path) -> Result<PathBuf, KernelError> {
    below_mount(cgroup_root).map(|path| bpffs.join(FOLDER).join(plain(&path))).map_err(pin_error(cgroup_root))
}

/// Its path below the mount of the file system it is in.
fn below_mount(cgroup_root: &Path) -> io::Result<String> {
    // A tree that was removed is found by where it was.
    let there = cgroup_root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let root = there.canonicalize()?.join(cgroup_root.strip_prefix(there).unwrap_or(Path::new("")));
    let device = there.metadata()?.dev();
    let same = |path: &&Path| path.metadata().map_or(true, |found| found.dev() == device);
    let mount = root.ancestors().take_while(same).last().unwrap_or(&root);
    let below = root.strip_prefix(mount).unwrap_or(&root);
    Ok(below.to_string_lossy().into_owned())
}

/// A path as one name: `:` between its parts, and `%` with two digits for what a BPF file system (no dots), or this, has another use for.
fn plain(path: &str) -> String {
    let mut name = String::from("tree:");
    for byte in path.bytes() {
        match byte {
            b'/' => name.push(':'),
            byte if byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' => name.push(char::from(byte)),
            byte => name.push_str(&format!("%{byte:02X}")),
        }
    }
    name
}

/// The runs below a tree's folder, in their order.
fn runs(tree: &Path) -> Vec<(u64, PathBuf)> {
    let names = names(tree).unwrap_or_default();
    let number = |name: &String| name.strip_prefix(RUN).and_then(|number| number.parse().ok());
    let mut runs: Vec<(u64, PathBuf)> =
        names.iter().filter_map(|name| Some((number(name)?, tree.join(name)))).collect();
    runs.sort();
    runs
}

fn pins(run: &Path) -> Vec<Pin> {
    names(run).unwrap_or_default().into_iter().filter_map(|name| Pin::read(run.join(name))).collect()
}

fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(folder)?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_says_where_its_link_is_attached() {
        let rows: [(&str, Option<(At, &str)>); 7] = [
            ("cgroup-4711-connect4-1", Some((At::Cgroup(4711), "connect4"))),
            ("cgroup-4711-root_sock_create-12", Some((At::Cgroup(4711), "root_sock_create"))),
            ("xdp-3-native-2", Some((At::Xdp(3), "native"))),
            ("tcx-3-from_workload-2", Some((At::Tcx(3), "from_workload"))),
            ("netns-4026531840-look_up-9", Some((At::Netns(4_026_531_840), "look_up"))),
            ("xdp-eth0-native-2", None),
            ("something", None),
        ];
        for (name, expected) in rows {
            let found = Pin::read(Path::new("/x").join(name));
            let found = found.as_ref().map(|pin| (pin.at, pin.what.as_str()));
            assert_eq!(found, expected, "{name}");
            if let Some((at, what)) = expected {
                assert!(name.starts_with(&format!("{}-{what}-", at.name())), "{name}");
            }
        }
    }

    #[test]
    fn no_two_trees_share_a_folder_and_no_name_has_a_dot() {
        let paths = ["kubepods.slice", "kubepods/slice", "kubepods:slice", "kubepods%2Eslice", "kubepods-slice", ""];
        let names: BTreeSet<String> = paths.iter().map(|path| plain(path)).collect();
        assert_eq!(names.len(), paths.len(), "{names:?}");
        assert!(names.iter().all(|name| !name.contains(['.', '/'])), "{names:?}");
    }

    #[test]
    fn runs_are_counted_on_and_what_is_none_of_ours_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let tree = tree(dir.path(), dir.path()).unwrap();
        for name in ["run-2", "run-10", "run-x", "else"] {
            fs::create_dir_all(tree.join(name)).unwrap();
        }
        fs::write(tree.join("run-2/xdp-3-native-1"), "").unwrap();
        fs::write(tree.join("else/xdp-3-native-1"), "").unwrap();
        assert_eq!(runs(&tree).iter().map(|(number, _)| *number).collect::<Vec<_>>(), [2, 10]);
        assert_eq!(detach(dir.path(), dir.path()).unwrap(), Detached { links: 1, neighbours: 0, behind: 0 });
        assert!(tree.join("else/xdp-3-native-1").exists() && !tree.join("run-2").exists());
    }
}
