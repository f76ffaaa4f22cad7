//! Lives: weir-agent, `--doctor`: privileges, kernel settings, limits, mounts, the state directory, the clock.
//! Called by: `doctor`.
//! May touch: `/proc` and `/sys`, reading.
//! Never: decides by the kernel's version what can be tried.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::{Duration, SystemTime},
};

use nix::{
    fcntl::{AT_FDCWD, AtFlags},
    sys::statvfs::statvfs,
    time::{ClockId, clock_gettime},
    unistd::{AccessFlags, faccessat},
};

use super::Check;
use crate::{
    bounds::{self, FILES, FILES_EACH, GRANT, MemoryLimit, SYS_ADMIN},
    config::{Config, is_bpffs},
    kernel::preflight,
};

/// Lets the agent find the network namespaces of other users' processes.
const SYS_PTRACE: u32 = 19;

/// What depends on no configuration. `agent`: the process id of the one that runs.
pub(super) fn checks(agent: Option<u32>) -> Vec<Check> {
    let held = bounds::capabilities();
    vec![privileges(held), btf(), jit(), statistics(), processes(agent), memory(agent), clock()]
}

fn privileges(held: u64) -> Check {
    const NAME: &str = "privileges";
    let has = |bit: u32| held >> bit & 1 == 1;
    let missing = bounds::missing(held);
    if !missing.is_empty() {
        return Check::fail(NAME, format!("{} missing", missing.join(", ")), GRANT);
    }
    if !has(SYS_ADMIN) {
        let found = "CAP_SYS_ADMIN missing: living connections in other network namespaces are not cut, sk_lookup is not attached there, other programs cannot be listed";
        return Check::warn(NAME, found, GRANT);
    }
    if !has(SYS_PTRACE) {
        let found = "CAP_SYS_PTRACE missing: living connections of other users' processes in other network namespaces are not cut";
        return Check::warn(NAME, found, GRANT);
    }
    Check::ok(NAME, "CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN, CAP_SYS_ADMIN and CAP_SYS_PTRACE are effective")
}

fn btf() -> Check {
    const NAME: &str = "btf";
    const FILE: &str = "/sys/kernel/btf/vmlinux";
    match fs::metadata(FILE) {
        Err(error) => {
            Check::fail(NAME, format!("{FILE}: {error}"), "boot a kernel with CONFIG_DEBUG_INFO_BTF=y, and mount /sys")
        }
        Ok(_) if !preflight::knows_tasks() => Check::warn(
            NAME,
            format!("{FILE} does not tell where a task's parts lie: programs ask by helpers, which is slower"),
            "report this kernel's version, please",
        ),
        Ok(file) => Check::ok(NAME, format!("{FILE}, {} KiB", file.len() / 1024)),
    }
}

fn jit() -> Check {
    const NAME: &str = "jit";
    let word = |name: &str| sysctl(&format!("net/core/{name}"));
    match (word("bpf_jit_enable"), word("bpf_jit_harden")) {
        (None, _) if Path::new("/proc/sys/net/core/somaxconn").exists() => {
            Check::skipped(NAME, "net.core.bpf_jit_enable is shown in the host's own network namespace only")
        }
        (None, _) => Check::warn(NAME, "net.core.bpf_jit_enable cannot be read", "mount /proc; check CONFIG_BPF_JIT=y"),
        (Some(0), _) => Check::warn(
            NAME,
            "off: programs are interpreted, and each decision costs many times as much",
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
        (Some(_), Some(2)) => Check::warn(
            NAME,
            "on, hardened for everybody: constants are blinded in Weir's programs too, which makes them slower",
            "net.core.bpf_jit_harden=1 hardens programs of unprivileged users only",
        ),
        (Some(_), _) => Check::ok(NAME, "on"),
    }
}

fn statistics() -> Check {
    match sysctl("kernel/bpf_stats_enabled") {
        Some(0) | None => Check::ok("bpf-stats", "run time statistics are off"),
        Some(_) => Check::warn(
            "bpf-stats",
            "run time statistics are on: every run of every program reads the clock twice",
            "sysctl -w kernel.bpf_stats_enabled=0 when done measuring",
        ),
    }
}

/// Whether there is a BPF file system where the configuration says; only what is pinned needs it.
pub(super) fn bpffs(config: &Config) -> Check {
    const NAME: &str = "bpffs";
    let path = config.neighbours.bpffs.display();
    match (config.pin || config.neighbours.chain, is_bpffs(&config.neighbours.bpffs)) {
        (_, true) => Check::ok(NAME, format!("mounted at {path}")),
        (false, false) => Check::ok(NAME, format!("not mounted at {path}; `pin: false` needs none")),
        (true, false) => Check::fail(
            NAME,
            format!("{path} is no BPF file system, and what is to outlive the agent needs one"),
            "mount one there (`mount -t bpf bpf DIR`), or name in `bpffs` where it is",
        ),
    }
}

/// Where file systems of this kind are mounted.
pub(super) fn mounts(kind: &str) -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let at = |line: &str| {
        let (place, source) = line.split_once(" - ")?;
        (source.split(' ').next() == Some(kind)).then(|| place.split(' ').nth(4).map(str::to_owned)).flatten()
    };
    text.lines().filter_map(at).collect()
}

fn sysctl(name: &str) -> Option<u64> {
    fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?.trim().parse().ok()
}

/// `net.ipv4.tcp_syncookies` of this network namespace.
pub(super) fn syn_cookies() -> Option<u64> {
    sysctl("net/ipv4/tcp_syncookies")
}

fn processes(agent: Option<u32>) -> Check {
    const NAME: &str = "processes";
    /// Threads of an agent that serves, with room for namespaces that it enters.
    const NEEDED: u64 = 64;
    match limit(agent, "Max processes", Which::Soft) {
        Some(limit) if limit < NEEDED => Check::warn(
            NAME,
            format!("{limit} processes and threads for this user"),
            format!("raise it to {NEEDED} at least (systemd: TasksMax and LimitNPROC)"),
        ),
        Some(u64::MAX) | None => Check::ok(NAME, "no limit"),
        Some(limit) => Check::ok(NAME, format!("up to {limit}")),
    }
}

/// Descriptors for the links of `workloads` workloads.
pub(super) fn open_files(agent: Option<u32>, workloads: usize) -> Check {
    const NAME: &str = "open-files";
    let needed = FILES + FILES_EACH * workloads as u64;
    let whose = if agent.is_some() { "the running agent" } else { "this process" };
    // What it may have: a start takes all of it.
    match limit(agent, "Max open files", Which::Hard) {
        Some(limit) if limit < needed => Check::fail(
            NAME,
            format!("{limit} for {whose}, and {workloads} workloads need about {needed}"),
            format!("raise it (systemd: LimitNOFILE={})", needed.next_power_of_two()),
        ),
        Some(limit) => {
            let room = limit.saturating_sub(FILES) / FILES_EACH;
            Check::ok(NAME, format!("{limit} for {whose}, enough for some {room} workloads; {workloads} are known"))
        }
        None => Check::skipped(NAME, format!("the limits of {whose} cannot be read")),
    }
}

/// The memory that there may be, the kernel's tables with it.
fn memory(agent: Option<u32>) -> Check {
    const NAME: &str = "memory";
    let Some(MemoryLimit { file, bytes }) = bounds::memory_limit(agent) else {
        return Check::ok(NAME, "no limit of a cgroup is seen from here");
    };
    let mebibytes = |bytes: u64| bytes >> 20;
    let (needed, beside) = (bounds::memory_needed(), bounds::memory_beside());
    let found = format!("{}: {} MiB", file.display(), mebibytes(bytes));
    let remedy =
        format!("raise it to {} MiB (systemd: MemoryMax; Kubernetes: resources.limits.memory)", mebibytes(beside));
    match bytes {
        _ if bytes < needed => {
            Check::fail(NAME, format!("{found}, and an agent needs {} MiB", mebibytes(needed)), remedy)
        }
        _ if bytes < beside => Check::warn(
            NAME,
            format!(
                "{found}: an agent that is started again in the same cgroup, beside what the one before left, needs {} MiB",
                mebibytes(beside)
            ),
            remedy,
        ),
        _ if mebibytes(bytes) >= 1 << 30 => Check::ok(NAME, "no limit"),
        _ => Check::ok(NAME, found),
    }
}

/// Of the two that a resource has.
#[derive(Clone, Copy)]
enum Which {
    Soft = 0,
    Hard = 1,
}

/// A limit of the agent that runs, or of this process. The words of the kernel: "unlimited" is [`u64::MAX`].
fn limit(agent: Option<u32>, name: &str, which: Which) -> Option<u64> {
    let whose = agent.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    let text = fs::read_to_string(format!("/proc/{whose}/limits")).ok()?;
    let word = text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().nth(which as usize)?;
    if word == "unlimited" { Some(u64::MAX) } else { word.parse().ok() }
}

/// Whether the state directory can be written to, and has room.
pub(super) fn state_dir(dir: &Path) -> Check {
    const NAME: &str = "state-dir";
    /// A policy of a large cluster, twice: it is written beside and renamed.
    const ROOM: u64 = 64 << 20;
    let Some(there) = dir.ancestors().find(|path| path.exists()) else {
        return Check::fail(NAME, format!("{} cannot be reached", dir.display()), "give another --state-dir");
    };
    if !there.is_dir() {
        return Check::fail(NAME, format!("{} is no directory", there.display()), "give another --state-dir");
    }
    let missing = if there == dir { "" } else { " (it will be made)" };
    if let Err(error) = faccessat(AT_FDCWD, there, AccessFlags::W_OK | AccessFlags::X_OK, AtFlags::AT_EACCESS) {
        let found = format!("{}: not writable: {}", there.display(), error.desc());
        return Check::fail(NAME, found, "correct its owner or mount, or give another --state-dir");
    }
    match statvfs(there) {
        Ok(found) if free(&found) < ROOM => Check::warn(
            NAME,
            format!("{}: {} KiB free", dir.display(), free(&found) / 1024),
            "make room: a policy that cannot be saved does not survive a restart",
        ),
        Ok(found) => Check::ok(NAME, format!("{}{missing}: writable, {} MiB free", dir.display(), free(&found) >> 20)),
        Err(error) => Check::warn(NAME, format!("{}: free room is not known: {}", dir.display(), error.desc()), ""),
    }
}

fn free(found: &nix::sys::statvfs::Statvfs) -> u64 {
    found.blocks_available() * found.fragment_size()
}

fn clock() -> Check {
    const NAME: &str = "clock";
    const REMEDY: &str =
        "run chronyd, systemd-timesyncd or the like: expiry of policies and times of records follow the wall clock";
    let now = SystemTime::now();
    // A program is installed after it was built.
    let built = fs::metadata("/proc/self/exe").map(|file| Duration::from_secs(file.mtime().max(0).cast_unsigned()));
    let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    if built.is_ok_and(|built| since_epoch < built) {
        return Check::warn(NAME, "the wall clock is before the time at which this program was written", REMEDY);
    }
    let slept = suspended().filter(|slept| !slept.is_zero());
    let slept = slept.map_or_else(String::new, |slept| format!("; suspended for {} s since boot", slept.as_secs()));
    match preflight::is_synchronised() {
        Ok(true) => Check::ok(NAME, format!("synchronised{slept}")),
        Ok(false) => Check::warn(NAME, format!("nobody keeps the wall clock right (adjtimex){slept}"), REMEDY),
        Err(error) => Check::warn(NAME, format!("the kernel does not say whether it is right: {error}"), REMEDY),
    }
}

/// By how much the clock that runs on while the host sleeps is ahead of the one that does not.
fn suspended() -> Option<Duration> {
    let at = |clock| clock_gettime(clock).ok().map(Duration::from);
    let (running, all) = (at(ClockId::CLOCK_MONOTONIC)?, at(ClockId::CLOCK_BOOTTIME)?);
    // Between the two readings some time passes.
    Some(Duration::from_secs(all.saturating_sub(running).as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Outcome;

    #[test]
    fn a_missing_privilege_is_named_and_sys_admin_contains_two_of_them() {
        let bits = |all: &[u32]| all.iter().fold(0u64, |bits, bit| bits | 1 << bit);
        let rows = [
            (bits(&[39, 38, 12, 19, 21]), Outcome::Ok, "effective"),
            (bits(&[12, 19, 21]), Outcome::Ok, "effective"),
            (bits(&[12, 21]), Outcome::Warn, "CAP_SYS_PTRACE missing"),
            (bits(&[39, 38, 12]), Outcome::Warn, "CAP_SYS_ADMIN missing"),
            (bits(&[21]), Outcome::Fail, "CAP_NET_ADMIN missing"),
            (bits(&[39, 12]), Outcome::Fail, "CAP_PERFMON missing"),
            (0, Outcome::Fail, "CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN missing"),
        ];
        for (held, outcome, found) in rows {
            let check = privileges(held);
            assert!(check.outcome == outcome && check.found.contains(found), "{held:x}: {check:?}");
        }
    }

    #[test]
    fn more_workloads_than_descriptors_for_them_fail() {
        assert_eq!(open_files(None, 1).outcome, Outcome::Ok);
        let check = open_files(None, 1 << 40);
        assert!(check.outcome == Outcome::Fail && check.remedy.contains("LimitNOFILE="), "{check:?}");
    }

    #[test]
    fn a_state_directory_is_not_made_and_one_that_cannot_be_fails() {
        let dir = tempfile::tempdir().unwrap();
        let absent = dir.path().join("one/two");
        let check = state_dir(&absent);
        assert!(check.outcome == Outcome::Ok && check.found.contains("will be made"), "{check:?}");
        assert!(!absent.exists() && !dir.path().join("one").exists());
        fs::write(dir.path().join("file"), "").unwrap();
        let check = state_dir(&dir.path().join("file/weir"));
        assert!(check.outcome == Outcome::Fail && check.found.contains("is no directory"), "{check:?}");
    }
}
