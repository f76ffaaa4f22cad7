//! Lives: agent, user space.
//! Called by: `Kernel::counters` for status, the loss watch of telemetry.
//! May touch: per-CPU counter maps, read only.
//! Never: resets a counter; they are cumulative since the programs were loaded.

use aya::{
    Ebpf,
    maps::{MapData, PerCpuArray},
};
use weir_common::{
    counters::{self, CELLS, describe},
    maps,
    verdict::{Hook, Reason, Verdict},
};

use super::{
    batch,
    error::{self, KernelError},
};

/// Decisions of one kind, and how many of their events found no room in the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CounterCell {
    /// Where.
    pub hook: Hook,
    /// What.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// Decisions.
    pub decided: u64,
    /// Of these, decisions whose event found no room in the ring.
    pub lost: u64,
    /// Of these, decisions by rules that want no record.
    pub quiet: u64,
}

/// What has no record and is no decision, since the programs were loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OthersLost {
    /// Closes whose event found no room in the ring.
    pub closes: u64,
    /// Drops of the kernel's own that no program was run for.
    pub kernel_drops: u64,
}

/// Packets one interface's XDP program saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceSeen {
    /// Interface index.
    pub index: u32,
    /// Frames seen.
    pub seen: u64,
    /// Frames passed on.
    pub passed: u64,
}

pub(super) fn read(ebpf: &Ebpf) -> Result<Vec<CounterCell>, KernelError> {
    let counted = all(ebpf, maps::COUNTERS, counters::DECISIONS)?;
    let lost = all(ebpf, maps::LOST, CELLS)?;
    let at = |cells: &[u64], cell: u32| cells.get(cell as usize).copied().unwrap_or(0);
    let mut cells = Vec::new();
    for cell in 0..CELLS as u32 {
        let Some((hook, verdict, reason)) = describe(cell) else { continue };
        let quiet = at(&counted, counters::quiet(cell));
        let decided = at(&counted, cell) + quiet;
        // What was lost is part of it.
        if decided != 0 {
            cells.push(CounterCell { hook, verdict, reason, decided, lost: at(&lost, cell), quiet });
        }
    }
    Ok(cells)
}

/// Closes whose event found no room in the ring.
pub(super) fn closes_lost(ebpf: &Ebpf) -> Result<u64, KernelError> {
    let lost = open(ebpf, maps::LOST)?.get(&counters::CLOSES, 0).map_err(error::map(maps::LOST))?;
    Ok(lost.iter().sum())
}

fn open<'a>(ebpf: &'a Ebpf, name: &'static str) -> Result<PerCpuArray<&'a MapData, u64>, KernelError> {
    let map = ebpf.map(name).ok_or(KernelError::NoMap(name))?;
    PerCpuArray::try_from(map).map_err(error::map(name))
}

fn all(ebpf: &Ebpf, name: &'static str, entries: usize) -> Result<Vec<u64>, KernelError> {
    batch::sums(&open(ebpf, name)?, entries).map_err(error::map(name))
}
