//! Lives: weir-agent, exporter.
//! Called by: `state`, when a record finds no room and when room is there again.
//! May touch: its own sums.
//! Never: keeps more than one sum per cause and cell of the kernel's counters.

use std::collections::BTreeMap;

use weir_common::counters;

use crate::telemetry::record::{Cause, Record, RecordKind};

/// Losses that were not told yet.
#[derive(Debug, Default)]
pub struct Losses {
    sums: BTreeMap<(Cause, Option<u32>), Sum>,
}

#[derive(Debug)]
struct Sum {
    count: u64,
    first_ns: u64,
    last_ns: u64,
}

impl Losses {
    /// Adds to the sum of a cause and cell. `None` stands for what is no decision.
    pub fn add(&mut self, cause: Cause, cell: Option<u32>, count: u64, first_ns: u64, last_ns: u64) {
        let sum = self.sums.entry((cause, cell)).or_insert(Sum { count: 0, first_ns, last_ns });
        sum.count += count;
        sum.first_ns = sum.first_ns.min(first_ns);
        sum.last_ns = sum.last_ns.max(last_ns);
    }

    /// One sum as a record.
    pub fn take(&mut self) -> Option<Record> {
        let ((cause, cell), sum) = self.sums.pop_first()?;
        let told = cell.and_then(counters::describe);
        Some(Record {
            kind: RecordKind::Loss(cause),
            time_ns: sum.first_ns,
            end_ns: sum.last_ns,
            hook: told.map(|(hook, _, _)| hook),
            verdict: told.map(|(_, verdict, _)| verdict),
            reason: told.map(|(_, _, reason)| reason),
            count: sum.count,
            ..Record::default()
        })
    }

    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.sums.is_empty()
    }
}
