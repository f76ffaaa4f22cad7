//! Lives: weir-agent, between telemetry and status.
//! Called by: `telemetry`, when it hands records to the exporter; `rpc`, when it shows the counters.
//! May touch: its own atomics.
//! Never: counts a decision twice or a close at all.

use std::sync::atomic::{AtomicU64, Ordering};

use weir_common::{
    counters::{self, CELLS},
    verdict::{Hook, Reason, Verdict},
};

use super::record::{Record, RecordKind};

/// Decisions whose records were handed to the exporter, by the same cells as the kernel's counters.
#[derive(Debug)]
pub struct Tally {
    cells: Vec<AtomicU64>,
}

impl Default for Tally {
    fn default() -> Self {
        Self { cells: (0..CELLS).map(|_| AtomicU64::new(0)).collect() }
    }
}

impl Tally {
    /// Counts the decisions of a record.
    pub fn count(&self, record: &Record) {
        let cell = cell_of(record).filter(|_| record.kind == RecordKind::Verdict);
        if let Some(counter) = cell.and_then(|cell| self.cells.get(usize::try_from(cell).ok()?)) {
            counter.fetch_add(record.count, Ordering::Relaxed);
        }
    }

    /// Decisions recorded in a cell.
    #[must_use]
    pub fn recorded(&self, hook: Hook, verdict: Verdict, reason: Reason) -> u64 {
        let index = usize::try_from(counters::cell(hook, verdict, reason)).ok();
        index.and_then(|index| self.cells.get(index)).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }
}

/// The kernel's cell for the decision a record tells of.
#[must_use]
pub fn cell_of(record: &Record) -> Option<u32> {
    Some(counters::cell(record.hook?, record.verdict?, record.reason?))
}
