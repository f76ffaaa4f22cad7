//! Lives: weir-agent, on a thread of its own.
//! Called by: `runtime`, which starts and stops it.
//! May touch: the event source, what `progress` has found, the exporter's queue, the tally, the revoker, which it tells of every event;
//!   `/proc` and the cgroup tree through `join`.
//! Never: waits for the collector or for control work; drops an event without counting it.
//!
//! Every [`TURN`] at the latest the ring is emptied; every [`MERGE_EVERY`] the merged decisions of the epoch are taken. The
//! ring's own loss counters belong to the kernel side and are read by `control` (see [`loss`]).

mod alike;
mod began;
pub mod belongs;
mod bounded;
mod cgroups;
pub mod clock;
mod join;
pub mod loss;
pub mod names;
mod opening;
mod peak;
mod process;
pub mod progress;
pub mod record;
pub mod tally;
mod totals;

use std::{
    path::PathBuf,
    sync::{Arc, mpsc::Receiver},
    time::{Duration, Instant},
};

pub use join::JoinStats;
use weir_common::event::{Event, MergeKey, MergeValue};

use crate::{
    datapath::EventSource,
    exporter::{Queue, spooler},
    revoke::Revoker,
    runtime::Stop,
    telemetry::{
        began::Began, clock::Clock, join::Join, names::Names, progress::Progress, record::Record, tally::Tally,
    },
};

/// Longest time an event lies in the ring. The kernel wakes us at once for an event that names a process (`/proc` can say more
/// of it only while it lives), and when many have gathered.
const TURN: Duration = Duration::from_millis(25);
/// Time between two merge epochs.
const MERGE_EVERY: Duration = Duration::from_millis(250);
/// Time between two looks at the wall clock.
const CLOCK_EVERY: Duration = Duration::from_secs(1);
/// Events taken at once: as many as the spooler makes one batch of.
const BATCH: usize = spooler::BATCH_RECORDS;
/// Batches taken at the end: more than a full ring holds.
const LAST_BATCHES: usize = 32;

/// What telemetry needs beside the events.
pub struct Parts {
    /// The names behind the numbers.
    pub names: Arc<Names>,
    /// Where records go.
    pub queue: Arc<Queue>,
    /// Told of every opening and end.
    pub revoker: Arc<Revoker>,
    /// Where decisions are counted.
    pub tally: Arc<Tally>,
    /// The managed tree.
    pub cgroup_root: PathBuf,
}

/// The telemetry loop.
pub struct Telemetry<S> {
    source: S,
    parts: Parts,
    progress: Option<(Duration, Receiver<Progress>)>,
    join: Join,
    events: Vec<Event>,
    merged_at: Instant,
    clock_at: Instant,
    /// Wall clock at the end of the last merge epoch.
    epoch_ns: u64,
    began: Began,
    shown: JoinStats,
}

impl<S: EventSource> Telemetry<S> {
    /// A loop over `source`.
    pub fn new(source: S, parts: Parts) -> Self {
        let join = Join::new(PathBuf::from("/proc"), parts.cgroup_root.clone(), source.drop_reasons());
        let now = Instant::now();
        let epoch_ns = clock::wall_now();
        Self {
            source,
            parts,
            progress: None,
            join,
            events: Vec::new(),
            merged_at: now,
            clock_at: now,
            epoch_ns,
            began: Began::default(),
            shown: JoinStats::default(),
        }
    }

    /// Makes records of living connections too, of those that are at least so old.
    #[must_use]
    pub fn with_progress(self, old: Duration, found: Receiver<Progress>) -> Self {
        Self { progress: Some((old, found)), ..self }
    }

    /// Reads until stopped, then once more to the end.
    ///
    /// # Errors
    /// The ring cannot be waited for.
    pub fn run(mut self, stop: &Stop) -> std::io::Result<()> {
        while !stop.is_set() {
            self.source.wait(TURN)?;
            self.turn();
        }
        for _ in 0..LAST_BATCHES {
            if self.drain() < BATCH {
                break;
            }
        }
        self.take_merged();
        self.show_stats();
        Ok(())
    }

    fn turn(&mut self) {
        let now = Instant::now();
        if now.duration_since(self.clock_at) >= CLOCK_EVERY {
            self.join.clock = Clock::now();
            self.clock_at = now;
            self.show_stats();
        }
        self.drain();
        self.take_progress();
        if now.duration_since(self.merged_at) >= MERGE_EVERY {
            self.merged_at = now;
            self.take_merged();
        }
    }

    /// Turns up to a batch of events into records; how many events there were.
    fn drain(&mut self) -> usize {
        let events = &mut self.events;
        events.clear();
        let taken = self.source.drain(BATCH, &mut |event| events.push(*event));
        if taken == 0 {
            return 0;
        }
        for event in &self.events {
            if let Some(standing) = self.parts.revoker.event(event) {
                self.join.stands(event.cookie, standing);
            }
        }
        // After the events, not before: an event's generation is published before the event can exist.
        let names = self.parts.names.snapshot();
        let mut records = self.parts.queue.buffer(self.events.len());
        self.events.iter().for_each(|event| self.join.event(event, &names, &mut records));
        self.hand_over(records);
        taken
    }

    fn take_progress(&mut self) {
        let Some((old, found)) = &self.progress else { return };
        let names = self.parts.names.snapshot();
        let records: Vec<Record> =
            found.try_iter().take(BATCH).filter_map(|progress| self.join.progress(&progress, *old, &names)).collect();
        self.hand_over(records);
    }

    fn take_merged(&mut self) {
        let merged = match self.source.take_merged() {
            Ok(merged) => merged,
            Err(error) => {
                tracing::error!(error = %error, "merged decisions could not be read; tried again with the next epoch");
                return;
            }
        };
        self.parts.tally.merged(&merged);
        self.catch_up();
        let names = self.parts.names.snapshot();
        let (first, last) = (self.epoch_ns, clock::wall_now());
        self.epoch_ns = last;
        let mut record = |(key, value): &(MergeKey, MergeValue)| {
            let packet = self.began.take(key, value);
            Some(Record { packet, ..self.join.merged(key, value, &names)? })
        };
        let mut records = self.parts.queue.buffer(merged.entries.len());
        records.extend(merged.entries.iter().filter_map(&mut record));
        records.extend(
            merged.overflow.iter().map(|(hook, verdict, reason, count)| {
                opening::overflowed(*hook, *verdict, *reason, *count, first, last)
            }),
        );
        self.began.end();
        self.hand_over(records);
    }

    /// Reads what came while the epoch was closed: who bound the sockets of merged decisions, and how dropped packets began. All of it is in
    /// the ring by now, for who wrote it has finished.
    fn catch_up(&mut self) {
        for _ in 0..LAST_BATCHES {
            if self.drain() < BATCH {
                break;
            }
        }
        self.began.add(self.source.take_shown());
    }

    fn hand_over(&self, records: Vec<Record>) {
        self.parts.tally.count(&records);
        self.parts.queue.push(records);
    }

    fn show_stats(&mut self) {
        let stats = self.join.stats();
        if stats != self.shown {
            self.parts.tally.joined(stats);
            let JoinStats { evicted, missed_closes, unreadable } = stats;
            tracing::debug!(evicted, missed_closes, unreadable, "attribution since the start");
            self.shown = stats;
        }
    }
}

#[cfg(test)]
mod tests;
