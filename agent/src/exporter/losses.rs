//! Lives: weir-agent, exporter.
//! Called by: `pending`, when a record finds no room and when room is there again.
//! May touch: its own sums.
//! Never: keeps more than one sum per cause, cell of the kernel's counters and workload, or more than [`MOST`] of them.

use std::{collections::BTreeMap, sync::Arc};

use weir_common::counters;

use crate::telemetry::record::{About, Cause, End, Record, RecordKind, WorkloadName};

/// Sums kept; beyond it, those of a workload are added to the sum of no workload.
const MOST: usize = 4096;

/// Losses that were not told yet.
#[derive(Debug, Default)]
pub struct Losses {
    sums: BTreeMap<(Cause, Option<u32>, String), Sum>,
    totals: BTreeMap<Cause, u64>,
}

#[derive(Debug)]
struct Sum {
    count: u64,
    first_ns: u64,
    last_ns: u64,
}

impl Losses {
    /// Adds to the sum of a cause, cell and workload. No cell stands for what is no decision, no workload ("") for any.
    pub fn add(&mut self, cause: Cause, cell: Option<u32>, workload: &str, count: u64, first_ns: u64, last_ns: u64) {
        *self.totals.entry(cause).or_default() += count;
        self.again(cause, cell, workload, count, first_ns, last_ns);
    }

    /// Adds a loss that was told, and whose record was lost.
    pub fn again(&mut self, cause: Cause, cell: Option<u32>, workload: &str, count: u64, first_ns: u64, last_ns: u64) {
        let workload = if self.sums.len() < MOST { workload } else { "" };
        let sum = self.sums.entry((cause, cell, workload.to_owned())).or_insert(Sum { count: 0, first_ns, last_ns });
        sum.count += count;
        sum.first_ns = sum.first_ns.min(first_ns);
        sum.last_ns = sum.last_ns.max(last_ns);
    }

    /// One sum as a record.
    pub fn take(&mut self) -> Option<Record> {
        let ((cause, cell, workload), sum) = self.sums.pop_first()?;
        let told = cell.and_then(counters::describe);
        let workload =
            (!workload.is_empty()).then(|| Arc::new(WorkloadName { name: workload, labels: Vec::new(), cgroup: None }));
        let about = About {
            hook: told.map(|(hook, _, _)| hook),
            verdict: told.map(|(_, verdict, _)| verdict),
            reason: told.map(|(_, _, reason)| reason),
            local: End { workload, ..End::default() },
            ..About::default()
        };
        Some(Record {
            kind: RecordKind::Loss(cause),
            time_ns: sum.first_ns,
            end_ns: sum.last_ns,
            count: sum.count,
            ..Record::of(Arc::new(about))
        })
    }

    /// Everything that was lost since the start, by every cause there is.
    pub fn totals(&self) -> BTreeMap<Cause, u64> {
        Cause::ALL.iter().map(|cause| (*cause, self.totals.get(cause).copied().unwrap_or(0))).collect()
    }

    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.sums.is_empty()
    }
}
