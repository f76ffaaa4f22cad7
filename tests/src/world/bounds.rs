//! Lives: weir-tests, a cgroup in which a program of a world has little memory, or little of the processors.
//! Called by: live tests, for the agent; `ledger`, which removes it with the world.
//! May touch: directories that carry the world's name, below this process's own cgroups (version 1) or in the world's (version 2).
//! Never: a limit of anybody else's; passes for bounds where there is no controller to make them.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::error::{WorldError, file};
use super::{World, cgroup};

/// How long killed processes may take to go.
const GONE_WITHIN: Duration = Duration::from_secs(5);
/// The length of time of which a share of the processors is given, microseconds.
const PERIOD_US: u64 = 100_000;
const CONTROLLERS: [&str; 2] = ["memory", "cpu"];
/// The directory in the world's own cgroup (version 2).
const NAME: &str = "bounded";

/// Bounds for whoever enters, none at first.
#[derive(Debug)]
pub struct Bounds {
    memory: PathBuf,
    cpu: PathBuf,
    unified: bool,
}

impl World {
    /// Makes a cgroup with bounds, which goes with the world.
    ///
    /// # Errors
    /// This host gives nobody controllers, or what the kernel says.
    pub fn bounds(&self) -> Result<Bounds, WorldError> {
        match old_places(self.name()) {
            Some([memory, cpu]) => {
                for path in [&memory, &cpu] {
                    fs::create_dir(path).map_err(file("creating cgroup", path))?;
                }
                Ok(Bounds { memory, cpu, unified: false })
            }
            None => {
                let above = cgroup::mount()?.join(self.name());
                let control = above.join("cgroup.subtree_control");
                fs::write(&control, "+memory +cpu").map_err(file("writing (no controller is given here)", control))?;
                let path = above.join(NAME);
                fs::create_dir(&path).map_err(file("creating cgroup", &path))?;
                Ok(Bounds { memory: path.clone(), cpu: path, unified: true })
            }
        }
    }
}

impl Bounds {
    /// What makes a command run inside: put before it.
    #[must_use]
    pub fn entering(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = ["sh", "-ec", ENTER].map(OsString::from).to_vec();
        words.extend([&self.memory, &self.cpu].map(|path| path.join("cgroup.procs").into_os_string()));
        words
    }

    /// Sets how many bytes there may be. One that is used up already counts as set: the kernel then kills at once (version 2), or
    /// refuses (version 1).
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_memory(&self, bytes: u64) -> io::Result<()> {
        fs::write(
            self.memory.join(if self.unified { "memory.max" } else { "memory.limit_in_bytes" }),
            bytes.to_string(),
        )
    }

    /// Bytes in use, those of the kernel for who is inside with them.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn memory(&self) -> io::Result<u64> {
        number(&self.memory.join(if self.unified { "memory.current" } else { "memory.usage_in_bytes" }))
    }

    /// The most that were in use.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn peak(&self) -> io::Result<u64> {
        number(&self.memory.join(if self.unified { "memory.peak" } else { "memory.max_usage_in_bytes" }))
    }

    /// How many processes the kernel has killed for want of memory.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn killed(&self) -> io::Result<u64> {
        let path = self.memory.join(if self.unified { "memory.events" } else { "memory.oom_control" });
        let text = fs::read_to_string(path)?;
        let word = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        word.and_then(|word| word.trim().parse().ok()).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Sets how much of one processor there may be, in hundredths.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_cpu(&self, percent: u64) -> io::Result<()> {
        let quota = PERIOD_US * percent / 100;
        if self.unified {
            return fs::write(self.cpu.join("cpu.max"), format!("{quota} {PERIOD_US}"));
        }
        fs::write(self.cpu.join("cpu.cfs_period_us"), PERIOD_US.to_string())?;
        fs::write(self.cpu.join("cpu.cfs_quota_us"), quota.to_string())
    }

    /// For how many periods whoever is inside had to wait for the next.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn throttled(&self) -> io::Result<u64> {
        let text = fs::read_to_string(self.cpu.join("cpu.stat"))?;
        let word = text.lines().find_map(|line| line.strip_prefix("nr_throttled "));
        word.and_then(|word| word.trim().parse().ok()).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// Enters both, and becomes what follows.
const ENTER: &str = r#"echo $$ > "$0"; echo $$ > "$1"; shift; exec "$@""#;

/// Removes what a world of this name has where controllers are of version 1; in version 2 it is a part of the world's cgroup.
///
/// # Errors
/// When processes survive, or the kernel refuses to remove a cgroup.
pub(super) fn remove(name: &str) -> Result<(), WorldError> {
    old_places(name).into_iter().flatten().filter(|path| path.is_dir()).try_for_each(|path| {
        end(&path)?;
        fs::remove_dir(&path).map_err(file("removing cgroup", path))
    })
}

/// Where each controller has its cgroups: a tree of its own each, and there the one of this process. `None` in version 2.
fn old_places(name: &str) -> Option<[PathBuf; 2]> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let [memory, cpu] = CONTROLLERS.map(|controller| place(&mounts, &own, controller));
    Some([memory?.join(name), cpu?.join(name)])
}

fn place(mounts: &str, own: &str, controller: &str) -> Option<PathBuf> {
    let has = |words: &str| words.split(',').any(|word| word == controller);
    let mount = mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - cgroup ")?;
        has(kind.rsplit(' ').next()?).then(|| mount.split(' ').nth(4)).flatten()
    })?;
    let path = own.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        has(controllers).then_some(path)
    })?;
    Some(Path::new(mount).join(path.trim_start_matches('/')))
}

fn number(path: &Path) -> io::Result<u64> {
    fs::read_to_string(path)?.trim().parse().map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Ends who is inside, and waits until they are gone.
fn end(path: &Path) -> Result<(), WorldError> {
    let procs = path.join("cgroup.procs");
    let deadline = crate::process::deadline(GONE_WITHIN);
    loop {
        let text = fs::read_to_string(&procs).map_err(file("reading", &procs))?;
        if text.is_empty() {
            return Ok(());
        }
        // One that has ended meanwhile is what is wanted.
        for pid in text.lines().filter_map(|pid| pid.parse().ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        if Instant::now() > deadline {
            return Err(WorldError::Survivors(path.to_path_buf()));
        }
        sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_of_version_1_is_found_and_none_where_there_is_version_2() {
        let mounts = "34 30 0:31 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      35 30 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory";
        let own = "4:memory:/a/b\n1:cpu,cpuacct:/\n0::/c";
        let found = |controller| place(mounts, own, controller);
        assert_eq!(found("memory"), Some(PathBuf::from("/sys/fs/cgroup/memory/a/b")));
        assert_eq!(found("cpu"), Some(PathBuf::from("/sys/fs/cgroup/cpu,cpuacct/")));
        assert_eq!(found("pids"), None);
        assert_eq!(place("41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw", "0::/c", "memory"), None);
    }
}
