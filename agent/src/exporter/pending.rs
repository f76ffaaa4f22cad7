//! Lives: weir-agent, exporter.
//! Called by: `Queue`, under its lock.
//! May touch: its own memory.
//! Never: holds more records than its capacity; lets one workload take the room of the others.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::{Duration, Instant},
};

use super::losses::Losses;
use crate::telemetry::{
    record::{Cause, Record, RecordKind},
    tally,
};

/// One part in this many of all room is what one workload may have while less than half is free.
pub const QUOTA: usize = 4;

/// Records in one chunk, where they come in small numbers.
const CHUNK: usize = 256;

/// How often it is said that there is no room.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// Records that no batch was made of yet.
#[derive(Debug)]
pub struct Pending {
    /// As they came, so that they are not moved one by one: mostly they come and go a thousand at a time.
    chunks: VecDeque<Vec<Record>>,
    /// Records in all chunks.
    count: usize,
    capacity: usize,
    losses: Losses,
    /// Records by workload; counted only while less than half of the room is free.
    shares: Option<HashMap<String, usize>>,
    /// Decisions lost here, or on the way to a batch.
    lost: u64,
    /// Since when records wait.
    since: Option<Instant>,
    closed: bool,
    /// When it was last said that there is no room.
    warned: Option<Instant>,
}

impl Pending {
    pub fn new(capacity: usize) -> Self {
        Self {
            chunks: VecDeque::new(),
            count: 0,
            capacity,
            losses: Losses::default(),
            shares: None,
            lost: 0,
            since: None,
            closed: false,
            warned: None,
        }
    }

    pub fn push(&mut self, records: Vec<Record>) {
        if self.count + records.len() < self.scarce_from() {
            self.shares = None;
            self.count += records.len();
            self.add(records);
            self.wait_since_now();
            return;
        }
        for record in records {
            if self.count >= self.capacity {
                self.give_up(&record, Cause::QueueFull);
            } else if self.has_its_share(&record) {
                self.give_up(&record, Cause::Quota);
            } else {
                self.keep(record);
            }
        }
        self.wait_since_now();
    }

    /// Counts a loss that happened before the queue.
    pub fn lost(&mut self, cause: Cause, cell: Option<u32>, count: u64, first_ns: u64, last_ns: u64) {
        self.losses.add(cause, cell, "", count, first_ns, last_ns);
        self.wait_since_now();
    }

    /// Counts a loss whose record was lost.
    pub fn lost_again(&mut self, cause: Cause, cell: Option<u32>, count: u64, first_ns: u64, last_ns: u64) {
        self.losses.again(cause, cell, "", count, first_ns, last_ns);
        self.wait_since_now();
    }

    fn wait_since_now(&mut self) {
        let is_waited_for = self.count > 0 || !self.losses.is_empty();
        self.since = self.since.or_else(|| is_waited_for.then(Instant::now));
    }

    /// Counts a record as lost.
    pub fn give_up(&mut self, record: &Record, cause: Cause) {
        if self.warned.is_none_or(|warned| warned.elapsed() >= WARN_EVERY) {
            self.warned = Some(Instant::now());
            let cause = cause.name();
            tracing::warn!(
                cause,
                decisions_lost = self.lost,
                "records find no room: those that come are counted and dropped"
            );
        }
        let (first, last) = (record.time_ns, record.end_ns.max(record.time_ns));
        let whose = if cause == Cause::Quota { workload(record) } else { "" };
        match record.kind {
            RecordKind::Verdict => {
                self.lost += record.count;
                self.losses.add(cause, tally::cell_of(record), whose, record.count, first, last);
            }
            RecordKind::Close | RecordKind::Cut | RecordKind::Adopted | RecordKind::Progress => {
                self.losses.add(cause.of_others(), None, whose, 1, first, last);
            }
            RecordKind::Loss(cause) => {
                self.losses.again(cause, tally::cell_of(record), workload(record), record.count, first, last);
            }
        }
    }

    fn keep(&mut self, record: Record) {
        if let Some(shares) = &mut self.shares {
            match shares.get_mut(workload(&record)) {
                Some(held) => *held += 1,
                None => drop(shares.insert(workload(&record).to_owned(), 1)),
            }
        }
        self.count += 1;
        match self.chunks.back_mut() {
            Some(last) if last.len() < CHUNK => last.push(record),
            Some(_) | None => {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.push(record);
                self.chunks.push_back(chunk);
            }
        }
    }

    fn add(&mut self, mut records: Vec<Record>) {
        match self.chunks.back_mut() {
            Some(last) if last.len() + records.len() <= CHUNK => last.append(&mut records),
            Some(_) | None if records.is_empty() => {}
            Some(_) | None => {
                // Room was made for as many as there were events; few of those may have made a record.
                if records.capacity() > 2 * records.len() {
                    records.shrink_to_fit();
                }
                self.chunks.push_back(records);
            }
        }
    }

    /// From so many records on, room is scarce.
    const fn scarce_from(&self) -> usize {
        self.capacity.div_ceil(2)
    }

    /// Whether the workload of a record has what one may have, and room is scarce.
    fn has_its_share(&mut self, record: &Record) -> bool {
        if self.count < self.scarce_from() || matches!(record.kind, RecordKind::Loss(_)) {
            self.shares = None;
            return false;
        }
        let records = self.chunks.iter().flatten();
        let shares = self.shares.get_or_insert_with(|| {
            let mut shares = HashMap::new();
            for record in records {
                *shares.entry(workload(record).to_owned()).or_default() += 1;
            }
            shares
        });
        // What no workload is named for has no quota: it is many.
        let name = workload(record);
        !name.is_empty() && shares.get(name).is_some_and(|held| *held >= self.capacity / QUOTA)
    }

    /// Takes up to `most` records, oldest first: whole chunks, so that two calls in a row take more than `most` if they are there. Then what is
    /// to be told of losses: they need no room here, and those of one kind are one record however many there were since the last time.
    pub fn take(&mut self, most: usize) -> Vec<Record> {
        let mut taken = Vec::new();
        while let Some(mut chunk) = self.chunks.pop_front() {
            let room = most - taken.len();
            if chunk.len() > room {
                let rest = chunk.split_off(room);
                self.chunks.push_front(rest);
            }
            if taken.is_empty() {
                taken = chunk;
            } else {
                taken.append(&mut chunk);
            }
            // A part of a chunk more is not worth moving the rest of it.
            if taken.len() + self.chunks.front().map_or(0, Vec::len) > most {
                break;
            }
        }
        self.count -= taken.len();
        if let Some(shares) = &mut self.shares {
            for record in &taken {
                if let Some(held) = shares.get_mut(workload(record)) {
                    *held = held.saturating_sub(1);
                }
            }
        }
        taken.extend(std::iter::from_fn(|| self.losses.take()).take(most));
        self.since = None;
        self.wait_since_now();
        taken
    }

    /// Puts records back that found no place; they are the oldest again. For this moment there may be more than the capacity.
    pub fn put_back(&mut self, records: Vec<Record>) {
        if !records.is_empty() {
            self.count += records.len();
            self.chunks.push_front(records);
        }
        self.shares = None;
        self.wait_since_now();
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    pub const fn since(&self) -> Option<Instant> {
        self.since
    }

    pub const fn lost_decisions(&self) -> u64 {
        self.lost
    }

    /// What was lost since the start, by every cause there is.
    pub fn losses(&self) -> BTreeMap<Cause, u64> {
        self.losses.totals()
    }

    pub fn close(&mut self) {
        self.closed = true;
    }

    pub const fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether it is closed and nothing is left.
    pub fn is_done(&self) -> bool {
        self.closed && self.count == 0 && self.losses.is_empty()
    }
}

/// The workload on this node that a record is about; "" for none.
pub fn workload(record: &Record) -> &str {
    record.about.local.workload.as_ref().map_or("", |workload| &workload.name)
}
