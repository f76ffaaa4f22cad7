//! Lives: host.
//! Called by: the stages of the compiler that sort things by what can be told of them: workloads into subjects, addresses
//!   into regions, identities into classes, local workloads into sets.
//! May touch: nothing.
//! Never: gives a part another number while things stay in it; a part whose things all change alike keeps its number.
//!
//! A partition: things with equal keys are one part, and parts are numbered. Numbers stand in the kernel's tables, so a change
//! that renames a part costs nothing but the new name, and only things that part ways are moved.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// The parts by number.
#[derive(Clone, Debug)]
pub struct Parts<K> {
    slots: Vec<Option<Part<K>>>,
    by_key: BTreeMap<Arc<K>, u32>,
    free: BTreeSet<u32>,
    /// Numbers below are pinned: never given away, never renamed.
    first: u32,
}

#[derive(Clone, Debug)]
struct Part<K> {
    key: Arc<K>,
    size: usize,
}

/// Things of one part that get one key.
#[derive(Debug)]
pub struct Group<K> {
    /// The part they were in; `None`: they are new.
    pub from: Option<u32>,
    /// Their key from now on; `None`: they are gone.
    pub key: Option<K>,
    /// How many they are; never 0.
    pub size: usize,
}

/// A group whose key is shared: part, key, size.
type Shared<K> = (Option<u32>, Option<Arc<K>>, usize);

/// What a change of keys led to.
#[derive(Debug, Default)]
pub struct Rekeyed {
    /// Part of each group, in the order of the groups; `None`: gone.
    pub parts: Vec<Option<u32>>,
    /// Parts that are new or have another key.
    pub changed: BTreeSet<u32>,
}

impl<K: Ord + Clone> Parts<K> {
    /// No parts; numbers start at `first`, below which keys are pinned.
    pub fn from(first: u32) -> Self {
        let slots = (0..first).map(|_| None).collect();
        Self { slots, by_key: BTreeMap::new(), free: BTreeSet::new(), first }
    }

    /// Gives a key a number below the first for good.
    pub fn pin(&mut self, number: u32, key: K) {
        let key = Arc::new(key);
        self.by_key.insert(Arc::clone(&key), number);
        if let Some(slot) = self.slots.get_mut(number as usize) {
            *slot = Some(Part { key, size: 0 });
        }
    }

    /// The key of a part.
    pub fn key(&self, number: u32) -> Option<&Arc<K>> {
        self.slot(number).map(|part| &part.key)
    }

    /// The part of a key.
    pub fn find(&self, key: &K) -> Option<u32> {
        self.by_key.get(key).copied()
    }

    /// Every part, in order of its number.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &K)> {
        (0..).zip(&self.slots).filter_map(|(number, slot)| slot.as_ref().map(|part| (number, part.key.as_ref())))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// One more than the highest number given.
    pub fn end(&self) -> usize {
        self.slots.len()
    }

    /// One more thing with this key. Tells whether the part is new.
    pub fn hold(&mut self, key: K) -> (u32, bool) {
        if let Some(number) = self.find(&key) {
            self.grow(number, 1);
            return (number, false);
        }
        let number = self.add(Arc::new(key));
        self.grow(number, 1);
        (number, true)
    }

    /// One more thing in a part.
    pub fn join(&mut self, number: u32) {
        self.grow(number, 1);
    }

    /// One thing fewer. Tells whether the part is gone with it.
    pub fn release(&mut self, number: u32) -> bool {
        self.shrink(number, 1);
        self.bury(number)
    }

    /// Gives groups of things other keys, all at once.
    pub fn rekey(&mut self, groups: Vec<Group<K>>) -> Rekeyed {
        let groups: Vec<Shared<K>> =
            groups.into_iter().map(|group| (group.from, group.key.map(Arc::new), group.size)).collect();
        let mut leaving: BTreeMap<u32, usize> = BTreeMap::new();
        for (from, _, size) in &groups {
            if let Some(from) = from {
                *leaving.entry(*from).or_default() += size;
            }
        }
        let heirs = self.heirs(&groups, &leaving);
        let mut changed = BTreeSet::new();
        let vacant = leaving.keys().filter(|part| self.is_vacant(**part, &leaving));
        let vacated: Vec<Arc<K>> = vacant.filter_map(|part| self.key(*part)).cloned().collect();
        for key in vacated {
            self.by_key.remove(&key);
        }
        for (key, number) in heirs {
            self.by_key.insert(Arc::clone(&key), number);
            let Some(part) = self.slots.get_mut(number as usize).and_then(Option::as_mut) else { continue };
            if part.key != key {
                part.key = key;
                changed.insert(number);
            }
        }
        for (part, size) in &leaving {
            self.shrink(*part, *size);
        }
        let mut parts = Vec::with_capacity(groups.len());
        for (_, key, size) in groups {
            let number = key.map(|key| {
                let known = self.by_key.get(&key).copied();
                let number = known.unwrap_or_else(|| self.add(key));
                changed.extend(known.is_none().then_some(number));
                self.grow(number, size);
                number
            });
            parts.push(number);
        }
        for part in leaving.keys() {
            self.bury(*part);
        }
        Rekeyed { parts, changed }
    }

    /// Which key each part gets that loses all its things: the one that most of them get. Where two parts want one key, the
    /// one that had it comes first.
    fn heirs(&self, groups: &[Shared<K>], leaving: &BTreeMap<u32, usize>) -> BTreeMap<Arc<K>, u32> {
        let mut wishes: BTreeMap<u32, (usize, bool, &Arc<K>)> = BTreeMap::new();
        for (from, key, size) in groups {
            let (Some(part), Some(key)) = (from, key) else { continue };
            if !self.is_vacant(*part, leaving) {
                continue;
            }
            let wish = (*size, self.key(*part) == Some(key), key);
            let best = wishes.entry(*part).or_insert(wish);
            if (best.0, best.1) < (wish.0, wish.1) {
                *best = wish;
            }
        }
        let mut heirs: BTreeMap<Arc<K>, u32> = BTreeMap::new();
        for same in [true, false] {
            for (part, (_, _, key)) in wishes.iter().filter(|(_, (_, own, _))| *own == same) {
                let held = self.by_key.get(*key).is_some_and(|holder| !self.is_vacant(*holder, leaving));
                if !held && !heirs.contains_key(*key) {
                    heirs.insert(Arc::clone(key), *part);
                }
            }
        }
        heirs
    }

    /// Whether all things of a part that may be renamed are among the leaving.
    fn is_vacant(&self, part: u32, leaving: &BTreeMap<u32, usize>) -> bool {
        part >= self.first && self.slot(part).map(|part| part.size) == leaving.get(&part).copied()
    }

    fn slot(&self, number: u32) -> Option<&Part<K>> {
        self.slots.get(number as usize).and_then(Option::as_ref)
    }

    fn add(&mut self, key: Arc<K>) -> u32 {
        let part = Some(Part { key: Arc::clone(&key), size: 0 });
        let number = match self.free.pop_first() {
            Some(number) => {
                if let Some(slot) = self.slots.get_mut(number as usize) {
                    *slot = part;
                }
                number
            }
            None => {
                self.slots.push(part);
                // Fewer than 2^32: the kernel's tables are full long before, and then nothing is compiled.
                u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.by_key.insert(key, number);
        number
    }

    fn grow(&mut self, number: u32, by: usize) {
        if let Some(part) = self.slots.get_mut(number as usize).and_then(Option::as_mut) {
            part.size += by;
        }
    }

    fn shrink(&mut self, number: u32, by: usize) {
        if let Some(part) = self.slots.get_mut(number as usize).and_then(Option::as_mut) {
            part.size = part.size.saturating_sub(by);
        }
    }

    /// Frees the number of a part without things.
    fn bury(&mut self, number: u32) -> bool {
        if number < self.first || self.slot(number).is_none_or(|part| part.size > 0) {
            return false;
        }
        let Some(part) = self.slots.get_mut(number as usize).and_then(Option::take) else { return false };
        if self.find(&part.key) == Some(number) {
            self.by_key.remove(&part.key);
        }
        self.free.insert(number);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(from: Option<u32>, key: &str, size: usize) -> Group<String> {
        Group { from, key: Some(key.to_owned()), size }
    }

    fn parts(rows: &[(&str, usize)]) -> Parts<String> {
        let mut parts = Parts::from(0);
        parts.rekey(rows.iter().map(|(key, size)| group(None, key, *size)).collect());
        parts
    }

    #[test]
    fn a_part_whose_things_change_alike_keeps_its_number() {
        let mut parts = parts(&[("a", 3), ("b", 2)]);
        let rekeyed = parts.rekey(vec![group(Some(0), "ax", 3), group(Some(1), "bx", 2)]);
        assert_eq!((rekeyed.parts, rekeyed.changed), (vec![Some(0), Some(1)], BTreeSet::from([0, 1])));
    }

    #[test]
    fn two_parts_may_swap_their_keys() {
        let mut parts = parts(&[("a", 1), ("b", 1)]);
        let rekeyed = parts.rekey(vec![group(Some(0), "b", 1), group(Some(1), "a", 1)]);
        assert_eq!((parts.find(&"b".into()), parts.find(&"a".into())), (Some(0), Some(1)));
        assert_eq!(rekeyed.changed, BTreeSet::from([0, 1]));
    }

    #[test]
    fn when_a_part_splits_the_most_stay() {
        let mut parts = parts(&[("a", 5)]);
        let rekeyed = parts.rekey(vec![group(Some(0), "few", 1), group(Some(0), "most", 4)]);
        assert_eq!(rekeyed.parts, vec![Some(1), Some(0)]);
        // Only some leave: those who stay keep name and number.
        let rekeyed = parts.rekey(vec![group(Some(0), "few", 3)]);
        assert_eq!((rekeyed.parts, rekeyed.changed), (vec![Some(1)], BTreeSet::new()));
        assert_eq!(parts.find(&"most".into()), Some(0));
    }

    #[test]
    fn parts_that_become_alike_are_one_and_the_number_is_free_again() {
        let mut parts = parts(&[("a", 2), ("b", 2)]);
        let rekeyed = parts.rekey(vec![group(Some(1), "a", 2)]);
        assert_eq!((rekeyed.parts, parts.len()), (vec![Some(0)], 1));
        assert_eq!(parts.hold("c".into()), (1, true));
        assert!(parts.release(1) && !parts.release(0));
    }

    #[test]
    fn what_is_gone_leaves_no_part_behind_and_pinned_parts_stay() {
        let mut parts = Parts::from(1);
        parts.pin(0, "none".to_owned());
        let rekeyed = parts.rekey(vec![group(None, "none", 2), group(None, "a", 1)]);
        assert_eq!(rekeyed.parts, vec![Some(0), Some(1)]);
        let rekeyed = parts.rekey(vec![
            Group { from: Some(1), key: None, size: 1 },
            Group { from: Some(0), key: Some("b".to_owned()), size: 2 },
        ]);
        assert_eq!((rekeyed.parts, parts.len()), (vec![None, Some(2)], 2));
        assert_eq!(parts.find(&"none".into()), Some(0));
    }
}
