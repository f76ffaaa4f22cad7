//! Lives: weir-agent, between telemetry and the collector.
//! Called by: `telemetry` and `control`, which push; `rpc::export`, which takes batches and brings acknowledgements; `rpc`,
//!   which shows the status.
//! May touch: its own memory, behind locks held for moments; through `spool` the disk, which only `spooler` and `rpc::export` wait for.
//! Never: makes a pusher wait.
//!
//! ```text
//! push ─► pending ─ spooler packs 4,096 or what came in 20 ms ─► spool, numbered 1, 2, 3 ... ─ next_parcel() ─► stream ─ acknowledge() ─► gone
//! ```
//! When `pending` is full the newest record is dropped, when the spool is full the oldest batches that were never sent: each is counted
//! by hook, verdict and reason, and told as a loss once there is room. While less than half of either is free, one workload has at
//! most a quarter of it.

mod losses;
mod pending;
pub mod spooler;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use self::{pending::Pending, spooler::BATCH_RECORDS};
use crate::{
    spool::{Parcel, Spool, SpoolStatus, UnknownAck},
    telemetry::record::{Cause, Record},
};

/// Lists kept for those who make records: one is filled while one is packed.
const SPARE: usize = 2;

/// The bounded queue of records.
#[derive(Debug)]
pub struct Queue {
    pending: Mutex<Pending>,
    pushed: Condvar,
    spool: Mutex<Spool>,
    /// As it was after the last change: who only looks never waits for a disk.
    shown: Mutex<SpoolStatus>,
    changed: Notify,
    /// Emptied: to take memory of this size and give it back costs more than what is done with it.
    spare: Mutex<Vec<Vec<Record>>>,
    boot_id: Arc<str>,
    enabled: bool,
    /// Every record there was is in a batch, and no more will come.
    drained: AtomicBool,
}

/// Numbers for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueStatus {
    /// Records that no batch was made of yet.
    pub pending: u64,
    /// Most of them.
    pub capacity: u64,
    /// Decisions of this run in records that were dropped for want of room, here or in the spool.
    pub lost: u64,
    /// What was lost since the start of this run, of earlier runs' batches too, by every cause there is.
    pub losses: BTreeMap<Cause, u64>,
    /// What is kept in batches.
    pub spool: SpoolStatus,
}

impl Queue {
    /// A queue of up to `capacity` records before the spool. One that is not `enabled` (no collector is configured) keeps nothing.
    #[must_use]
    pub fn new(capacity: usize, spool: Spool, enabled: bool) -> Self {
        Self {
            pending: Mutex::new(Pending::new(capacity)),
            pushed: Condvar::new(),
            boot_id: spool.boot(),
            shown: Mutex::new(spool.status()),
            spool: Mutex::new(spool),
            changed: Notify::new(),
            spare: Mutex::default(),
            enabled,
            drained: AtomicBool::new(false),
        }
    }

    /// An empty list with room for so many records.
    #[must_use]
    pub fn buffer(&self, records: usize) -> Vec<Record> {
        let mut buffer = lock(&self.spare).pop().unwrap_or_default();
        buffer.reserve(records);
        buffer
    }

    /// A list of whose records none is needed any more, for [`Self::buffer`].
    fn give_back(&self, mut buffer: Vec<Record>) {
        buffer.clear();
        if (1..=2 * BATCH_RECORDS).contains(&buffer.capacity()) {
            let mut spare = lock(&self.spare);
            if spare.len() < SPARE {
                spare.push(buffer);
            }
        }
    }

    /// Takes records over, or counts them as lost. Never waits for anything but the lock.
    pub fn push(&self, records: Vec<Record>) {
        if records.is_empty() {
            // Most epochs of a quiet node, and events that make no record.
            self.give_back(records);
        } else if self.enabled {
            let mut pending = lock(&self.pending);
            // Who waits for a batch to fill need not be woken for each part of it: it knows when the first record came.
            let (is_first, was_short) = (pending.since().is_none(), pending.len() < BATCH_RECORDS);
            pending.push(records);
            let is_full = pending.len() >= BATCH_RECORDS;
            drop(pending);
            if is_first || (was_short && is_full) {
                self.pushed.notify_one();
            }
        }
    }

    /// Takes a loss over that happened elsewhere; it is sent like a record. No cell: no decision, or not known which.
    pub fn lost(&self, cause: Cause, cell: Option<u32>, count: u64, first_ns: u64, last_ns: u64) {
        if self.enabled {
            lock(&self.pending).lost(cause, cell, count, first_ns, last_ns);
            self.pushed.notify_one();
        }
    }

    /// Takes a loss over that was told, and whose record was lost.
    fn lost_again(&self, cause: Cause, cell: Option<u32>, count: u64, first_ns: u64, last_ns: u64) {
        lock(&self.pending).lost_again(cause, cell, count, first_ns, last_ns);
    }

    /// No more records will come; what is kept may still be sent.
    pub fn close(&self) {
        lock(&self.pending).close();
        self.pushed.notify_one();
        self.changed.notify_one();
    }

    /// The next batch to send.
    #[must_use]
    pub fn next_parcel(&self) -> Option<Parcel> {
        let (parcel, damaged) = self.spool(Spool::next_parcel);
        if let Some(decisions) = damaged {
            tracing::error!(decisions, "some of what was spooled cannot be read any more");
            let now = crate::telemetry::clock::wall_now();
            self.lost(Cause::SpoolDamaged, None, decisions, now, now);
        }
        parcel
    }

    /// A new stream begins with the first batch that was not acknowledged.
    pub fn rewind(&self) {
        self.spool(Spool::rewind);
    }

    /// Batches on their way.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.look(Spool::in_flight)
    }

    /// Lets go of every batch of a boot up to `sequence`.
    ///
    /// # Errors
    /// No such batch is on its way.
    pub fn acknowledge(&self, boot: &str, sequence: u64) -> Result<(), UnknownAck> {
        self.spool(|spool| spool.acknowledge(boot, sequence))
    }

    /// Whether it was closed and nothing is left.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.is_drained() && self.look(Spool::is_empty)
    }

    /// Whether it was closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        lock(&self.pending).is_closed()
    }

    /// Waits for a batch or the close. One waiter; a change before the call counts.
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
        let number = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
        let spool = lock(&self.shown).clone();
        let pending = lock(&self.pending);
        QueueStatus {
            pending: number(pending.len()),
            capacity: number(pending.capacity()),
            lost: pending.lost_decisions() + spool.lost,
            losses: pending.losses(),
            spool,
        }
    }

    /// Asks the spool something.
    fn look<T>(&self, ask: impl FnOnce(&Spool) -> T) -> T {
        ask(&lock(&self.spool))
    }

    /// Does something with the spool, and shows what it is then.
    fn spool<T>(&self, work: impl FnOnce(&mut Spool) -> T) -> T {
        let mut spool = lock(&self.spool);
        let result = work(&mut spool);
        *lock(&self.shown) = spool.status();
        result
    }

    /// Waits until a batch is full, its first record has waited for `linger`, the queue is closed, or for `most`; what there is then.
    pub(crate) fn wait(&self, linger: Duration, most: Duration, records: usize) -> Vec<Record> {
        let end = Instant::now() + most;
        let mut pending = lock(&self.pending);
        loop {
            let now = Instant::now();
            let ripe = pending.since().map(|since| since + linger);
            if pending.len() >= records || pending.is_closed() || now >= end || ripe.is_some_and(|ripe| ripe <= now) {
                return pending.take(records);
            }
            let until = ripe.map_or(end, |ripe| ripe.min(end)).saturating_duration_since(now);
            pending = self.pushed.wait_timeout(pending, until).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn put_back(&self, records: Vec<Record>) {
        lock(&self.pending).put_back(records);
    }

    fn give_up(&self, records: &[Record]) {
        let mut pending = lock(&self.pending);
        records.iter().for_each(|record| pending.give_up(record, Cause::Quota));
    }

    /// Whether no more batches will be made.
    fn is_drained(&self) -> bool {
        self.drained.load(Ordering::Acquire)
    }

    /// Whether it is closed and everything was taken.
    fn is_pending_done(&self) -> bool {
        lock(&self.pending).is_done()
    }

    fn drained(&self) {
        self.drained.store(true, Ordering::Release);
        self.ready();
    }

    fn ready(&self) {
        self.changed.notify_one();
    }
}

/// Who panicked with the lock left counters at worst one record behind; refusing to go on would lose far more.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
