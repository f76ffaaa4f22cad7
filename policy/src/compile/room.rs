//! Lives: host.
//! Called by: `tables`, for the place of their cells.
//! May touch: nothing.
//! Never: moves anything; what is in use stays where it is.

use std::collections::BTreeMap;

/// Which entries of a section are in use.
#[derive(Clone, Debug, Default)]
pub struct Room {
    /// Free runs: start to length.
    free: BTreeMap<usize, usize>,
    end: usize,
}

impl Room {
    /// A run of so many entries.
    pub fn take(&mut self, len: usize) -> usize {
        if let Some((start, free)) =
            self.free.iter().find(|(_, free)| **free >= len).map(|(start, free)| (*start, *free))
        {
            self.free.remove(&start);
            if free > len {
                self.free.insert(start + len, free - len);
            }
            return start;
        }
        // What is free at the very end is the beginning of what is taken.
        let start = match self.free.last_key_value() {
            Some((start, free)) if start + free == self.end => *start,
            _ => self.end,
        };
        self.free.remove(&start);
        self.end = start + len;
        start
    }

    /// Gives a run back.
    pub fn give(&mut self, start: usize, len: usize) {
        if len == 0 {
            return;
        }
        let (mut start, mut len) = (start, len);
        if let Some(after) = self.free.remove(&(start + len)) {
            len += after;
        }
        let before = self.free.range(..start).next_back().map(|(start, len)| (*start, *len));
        if let Some((first, size)) = before.filter(|(first, size)| first + size == start) {
            self.free.remove(&first);
            (start, len) = (first, size + len);
        }
        self.free.insert(start, len);
    }

    /// One more than the last entry ever in use.
    pub const fn end(&self) -> usize {
        self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_is_joined_and_taken_again() {
        let mut room = Room::default();
        assert_eq!([room.take(10), room.take(5), room.take(5)], [0, 10, 15]);
        room.give(0, 10);
        room.give(10, 5);
        assert_eq!([room.take(12), room.take(3), room.take(4)], [0, 12, 20]);
        room.give(20, 4);
        assert_eq!((room.take(6), room.end()), (20, 26));
    }
}
