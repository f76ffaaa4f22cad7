//! Lives: kernel and host.
//! Called by: XDP, for every packet once an address set is in force; the builder's tests and `weirctl set`'s owner on the host.
//! May touch: the lines of one image, through [`Lines`].
//! Never: a trie. Which sets hold an address is found with the same few reads however many prefixes they have.
//!
//! ```text
//! address ─► v4 or v6 image ─► leaf ─► record: which sets hold it, until when, and what then
//! packet  ─► scope image    ─► which sets are asked about it, which of them block, the rule of each
//! ```
//! An image is an array of 64-byte lines. A *leaf* is 32 bits: 0 for an address that no set holds, else the number of a record. Two
//! bits of it are marks: [`PLAIN`] says that the address is blocked whatever the record says further, [`TAG`] that the number is not
//! a record's but a line's. All numbers are the host's own; kernel and host are the same machine.

pub mod scope;
pub mod v4;
pub mod v6;

/// Address sets that can be in force at once: what a word has bits.
pub const MAX_SETS: u32 = 64;
/// Leaf: blocked without condition, so the record need not be read to drop. Alone: which record was not looked up.
pub const PLAIN: u32 = 1 << 31;
/// In place of a leaf: the number is that of a line, where there is more than one leaf.
pub const TAG: u32 = 1 << 30;
/// The number's bits.
pub const NUMBER: u32 = TAG - 1;
/// Expiries of one address that the kernel follows by itself. What is expired longer than that is the agent's to take out, which it
/// does within about a second.
pub const DEPTH: u32 = 8;
/// What one set has refused: packets and bytes.
pub type Count = [u64; 2];
/// Words of a record; two are on a line.
pub const RECORD_WORDS: u32 = 4;

/// A line of an image.
pub type Line = [u64; 8];

/// Words of a line: plain ones, or ones that another thread may write.
pub trait Words {
    /// Word `index`, taken modulo 8.
    fn word(&self, index: u32) -> u64;
}

impl Words for Line {
    #[inline(always)]
    fn word(&self, index: u32) -> u64 {
        let [a, b, c, d, e, f, g, h] = self;
        // A match instead of an index: nothing here can panic, and the kernel's verifier sees a constant offset.
        match index & 7 {
            0 => *a,
            1 => *b,
            2 => *c,
            3 => *d,
            4 => *e,
            5 => *f,
            6 => *g,
            _ => *h,
        }
    }
}

/// A line that another thread may write while it is read.
#[cfg(not(target_arch = "bpf"))]
impl Words for [core::sync::atomic::AtomicU64; 8] {
    fn word(&self, index: u32) -> u64 {
        let word = self.get(index as usize & 7);
        word.map_or(0, |word| word.load(core::sync::atomic::Ordering::Acquire))
    }
}

/// An image. Its first lines are tables that are as large in every image of its kind, up to that kind's `HEAP`; the rest is as large
/// as it takes.
///
/// They are apart because the kernel reads an array that has the length its programs were verified with without calling anything; a call
/// costs more than all that is done with what it brings.
pub trait Lines {
    /// How a line lies in memory.
    type Line: Words;
    /// A line of the rest, if there are so many. Where an image lies in one piece, any line.
    fn line(&self, index: u32) -> Option<&Self::Line>;
    /// A line of the tables.
    fn table(&self, index: u32) -> Option<&Self::Line>;
}

impl Lines for [Line] {
    type Line = Line;

    fn line(&self, index: u32) -> Option<&Line> {
        self.get(index as usize)
    }

    fn table(&self, index: u32) -> Option<&Line> {
        self.get(index as usize)
    }
}

/// A word of a line; 0 where there is none.
#[inline(always)]
pub fn word<W: Words>(line: Option<&W>, index: u32) -> u64 {
    match line {
        Some(line) => line.word(index),
        None => 0,
    }
}

/// Half `index` (modulo 16) of a line as 32 bits.
#[inline(always)]
pub fn half<W: Words>(line: Option<&W>, index: u32) -> u32 {
    (word(line, index >> 1) >> (32 * (index & 1))) as u32
}

/// Which sets hold an address. All of it 0: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// A bit for each set.
    pub sets: u64,
    /// One more than the number of the blocking set whose prefix is the longest; 0: no blocking set holds it.
    pub longest: u32,
}

/// What a leaf stands for now. `now` is asked only where something expires.
#[inline(always)]
pub fn held<L: Lines + ?Sized>(lines: &L, leaf: u32, now: impl Fn() -> u64) -> Held {
    let base = word(lines.table(0), 0) as u32;
    let mut number = leaf & NUMBER;
    let mut clock = 0;
    let mut held = Held::default();
    for _ in 0..DEPTH {
        if number == 0 {
            return Held::default();
        }
        let Some(line) = lines.line(base + (number >> 1)) else { return Held::default() };
        let first = RECORD_WORDS * (number & 1);
        let (expires, last) = (line.word(first + 1), line.word(first + 2));
        held = Held { sets: line.word(first), longest: (last >> 32) as u32 };
        if expires == 0 {
            return held;
        }
        if clock == 0 {
            clock = now();
        }
        if clock < expires {
            return held;
        }
        number = last as u32 & NUMBER;
    }
    // Longer than the kernel follows: what was in force last stays, until the agent has taken it out.
    held
}
