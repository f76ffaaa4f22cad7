//! Lives: host. The image that IPv6 addresses are looked up in (`weir_common::sets::v6` draws it).
//! Called by: the agent, when sets or entries change.
//! May touch: the lines of one image.
//! Never: gives up on a prefix that finds its buckets full: the table grows.

use std::{collections::HashMap, iter};

use weir_common::{
    addr::Addr,
    sets::{
        Line,
        v6::{
            A, A_BITS, B, B_BITS, CLASSES, HEAP, Lengths, OVERFLOWED, PROBES, SHORT, SLOTS, bucket, hash, hash_32,
            hash_48, header, masked, next_bucket,
        },
    },
};

use super::{
    entries::Source,
    memory::{Full, Memory, set_byte, set_half, set_part, word},
    records::Records,
    sweep::{Item, items, order, prefixes},
};
use crate::model::Prefix;

/// Most entries inside a prefix that is changed in place; with more a new image is as fast.
const MOST_INSIDE: usize = 4096;
/// The class whose lengths are all that are in use: for what has no class of its own.
const ANY: u8 = 255;

/// What is known of an image beside its lines.
#[derive(Clone, Debug)]
pub struct V6 {
    records: Records,
    sizes: Sizes,
    classes: Classes,
    seed: u64,
}

/// How large the tables are, as bits of their indices.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    a: u32,
    b: u32,
    buckets: u32,
}

/// Where a prefix is.
#[derive(Clone, Copy, Debug)]
struct Key {
    hi: u64,
    lo: u64,
    length: u32,
}

/// What is looked for together, by number.
#[derive(Clone, Debug, Default)]
struct Classes {
    numbers: HashMap<(u64, u64), u8>,
    lengths: Vec<Lengths>,
    /// All that are in use.
    any: Lengths,
}

impl V6 {
    /// The image of all entries, with room for some more; `None` if there are none. `seed` is any number nobody can guess.
    #[must_use]
    pub fn build(sources: &[Source<'_>], seed: u64) -> Option<(Self, Vec<Line>)> {
        let mut items = items(sources, false);
        if items.is_empty() {
            return None;
        }
        if items.first().is_some_and(|item| item.prefix.bits == 0) {
            items = items.into_iter().flat_map(halved).collect();
            order(&mut items);
        }
        let mut records = Records::default();
        let mut leaves = Vec::with_capacity(items.len());
        prefixes(&items, |prefix, holders| leaves.push((Key::of(prefix), records.leaf(holders))));
        let mut sizes = Sizes::of(&leaves);
        loop {
            // Each table is twice the one before: there is one in which everything finds its place.
            match Self::try_build(&leaves, sizes, seed, records.clone()) {
                Ok(built) => return Some(built),
                Err(Full) => sizes.buckets += 1,
            }
        }
    }

    fn try_build(leaves: &[(Key, u32)], sizes: Sizes, seed: u64, records: Records) -> Result<(Self, Vec<Line>), Full> {
        let mut built = Self { records, sizes, classes: Classes::default(), seed };
        let end = HEAP + (1 << sizes.buckets);
        let mut lines = vec![[0; 8]; (end + built.records.lines()) as usize];
        let memory = lines.as_mut_slice();
        memory.set(0, 0, u64::from(end));
        memory.set(0, header::BITS, u64::from(sizes.a | sizes.b << 8 | sizes.buckets << 16));
        memory.set(0, header::BUCKETS, u64::from(HEAP));
        memory.set(0, header::SEED, seed);
        for (key, leaf) in leaves {
            built.put(memory, *key, *leaf)?;
        }
        built.mark_all(memory, leaves);
        built.records.settle(end);
        built.records.write(memory)?;
        Ok((built, lines))
    }

    /// Makes the image say what the sources say inside `prefix`, where an entry was added, removed, or got another end.
    ///
    /// # Errors
    /// There is no room, or it would take longer than a new image; what a reader sees is right in part then.
    pub fn change<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        sources: &[Source<'_>],
        prefix: Prefix,
    ) -> Result<(), Full> {
        if prefix.bits == 0 {
            return Err(Full);
        }
        let inside = sources.iter().flat_map(|source| source.entries.inside(prefix).take(MOST_INSIDE + 1));
        let mut touched: Vec<Prefix> = inside.map(|(prefix, _)| prefix).chain([prefix]).collect();
        touched.sort_unstable();
        touched.dedup();
        if touched.len() > MOST_INSIDE {
            return Err(Full);
        }
        let leaves: Vec<(Key, u32)> =
            touched.into_iter().map(|prefix| (Key::of(prefix), self.leaf(sources, prefix))).collect();
        self.records.write(memory)?;
        for (key, leaf) in leaves {
            if leaf != 0 {
                self.mark(memory, key);
            }
            self.put(memory, key, leaf)?;
        }
        Ok(())
    }

    /// The leaf of a prefix, by what is around it; 0 if no set has just this one, for then the ones around it are found by theirs.
    fn leaf(&mut self, sources: &[Source<'_>], prefix: Prefix) -> u32 {
        let mut items: Vec<Item> = Vec::new();
        let mut there = false;
        for source in sources {
            let own = source.entries.get(&prefix).map(|expires| (prefix, expires));
            there |= own.is_some();
            // ::/0 is kept as its halves: one of length 1 is there if that is.
            items.extend(own.into_iter().chain(source.entries.around(prefix)).map(|entry| Item::of(source, entry)));
        }
        let halves = prefix.bits == 1 && !items.is_empty();
        if !there && !halves {
            return 0;
        }
        order(&mut items);
        let holders: Vec<_> = items.iter().rev().map(|item| item.holder).collect();
        self.records.leaf(&holders)
    }

    /// Stores a prefix with its leaf. A leaf of 0 takes it out; its place stays its own, for a reader may be there.
    fn put<M: Memory + ?Sized>(&self, memory: &mut M, key: Key, leaf: u32) -> Result<(), Full> {
        let Key { hi, lo, length } = key;
        let (hash, bits) = (hash(self.seed, hi, lo, length), self.sizes.buckets);
        let places = iter::successors(Some(bucket(hash, bits)), |at| Some(next_bucket(hash, bits, *at)));
        let buckets = places.take(PROBES as usize).map(|at| HEAP + at);
        let mut free = None;
        for bucket in buckets.clone() {
            let last = word(memory, bucket, 7);
            for slot in 0..SLOTS {
                let there = (last >> (32 + 8 * slot)) as u8;
                if u32::from(there) == length
                    && word(memory, bucket, 2 * slot) == hi
                    && word(memory, bucket, 2 * slot + 1) == lo
                {
                    set_half(memory, bucket, 12 + slot, leaf);
                    return Ok(());
                }
                if there == 0 && free.is_none() {
                    free = Some((bucket, slot));
                }
            }
            if last & OVERFLOWED == 0 {
                break;
            }
        }
        if leaf == 0 {
            return Ok(());
        }
        let Some((bucket, slot)) = free.or_else(|| overflow(memory, buckets)) else { return Err(Full) };
        // The length makes the key one that is compared, the leaf makes it one that counts.
        memory.set(bucket, 2 * slot, hi);
        memory.set(bucket, 2 * slot + 1, lo);
        set_part(memory, bucket, 7, 32 + 8 * slot, 8, u64::from(length));
        set_half(memory, bucket, 12 + slot, leaf);
        Ok(())
    }

    /// Marks everything a reader must have seen to look for the prefix.
    fn mark<M: Memory + ?Sized>(&mut self, memory: &mut M, key: Key) {
        let lengths = Lengths::of(key.length);
        if key.length < 32 {
            for index in key.short() {
                self.mark_one(memory, SHORT, index, lengths);
            }
            return;
        }
        self.mark_one(memory, A, hash_32(key.hi, self.sizes.a), lengths);
        if key.length >= 48 {
            self.mark_one(memory, B, hash_48(key.hi, self.sizes.b), lengths);
        }
    }

    fn mark_one<M: Memory + ?Sized>(&mut self, memory: &mut M, table: u32, index: u32, lengths: Lengths) {
        let class = (word(memory, table + (index >> 6), index >> 3 & 7) >> (8 * (index & 7))) as u8;
        let marked = self.classes.of(class).or(lengths);
        let class = self.classes.number(memory, marked);
        set_byte(memory, table, index, class);
    }

    /// The same for all at once: each cell is given one class, not one after the other.
    fn mark_all<M: Memory + ?Sized>(&mut self, memory: &mut M, leaves: &[(Key, u32)]) {
        let mut cells: [HashMap<u32, Lengths>; 3] = Default::default();
        let [short, a, b] = &mut cells;
        for (key, _) in leaves {
            let lengths = Lengths::of(key.length);
            let mark = |table: &mut HashMap<u32, Lengths>, index| {
                let cell = table.entry(index).or_default();
                *cell = cell.or(lengths);
            };
            if key.length < 32 {
                key.short().for_each(|index| mark(short, index));
                continue;
            }
            mark(a, hash_32(key.hi, self.sizes.a));
            if key.length >= 48 {
                mark(b, hash_48(key.hi, self.sizes.b));
            }
        }
        for (table, cells) in [SHORT, A, B].into_iter().zip(cells) {
            for (index, lengths) in cells {
                let class = self.classes.number(memory, lengths);
                set_byte(memory, table, index, class);
            }
        }
    }
}

/// Finds a free place in the buckets after full ones, and says in those that they overflowed.
fn overflow<M: Memory + ?Sized>(memory: &mut M, buckets: impl Iterator<Item = u32> + Clone) -> Option<(u32, u32)> {
    let free = |memory: &M, bucket| (0..SLOTS).find(|slot| (word(memory, bucket, 7) >> (32 + 8 * slot)) as u8 == 0);
    let found = buckets.clone().find_map(|bucket| Some((bucket, free(memory, bucket)?)))?;
    for bucket in buckets.take_while(|bucket| *bucket != found.0) {
        set_part(memory, bucket, 7, 56, 8, 1);
    }
    Some(found)
}

impl Key {
    fn of(prefix: Prefix) -> Self {
        let (hi, lo) = halves(prefix.addr);
        let length = u32::from(prefix.bits);
        let (hi, lo) = masked(hi, lo, length.max(1));
        Self { hi, lo, length }
    }

    /// The /16s it is in or holds.
    fn short(self) -> std::ops::RangeInclusive<u32> {
        let first = (self.hi >> 48) as u32;
        let more = if self.length >= 16 { 0 } else { (1 << (16 - self.length)) - 1 };
        first..=first + more
    }
}

fn halves(addr: Addr) -> (u64, u64) {
    let all = u128::from_be_bytes(addr.0);
    ((all >> 64) as u64, all as u64)
}

/// `::/0` as its two halves; anything else as it is.
fn halved(item: Item) -> Vec<Item> {
    if item.prefix.bits > 0 {
        return vec![item];
    }
    let upper = Addr((1u128 << 127).to_be_bytes());
    [Addr::UNSPECIFIED, upper].map(|addr| Item { prefix: Prefix::new(addr, 1), ..item }).to_vec()
}

impl Sizes {
    /// Tables in which few cells are shared, A small enough to stay close to the processor.
    fn of(leaves: &[(Key, u32)]) -> Self {
        let distinct = |from: u32, shift: u32| {
            let mut parts: Vec<u64> =
                leaves.iter().filter(|(key, _)| key.length >= from).map(|(key, _)| key.hi >> shift).collect();
            parts.sort_unstable();
            parts.dedup();
            parts.len()
        };
        let bits = |entries: usize, least: u32, most: u32| (entries.max(1) * 8).ilog2().clamp(least, most);
        let buckets = (leaves.len() * 5 / 11 + 64).next_power_of_two().ilog2();
        Self { a: bits(distinct(32, 32), 10, A_BITS), b: bits(distinct(48, 16), 10, B_BITS), buckets }
    }
}

impl Classes {
    fn of(&self, class: u8) -> Lengths {
        match class {
            0 => Lengths::default(),
            ANY => self.any,
            other => self.lengths.get(usize::from(other) - 1).copied().unwrap_or(self.any),
        }
    }

    /// The class of these lengths; written where it is new. Without a number left it is one that is looked for too often.
    fn number<M: Memory + ?Sized>(&mut self, memory: &mut M, lengths: Lengths) -> u8 {
        let any = self.any.or(lengths);
        if any != self.any {
            self.any = any;
            write_class(memory, ANY, any);
        }
        if let Some(number) = self.numbers.get(&(lengths.long, lengths.short)) {
            return *number;
        }
        let number = u8::try_from(self.lengths.len() + 1).unwrap_or(ANY);
        if number != ANY {
            self.lengths.push(lengths);
            self.numbers.insert((lengths.long, lengths.short), number);
            write_class(memory, number, lengths);
        }
        number
    }
}

fn write_class<M: Memory + ?Sized>(memory: &mut M, class: u8, lengths: Lengths) {
    let (line, first) = (CLASSES + (u32::from(class) >> 2), 2 * (u32::from(class) & 3));
    memory.set(line, first, lengths.long);
    memory.set(line, first + 1, lengths.short);
}
