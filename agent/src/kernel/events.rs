//! Lives: agent, user space, on the telemetry thread.
//! Called by: `telemetry`, which owns it.
//! May touch: the event ring, the merge tables, the merge epoch.
//! Never: loses a merged count; an epoch's table is read only after every program that could still write it has finished.

use std::os::fd::{AsFd, BorrowedFd};

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, PerCpuArray, RingBuf},
};
use weir_common::{
    counters::{ANY, CELLS, describe},
    event::{DropBytes, EdgeDrop, Event, MergeKey, MergeValue},
    maps,
    verdict::{Hook, Reason, Verdict},
};
use zerocopy::FromBytes as _;

use super::{
    adopted::Adopted,
    batch,
    error::{self, KernelError},
    generation::{Grace, take},
    kernel_drops::DropReasons,
};

type KeyBytes = [u8; size_of::<MergeKey>()];
type ValueBytes = [u8; size_of::<MergeValue>()];
type CellBytes = [u8; size_of::<EdgeDrop>()];

/// Everything the kernel reports.
pub struct Events {
    ring: RingBuf<MapData>,
    epoch: Array<MapData, u32>,
    merged: [HashMap<MapData, KeyBytes, ValueBytes>; 2],
    drops: Drops,
    overflow: PerCpuArray<MapData, u64>,
    overflow_seen: Vec<u64>,
    overflow_sum: u64,
    unclaimed: Vec<(MergeKey, MergeValue)>,
    /// Whether the programs show dropped packets.
    shows: bool,
    /// Those that came since they were last taken: one for each merged decision of an epoch at most.
    shown: Vec<DropBytes>,
    reasons: DropReasons,
    adopted: Option<Adopted>,
    grace: Grace,
    current: u32,
}

/// Drops at XDP, in cells of their own.
struct Drops {
    cells: Array<MapData, CellBytes>,
    tags: Array<MapData, [u64; maps::EDGE_WAYS as usize]>,
    claimed: Array<MapData, u64>,
}

impl Drops {
    fn take(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        Ok(Self {
            cells: take(ebpf, maps::EDGE_DROPPED)?,
            tags: take(ebpf, maps::EDGE_TAGS)?,
            claimed: take(ebpf, maps::EDGE_CLAIMED)?,
        })
    }

    /// Moves a closed epoch's cells to `to`, the last one claimed first: when a step fails, what is left is what the list still has.
    fn empty(&mut self, epoch: u32, to: &mut Vec<(MergeKey, MergeValue)>) -> Result<(), KernelError> {
        let count = epoch * maps::EDGE_CLAIMS;
        let mut left = self.claimed.get(&count, 0).map_err(error::map(maps::EDGE_CLAIMED))?;
        if left == 0 {
            return Ok(());
        }
        let mut emptied = Ok(());
        while left > 0 && emptied.is_ok() {
            // The list is as long as there are cells, and each is on it once.
            let entry = count + u32::try_from(left).unwrap_or(maps::EDGE_DROPS).min(maps::EDGE_DROPS);
            let cell = self.claimed.get(&entry, 0).map_err(error::map(maps::EDGE_CLAIMED));
            emptied = cell.and_then(|cell| self.free(cell as u32, to));
            left -= u64::from(emptied.is_ok());
        }
        self.claimed.set(count, left, 0).map_err(error::map(maps::EDGE_CLAIMED)).and(emptied)
    }

    /// Moves what a cell counted, if that has not been done before, and makes it free.
    fn free(&mut self, cell: u32, to: &mut Vec<(MergeKey, MergeValue)>) -> Result<(), KernelError> {
        let bytes = self.cells.get(&cell, 0).map_err(error::map(maps::EDGE_DROPPED))?;
        self.cells.set(cell, [0; size_of::<EdgeDrop>()], 0).map_err(error::map(maps::EDGE_DROPPED))?;
        let drop = EdgeDrop::read_from_bytes(&bytes).ok().filter(|drop| drop.value.count > 0);
        to.extend(drop.map(|drop| (drop.key, drop.value)));
        let (bucket, way) = (cell / maps::EDGE_WAYS, cell % maps::EDGE_WAYS);
        let mut tags = self.tags.get(&bucket, 0).map_err(error::map(maps::EDGE_TAGS))?;
        if let Some(tag) = tags.get_mut(way as usize) {
            *tag = 0;
        }
        self.tags.set(bucket, tags, 0).map_err(error::map(maps::EDGE_TAGS))
    }
}

/// What one merge epoch counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Decisions by key.
    pub entries: Vec<(MergeKey, MergeValue)>,
    /// Decisions that found the table full, by hook, verdict and reason.
    pub overflow: Vec<(Hook, Verdict, Reason, u64)>,
    /// Entries that the merge table had.
    pub in_table: usize,
    /// Cells for drops at XDP that were in use.
    pub in_cells: usize,
}

impl AsFd for Events {
    /// Readable when the ring holds enough to be worth waking for; a timer must look as well.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl Events {
    pub(super) fn take(
        ebpf: &mut Ebpf,
        shows: bool,
        reasons: DropReasons,
        adopted: Option<Adopted>,
    ) -> Result<Self, KernelError> {
        Ok(Self {
            ring: take(ebpf, maps::EVENTS)?,
            epoch: take(ebpf, maps::EPOCH)?,
            merged: [take(ebpf, maps::MERGED_0)?, take(ebpf, maps::MERGED_1)?],
            drops: Drops::take(ebpf)?,
            overflow: take(ebpf, maps::OVERFLOW)?,
            overflow_seen: vec![0; CELLS],
            overflow_sum: 0,
            unclaimed: Vec::new(),
            shows,
            shown: Vec::new(),
            reasons,
            adopted,
            grace: Grace::open(ebpf)?,
            current: 0,
        })
    }

    /// Hands up to `limit` events to `sink`, oldest first; returns how many.
    pub fn drain(&mut self, limit: usize, mut sink: impl FnMut(&Event)) -> usize {
        let mut count = 0;
        while count < limit {
            let Some(item) = self.ring.next() else { break };
            // Anything of another size is of another ABI, which the loader has excluded; it is left out rather than misread.
            if let Ok(event) = Event::ref_from_bytes(&item) {
                sink(event);
            } else if let Ok(shown) = DropBytes::read_from_bytes(&item) {
                self.shown.push(shown);
            }
            count += 1;
        }
        count
    }

    /// Whether the programs show dropped packets.
    #[must_use]
    pub const fn shows(&self) -> bool {
        self.shows
    }

    /// How dropped packets began, of those drained since the last call.
    pub fn take_shown(&mut self) -> Vec<DropBytes> {
        std::mem::take(&mut self.shown)
    }

    /// Why the kernel drops packets by itself, by its own numbers.
    #[must_use]
    pub const fn drop_reasons(&self) -> &DropReasons {
        &self.reasons
    }

    /// Hands out the table of connections whose ends are told of although they are older than the programs; once, and where they can be.
    pub fn take_adopted(&mut self) -> Option<Adopted> {
        self.adopted.take()
    }

    /// Closes the merge epoch and returns what it counted. Blocks for a grace period (about 10 ms).
    ///
    /// # Errors
    /// When a map cannot be read or written; what was counted stays for the next call.
    pub fn take_merged(&mut self) -> Result<Merged, KernelError> {
        let closed = self.current & 1;
        self.epoch.set(0, self.current.wrapping_add(1), 0).map_err(error::map(maps::EPOCH))?;
        self.current = self.current.wrapping_add(1);
        self.grace.wait()?;
        let before = self.unclaimed.len();
        self.empty(closed)?;
        let in_table = self.unclaimed.len() - before;
        self.drops.empty(closed, &mut self.unclaimed)?;
        let in_cells = self.unclaimed.len() - before - in_table;
        let overflow = self.new_overflow()?;
        Ok(Merged { entries: std::mem::take(&mut self.unclaimed), overflow, in_table, in_cells })
    }

    /// Moves a closed epoch's table into `unclaimed`. What has been moved stays there when a later step fails.
    fn empty(&mut self, epoch: u32) -> Result<(), KernelError> {
        let [even, odd] = &mut self.merged;
        let (table, name) = if epoch == 0 { (even, maps::MERGED_0) } else { (odd, maps::MERGED_1) };
        let unclaimed = &mut self.unclaimed;
        let emptied = batch::empty(table, |key, value| {
            if let (Ok(key), Ok(value)) = (MergeKey::read_from_bytes(key), MergeValue::read_from_bytes(value)) {
                unclaimed.push((key, value));
            }
        });
        emptied.map_err(error::map(name))
    }

    /// What the cumulative overflow counters have gained since the last call. To read thousands of cells of each CPU took longer than all
    /// else that a quiet epoch takes, so their sum says whether it is worth it.
    fn new_overflow(&mut self) -> Result<Vec<(Hook, Verdict, Reason, u64)>, KernelError> {
        let sum = self.overflow.get(&ANY, 0).map_err(error::map(maps::OVERFLOW))?.iter().sum();
        if sum == self.overflow_sum {
            return Ok(Vec::new());
        }
        let now = batch::sums(&self.overflow, CELLS).map_err(error::map(maps::OVERFLOW))?;
        let mut gained = Vec::new();
        for ((cell, now), seen) in (0..).zip(now).zip(&mut self.overflow_seen) {
            if now > *seen {
                gained.extend(describe(cell).map(|(hook, verdict, reason)| (hook, verdict, reason, now - *seen)));
                *seen = now;
            }
        }
        self.overflow_sum = sum;
        Ok(gained)
    }
}
