//! Lives: host.
//! Called by: whoever keeps a set's entries; the builders, which read them.
//! May touch: nothing.
//! Never: keeps one prefix twice.

use std::collections::{BTreeMap, btree_map};

use weir_common::addr::Addr;

use crate::model::Prefix;

/// When an entry ends, in nanoseconds of the clock its owner uses.
pub type Expiry = u64;
/// An entry that does not end.
pub const NEVER: Expiry = 0;

/// The prefixes of a set, each with its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entries {
    by_prefix: BTreeMap<Prefix, Expiry>,
    /// How many there are of each length: a look for what holds an address leaves out those there are none of.
    lengths: [u32; 129],
}

impl Default for Entries {
    fn default() -> Self {
        Self { by_prefix: BTreeMap::new(), lengths: [0; 129] }
    }
}

impl Entries {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_prefix.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_prefix.is_empty()
    }

    /// Puts an entry in; what it replaces, if anything.
    pub fn insert(&mut self, prefix: Prefix, expires: Expiry) -> Option<Expiry> {
        let before = self.by_prefix.insert(prefix, expires);
        if before.is_none() {
            self.count(prefix, 1);
        }
        before
    }

    /// Takes an entry out, if it is there.
    pub fn remove(&mut self, prefix: &Prefix) -> Option<Expiry> {
        let before = self.by_prefix.remove(prefix);
        if before.is_some() {
            self.count(*prefix, u32::MAX);
        }
        before
    }

    /// The end of exactly this entry.
    #[must_use]
    pub fn get(&self, prefix: &Prefix) -> Option<Expiry> {
        self.by_prefix.get(prefix).copied()
    }

    /// All of them, in order.
    pub fn iter(&self) -> btree_map::Iter<'_, Prefix, Expiry> {
        self.by_prefix.iter()
    }

    /// Those that lie in a prefix, itself among them; of its own family only.
    pub fn inside(&self, prefix: Prefix) -> impl Iterator<Item = (Prefix, Expiry)> {
        let last = Prefix::host(Addr(prefix.range().1.to_be_bytes()));
        let inside = self.by_prefix.range(prefix..=last).map(|(prefix, expires)| (*prefix, *expires));
        inside.filter(move |(found, _)| found.is_v4() == prefix.is_v4())
    }

    /// Those around a prefix, not itself, the longest first; of its own family only.
    pub fn around(&self, prefix: Prefix) -> impl Iterator<Item = (Prefix, Expiry)> {
        let there = |bits: &u8| self.lengths.get(usize::from(*bits)).is_some_and(|count| *count > 0);
        (0..prefix.bits).rev().filter(there).filter_map(move |bits| {
            let around = Prefix::new(prefix.addr, bits);
            (around.is_v4() == prefix.is_v4()).then_some(())?;
            Some((around, self.get(&around)?))
        })
    }

    /// Bits of the longest one that holds an address.
    #[must_use]
    pub fn longest(&self, addr: &Addr) -> Option<u8> {
        let own = Prefix::host(*addr);
        self.get(&own).map(|_| own.bits).or_else(|| self.around(own).next().map(|(prefix, _)| prefix.bits))
    }

    /// Takes out what has ended by `now`; the prefixes of it.
    pub fn expire(&mut self, now: Expiry) -> Vec<Prefix> {
        let ended = |(prefix, expires): (&Prefix, &Expiry)| (*expires != NEVER && *expires <= now).then_some(*prefix);
        let ended: Vec<Prefix> = self.by_prefix.iter().filter_map(ended).collect();
        for prefix in &ended {
            self.remove(prefix);
        }
        ended
    }

    /// When the next one ends.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Expiry> {
        self.by_prefix.values().copied().filter(|expires| *expires != NEVER).min()
    }

    fn count(&mut self, prefix: Prefix, by: u32) {
        if let Some(count) = self.lengths.get_mut(usize::from(prefix.bits)) {
            *count = count.wrapping_add(by);
        }
    }
}

impl FromIterator<(Prefix, Expiry)> for Entries {
    fn from_iter<T: IntoIterator<Item = (Prefix, Expiry)>>(iter: T) -> Self {
        let by_prefix: BTreeMap<Prefix, Expiry> = iter.into_iter().collect();
        let mut entries = Self { by_prefix, lengths: [0; 129] };
        for bits in entries.by_prefix.keys().map(|prefix| prefix.bits).collect::<Vec<_>>() {
            if let Some(count) = entries.lengths.get_mut(usize::from(bits)) {
                *count += 1;
            }
        }
        entries
    }
}

/// Some of a set's entries, as a builder takes them. A set may have several sources.
#[derive(Clone, Copy, Debug)]
pub struct Source<'e> {
    /// The set's number, below [`weir_common::sets::MAX_SETS`].
    pub set: u32,
    /// Whether it blocks.
    pub blocks: bool,
    /// Whether it does so whatever the packet.
    pub plain: bool,
    /// What to add to an entry's end to have it by the kernel's clock; may wrap.
    pub shift: u64,
    /// The entries.
    pub entries: &'e Entries,
}

impl Source<'_> {
    /// An end by the kernel's clock. One that has passed stays one that has: 0 would mean never.
    pub(super) const fn ends(&self, expires: Expiry) -> u64 {
        if expires == NEVER {
            return NEVER;
        }
        let ends = expires.wrapping_add(self.shift);
        // A time before the clock began wraps to the far future.
        if ends == 0 || ends > u64::MAX / 2 { 1 } else { ends }
    }
}
