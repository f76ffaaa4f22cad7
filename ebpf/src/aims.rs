//! Lives: kernel. Which limits this CPU has lately found on a destination.
//! Called by: XDP, for each packet once there are limits.
//! May touch: its own map, of which every CPU has its own.
//! Never: answers for another destination, or by another generation: the whole question is compared, the active word with it.
//!
//! A flood has one aim. Who that is and which limits are on it takes a hash lookup and a word of four pages of the tables, for each packet
//! the same; one direct-mapped table instead. Nothing depends on it: what it has forgotten is found again.
//!
//! XDP runs with softirqs held off, so no other packet comes between on a CPU. An entry that is being written answers nothing all the
//! same.

use weir_common::packet::Packet;

use crate::{limiter, maps};

/// Entries of a CPU.
pub const ENTRIES: u32 = 64;

/// A destination and the limits on it. The active word is never 0 once there is a generation, so an entry that was never written
/// answers nothing.
#[repr(C)]
pub struct Aim {
    active: u64,
    high: u64,
    low: u64,
    port: u64,
    numbers: u64,
}

/// The limits on a packet, up to four numbers, 0 for none.
#[inline(always)]
pub fn numbers(active: u64, packet: &Packet) -> u64 {
    let (high, low) = packet.dst.halves();
    let port = u64::from(packet.protocol.0) << 16 | u64::from(packet.dst_port.number());
    let mixed = low ^ low >> 32 ^ high ^ port;
    let Some(aim) = maps::AIMS.get_ptr_mut((mixed ^ mixed >> 6) as u32 & (ENTRIES - 1)) else { return 0 };
    // SAFETY: a live map value of this CPU; volatile, so that each field stays one load where it stands.
    unsafe {
        let word = (&raw const (*aim).active).read_volatile();
        let differs = ((&raw const (*aim).high).read_volatile() ^ high)
            | ((&raw const (*aim).low).read_volatile() ^ low)
            | ((&raw const (*aim).port).read_volatile() ^ port);
        if word == active && differs == 0 {
            return (&raw const (*aim).numbers).read_volatile();
        }
    }
    let numbers = limiter::find(active, packet);
    // SAFETY: as above.
    unsafe {
        (&raw mut (*aim).active).write_volatile(0);
        (&raw mut (*aim).high).write_volatile(high);
        (&raw mut (*aim).low).write_volatile(low);
        (&raw mut (*aim).port).write_volatile(port);
        (&raw mut (*aim).numbers).write_volatile(numbers);
        (&raw mut (*aim).active).write_volatile(active);
    }
    numbers
}
