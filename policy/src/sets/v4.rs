//! Lives: host. The image that IPv4 addresses are looked up in (`weir_common::sets::v4` draws it).
//! Called by: the agent, when sets or entries change.
//! May touch: the lines of one image.
//! Never: lets a reader see a /24 that is half the old and half the new: the word that leads to it is stored last.

use weir_common::sets::{
    Line, NUMBER, PLAIN, TAG,
    v4::{ASK, BLOCKED, CLEAN, FRONT, HEAP, TOP},
};

use super::{
    entries::Source,
    memory::{Full, Memory, Room, set_half, set_part, spare, word},
    records::Records,
    sweep::{Item, items, order, ranges},
};
use crate::model::{Prefix, V4_BITS};

/// Lines of the 256 leaves of a /24 that has more than one.
const SPREAD_LINES: u32 = 16;
/// Shortest prefix that is changed in place: 256 /24s. A shorter one takes a new image.
const SHORTEST: u8 = V4_BITS + 16;

/// What is known of an image beside its lines.
#[derive(Clone, Debug)]
pub struct V4 {
    records: Records,
    room: Room,
}

/// The leaves of a /24.
type Block = [u32; 256];

impl V4 {
    /// The image of all entries, with room for some more; `None` if there are none.
    #[must_use]
    pub fn build(sources: &[Source<'_>]) -> Option<(Self, Vec<Line>)> {
        let items = items(sources, true);
        if items.is_empty() {
            return None;
        }
        let mut build = Build {
            lines: vec![[0; 8]; HEAP as usize],
            records: Records::default(),
            block: (0, [0; 256]),
            dirty: false,
        };
        let mut records = std::mem::take(&mut build.records);
        ranges(&items, |first, last, holders| build.range(first as u32, last as u32, records.leaf(holders)));
        build.flush();
        Some(Self::settle(build.lines, records))
    }

    /// Room for entries to come, then the records.
    fn settle(mut lines: Vec<Line>, mut records: Records) -> (Self, Vec<Line>) {
        let next = lines.len() as u32;
        lines.resize(lines.len() + spare(lines.len() - HEAP as usize), [0; 8]);
        let end = lines.len() as u32;
        records.settle(end);
        lines.resize(lines.len() + records.lines() as usize, [0; 8]);
        lines.as_mut_slice().set(0, 0, u64::from(end));
        // Their room was measured by how many there are.
        let _ = records.write(lines.as_mut_slice());
        (Self { records, room: Room { next, end } }, lines)
    }

    /// Makes the image say what the sources say inside `prefix`, where an entry was added, removed, or got another end.
    ///
    /// # Errors
    /// There is no room, or it would take longer than a new image; nothing a reader sees has changed then.
    pub fn change<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        sources: &[Source<'_>],
        prefix: Prefix,
    ) -> Result<(), Full> {
        if prefix.bits < SHORTEST {
            return Err(Full);
        }
        let (first, last) = prefix.range();
        for number in first as u32 >> 8..=last as u32 >> 8 {
            self.change_block(memory, sources, number)?;
        }
        Ok(())
    }

    fn change_block<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        sources: &[Source<'_>],
        number: u32,
    ) -> Result<(), Full> {
        let block = self.leaves(sources, number);
        self.records.write(memory)?;
        let [leaf, ..] = block;
        if block.iter().all(|other| *other == leaf) {
            self.lead(memory, number, leaf)?;
            front(memory, number, code(leaf));
            return Ok(());
        }
        let node = write_node(memory, &block, |_, lines| self.room.take(lines))?;
        self.lead(memory, number, node | TAG)?;
        front(memory, number, ASK);
        Ok(())
    }

    /// What the sources say of a /24.
    fn leaves(&mut self, sources: &[Source<'_>], number: u32) -> Block {
        let prefix = Prefix::new(weir_common::addr::Addr::v4((number << 8).to_be_bytes()), V4_BITS + 24);
        let mut items: Vec<Item> = Vec::new();
        for source in sources {
            let near = source.entries.around(prefix).chain(source.entries.inside(prefix));
            items.extend(near.map(|entry| Item::of(source, entry)));
        }
        order(&mut items);
        let mut block = [0; 256];
        ranges(&items, |first, last, holders| {
            let (low, high) = ((first as u32).max(number << 8), (last as u32).min(number << 8 | 255));
            if low <= high
                && let Some(part) = block.get_mut(low as usize & 255..=high as usize & 255)
            {
                part.fill(self.records.leaf(holders));
            }
        });
        block
    }

    /// Makes the table of /20s lead to `to` for a /24.
    fn lead<M: Memory + ?Sized>(&mut self, memory: &mut M, number: u32, to: u32) -> Result<(), Full> {
        let (line, index) = (TOP + (number >> 8), number >> 4 & 15);
        let top = (word(memory, line, index >> 1) >> (32 * (index & 1))) as u32;
        if top & TAG != 0 {
            set_half(memory, top & NUMBER, number & 15, to);
            return Ok(());
        }
        if top == to {
            return Ok(());
        }
        let group = self.room.take(1)?;
        (0..16).for_each(|at| set_half(memory, group, at, top));
        set_half(memory, group, number & 15, to);
        set_half(memory, line, index, group | TAG);
        Ok(())
    }

    /// Lines that are in use, of those there are room for before the records.
    #[must_use]
    pub const fn used(&self) -> (u32, u32) {
        (self.room.next, self.room.end)
    }
}

/// What the front table says of a /24 that has one leaf.
const fn code(leaf: u32) -> u64 {
    if leaf == 0 {
        CLEAN
    } else if leaf & PLAIN != 0 {
        BLOCKED
    } else {
        ASK
    }
}

fn front<M: Memory + ?Sized>(memory: &mut M, number: u32, code: u64) {
    set_part(memory, FRONT + (number >> 8), number >> 5 & 7, 2 * (number & 31), 2, code);
}

/// Writes a node into new lines; its number.
fn write_node<M: Memory + ?Sized>(
    memory: &mut M,
    block: &Block,
    mut take: impl FnMut(&mut M, u32) -> Result<u32, Full>,
) -> Result<u32, Full> {
    let node = take(memory, 1)?;
    for (index, held) in block.chunks(64).enumerate() {
        let bits = held.iter().rev().fold(0, |bits, leaf| bits << 1 | u64::from(*leaf != 0));
        memory.set(node, index as u32, bits);
    }
    let mut held = block.iter().copied().filter(|leaf| *leaf != 0);
    let first = held.next().unwrap_or(0);
    let leaf = if held.clone().all(|leaf| leaf == first) {
        first
    } else {
        let spread = take(memory, SPREAD_LINES)?;
        for (line, leaves) in block.chunks(16).enumerate() {
            (0..).zip(leaves).for_each(|(index, leaf)| set_half(memory, spread + line as u32, index, *leaf));
        }
        let plain = held.fold(first, |all, leaf| all & leaf) & PLAIN;
        spread | TAG | plain
    };
    memory.set(node, 4, u64::from(leaf));
    Ok(node)
}

/// An image that grows.
struct Build {
    lines: Vec<Line>,
    records: Records,
    /// The /24 that is being put together.
    block: (u32, Block),
    dirty: bool,
}

impl Build {
    /// Takes over that all of `first..=last` has this leaf. Ranges come in order.
    fn range(&mut self, first: u32, last: u32, leaf: u32) {
        let mut at = u64::from(first);
        let after = u64::from(last) + 1;
        while at < after {
            let whole_top = at.is_multiple_of(1 << 12) && after - at >= 1 << 12;
            let whole = at.is_multiple_of(1 << 8) && after - at >= 1 << 8;
            let step = if whole_top {
                self.whole_top((at >> 12) as u32, leaf)
            } else if whole {
                self.whole((at >> 8) as u32, leaf)
            } else {
                self.part(at as u32, (after - 1).min(at | 255) as u32, leaf)
            };
            at += step;
        }
    }

    fn whole_top(&mut self, top: u32, leaf: u32) -> u64 {
        let codes = code(leaf) * 0x5555_5555;
        set_part(self.lines.as_mut_slice(), FRONT + (top >> 4), top >> 1 & 7, 32 * (top & 1), 32, codes);
        set_half(self.lines.as_mut_slice(), TOP + (top >> 4), top & 15, leaf);
        1 << 12
    }

    fn whole(&mut self, number: u32, leaf: u32) -> u64 {
        self.lead(number, leaf);
        front(self.lines.as_mut_slice(), number, code(leaf));
        1 << 8
    }

    fn part(&mut self, first: u32, last: u32, leaf: u32) -> u64 {
        if self.block.0 != first >> 8 {
            self.flush();
            self.block = (first >> 8, [0; 256]);
        }
        if let Some(part) = self.block.1.get_mut(first as usize & 255..=last as usize & 255) {
            part.fill(leaf);
        }
        self.dirty = true;
        u64::from(last - first) + 1
    }

    /// Writes the /24 that was put together.
    fn flush(&mut self) {
        if !std::mem::take(&mut self.dirty) {
            return;
        }
        let (number, block) = self.block;
        let [leaf, ..] = block;
        if block.iter().all(|other| *other == leaf) {
            self.whole(number, leaf);
            return;
        }
        let lines = self.lines.len();
        // One more than a node takes; what is not needed is cut off again.
        self.lines.resize(lines + 1 + SPREAD_LINES as usize, [0; 8]);
        let mut room = Room { next: lines as u32, end: self.lines.len() as u32 };
        let node = write_node(self.lines.as_mut_slice(), &block, |_, lines| room.take(lines));
        self.lines.truncate(room.next as usize);
        if let Ok(node) = node {
            self.lead(number, node | TAG);
            front(self.lines.as_mut_slice(), number, ASK);
        }
    }

    /// Makes the table of /20s lead to `to` for a /24.
    fn lead(&mut self, number: u32, to: u32) {
        let (line, index) = (TOP + (number >> 8), number >> 4 & 15);
        let top = (word(self.lines.as_slice(), line, index >> 1) >> (32 * (index & 1))) as u32;
        let group = if top & TAG == 0 {
            self.lines.push([0; 8]);
            let group = self.lines.len() as u32 - 1;
            set_half(self.lines.as_mut_slice(), line, index, group | TAG);
            group
        } else {
            top & NUMBER
        };
        set_half(self.lines.as_mut_slice(), group, number & 15, to);
    }
}
