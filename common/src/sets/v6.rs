//! Lives: kernel and host.
//! Called by: `sets`' users, for an IPv6 address.
//! May touch: the lines of one image.
//! Never: looks for a length that nothing near the address has.
//!
//! ```text
//! line 0        header: where the records and the buckets begin, and how much of the tables is in use
//! lines 1..     classes: 256 pairs of words that say which lengths to look for
//! lines SHORT.. a class for each /16, for lengths 1 to 31 (64 KiB)
//! lines A..     a class for each hashed /32, for lengths 32 to 47; as much of 1 MiB as it takes
//! lines B..     a class for each hashed /48, for lengths 48 to 128; as much of 4 MiB as it takes
//! further       buckets: one line for each hashed (prefix, length): three prefixes with their leaves
//! ```
//! Two addresses that share a class by chance cost each other a look that finds nothing. A bucket that overflowed says so, and the
//! next one is looked at too, up to [`PROBES`]. The length 0 is kept as two of length 1.

use super::{Lines, Words as _, word};

/// First line of the classes.
pub const CLASSES: u32 = 1;
/// First line of the table of /16s.
pub const SHORT: u32 = CLASSES + 64;
/// First line of the table of hashed /32s.
pub const A: u32 = SHORT + (1 << 10);
/// Most bits of an index into A.
pub const A_BITS: u32 = 20;
/// First line of the table of hashed /48s.
pub const B: u32 = A + (1 << (A_BITS - 6));
/// Most bits of an index into B.
pub const B_BITS: u32 = 22;
/// First line after the tables of fixed size.
pub const HEAP: u32 = B + (1 << (B_BITS - 6));
/// Buckets that one prefix may be in.
pub const PROBES: u32 = 16;
/// Prefixes of a bucket.
pub const SLOTS: u32 = 3;
/// Mark in a bucket's last word: the next one has some of this one's.
pub const OVERFLOWED: u64 = 1 << 56;

/// Header words.
pub mod header {
    /// Bits of an index into A, into B, and into the buckets, a byte each.
    pub const BITS: u32 = 1;
    /// First line of the buckets.
    pub const BUCKETS: u32 = 2;
    /// What the hashes begin with, so that nobody can make prefixes that collide.
    pub const SEED: u32 = 3;
}

/// Lengths to look for, longest at the lowest bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lengths {
    /// Length `l` from 65 to 128, at bit `128 - l`.
    pub long: u64,
    /// Length `l` from 1 to 64, at bit `64 - l`.
    pub short: u64,
}

impl Lengths {
    /// One length, 1 to 128.
    #[must_use]
    pub const fn of(bits: u32) -> Self {
        if bits > 64 { Self { long: 1 << (128 - bits), short: 0 } } else { Self { long: 0, short: 1 << (64 - bits) } }
    }

    /// These and those.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self { long: self.long | other.long, short: self.short | other.short }
    }
}

/// Lengths 1 to 31, which the table of /16s tells of.
const OF_SHORT: u64 = u64::MAX << 33;
/// Lengths 48 to 64: B tells of them, and of all longer ones.
const OF_B: u64 = (1 << 17) - 1;

/// Index into A. `bits` is 1 to 32.
#[inline(always)]
#[must_use]
pub const fn hash_32(hi: u64, bits: u32) -> u32 {
    ((hi >> 32) as u32).wrapping_mul(0x9e37_79b1) >> ((32 - (bits & 31)) & 31)
}

/// Index into B. `bits` is 1 to 31.
#[inline(always)]
#[must_use]
pub const fn hash_48(hi: u64, bits: u32) -> u32 {
    ((hi >> 16).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> ((64 - (bits & 31)) & 63)) as u32
}

/// What decides in which buckets a prefix may be.
#[inline(always)]
#[must_use]
pub const fn hash(seed: u64, hi: u64, lo: u64, length: u32) -> u64 {
    let first = (hi ^ seed).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let second = (first ^ first >> 32 ^ lo).wrapping_add(length as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (second ^ second >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

/// The first bucket of a hash. `bits` is 1 to 31.
#[inline(always)]
#[must_use]
pub const fn bucket(hash: u64, bits: u32) -> u32 {
    (hash >> ((64 - (bits & 31)) & 63)) as u32
}

/// The bucket after another. Each hash has steps of its own, so that what is full here does not fill up its neighbours.
#[inline(always)]
#[must_use]
pub const fn next_bucket(hash: u64, bits: u32, bucket: u32) -> u32 {
    bucket.wrapping_add(hash as u32 | 1) & ((1 << (bits & 31)) - 1)
}

/// The first `length` (1 to 128) bits of an address.
#[inline(always)]
#[must_use]
pub const fn masked(hi: u64, lo: u64, length: u32) -> (u64, u64) {
    if length > 64 { (hi, lo & u64::MAX << ((128 - length) & 63)) } else { (hi & u64::MAX << ((64 - length) & 63), 0) }
}

/// The lengths of the prefixes that may hold an address which begins with `hi`.
#[inline(always)]
pub fn lengths<L: Lines + ?Sized>(lines: &L, hi: u64) -> Lengths {
    let sizes = word(lines.table(0), header::BITS);
    let (near, a) = near(lines, hi, sizes);
    let (a, near) = (class(lines, a), class(lines, near));
    let mut lengths = Lengths { long: 0, short: near.short & OF_SHORT | a.short & !OF_SHORT & !OF_B };
    if a.short & OF_B | a.long != 0 {
        let b = class(lines, byte(lines, B, hash_48(hi, (sizes >> 8) as u8 as u32)));
        lengths = lengths.or(Lengths { long: b.long, short: b.short & OF_B });
    }
    lengths
}

/// Whether any prefix may hold an address which begins with `hi`: what most addresses are asked, and no more.
#[inline(always)]
pub fn is_near<L: Lines + ?Sized>(lines: &L, hi: u64) -> bool {
    let (near, a) = near(lines, hi, word(lines.table(0), header::BITS));
    near | a != 0
}

/// The classes of its /16 and its /32.
#[inline(always)]
fn near<L: Lines + ?Sized>(lines: &L, hi: u64, sizes: u64) -> (u8, u8) {
    (byte(lines, SHORT, (hi >> 48) as u32), byte(lines, A, hash_32(hi, sizes as u8 as u32)))
}

/// Byte `index` of a table that begins at `line`.
#[inline(always)]
fn byte<L: Lines + ?Sized>(lines: &L, line: u32, index: u32) -> u8 {
    (word(lines.table(line + (index >> 6)), index >> 3) >> (8 * (index & 7))) as u8
}

#[inline(always)]
fn class<L: Lines + ?Sized>(lines: &L, class: u8) -> Lengths {
    let (line, first) = (CLASSES + (class as u32 >> 2), 2 * (class as u32 & 3));
    match lines.table(line) {
        Some(line) => Lengths { long: line.word(first), short: line.word(first + 1) },
        None => Lengths::default(),
    }
}

/// The leaf of the prefix of this length (1 to 128) that holds the address; 0 if none does.
#[inline(always)]
pub fn probe<L: Lines + ?Sized>(lines: &L, hi: u64, lo: u64, length: u32) -> u32 {
    let Some(head) = lines.table(0) else { return 0 };
    let (bits, first) = ((head.word(header::BITS) >> 16) as u8 as u32, head.word(header::BUCKETS) as u32);
    let (hi, lo) = masked(hi, lo, length);
    let hash = hash(head.word(header::SEED), hi, lo, length);
    let mut at = bucket(hash, bits);
    for _ in 0..PROBES {
        let Some(line) = lines.line(first + at) else { return 0 };
        let (leaves, last) = (line.word(6), line.word(7));
        let is = |slot: u32| {
            (line.word(2 * slot) ^ hi)
                | (line.word(2 * slot + 1) ^ lo)
                | ((last >> (32 + 8 * slot)) as u8 as u64 ^ length as u64)
        };
        if is(0) == 0 {
            return leaves as u32;
        }
        if is(1) == 0 {
            return (leaves >> 32) as u32;
        }
        if is(2) == 0 {
            return last as u32;
        }
        if last & OVERFLOWED == 0 {
            return 0;
        }
        at = next_bucket(hash, bits, at);
    }
    0
}

/// The leaf of the longest prefix that holds the address; `probe` looks for one length (see [`probe`]).
#[inline(always)]
pub fn find(lengths: Lengths, probe: impl Fn(u32) -> u32) -> u32 {
    let leaf = longest(lengths.long, 128, &probe);
    if leaf != 0 { leaf } else { longest(lengths.short, 64, &probe) }
}

#[inline(always)]
fn longest(lengths: u64, most: u32, probe: impl Fn(u32) -> u32) -> u32 {
    let mut left = lengths;
    for _ in 0..64 {
        if left == 0 {
            break;
        }
        let leaf = probe(most - lowest(left));
        if leaf != 0 {
            return leaf;
        }
        left &= left - 1;
    }
    0
}

/// The number of the lowest bit that is set; 0 if none is. By hand: BPF has no instruction for it, and what the compiler puts in its
/// place is a table that no loader relocates. Without a branch: Linux 6.1's verifier walks what follows once for every bit otherwise.
#[inline(always)]
pub(super) const fn lowest(word: u64) -> u32 {
    const PAIRS: u64 = 0x5555_5555_5555_5555;
    const NIBBLES: u64 = 0x3333_3333_3333_3333;
    const BYTES: u64 = 0x0f0f_0f0f_0f0f_0f0f;
    // As many ones as there are bits below it, counted in ever more of them at once.
    let below = (word & word.wrapping_neg()).wrapping_sub(1);
    let twos = (below & PAIRS) + (below >> 1 & PAIRS);
    let fours = (twos & NIBBLES) + (twos >> 2 & NIBBLES);
    let eights = (fours & BYTES) + (fours >> 4 & BYTES);
    (eights.wrapping_mul(0x0101_0101_0101_0101) >> 56) as u32 & 63
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_bit_is_what_the_compiler_says_it_is() {
        let mut word = 0x1234_5678_9abc_def0_u64;
        assert_eq!(lowest(0), 0);
        for bit in 0..64 {
            assert_eq!(lowest(1 << bit), bit);
            word = word.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            assert_eq!(lowest(word), word.trailing_zeros());
        }
    }

    #[test]
    fn a_prefix_keeps_its_bits_and_no_more() {
        for length in 1..=128 {
            let (hi, lo) = masked(u64::MAX, u64::MAX, length);
            assert_eq!(hi.leading_ones() + lo.leading_ones(), length);
            let Lengths { long, short } = Lengths::of(length);
            assert_eq!(long.count_ones() + short.count_ones(), 1);
            let probed = find(Lengths { long, short }, |looked| looked);
            assert_eq!(probed, length);
        }
    }
}
