//! Lives: weir-agent, spool.
//! Called by: `Spool`, when batches must go; the spooler, which tells what was in them.
//! May touch: its arguments.
//! Never: counts a loss that was to be told as a new one.

use std::collections::BTreeMap;

use weir_journal::Found;

use super::Segment;
use crate::telemetry::record::{Cause, Record};

/// How batches are packed, and read again when they are given up.
#[derive(Clone, Copy, Debug)]
pub struct Codec {
    /// Records as bytes.
    pub pack: fn(&[Record]) -> Packed,
    /// What is lost with such bytes.
    pub given_up: fn(&[u8]) -> Given,
}

/// A batch as it is kept and sent.
#[derive(Clone, Debug, Default)]
pub struct Packed {
    /// What is told once, and the records.
    pub bytes: Vec<u8>,
    /// Bytes that whoever reads them has in memory at most: each record repeats what was told once.
    pub plain: usize,
}

/// What was in batches that were given up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// Decisions by the kernel's cells; `None` where it is not known which.
    pub cells: BTreeMap<Option<u32>, u64>,
    /// Records that are no decisions.
    pub others: u64,
    /// Losses that were to be told, and are to be told again.
    pub again: BTreeMap<(Cause, Option<u32>), u64>,
    /// Wall clock of the first record.
    pub first_ns: u64,
    /// Wall clock of the last one.
    pub last_ns: u64,
}

impl Given {
    /// Adds decisions.
    pub fn add(&mut self, cell: Option<u32>, count: u64, first_ns: u64, last_ns: u64) {
        *self.cells.entry(cell).or_default() += count;
        self.span(first_ns, last_ns);
    }

    /// Adds records that are no decisions.
    pub fn other(&mut self, count: u64, first_ns: u64, last_ns: u64) {
        self.others += count;
        self.span(first_ns, last_ns);
    }

    /// Adds a loss that was to be told.
    pub fn again(&mut self, cause: Cause, cell: Option<u32>, count: u64, first_ns: u64, last_ns: u64) {
        *self.again.entry((cause, cell)).or_default() += count;
        self.span(first_ns, last_ns);
    }

    fn join(&mut self, other: Self) {
        other.cells.into_iter().for_each(|(cell, count)| self.add(cell, count, other.first_ns, other.last_ns));
        for ((cause, cell), count) in other.again {
            self.again(cause, cell, count, other.first_ns, other.last_ns);
        }
        if other.others > 0 {
            self.other(other.others, other.first_ns, other.last_ns);
        }
    }

    fn span(&mut self, first_ns: u64, last_ns: u64) {
        self.first_ns = if self.first_ns == 0 { first_ns } else { self.first_ns.min(first_ns) };
        self.last_ns = self.last_ns.max(last_ns);
    }
}

/// Why batches were given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The spool had its most bytes.
    Full,
    /// They were older than allowed.
    Expired,
    /// Either, and an earlier run had left them.
    Earlier,
}

/// What is lost with a segment.
pub fn read_given(segment: &Segment, codec: Codec) -> Given {
    let (mut given, mut at) = (Given::default(), 0);
    loop {
        match segment.read(at) {
            Ok(Found::Batch(_, packed, next)) => {
                given.join((codec.given_up)(&packed));
                at = next;
            }
            Ok(Found::Damage { decisions, next }) => {
                given.add(None, decisions, segment.oldest_ns, segment.newest_ns);
                at = next;
            }
            Ok(Found::End) => return given,
            Err(error) => {
                tracing::error!(error = %error, "a segment of the spool cannot be read; what is lost with it is not known");
                return given;
            }
        }
    }
}
