//! Lives: weir-agent.
//! Called by: `runtime`, before the kernel is touched; `doctor`, which shows the same.
//! May touch: this process's own limit of open files; `/proc` and the limits of cgroups, reading.
//! Never: refuses what would work; ends what is in force: a start that is refused has changed nothing.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::kernel::preflight::processors;

/// Open files of an agent without a workload: programs, maps, listeners, connections.
pub const FILES: u64 = 256;
/// Those of each workload: ten links at its cgroup, two at its interface, one at its namespace and that held open.
pub const FILES_EACH: u64 = 14;

const MIB: u64 = 1 << 20;
/// What an agent takes under load, the kernel's tables for it with it, on two processors with a small policy: 112 MiB was enough, and
/// with 96 MiB its first policy found no room (docs/operations.md).
const MEMORY: u64 = 127 * MIB;
/// What each processor adds: cells of its own.
const MEMORY_CPU: u64 = MIB / 2;
/// The tables once more, which those of the agent before take until this one has taken over.
const BESIDE: u64 = 64 * MIB;

/// Why an agent must not start with what it was given.
#[derive(Debug, thiserror::Error)]
pub enum BoundsError {
    /// Descriptors.
    #[error(
        "RLIMIT_NOFILE: at most {hard} files may be open, and an agent needs {FILES}, and {FILES_EACH} more for each workload: raise the \
         hard limit (systemd: LimitNOFILE=65536; containers: --ulimit nofile=65536). Nothing was changed: what is in force stays"
    )]
    Files {
        /// The hard limit.
        hard: u64,
    },
    /// Memory.
    #[error(
        "{}: at most {} MiB of memory, and an agent needs {} MiB, the kernel's tables for it included: raise it (systemd: MemoryMax; \
         Kubernetes: resources.limits.memory). Nothing was changed: what is in force stays", limit.file.display(), limit.bytes / MIB,
        needed / MIB
    )]
    Memory {
        /// The limit.
        limit: MemoryLimit,
        /// What is needed.
        needed: u64,
    },
    /// Programs load without it, and then those that judge packets attach nowhere.
    #[error("CAP_NET_ADMIN missing: {GRANT}. Nothing was changed: what is in force stays")]
    NetAdmin,
    /// Not known.
    #[error("the limit of open files cannot be asked")]
    Unknown(#[source] io::Error),
}

/// A limit of memory, and where it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryLimit {
    /// The cgroup's file.
    pub file: PathBuf,
    /// The most there may be.
    pub bytes: u64,
}

/// Takes all the descriptors that may be had, and looks whether there is enough of them, of memory and of capabilities.
///
/// # Errors
/// There is not.
pub fn take() -> Result<(), BoundsError> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|errno| BoundsError::Unknown(errno.into()))?;
    if hard < FILES {
        return Err(BoundsError::Files { hard });
    }
    if soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(%error, soft, hard, "RLIMIT_NOFILE could not be raised to what may be had");
    }
    // What else is missing the kernel says better, when it is asked to load.
    if missing(capabilities()) == ["CAP_NET_ADMIN"] {
        return Err(BoundsError::NetAdmin);
    }
    let needed = memory_needed();
    match memory_limit(None) {
        Some(limit) if limit.bytes < needed => Err(BoundsError::Memory { limit, needed }),
        Some(_) | None => Ok(()),
    }
}

/// Bytes that an agent needs on this host.
#[must_use]
pub fn memory_needed() -> u64 {
    MEMORY + MEMORY_CPU * processors() as u64
}

/// The same, where what the agent before left is counted in the same cgroup.
#[must_use]
pub fn memory_beside() -> u64 {
    memory_needed() + BESIDE
}

/// What the agent cannot do without: bits of `enum` in include/uapi/linux/capability.h.
const NEEDED: [(&str, u32); 3] = [("CAP_BPF", 39), ("CAP_PERFMON", 38), ("CAP_NET_ADMIN", 12)];
/// Contains CAP_BPF and CAP_PERFMON, and lets the agent enter namespaces.
pub const SYS_ADMIN: u32 = 21;
/// How to have them all.
pub const GRANT: &str = "run it as root, or grant CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN, CAP_SYS_ADMIN and CAP_SYS_PTRACE (systemd: \
                         AmbientCapabilities, Kubernetes: securityContext)";

/// The effective capabilities of this process, as bits.
#[must_use]
pub fn capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let word = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    word.and_then(|word| u64::from_str_radix(word.trim(), 16).ok()).unwrap_or(0)
}

/// Those of `held` without which nothing is enforced, or no interface managed and no connection cut.
#[must_use]
pub fn missing(held: u64) -> Vec<&'static str> {
    let has = |bit: u32| held >> bit & 1 == 1;
    let part_of_admin = |bit| bit != 12 && has(SYS_ADMIN);
    NEEDED.iter().filter(|(_, bit)| !has(*bit) && !part_of_admin(*bit)).map(|(name, _)| *name).collect()
}

/// The smallest limit of the cgroup of `pid` (this process if there is none) and those above it, as far as they are seen from here.
#[must_use]
pub fn memory_limit(pid: Option<u32>) -> Option<MemoryLimit> {
    let whose = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    let own = fs::read_to_string(format!("/proc/{whose}/cgroup")).ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let files = limit_files(&mounts, &own).into_iter();
    let limits = files
        .filter_map(|file| Some(MemoryLimit { bytes: fs::read_to_string(&file).ok()?.trim().parse().ok()?, file }));
    limits.min_by_key(|limit| limit.bytes)
}

/// The files that may hold one: of both versions, since a host may have both, from the process's cgroup to the mount.
fn limit_files(mounts: &str, own: &str) -> Vec<PathBuf> {
    let old = cgroup(own, has_memory);
    let new = cgroup(own, str::is_empty);
    let at = |line: &str| -> Option<Vec<PathBuf>> {
        let (mount, rest) = line.split_once(" - ")?;
        let mut places = mount.split(' ').skip(3);
        let (root, point) = (places.next()?, Path::new(places.next()?));
        let mut kind = rest.split(' ');
        let (path, file) = match (kind.next()?, kind.next_back()?) {
            ("cgroup2", _) => (new?, "memory.max"),
            ("cgroup", options) if has_memory(options) => (old?, "memory.limit_in_bytes"),
            _ => return None,
        };
        // Where only a part of the tree is mounted, or the process is in another, its mount is all that is seen.
        let below = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
        let all = point.join(below);
        Some(all.ancestors().take_while(|place| place.starts_with(point)).map(|place| place.join(file)).collect())
    };
    mounts.lines().filter_map(at).flatten().collect()
}

fn has_memory(words: &str) -> bool {
    words.split(',').any(|word| word == "memory")
}

/// The path of the first cgroup whose controllers fit.
fn cgroup(own: &str, fits: impl Fn(&str) -> bool) -> Option<&str> {
    own.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        fits(controllers).then_some(path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_memory_are_looked_for_in_both_versions_from_the_process_up_to_the_mount() {
        let old = "35 30 0:32 / /cg/memory rw - cgroup cgroup rw,memory";
        let new = "41 31 0:38 / /cg rw - cgroup2 cgroup2 rw";
        let part = "41 31 0:38 /pod /cg rw - cgroup2 cgroup2 rw";
        let rows: [(&str, &str, &[&str]); 6] = [
            (new, "0::/a/b", &["/cg/a/b/memory.max", "/cg/a/memory.max", "/cg/memory.max"]),
            (old, "4:memory:/a\n0::/c", &["/cg/memory/a/memory.limit_in_bytes", "/cg/memory/memory.limit_in_bytes"]),
            (part, "0::/pod/x", &["/cg/x/memory.max", "/cg/memory.max"]),
            (part, "0::/elsewhere", &["/cg/memory.max"]),
            (old, "0::/c", &[]),
            ("35 30 0:32 / /cg/cpu rw - cgroup cgroup rw,cpu", "1:cpu:/\n4:memory:/a", &[]),
        ];
        for (mounts, own, expected) in rows {
            let expected: Vec<PathBuf> = expected.iter().map(PathBuf::from).collect();
            assert_eq!(limit_files(mounts, own), expected, "{mounts} {own}");
        }
    }

    #[test]
    fn a_limit_is_refused_by_name_value_and_remedy_in_one_line() {
        let limit = MemoryLimit { file: PathBuf::from("/cg/a/memory.max"), bytes: 64 * MIB };
        let memory = BoundsError::Memory { limit, needed: 128 * MIB };
        let rows = [
            (memory, ["/cg/a/memory.max", "64 MiB", "128 MiB", "MemoryMax"]),
            (BoundsError::Files { hard: 64 }, ["RLIMIT_NOFILE", "64 files", "256", "LimitNOFILE"]),
        ];
        for (error, said) in rows {
            let text = error.to_string();
            assert!(said.iter().all(|word| text.contains(word)) && text.lines().count() == 1, "{text}");
        }
    }
}
