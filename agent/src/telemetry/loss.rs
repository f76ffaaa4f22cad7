//! Lives: weir-agent, called from the control thread, which owns the kernel's counters.
//! Called by: `control`, about once a second and at the end.
//! May touch: its own copy of the counters; the exporter's queue.
//! Never: reports a loss twice.

use std::collections::HashMap;

use weir_common::counters;

use super::{clock, record::Cause};
use crate::{
    datapath::{CounterCell, OthersLost},
    exporter::Queue,
};

/// Turns growing loss counters into losses with a time.
#[derive(Debug)]
pub struct RingLosses {
    seen: HashMap<u32, u64>,
    others: OthersLost,
    looked_ns: u64,
}

impl Default for RingLosses {
    fn default() -> Self {
        Self { seen: HashMap::new(), others: OthersLost::default(), looked_ns: clock::wall_now() }
    }
}

impl RingLosses {
    /// Reports what the counters have gained since the last call; `others`: what is no decision.
    pub fn update(&mut self, cells: &[CounterCell], others: OthersLost, queue: &Queue) {
        let now = clock::wall_now();
        let seen = std::mem::replace(&mut self.others, others);
        for (cause, seen, lost) in [
            (Cause::RingFullClose, seen.closes, others.closes),
            (Cause::KernelDropMissed, seen.kernel_drops, others.kernel_drops),
        ] {
            if lost > seen {
                queue.lost(cause, None, lost - seen, self.looked_ns, now);
            }
        }
        let mut decisions = 0;
        for cell in cells {
            let index = counters::cell(cell.hook, cell.verdict, cell.reason);
            let seen = self.seen.entry(index).or_default();
            let gained = cell.lost.saturating_sub(*seen);
            if gained > 0 {
                *seen = cell.lost;
                queue.lost(Cause::RingFull, Some(index), gained, self.looked_ns, now);
                decisions += gained;
            }
        }
        if decisions > 0 {
            tracing::warn!(
                decisions,
                "the kernel's event ring had no room: these decisions are counted, but have no record"
            );
        }
        self.looked_ns = now;
    }
}
