//! Lives: agent, user space.
//! Called by: whoever must act inside the workloads' network namespaces: `sockets`, which lists and cuts sockets there.
//! May touch: the managed cgroup tree, reading; `porter`, which looks at processes and enters namespaces.
//! Never: changes the namespace of the calling thread; keeps a namespace alive that no process of the tree lives in.
//!
//! A namespace is found by the processes in it: every cgroup of the managed tree is walked, and `/proc/PID/ns/net` of each of its
//! processes names one. A process that comes after the walk is found by the next.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use netlink_sys::Socket;
use nix::sched::{CloneFlags, setns};

use super::porter;

/// How deep below the managed root is looked: deeper than any container runtime nests.
const MAX_DEPTH: usize = 16;

/// One network namespace, held open.
#[derive(Debug)]
pub struct Namespace {
    /// Its inode number, which names it as long as it exists.
    pub id: u64,
    /// Whether the agent itself lives in it.
    pub own: bool,
    file: File,
}

/// A namespace and who lives in it.
#[derive(Clone, Debug)]
pub struct Inhabited {
    /// The namespace.
    pub namespace: Arc<Namespace>,
    /// Numbers of the workloads with a process in it; 0 for processes of the managed tree that belong to no workload.
    pub workloads: BTreeSet<u32>,
}

/// What one walk over the managed tree has found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Number of the workload by id of a cgroup, the workload's own and every one below it; 0 for cgroups of no workload.
    pub cgroups: HashMap<u64, u32>,
    /// The namespaces its processes live in, and the agent's own, in order of their ids.
    pub namespaces: Vec<Inhabited>,
}

/// Finds namespaces, and keeps those open that it found the last time.
#[derive(Debug, Default)]
pub struct Namespaces {
    known: BTreeMap<u64, Arc<Namespace>>,
}

impl Namespaces {
    /// Walks the tree below `root`. `workloads` are the cgroups of workloads (paths below `root` included) with their numbers.
    ///
    /// What vanishes during the walk is not in the answer.
    ///
    /// # Errors
    /// The root cannot be read, or this process's own namespace cannot be opened.
    pub fn find(&mut self, root: &Path, workloads: &[(u32, PathBuf)]) -> io::Result<Found> {
        let by_path: HashMap<&Path, u32> = workloads.iter().map(|(number, path)| (path.as_path(), *number)).collect();
        let mut walk = Walk { by_path: &by_path, known: &self.known, found: BTreeMap::new(), cgroups: HashMap::new() };
        let own = Namespace::open(Path::new("/proc/self/ns/net"), true)?;
        walk.found.insert(own.id, (Arc::new(own), BTreeSet::new()));
        walk.directory(root, 0, MAX_DEPTH)?;
        let Walk { found, cgroups, .. } = walk;
        self.known = found.iter().map(|(id, (namespace, _))| (*id, Arc::clone(namespace))).collect();
        let namespaces = found.into_values().map(|(namespace, workloads)| Inhabited { namespace, workloads }).collect();
        Ok(Found { cgroups, namespaces })
    }
}

impl Namespace {
    fn open(path: &Path, own: bool) -> io::Result<Self> {
        let file = File::open(path)?;
        let id = file.metadata()?.ino();
        Ok(Self { id, own, file })
    }

    /// That of the calling thread, which is inside already.
    pub(super) fn of_this_thread() -> io::Result<Self> {
        Self::open(Path::new("/proc/thread-self/ns/net"), true)
    }

    /// That of another process.
    fn of(pid: u32) -> io::Result<Self> {
        let file = porter::namespace(pid)?;
        let id = file.metadata()?.ino();
        Ok(Self { id, own: false, file })
    }

    /// The namespace's file.
    #[must_use]
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// A sock_diag socket in it.
    ///
    /// # Errors
    /// The namespace cannot be entered, which needs CAP_SYS_ADMIN, or there is no sock_diag.
    pub(super) fn door(&self) -> io::Result<Socket> {
        if self.own {
            return porter::knock();
        }
        porter::door(&self.file)?.map_or_else(|| self.inside(porter::knock), Ok)
    }

    /// The range of ports that clients in it get, as the kernel writes it.
    ///
    /// # Errors
    /// As of a door into it.
    pub fn client_ports(&self) -> io::Result<String> {
        if self.own {
            return porter::client_ports();
        }
        porter::ports(&self.file)?.map_or_else(|| self.inside(porter::client_ports), Ok)
    }

    /// Does something on a thread inside the namespace: where there is no porter.
    fn inside<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        let body = || {
            setns(&self.file, CloneFlags::CLONE_NEWNET)?;
            work()
        };
        thread::scope(|scope| scope.spawn(body).join())
            .unwrap_or_else(|_| Err(io::Error::other("the thread inside the network namespace panicked")))
    }
}

/// The walk under way.
struct Walk<'a> {
    by_path: &'a HashMap<&'a Path, u32>,
    known: &'a BTreeMap<u64, Arc<Namespace>>,
    found: BTreeMap<u64, (Arc<Namespace>, BTreeSet<u32>)>,
    cgroups: HashMap<u64, u32>,
}

impl Walk<'_> {
    /// One cgroup of the workload `above`, and what is below it.
    fn directory(&mut self, path: &Path, above: u32, depth: usize) -> io::Result<()> {
        let number = self.by_path.get(path).copied().unwrap_or(above);
        self.cgroups.insert(fs::metadata(path)?.ino(), number);
        let pids: Vec<u32> = processes(path).iter().filter_map(|pid| pid.parse().ok()).collect();
        for (pid, id) in pids.iter().zip(porter::namespaces_of(&pids)) {
            self.process(*pid, id, number);
        }
        if depth == 0 {
            return Ok(());
        }
        for entry in fs::read_dir(path)?.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            // A directory that is gone by now has no processes any more.
            let _ = self.directory(&entry.path(), number, depth - 1);
        }
        Ok(())
    }

    /// Notes the namespace of a process; one that has ended lives in none.
    fn process(&mut self, pid: u32, id: Option<u64>, number: u32) {
        let Some(id) = id else { return };
        if let Some((_, workloads)) = self.found.get_mut(&id) {
            workloads.insert(number);
            return;
        }
        let known = self.known.get(&id).cloned();
        let Some(namespace) = known.or_else(|| Namespace::of(pid).ok().map(Arc::new)) else { return };
        // The process may have moved on between the two looks.
        self.found.entry(namespace.id).or_insert_with(|| (namespace, BTreeSet::new())).1.insert(number);
    }
}

/// The processes of one cgroup; a threaded one names them by their threads.
pub(super) fn processes(cgroup: &Path) -> Vec<String> {
    let read = |name: &str| fs::read_to_string(cgroup.join(name));
    let text = read("cgroup.procs").or_else(|_| read("cgroup.threads")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree that looks like cgroups: this process in `web/container`, and a process that does not exist.
    fn tree() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let directory = root.path().join(name);
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("cgroup.procs"), text).unwrap();
        };
        put("web/container", &format!("{}\n", std::process::id()));
        put("api", "4194999\n");
        put("stranger", "");
        root
    }

    #[test]
    fn cgroups_belong_to_the_nearest_workload_above() {
        let root = tree();
        let path = |name: &str| root.path().join(name);
        let workloads = [(3, path("web")), (4, path("api"))];
        let found = Namespaces::default().find(root.path(), &workloads).unwrap();
        let number = |name: &str| found.cgroups.get(&fs::metadata(path(name)).unwrap().ino()).copied();
        let rows = [("web", 3), ("web/container", 3), ("api", 4), ("stranger", 0), ("", 0)];
        for (name, expected) in rows {
            assert_eq!(number(name), Some(expected), "{name}");
        }
    }

    #[test]
    fn a_namespace_is_found_by_its_processes_and_knows_who_they_are() {
        let root = tree();
        let mut namespaces = Namespaces::default();
        let found = namespaces.find(root.path(), &[(3, root.path().join("web"))]).unwrap();
        let [only] = found.namespaces.as_slice() else { panic!("{:?}", found.namespaces) };
        assert!(only.namespace.own);
        assert_eq!(only.workloads, BTreeSet::from([3]));
        assert!(only.namespace.client_ports().unwrap().starts_with(|first: char| first.is_ascii_digit()));
    }

    #[test]
    fn a_root_that_is_not_there_is_an_error() {
        assert!(Namespaces::default().find(Path::new("/nowhere/at/all"), &[]).is_err());
    }
}
