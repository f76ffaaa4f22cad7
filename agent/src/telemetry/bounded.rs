//! Lives: weir-agent, telemetry.
//! Called by: everything here that remembers something between two events.
//! May touch: its own memory.
//! Never: grows past its capacity; forgets without counting.
//!
//! What was inserted first goes first. So a connection that outlives `capacity` newer ones loses its attribution, not its
//! record: the record then says that the opening is not known, and the count of evictions says how often.
//!
//! Peers choose some keys, and never see a hash or an order: the hasher is fast, its seed random and each map's own.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
};

use foldhash::quality::RandomState;

/// A map of bounded size.
#[derive(Debug)]
pub struct Bounded<K, V> {
    entries: HashMap<K, (u64, V), RandomState>,
    /// Keys in order of insertion, with the insertion they belong to; those of removed entries are skipped when met.
    order: VecDeque<(u64, K)>,
    capacity: usize,
    stamp: u64,
    evicted: u64,
}

impl<K: Hash + Eq + Clone, V> Bounded<K, V> {
    /// A map that holds up to `capacity` entries.
    pub fn new(capacity: usize) -> Self {
        Self { entries: HashMap::default(), order: VecDeque::new(), capacity: capacity.max(1), stamp: 0, evicted: 0 }
    }

    /// Adds an entry, in place of the key's old one, evicting the oldest if there is no room.
    pub fn insert(&mut self, key: K, value: V) {
        self.stamp += 1;
        self.order.push_back((self.stamp, key.clone()));
        self.entries.insert(key, (self.stamp, value));
        while self.entries.len() > self.capacity {
            self.evict();
        }
        if self.order.len() > self.capacity.saturating_mul(2) {
            self.order.retain(|(stamp, key)| self.entries.get(key).is_some_and(|(current, _)| current == stamp));
        }
    }

    fn evict(&mut self) {
        let Some((stamp, key)) = self.order.pop_front() else { return };
        if self.entries.get(&key).is_some_and(|(current, _)| *current == stamp) {
            self.entries.remove(&key);
            self.evicted += 1;
        }
    }

    /// The entry of `key`.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(_, value)| value)
    }

    /// Takes the entry of `key` out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.entries.remove(key).map(|(_, value)| value)
    }

    /// Entries that had to go for newer ones.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_entry_goes_and_is_counted() {
        let mut map = Bounded::new(2);
        for key in 1..=3 {
            map.insert(key, key * 10);
        }
        assert_eq!((map.get(&1), map.get(&2), map.get(&3), map.evicted()), (None, Some(&20), Some(&30), 1));
    }

    #[test]
    fn replaced_and_removed_entries_cost_no_room_and_no_eviction() {
        let mut map = Bounded::new(2);
        for round in 0..100 {
            map.insert(1, round);
            map.insert(2, round);
            assert_eq!(map.remove(&1), Some(round));
        }
        assert_eq!(map.evicted(), 0);
        assert!(map.order.len() <= 5, "{}", map.order.len());
        map.insert(3, 0);
        assert_eq!((map.get(&2), map.get(&3)), (Some(&99), Some(&0)));
    }
}
