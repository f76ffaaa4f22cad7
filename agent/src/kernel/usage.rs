//! Lives: agent, user space.
//! Called by: `Kernel`, for status: each scrape, probe and `weirctl status`.
//! May touch: what the kernel tells of programs; the table of expected replies, of which it reads a sample.
//! Never: walks a whole table; makes the kernel count runs unless that was asked for.

use std::{os::fd::OwnedFd, time::Duration};

use aya::{
    Ebpf,
    maps::{Array, MapData},
    sys::Stats,
};
use weir_common::{event::ReplyBucket, maps};
use zerocopy::FromBytes as _;

use super::{
    attach,
    error::{self, KernelError},
    tracepoints,
};

/// How full a table is that can fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// Its name in metrics.
    pub table: &'static str,
    /// Places in use.
    pub entries: u64,
    /// Places.
    pub capacity: u64,
}

impl Fill {
    /// A table of `capacity` places.
    #[must_use]
    pub const fn new(table: &'static str, entries: u64, capacity: u32) -> Self {
        Self { table, entries, capacity: capacity as u64 }
    }
}

/// How often a program ran and for how long, while the kernel counted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramRuns {
    /// Its name.
    pub program: &'static str,
    /// Runs, on every CPU and at every place it is attached to.
    pub runs: u64,
    /// Time of all of them together.
    pub time: Duration,
}

/// Makes the kernel count the runs of all BPF programs until the descriptor is closed. What cannot be counted is no reason not to
/// enforce.
pub(super) fn count_runs() -> Option<OwnedFd> {
    aya::sys::enable_stats(Stats::RunTime)
        .inspect_err(|error| {
            tracing::warn!(%error, "the kernel does not count the runs of programs; metrics.programStats has no effect");
        })
        .ok()
}

/// What was counted; only programs of which something was, by us or by whoever else asked the kernel to.
pub(super) fn runs(ebpf: &Ebpf, chain: bool) -> Result<Vec<ProgramRuns>, KernelError> {
    let mut runs = Vec::new();
    for name in tracepoints::with(ebpf, attach::programs(chain)) {
        let program = ebpf.program(name).ok_or(KernelError::NoProgram(name))?;
        let info = program.info().map_err(|source| KernelError::ProgramInfo { program: name, source })?;
        if info.run_count() > 0 {
            runs.push(ProgramRuns { program: name, runs: info.run_count(), time: info.run_time() });
        }
    }
    Ok(runs)
}

/// Buckets that are looked at of one workload, and workloads at one time. 16 buckets have 64 of the 512 places.
const BUCKETS: u32 = 16;
const WORKLOADS: usize = 128;

/// Expected replies of the workload that has most, by a sample: each has places of its own, so one may be full while others have
/// none. Of more than [`WORKLOADS`] others are looked at each time.
pub(super) fn replies(ebpf: &Ebpf, workloads: impl ExactSizeIterator<Item = u32>) -> Result<Fill, KernelError> {
    let map = ebpf.map(maps::REPLIES).ok_or(KernelError::NoMap(maps::REPLIES))?;
    let map: Array<&MapData, [u8; size_of::<ReplyBucket>()]> =
        Array::try_from(map).map_err(error::map(maps::REPLIES))?;
    let now = super::monotonic_ns();
    let start = fastrand::usize(..workloads.len().max(1));
    let mut numbers: Vec<u32> = workloads.collect();
    numbers.rotate_left(start);
    let stride = maps::REPLY_BUCKETS / BUCKETS;
    let mut most = 0;
    for number in numbers.into_iter().take(WORKLOADS) {
        let mut busy = 0;
        for sample in 0..BUCKETS {
            let bytes = map.get(&(number * maps::REPLY_BUCKETS + sample * stride), 0);
            let bucket = ReplyBucket::read_from_bytes(&bytes.map_err(error::map(maps::REPLIES))?).unwrap_or_default();
            let fresh = |entry: &&weir_common::event::Reply| {
                entry.tag != 0 && now.saturating_sub(entry.sent_ns) < maps::REPLY_TTL_NS
            };
            busy += bucket.entries.iter().filter(fresh).count() as u64;
        }
        most = most.max(busy);
    }
    Ok(Fill::new("replies", most * u64::from(stride), maps::REPLY_BUCKETS * ENTRIES))
}

/// Entries of a bucket.
const ENTRIES: u32 = 4;
