//! Lives: host.
//! Called by: the builders.
//! May touch: the lines of one image.
//! Never: knows whether those are the kernel's or only ours.

use weir_common::sets::{Line, Lines, Words as _};

/// An image that can be written, word by word. A store is seen at once and whole, after those before it.
pub trait Memory: Lines {
    /// Stores a word. Where there is no such line, nothing.
    fn set(&mut self, line: u32, word: u32, value: u64);
}

/// There is no room for a change in the image; it takes a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the image has no room for the change")]
pub struct Full;

impl Memory for [Line] {
    fn set(&mut self, line: u32, word: u32, value: u64) {
        let word = self.get_mut(line as usize).and_then(|line| line.get_mut(word as usize & 7));
        if let Some(word) = word {
            *word = value;
        }
    }
}

/// A word of an image.
pub(super) fn word<M: Memory + ?Sized>(memory: &M, line: u32, index: u32) -> u64 {
    memory.line(line).map_or(0, |line| line.word(index))
}

/// Stores half `index` (modulo 16) of a line.
pub(super) fn set_half<M: Memory + ?Sized>(memory: &mut M, line: u32, index: u32, value: u32) {
    set_part(memory, line, index >> 1 & 7, 32 * (index & 1), 32, u64::from(value));
}

/// Stores byte `index` of a table that begins at `line`.
pub(super) fn set_byte<M: Memory + ?Sized>(memory: &mut M, line: u32, index: u32, value: u8) {
    set_part(memory, line + (index >> 6), index >> 3 & 7, 8 * (index & 7), 8, u64::from(value));
}

/// Stores `bits` bits of a word, from `shift` on.
pub(super) fn set_part<M: Memory + ?Sized>(memory: &mut M, line: u32, index: u32, shift: u32, bits: u32, value: u64) {
    let mask = (u64::MAX >> (64 - bits)) << shift;
    let before = word(memory, line, index);
    memory.set(line, index, before & !mask | value << shift & mask);
}

/// The free lines of an image, given out one after the other. What is given back is free only in the next image: a program may
/// still be reading it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Room {
    pub next: u32,
    pub end: u32,
}

impl Room {
    pub fn take(&mut self, lines: u32) -> Result<u32, Full> {
        let first = self.next;
        let next = first.checked_add(lines).filter(|next| *next <= self.end).ok_or(Full)?;
        self.next = next;
        Ok(first)
    }
}

/// Lines kept free for single entries to come: a quarter of what there is, and some.
pub(super) const fn spare(lines: usize) -> usize {
    lines / 4 + 4096
}
