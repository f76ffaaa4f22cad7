//! Lives: kernel and host.
//! Called by: `sets`' users, for an IPv4 address.
//! May touch: the lines of one image.
//! Never: reads a second table for an address that no set holds, unless its neighbours in the same /24 are held.
//!
//! ```text
//! line 0        header: word 0 the line where records begin
//! lines 1..     front: 2 bits for each /24: clean, all of it plainly blocked, ask further (4 MiB)
//! lines TOP..   32 bits for each /20: a leaf for all of it, or TAG | line of a group (4 MiB)
//! further       groups: one line, 32 bits for each /24: a leaf for all of it, or TAG | line of a node
//!               nodes: words 0 to 3 say which of 256 addresses are held; word 4 their leaf, or TAG | line of 256 leaves
//! ```

use super::{Lines, PLAIN, TAG, Words as _, half, word};

/// First line of the front table.
pub const FRONT: u32 = 1;
/// First line of the table of /20s.
pub const TOP: u32 = FRONT + (1 << 16);
/// First line after the tables of fixed size.
pub const HEAP: u32 = TOP + (1 << 16);

/// Front code: no set holds anything of the /24.
pub const CLEAN: u64 = 0;
/// Front code: all of the /24 is blocked without condition.
pub const BLOCKED: u64 = 1;
/// Front code: the table of /20s knows.
pub const ASK: u64 = 2;

/// The leaf of an address, as far as it takes to drop: [`PLAIN`] alone where the front table says it all.
#[inline(always)]
pub fn find<L: Lines + ?Sized>(lines: &L, addr: u32) -> u32 {
    let block = addr >> 8;
    match word(lines.table(FRONT + (block >> 8)), block >> 5) >> (2 * (block & 31)) & 3 {
        CLEAN => 0,
        BLOCKED => PLAIN,
        _ => look(lines, addr, true),
    }
}

/// The leaf of an address with its record, for naming the set.
#[inline(always)]
pub fn name<L: Lines + ?Sized>(lines: &L, addr: u32) -> u32 {
    look(lines, addr, false)
}

#[inline(always)]
fn look<L: Lines + ?Sized>(lines: &L, addr: u32, quick: bool) -> u32 {
    let top = half(lines.table(TOP + (addr >> 16)), addr >> 12 & 15);
    if top & TAG == 0 {
        return top;
    }
    let group = half(lines.line(top & !(TAG | PLAIN)), addr >> 8 & 15);
    if group & TAG == 0 {
        return group;
    }
    let Some(node) = lines.line(group & !(TAG | PLAIN)) else { return 0 };
    if node.word(addr >> 6 & 3) >> (addr & 63) & 1 == 0 {
        return 0;
    }
    let leaf = node.word(4) as u32;
    if leaf & TAG == 0 {
        return leaf;
    }
    if quick && leaf & PLAIN != 0 {
        return PLAIN;
    }
    half(lines.line((leaf & !(TAG | PLAIN)) + (addr >> 4 & 15)), addr & 15)
}
