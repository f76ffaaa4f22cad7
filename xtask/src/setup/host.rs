//! Lives: xtask, setup's look at the machine.
//! Called by: setup, for tasks that load programs into the kernel.
//! May touch: /proc and /sys, read-only.
//! Never: mounts or changes anything; stops a task that only compiles.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{Failure, Found};

/// Reports everything that is missing together. `lenient` says so without failing.
pub fn check(lenient: bool) -> Result<Found, Failure> {
    let lacks = lacks(Path::new("/proc/self"), Path::new("/sys/kernel/btf/vmlinux"));
    if lacks.is_empty() {
        return Ok(Found::Ok("root, cgroup2 and BTF are there".to_owned()));
    }
    let what: Vec<&str> = lacks.iter().map(|lack| lack.what.as_str()).collect();
    let remedy: Vec<&str> = lacks.iter().map(|lack| lack.remedy.as_str()).collect();
    let failure = Failure::new(format!("test and demo cannot run: {}", what.join("; ")), remedy.join("; "));
    if lenient { Ok(Found::Lacking(failure)) } else { Err(failure) }
}

fn lacks(process: &Path, btf: &Path) -> Vec<Failure> {
    let mut lacks = Vec::new();
    // The owner of /proc/self is the effective user.
    if fs::metadata(process).map(|meta| meta.uid()).unwrap_or(u32::MAX) != 0 {
        lacks.push(Failure::new("not root", "run it as root (it works in namespaces and cgroups of its own)"));
    }
    if !has_cgroup2(&fs::read_to_string(process.join("mountinfo")).unwrap_or_default()) {
        lacks.push(Failure::new(
            "no cgroup2 is mounted",
            "`mount -t cgroup2 none /sys/fs/cgroup/unified`, or boot with it",
        ));
    }
    if !btf.is_file() {
        lacks.push(Failure::new(
            "the kernel has no BTF",
            "use a kernel with CONFIG_DEBUG_INFO_BTF=y (every common one since 2021)",
        ));
    }
    lacks
}

/// The filesystem type follows the lone dash of each line.
fn has_cgroup2(mountinfo: &str) -> bool {
    mountinfo.lines().any(|line| line.split_once(" - ").is_some_and(|(_, rest)| rest.starts_with("cgroup2 ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup2_is_found_wherever_it_is_mounted() {
        assert!(has_cgroup2("41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"));
        assert!(has_cgroup2("1 2 0:3 / /x rw shared:4 master:2 - cgroup2 none rw\n"));
        assert!(!has_cgroup2("41 31 0:38 / /sys/fs/cgroup2 rw - cgroup cgroup rw\n"));
    }

    #[test]
    fn everything_missing_is_said_at_once() {
        let nowhere = Path::new("/nowhere");
        let lacks = lacks(nowhere, nowhere);
        assert_eq!(lacks.len(), 3);
        assert!(lacks.iter().all(|lack| !lack.remedy.is_empty()));
    }
}
