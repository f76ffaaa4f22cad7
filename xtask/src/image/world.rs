//! Lives: xtask, the place in which the image is tried.
//! Called by: `trial`.
//! May touch: a network and a mount namespace, cgroups and a folder below /run of its own; containers in storage of its own.
//! Never: leaves any of it behind, also after a failure; attaches to, or mounts in, what is the machine's.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::process;

/// Everything of one trial; dropping it removes it.
pub struct World {
    /// Holds the namespaces open.
    holder: Child,
    /// Mounted in the namespace only: a BPF file system, and what the agent keeps.
    pub folder: PathBuf,
    /// Where podman keeps images: it remembers with which folders it was started, so each trial has its own.
    storage: PathBuf,
    /// Mount of cgroup2.
    pub cgroup2: PathBuf,
    /// The managed tree below it.
    pub tree: PathBuf,
    name: String,
}

/// The container that lives in another's network.
pub const FOLLOWER: &str = "follower";
/// The managed tree, and where containers are that are not governed, below the trial's cgroup.
const TREE: &str = "kubepods";
const NODE: &str = "node";
/// In the namespaces: what a node has mounted, and loopback.
const FURNISH: &str = "mount -t bpf bpf \"$1\" && ip link set lo up && echo ready && exec sleep 3600";

impl World {
    /// Makes the namespaces, the folder and the managed tree.
    pub fn new(storage: PathBuf) -> Result<World> {
        let name = format!("weir-image-{}", std::process::id());
        let (folder, cgroup2) = (Path::new("/run").join(&name), cgroup2()?);
        for part in ["bpf", "state", "run", "etc", "tmp"] {
            fs::create_dir_all(folder.join(part)).with_context(|| format!("creating {}", folder.display()))?;
        }
        let tree = cgroup2.join(&name).join(TREE);
        let _ = fs::remove_dir_all(&storage);
        let mut unshare = process::clean("unshare");
        unshare.args(["--net", "--mount", "sh", "-c", FURNISH, "sh"]).arg(folder.join("bpf"));
        let mut holder = unshare.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("starting unshare")?;
        let said = holder.stdout.take().map(first_line);
        let world = World { holder, folder, storage, cgroup2, tree, name };
        ensure!(said.is_some_and(|line| line == "ready"), "no namespaces with a BPF file system can be made here");
        fs::create_dir_all(&world.tree).with_context(|| format!("creating {}", world.tree.display()))?;
        Ok(world)
    }

    /// podman, in the namespaces.
    pub fn podman(&self) -> Command {
        let mut command = process::clean("nsenter");
        let holder = self.holder.id().to_string();
        command.args(["--target", &holder, "--net", "--mount", "podman", "--log-level", "error"]);
        command.args(["--storage-driver", "vfs", "--runtime", "runc", "--cgroup-manager", "cgroupfs"]);
        command.arg("--root").arg(&self.storage).arg("--runroot").arg(self.folder.join("podman"));
        command.arg("--tmpdir").arg(self.folder.join("tmp"));
        command
    }

    /// What every container of the trial is given: a network (`host`: the world's), the node's processes, and a root nobody writes to. A workload's is in
    /// its cgroup below the managed tree, as a container is in its pod's; others are beside the tree.
    pub fn run(&self, workload: Option<&str>, network: &str, how: &[&str]) -> Command {
        let mut podman = self.podman();
        podman.args(["run", "--network", network, "--pid", "host", "--cgroupns", "host", "--read-only"]);
        podman.args(["--cgroup-parent", &self.parent(workload)]);
        // Both must be given where CAP_SYS_RESOURCE is missing.
        podman.args(["--ulimit", "nofile=20000:20000", "--ulimit", "nproc=5000:5000"]);
        podman.args(["--cap-drop", "ALL"]).args(how);
        podman
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // First what lives in another's network, then the others; and whoever is left in our cgroups all the same.
        let _ = self.podman().args(["rm", "--force", "--ignore", "--time", "1", FOLLOWER]).output();
        let removed = process::capture(self.podman().args(["rm", "--all", "--force", "--time", "1"]));
        let _ = fs::write(self.cgroup2.join(&self.name).join("cgroup.kill"), "1");
        if let Err(error) = removed {
            eprintln!("containers of {} may be left: {error:#}", self.name);
        }
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        // conmon ends a moment after its container.
        let start = Instant::now();
        while !self.cgroups().iter().map(|path| remove_cgroups(path)).fold(true, |all, gone| all & gone) {
            if start.elapsed() > Duration::from_secs(5) {
                eprintln!("left: {} below /sys/fs/cgroup, where processes are", self.name);
                break;
            }
            thread::sleep(Duration::from_millis(100));
        }
        for folder in [&self.folder, &self.storage] {
            if let Err(error) = fs::remove_dir_all(folder) {
                eprintln!("left: {} ({error})", folder.display());
            }
        }
    }
}

impl World {
    fn parent(&self, workload: Option<&str>) -> String {
        match workload {
            Some(workload) => format!("/{}/{TREE}/{workload}", self.name),
            None => format!("/{}/{NODE}", self.name),
        }
    }

    /// Ours in every hierarchy: runc makes a container's cgroup in each.
    fn cgroups(&self) -> Vec<PathBuf> {
        let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        let ours = hierarchies.map(|hierarchy| hierarchy.path().join(&self.name));
        ours.chain([self.cgroup2.join(&self.name)]).filter(|path| path.is_dir()).collect()
    }
}

fn first_line(from: ChildStdout) -> String {
    let mut line = String::new();
    // A holder that said nothing has ended, with its reason on stderr.
    let _ = BufReader::new(from).read_line(&mut line);
    line.trim().to_owned()
}

fn cgroup2() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("reading what is mounted")?;
    for line in mounts.lines() {
        let Some((mount, kind)) = line.split_once(" - ") else { continue };
        if kind.starts_with("cgroup2 ") {
            return mount.split_whitespace().nth(4).map(PathBuf::from).context("a mount without a place");
        }
    }
    bail!("no cgroup2 is mounted")
}

/// Deepest first; whether it is gone. A cgroup that still has processes stays.
fn remove_cgroups(path: &Path) -> bool {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroups(&entry.path());
        }
    }
    fs::remove_dir(path).is_ok() || !path.exists()
}
