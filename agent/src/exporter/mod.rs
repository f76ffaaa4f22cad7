//! Lives: weir-agent, between telemetry and the collector.
//! Called by: `telemetry` and `control`, which push; `rpc::export`, which takes batches and brings acknowledgements; `rpc`,
//!   which shows the status.
//! May touch: its own memory, behind one lock held for moments.
//! Never: makes a pusher wait; gives a number twice; forgets a batch that was not acknowledged.
//!
//! ```text
//! push ─► pending ─ batch() ─► unacknowledged, numbered 1, 2, 3 ... ─ acknowledge() ─► gone
//! ```
//! When the queue is full the newest record is dropped: what is kept is then a story without gaps up to a loss record that
//! says what is missing. Decisions dropped are counted by hook, verdict and reason, and sent as losses once there is room.

mod losses;
mod state;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;

pub use self::state::Batch;
use self::state::State;
use crate::telemetry::record::{Cause, Record};

/// The bounded queue of records.
#[derive(Debug)]
pub struct Queue {
    state: Mutex<State>,
    changed: Notify,
    boot_id: String,
    enabled: bool,
}

/// Numbers for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueStatus {
    /// Records kept, acknowledged ones not counted.
    pub queued: u64,
    /// Records it can keep.
    pub capacity: u64,
    /// Records given to the stream at least once.
    pub sent: u64,
    /// Records the collector has taken over.
    pub acknowledged: u64,
    /// Decisions in records dropped because the queue was full.
    pub lost: u64,
}

/// An acknowledgement of a batch that was never sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the collector acknowledged batch {got}, but only {sent} were sent")]
pub struct UnknownAck {
    /// What it said.
    pub got: u64,
    /// The last one sent.
    pub sent: u64,
}

impl Queue {
    /// A queue of up to `capacity` records. One that is not `enabled` (no collector is configured) keeps nothing.
    #[must_use]
    pub fn new(capacity: usize, boot_id: String, enabled: bool) -> Self {
        Self { state: Mutex::new(State::new(capacity)), changed: Notify::new(), boot_id, enabled }
    }

    /// Takes records over, or counts them as lost. Never waits for anything but the lock.
    pub fn push(&self, records: Vec<Record>) {
        if self.enabled && !records.is_empty() {
            self.lock().push(records);
            self.changed.notify_one();
        }
    }

    /// Takes a loss over that happened before the queue; it is sent like a record.
    pub fn lost(&self, cause: Cause, cell: u32, count: u64, first_ns: u64, last_ns: u64) {
        if self.enabled {
            self.lock().lost(cause, cell, count, first_ns, last_ns);
            self.changed.notify_one();
        }
    }

    /// No more records will come; what is kept may still be sent.
    pub fn close(&self) {
        self.lock().close();
        self.changed.notify_one();
    }

    /// The batch numbered `sequence`: one that was not acknowledged, or a new one if it is the next and records are there.
    #[must_use]
    pub fn batch(&self, sequence: u64) -> Option<Arc<Batch>> {
        self.lock().batch(sequence)
    }

    /// Number of the first batch that is not acknowledged: where a new stream begins.
    #[must_use]
    pub fn first_unacknowledged(&self) -> u64 {
        self.lock().first_unacknowledged()
    }

    /// Lets go of every batch up to `sequence`.
    ///
    /// # Errors
    /// No such batch was sent.
    pub fn acknowledge(&self, sequence: u64) -> Result<(), UnknownAck> {
        self.lock().acknowledge(sequence)
    }

    /// Whether it was closed and nothing is left.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.lock().is_done()
    }

    /// Whether it was closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.lock().is_closed()
    }

    /// Waits for a push or the close. One waiter; a change before the call counts.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Random for each start of the process: sequence numbers begin at 1 in each.
    #[must_use]
    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// Numbers for people.
    #[must_use]
    pub fn status(&self) -> QueueStatus {
        self.lock().status()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A pusher that panicked left counters at worst one record behind; refusing to go on would lose far more.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waiting times between attempts to reach the collector: doubled each time, random within the upper half.
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
}

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FIRST }
    }
}

impl Backoff {
    /// The next waiting time.
    pub fn pause(&mut self) -> Duration {
        let full = self.next;
        self.next = (full * 2).min(LONGEST);
        full.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// Begins again: the collector was reached.
    pub fn reset(&mut self) {
        self.next = FIRST;
    }
}

#[cfg(test)]
mod tests;
