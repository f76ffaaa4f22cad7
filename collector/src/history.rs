//! Lives: collector.
//! Called by: `store`, under its lock.
//! May touch: memory only.
//! Never: grows beyond its capacity, or copies a record.
//!
//! Every record has a position that counts from the start of the collector, or of what it has on disk, and is never reused. A reader keeps a
//! position; what lies before the oldest kept one has been evicted, and the difference is what the reader missed.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::nodes::Tally;

/// The newest records, oldest first.
#[derive(Debug)]
pub struct History<T> {
    records: VecDeque<Arc<T>>,
    capacity: usize,
    evicted: u64,
}

/// Some records from a position on.
#[derive(Debug)]
pub struct Page<T> {
    /// The records, in order.
    pub records: Vec<Arc<T>>,
    /// Where the next page begins.
    pub next: u64,
    /// Records between the asked position and the first given that are no longer kept.
    pub missed: u64,
}

impl<T> Page<T> {
    /// Adds the records of a batch that begins at `position`, as far as they lie between what is there and `stop`.
    pub fn add(&mut self, position: u64, records: Vec<(Arc<T>, Tally)>, stop: u64) {
        self.skip_to(position.min(stop));
        for (at, (record, _)) in (position..stop).zip(records) {
            if at >= self.next {
                self.records.push(record);
                self.next = at + 1;
            }
        }
    }

    /// Counts what lies before `position` as missed.
    pub const fn skip_to(&mut self, position: u64) {
        let missed = position.saturating_sub(self.next);
        self.missed += missed;
        self.next += missed;
    }
}

impl<T> History<T> {
    /// An empty history for this many records (at least one).
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { records: VecDeque::new(), capacity: capacity.max(1), evicted: 0 }
    }

    /// Adds a record; the oldest goes when there is no room.
    pub fn push(&mut self, record: Arc<T>) {
        if self.records.len() >= self.capacity {
            self.records.pop_front();
            self.evicted += 1;
        }
        self.records.push_back(record);
    }

    /// Lets the next record have `position`, which is not before the end: what was there goes if something lies between.
    pub fn skip_to(&mut self, position: u64) {
        if position > self.end() {
            self.records.clear();
            self.evicted = position;
        }
    }

    /// Records kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether nothing is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Most records it keeps.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// Records that had to go. Also the position of the oldest kept one.
    #[must_use]
    pub const fn evicted(&self) -> u64 {
        self.evicted
    }

    /// The position the next record will have.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.evicted + self.records.len() as u64
    }

    /// At most `limit` records from `position` on.
    #[must_use]
    pub fn page(&self, position: u64, limit: usize) -> Page<T> {
        let start = position.max(self.evicted);
        let offset = usize::try_from(start - self.evicted).unwrap_or(usize::MAX);
        let records: Vec<_> = self.records.iter().skip(offset).take(limit).cloned().collect();
        Page { next: start + records.len() as u64, missed: start - position, records }
    }

    /// At most `limit` records that end just before `position`, in order; fewer (or none) at the oldest kept one.
    #[must_use]
    pub fn page_before(&self, position: u64, limit: usize) -> Page<T> {
        let end = position.clamp(self.evicted, self.end());
        let start = end.saturating_sub(limit as u64).max(self.evicted);
        let mut page = self.page(start, usize::try_from(end - start).unwrap_or(limit));
        page.next = start;
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(capacity: usize, records: u64) -> History<u64> {
        let mut history = History::new(capacity);
        (0..records).for_each(|record| history.push(Arc::new(record)));
        history
    }

    fn values(page: &Page<u64>) -> Vec<u64> {
        page.records.iter().map(|record| **record).collect()
    }

    #[test]
    fn the_oldest_go_first_and_are_counted() {
        for (capacity, records, kept, evicted) in [(4, 3, 3, 0), (4, 4, 4, 0), (4, 9, 4, 5), (0, 3, 1, 2)] {
            let history = filled(capacity, records);
            assert_eq!((history.len(), history.evicted(), history.end()), (kept, evicted, records));
        }
    }

    #[test]
    fn pages_follow_each_other_and_say_what_was_missed() {
        let history = filled(4, 9);
        for (position, limit, expected, next, missed) in
            [(0, 2, vec![5, 6], 7, 5), (5, 2, vec![5, 6], 7, 0), (7, 9, vec![7, 8], 9, 0), (9, 9, vec![], 9, 0)]
        {
            let page = history.page(position, limit);
            assert_eq!((values(&page), page.next, page.missed), (expected, next, missed), "from {position}");
        }
    }

    #[test]
    fn pages_backwards_end_at_the_oldest_kept() {
        let history = filled(4, 9);
        for (position, limit, expected, next) in
            [(9, 3, vec![6, 7, 8], 6), (6, 3, vec![5], 5), (5, 3, vec![], 5), (99, 1, vec![8], 8)]
        {
            let page = history.page_before(position, limit);
            assert_eq!((values(&page), page.next), (expected, next), "before {position}");
        }
    }
}
