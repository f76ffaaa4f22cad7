//! Lives: weir-agent, exporter.
//! Called by: `Queue`, under its lock.
//! May touch: its own memory.
//! Never: holds more records than its capacity.

use std::{collections::VecDeque, sync::Arc};

use super::{QueueStatus, UnknownAck, losses::Losses};
use crate::telemetry::{
    record::{Cause, Record, RecordKind},
    tally,
};

/// Records in one batch: well below the size a message may have.
pub const BATCH_RECORDS: usize = 1024;

/// Records that travel and are acknowledged together.
#[derive(Debug, PartialEq, Eq)]
pub struct Batch {
    /// Its number, from 1, without gaps.
    pub sequence: u64,
    /// What it carries.
    pub records: Vec<Record>,
}

/// See the picture in the parent module.
#[derive(Debug)]
pub struct State {
    pending: VecDeque<Record>,
    unacknowledged: VecDeque<Arc<Batch>>,
    capacity: usize,
    /// Records in `pending` and `unacknowledged`.
    held: usize,
    /// Number of the last batch made.
    made: u64,
    losses: Losses,
    sent: u64,
    acknowledged: u64,
    lost: u64,
    closed: bool,
    /// Set with the first record that found no room, until half of the room is free again.
    full: bool,
}

impl State {
    pub fn new(capacity: usize) -> Self {
        Self {
            pending: VecDeque::new(),
            unacknowledged: VecDeque::new(),
            capacity,
            held: 0,
            made: 0,
            losses: Losses::default(),
            sent: 0,
            acknowledged: 0,
            lost: 0,
            closed: false,
            full: false,
        }
    }

    pub fn push(&mut self, records: Vec<Record>) {
        for record in records {
            // Losses first: they happened before this record.
            self.tell_losses();
            if self.held < self.capacity {
                self.keep(record);
            } else {
                self.drop_record(&record);
            }
        }
    }

    pub fn lost(&mut self, cause: Cause, cell: u32, count: u64, first_ns: u64, last_ns: u64) {
        self.losses.add(cause, Some(cell), count, first_ns, last_ns);
        self.tell_losses();
    }

    fn keep(&mut self, record: Record) {
        self.pending.push_back(record);
        self.held += 1;
    }

    fn drop_record(&mut self, record: &Record) {
        if !self.full {
            self.full = true;
            tracing::warn!(capacity = self.capacity, "the queue of records is full: new ones are counted and dropped");
        }
        let (first, last) = (record.time_ns, record.end_ns.max(record.time_ns));
        match record.kind {
            RecordKind::Verdict => {
                self.lost += record.count;
                self.losses.add(Cause::QueueFull, tally::cell_of(record), record.count, first, last);
            }
            RecordKind::Close | RecordKind::Cut | RecordKind::Adopted => {
                self.losses.add(Cause::QueueFullClose, None, 1, first, last)
            }
            RecordKind::Loss(cause) => self.losses.add(cause, tally::cell_of(record), record.count, first, last),
        }
    }

    fn tell_losses(&mut self) {
        while self.held < self.capacity {
            let Some(record) = self.losses.take() else { break };
            self.keep(record);
        }
    }

    pub fn batch(&mut self, sequence: u64) -> Option<Arc<Batch>> {
        if sequence == self.made + 1 && !self.pending.is_empty() {
            let count = self.pending.len().min(BATCH_RECORDS);
            let batch = Arc::new(Batch { sequence, records: self.pending.drain(..count).collect() });
            self.made = sequence;
            self.sent += length(&batch);
            self.unacknowledged.push_back(batch);
        }
        let index = usize::try_from(sequence.checked_sub(self.first_unacknowledged())?).ok()?;
        self.unacknowledged.get(index).cloned()
    }

    pub fn first_unacknowledged(&self) -> u64 {
        self.unacknowledged.front().map_or(self.made + 1, |batch| batch.sequence)
    }

    pub fn acknowledge(&mut self, sequence: u64) -> Result<(), UnknownAck> {
        if sequence > self.made {
            return Err(UnknownAck { got: sequence, sent: self.made });
        }
        while self.unacknowledged.front().is_some_and(|batch| batch.sequence <= sequence) {
            if let Some(batch) = self.unacknowledged.pop_front() {
                self.held -= batch.records.len();
                self.acknowledged += length(&batch);
            }
        }
        if self.full && self.held <= self.capacity / 2 {
            self.full = false;
            tracing::info!(decisions_lost = self.lost, "the queue of records has room again");
        }
        self.tell_losses();
        Ok(())
    }

    pub fn close(&mut self) {
        self.closed = true;
    }

    pub fn is_closed(&self) -> bool {
        self.closed
    }

    pub fn is_done(&self) -> bool {
        self.closed && self.held == 0 && self.losses.is_empty()
    }

    pub fn status(&self) -> QueueStatus {
        let number = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
        QueueStatus {
            queued: number(self.held),
            capacity: number(self.capacity),
            sent: self.sent,
            acknowledged: self.acknowledged,
            lost: self.lost,
        }
    }
}

fn length(batch: &Batch) -> u64 {
    u64::try_from(batch.records.len()).unwrap_or(u64::MAX)
}
