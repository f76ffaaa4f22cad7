//! Lives: kernel.
//! Called by: XDP, for each packet that a limit or an address set refuses, or would.
//! May touch: its own maps, the counters.
//! Never: takes one client's packets for another's; forgets one that it has no cell for.
//!
//! Equal drops of an epoch are counted together, as all of `emit::merged` is, in cells that a flood reaches without a helper: a hash
//! map's long key costs more than everything that leads to the drop. A cell is known by a keyed hash of 64 bits, its tag, and claimed
//! once in an epoch: who claims it says what it stands for, and puts it on the list that the agent reads and clears when the epoch is over.
//!
//! ```text
//!   what was refused ─ tag ─► its cell in one of two buckets of eight ─ all others'? ─► counted without addresses
//! ```

use weir_common::{
    addr::Port,
    decide::Image,
    event::MergeKey,
    hash,
    maps::{EDGE_BUCKETS, EDGE_CLAIMS, EDGE_DROPS, EDGE_WAYS},
    packet::Packet,
    verdict::{Direction, Hook},
};

use crate::{atomic, emit, limiter, maps, settings, tables::Active, who};

/// Counts a refused (or audited) packet, `answer` as the limiter gives it, under the image of this active word. Its cell, with
/// [`CLAIMED`] if it is the first of its kind in this epoch.
///
/// A function of its own in the object, for the sake of the stack.
#[inline(never)]
pub fn counted(image: &Image<'_, Active>, active: u64, answer: u64, packet: &Packet, ifindex: u32) -> u64 {
    let cell = emit::cell_at(Hook::Xdp, &limiter::decision(answer, 0));
    emit::count(&maps::COUNTERS, cell);
    let tag = tag(active, answer, packet, ifindex);
    let found = weir_cell(tag);
    let Some(drop) = maps::EDGE_DROPPED.get_ptr_mut(found as u32) else {
        emit::overflowed(cell);
        return NONE;
    };
    // SAFETY: a live map value, which other CPUs add to; what only the first writes is read after a grace period.
    unsafe {
        if found & CLAIMED != 0 {
            (&raw mut (*drop).key).write(key(image, answer, packet, ifindex));
            (&raw mut (*drop).value.first_ns).write(emit::now());
        }
        emit::bump(&raw mut (*drop).value, packet.length, 0, packet.src_port, packet.tcp_flags, emit::now());
    }
    found
}

/// All that tells a drop from others. Never 0.
#[inline(always)]
fn tag(active: u64, answer: u64, packet: &Packet, ifindex: u32) -> u64 {
    let ((a, b), (c, d)) = (packet.src.halves(), packet.dst.halves());
    let what = u64::from(packet.dst_port.number()) << 16 | u64::from(packet.protocol.0) << 8 | answer & 0xff;
    // Whether the answer audits, its rule says.
    let rule = answer >> 32 << 32 | active & 0xffff_ffff;
    hash::keyed_six(settings::secret(), [a, b, c, d, u64::from(ifindex) << 32 | what, rule]) | 1
}

/// No cell: the last place is beyond all of them.
const NONE: u64 = u32::MAX as u64;
/// Mark of a cell that had stood for nothing.
pub const CLAIMED: u64 = 1 << 32;

/// Lost claims that are tried again.
const TRIES: u32 = 3;

/// The place of the cell with this tag in the present epoch, which is its own now if none was; [`NONE`] if there is no room. A global
/// function with numbers only: the verifier checks it once.
///
/// Of two buckets a new one gets the emptier, so that they fill evenly. Two CPUs may claim a cell each for equal drops; then there are
/// two records.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn weir_cell(tag: u64) -> u64 {
    let parity = maps::EPOCH.get(0).map_or(0, |epoch| epoch & 1);
    let mut tries = 0;
    while tries < TRIES {
        let first = weir_bucket(tag, parity, (tag >> 1) as u32);
        if first >> ROOM == OWN {
            return u64::from(first as u32);
        }
        let second = weir_bucket(tag, parity, (tag >> 32) as u32);
        if second >> ROOM == OWN {
            return u64::from(second as u32);
        }
        let emptier = if second >> ROOM > first >> ROOM { second } else { first };
        if emptier >> ROOM == 0 {
            return NONE;
        }
        let cell = emptier as u32;
        if claimed(tag, cell) {
            enlist(parity, u64::from(cell));
            return u64::from(cell) | CLAIMED;
        }
        tries += 1;
    }
    NONE
}

/// Bits below how much room there is in a bucket.
const ROOM: u32 = 32;
/// In place of that: the cell is the tag's own.
const OWN: u64 = EDGE_WAYS as u64 + 1;

/// The cell with this tag in a bucket, or a free one, and how many of those there are. A global function, as above.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn weir_bucket(tag: u64, parity: u32, hash: u32) -> u64 {
    let bucket = (parity & 1) * EDGE_BUCKETS + (hash & (EDGE_BUCKETS - 1));
    let Some(tags) = maps::EDGE_TAGS.get_ptr_mut(bucket) else { return 0 };
    let tags = tags.cast::<u64>();
    let (mut way, mut free, mut place) = (0, 0, 0);
    while way < EDGE_WAYS {
        // SAFETY: a bucket has that many ways; volatile because other CPUs write them.
        let found = unsafe { tags.add(way as usize).read_volatile() };
        if found == tag {
            return u64::from(bucket * EDGE_WAYS + way) | OWN << ROOM;
        }
        if found == 0 {
            (free, place) = (free + 1, way);
        }
        way += 1;
    }
    u64::from(bucket * EDGE_WAYS + place) | free << ROOM
}

/// Whether the cell is this tag's now; not if another CPU was first.
#[inline(always)]
fn claimed(tag: u64, cell: u32) -> bool {
    let Some(tags) = maps::EDGE_TAGS.get_ptr_mut(cell / EDGE_WAYS) else { return false };
    // SAFETY: a bucket has that many ways.
    unsafe { atomic::swap_if(tags.cast::<u64>().add((cell % EDGE_WAYS) as usize), 0, tag) }
}

/// Puts a cell on the list.
#[inline(always)]
fn enlist(parity: u32, cell: u64) {
    let first = parity * EDGE_CLAIMS;
    let Some(count) = maps::EDGE_CLAIMED.get_ptr_mut(first) else { return };
    // SAFETY: a live map value.
    let before = unsafe { atomic::fetch_add(count, 1) } as u32;
    if let Some(entry) = maps::EDGE_CLAIMED.get_ptr_mut(first + 1 + (before & (EDGE_DROPS - 1))) {
        // SAFETY: as above.
        unsafe { entry.write_volatile(cell) };
    }
}

/// What a cell stands for. The identities are looked up here, once in an epoch.
#[inline(always)]
fn key(image: &Image<'_, Active>, answer: u64, packet: &Packet, ifindex: u32) -> MergeKey {
    let decision = limiter::decision(answer, image.identify(&packet.src));
    MergeKey {
        local: packet.dst,
        remote: packet.src,
        generation: image.generation(),
        rule: decision.rule,
        local_identity: image.identify(&packet.dst),
        remote_identity: decision.remote_identity,
        workload: who::UNKNOWN.workload,
        ifindex,
        local_port: packet.dst_port,
        remote_port: Port([0; 2]),
        hook: Hook::Xdp as u8,
        direction: Direction::Ingress as u8,
        verdict: decision.verdict as u8,
        reason: decision.reason as u8,
        protocol: packet.protocol.0,
        reserved: [0; 3],
        staged: decision.staged.0,
        padding: 0,
    }
}
