//! Lives: agent, user space.
//! Called by: `Kernel`, for status, and when a limit's number goes to another limit.
//! May touch: what the programs count for limits, and the table of clients, of which it reads a sample.
//! Never: resets what is counted for a limit that stays.

use std::time::{SystemTime, UNIX_EPOCH};

use aya::{
    Ebpf,
    maps::{Array, MapData, PerCpuArray, PerCpuValues},
    util::nr_cpus,
};
use weir_common::{event::LimitStats, maps};

use super::error::{self, KernelError};

/// How full the table of clients is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitTable {
    /// Places in both rows.
    pub slots: u64,
    /// Thousandths of them that are in use, by a sample.
    pub busy_permille: u32,
}

impl LimitTable {
    /// Thousandths of clients whose places are both in use by others.
    #[must_use]
    pub const fn crowded_permille(self) -> u32 {
        self.busy_permille * self.busy_permille / 1000
    }
}

type Stats<T> = PerCpuArray<T, [u64; 4]>;

/// What was charged, by limit number.
pub(super) fn stats(ebpf: &Ebpf, limits: usize) -> Result<Vec<LimitStats>, KernelError> {
    let map = ebpf.map(maps::LIMIT_STATS).ok_or(KernelError::NoMap(maps::LIMIT_STATS))?;
    let map: Stats<&MapData> = PerCpuArray::try_from(map).map_err(error::map(maps::LIMIT_STATS))?;
    let read = |number: usize| {
        let values = map.get(&(number as u32), 0).map_err(error::map(maps::LIMIT_STATS))?;
        let mut total = LimitStats::default();
        for [passed_packets, passed_bytes, exceeded_packets, exceeded_bytes] in values.iter() {
            total.passed_packets += passed_packets;
            total.passed_bytes += passed_bytes;
            total.exceeded_packets += exceeded_packets;
            total.exceeded_bytes += exceeded_bytes;
        }
        Ok(total)
    };
    (0..limits.min(maps::MAX_LIMITS as usize)).map(read).collect()
}

/// Forgets what was counted under a number that another limit has from now on.
pub(super) fn forget(ebpf: &mut Ebpf, number: u32) -> Result<(), KernelError> {
    let map = ebpf.map_mut(maps::LIMIT_STATS).ok_or(KernelError::NoMap(maps::LIMIT_STATS))?;
    let mut map: Stats<&mut MapData> = PerCpuArray::try_from(map).map_err(error::map(maps::LIMIT_STATS))?;
    let cpus = nr_cpus().map_or(1, |count| count);
    if let Ok(none) = PerCpuValues::try_from(vec![[0; 4]; cpus]) {
        map.set(number, none, 0).map_err(error::map(maps::LIMIT_STATS))?;
    }
    let map = ebpf.map_mut(maps::TOTALS).ok_or(KernelError::NoMap(maps::TOTALS))?;
    let mut map: Array<&mut MapData, u64> = Array::try_from(map).map_err(error::map(maps::TOTALS))?;
    for kind in 0..4 {
        map.set(number * 4 + kind, 0, 0).map_err(error::map(maps::TOTALS))?;
    }
    Ok(())
}

/// Places that are looked at: the estimate is right within about two hundredths.
const SAMPLE: u32 = 2048;

/// How full the table of clients is: a place is in use whose time is still to come.
pub(super) fn table(ebpf: &Ebpf) -> Result<LimitTable, KernelError> {
    let map = ebpf.map(maps::LIMIT_STATE).ok_or(KernelError::NoMap(maps::LIMIT_STATE))?;
    let map: Array<&MapData, u64> = Array::try_from(map).map_err(error::map(maps::LIMIT_STATE))?;
    let now = super::monotonic_ns();
    // Another place each time; which, nobody outside can tell or needs to.
    let start = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.subsec_nanos());
    let stride = maps::LIMIT_SLOTS / SAMPLE;
    let mut busy = 0;
    for sample in 0..SAMPLE {
        let place = sample * stride + start % stride;
        let time = map.get(&place, 0).map_err(error::map(maps::LIMIT_STATE))?;
        busy += u32::from(time > now);
    }
    Ok(LimitTable { slots: maps::LIMIT_SLOTS.into(), busy_permille: busy * 1000 / SAMPLE })
}
