//! Lives: host.
//! Called by: the builders, for each address or prefix with what holds it.
//! May touch: the records of one image.
//! Never: writes over a record that a leaf may name.

use std::collections::HashMap;

use weir_common::sets::{PLAIN, RECORD_WORDS};

use super::{
    entries::NEVER,
    memory::{Full, Memory},
};

/// One entry that holds an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Holder {
    pub set: u32,
    pub blocks: bool,
    pub plain: bool,
    /// By the kernel's clock.
    pub ends: u64,
}

/// Which sets hold an address until some time, and what comes then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Record {
    sets: u64,
    longest: u32,
    ends: u64,
    next: u32,
}

/// The records of an image, each once.
#[derive(Clone, Debug, Default)]
pub(super) struct Records {
    known: HashMap<Record, u32>,
    /// Numbers given out; 0 is none.
    count: u32,
    /// Where they begin, and how many there is room for; no limit while an image is built.
    place: Option<(u32, u32)>,
    /// Records that have no place in memory yet.
    new: Vec<(u32, Record)>,
    /// The leaf asked for last: neighbours mostly have the same.
    last: (Vec<Holder>, u32),
}

impl Records {
    /// The leaf of an address that these hold, the longest prefix first.
    pub fn leaf(&mut self, holders: &[Holder]) -> u32 {
        if holders.is_empty() {
            return 0;
        }
        if self.last.0 != holders {
            let leaf = self.make(holders);
            self.last.0.clear();
            self.last.0.extend_from_slice(holders);
            self.last.1 = leaf;
        }
        self.last.1
    }

    /// What holds the address is told from the last time on, back to now: each record names the one that follows it.
    fn make(&mut self, holders: &[Holder]) -> u32 {
        let mut times: Vec<u64> = holders.iter().map(|holder| holder.ends).filter(|ends| *ends != NEVER).collect();
        times.sort_unstable();
        times.dedup();
        let mut next = self.put(holders, NEVER, NEVER, 0);
        let plain = holders.iter().any(|holder| holder.plain && holder.ends == NEVER);
        for time in times.into_iter().rev() {
            next = self.put(holders, time, time, next);
        }
        next | if plain { PLAIN } else { 0 }
    }

    /// The record of those that have not ended just before `time`.
    fn put(&mut self, holders: &[Holder], time: u64, ends: u64, next: u32) -> u32 {
        let there = |holder: &&Holder| holder.ends == NEVER || (time != NEVER && holder.ends >= time);
        let sets = holders.iter().filter(there).fold(0, |sets, holder| sets | 1 << (holder.set & 63));
        let longest = holders.iter().filter(there).find(|holder| holder.blocks).map_or(0, |holder| holder.set + 1);
        if sets == 0 {
            return 0;
        }
        let record = Record { sets, longest, ends, next };
        if let Some(number) = self.known.get(&record) {
            return *number;
        }
        self.count += 1;
        self.known.insert(record, self.count);
        self.new.push((self.count, record));
        self.count
    }

    /// Lines they take, with room for more.
    pub fn lines(&self) -> u32 {
        let count = self.count + self.count / 4 + 8192;
        count.div_ceil(2) + 1
    }

    /// Gives them their place.
    pub fn settle(&mut self, first: u32) {
        self.place = Some((first, (self.lines() - 1) * 2));
    }

    /// Stores those that are new, before anything that names them is.
    pub fn write<M: Memory + ?Sized>(&mut self, memory: &mut M) -> Result<(), Full> {
        let (first, room) = self.place.ok_or(Full)?;
        if self.count >= room {
            return Err(Full);
        }
        for (number, record) in self.new.drain(..) {
            let (line, word) = (first + (number >> 1), RECORD_WORDS * (number & 1));
            memory.set(line, word, record.sets);
            memory.set(line, word + 1, record.ends);
            memory.set(line, word + 2, u64::from(record.next) | u64::from(record.longest) << 32);
        }
        Ok(())
    }
}
