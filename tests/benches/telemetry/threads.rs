//! Lives: weir-tests, the benchmark of telemetry: what the threads of a process have used.
//! Called by: agent, floor.
//! May touch: `/proc`, read only.
//! Never: mistakes a thread that ended for one that did nothing: what is asked for must be there.

use std::collections::BTreeMap;
use std::ops::{Add, Sub};
use std::path::Path;

use anyhow::{Context, Result};
use nix::libc::pid_t;

/// What a thread has used since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Used {
    /// CPU time, nanoseconds.
    pub cpu_ns: u64,
    /// Times it waited for something, and was woken.
    pub wakes: u64,
}

impl Add for Used {
    type Output = Used;

    fn add(self, other: Used) -> Used {
        Used { cpu_ns: self.cpu_ns + other.cpu_ns, wakes: self.wakes + other.wakes }
    }
}

impl Sub for Used {
    type Output = Used;

    fn sub(self, earlier: Used) -> Used {
        Used { cpu_ns: self.cpu_ns.saturating_sub(earlier.cpu_ns), wakes: self.wakes.saturating_sub(earlier.wakes) }
    }
}

/// Every thread of a process, by name; those of the same name together.
pub fn of(pid: u32) -> Result<BTreeMap<String, Used>> {
    let folder = format!("/proc/{pid}/task");
    let mut threads: BTreeMap<String, Used> = BTreeMap::new();
    for entry in std::fs::read_dir(&folder).with_context(|| folder.clone())? {
        // One that ends meanwhile is nobody's.
        if let Ok((name, used)) = read(&entry?.path()) {
            let sum = threads.entry(name).or_default();
            *sum = *sum + used;
        }
    }
    Ok(threads)
}

fn read(thread: &Path) -> Result<(String, Used)> {
    let text = |name| std::fs::read_to_string(thread.join(name)).with_context(|| thread.display().to_string());
    let cpu_ns = text("schedstat")?.split_whitespace().next().context("an empty schedstat")?.parse()?;
    let status = text("status")?;
    let wakes = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    let wakes = wakes.context("no count of switches")?.trim().parse()?;
    Ok((text("comm")?.trim().to_owned(), Used { cpu_ns, wakes }))
}

/// Resident memory of a process, bytes.
pub fn resident(pid: pid_t) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.split_whitespace().next().context("an empty VmRSS")?.parse()?;
    Ok(kib * 1024)
}
