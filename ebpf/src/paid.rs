//! Lives: kernel. What XDP has charged, for the socket that the packet arrives at.
//! Called by: the limiter: at XDP when a packet has passed its limits, at the socket before it is charged.
//! May touch: its own map.
//! Never: lets one flow take what another left: a slot tells whose it is.
//!
//! A packet that XDP has passed leaves a note under its addresses and ports, and the first look at the socket takes it away. No
//! mark on the packet would do: what XDP can write is gone, or cleared, by the time the packet has crossed a bridge, a veth or a
//! tunnel, and the index of the interface it came in by is that of the last one, in the namespace of the socket
//! (docs/decisions/0007-charged-once.md).
//!
//! ```text
//!   64        32       16       0
//!   | whose   | when   | notes  |      when: in ticks; notes are good for a moment only
//! ```
//! Slots are direct-mapped and the latest flow has them. One that lost its notes pays twice for the packets that are between XDP
//! and socket at that moment, which is the error this makes: never more passes than the limits allow.

use aya_ebpf::helpers::bpf_jiffies64;
use weir_common::{hash, maps::PAID_SLOTS, packet::Packet};

use crate::{atomic, maps, settings};

/// For how long a note is good, in ticks: a quarter of a second to two and a half.
const GOOD_FOR: u64 = 250;
const MOST: u64 = 0xffff;
const TRIES: u32 = 3;

/// Notes that the packet was charged.
#[inline(always)]
pub fn leave(packet: &Packet) {
    let hash = hash_of(packet);
    let _ = weir_paid(hash, 0);
}

/// Whether the packet was charged; takes one note for each of `packets`, as far as there are any: what was merged on the way was
/// charged one by one, and what XDP saw as one may count as several here.
#[inline(always)]
pub fn take(packet: &Packet, packets: u32) -> bool {
    weir_paid(hash_of(packet), packets) == 1
}

/// Notes that a handshake was charged that a client has completed with a cookie.
#[inline(always)]
pub fn leave_completion(packet: &Packet) {
    let _ = weir_paid(hash_of(packet) ^ COMPLETION, 0);
}

/// Whether it was: until the stack has made the connection, every packet of it looks like the one that completes it.
#[inline(always)]
pub fn completed(packet: &Packet) -> bool {
    let hash = hash_of(packet) ^ COMPLETION;
    let was = weir_paid(hash, 1) == 1;
    if was {
        let _ = weir_paid(hash, 0);
    }
    was
}

/// Tells notes of completions from those of packets.
const COMPLETION: u64 = 0x5a5a_5a5a_0001_5a5a;

#[inline(always)]
fn hash_of(packet: &Packet) -> u64 {
    let ((a, b), (c, d)) = (packet.src.halves(), packet.dst.halves());
    let ports = u64::from(packet.src_port.number()) << 16 | u64::from(packet.dst_port.number());
    let flow = u64::from(packet.protocol.0) << 32 | ports;
    hash::keyed_six(settings::secret(), [a, b, c, d, flow, 0])
}

/// Adds a note, or takes `packets`; 1 if there was one. A global function with numbers only, as `weir_advance` is.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn weir_paid(hash: u64, packets: u32) -> u32 {
    let Some(slot) = maps::PAID.get_ptr_mut(hash as u32 & (PAID_SLOTS - 1)) else { return 0 };
    let whose = hash & !0xffff_ffff;
    // SAFETY: helper without arguments.
    let now = unsafe { bpf_jiffies64() } & MOST;
    let mut tries = 0;
    while tries < TRIES {
        // SAFETY: a live map value; volatile because other CPUs write it.
        let found = unsafe { slot.read_volatile() };
        let good = found & !0xffff_ffff == whose && (now.wrapping_sub(found >> 16) & MOST) <= GOOD_FOR;
        let notes = if good { found & MOST } else { 0 };
        let left = if packets != 0 {
            if notes == 0 {
                return 0;
            }
            notes.saturating_sub(u64::from(packets))
        } else if notes == MOST {
            return 1;
        } else {
            notes + 1
        };
        // SAFETY: as above.
        if unsafe { atomic::swap_if(slot, found, whose | now << 16 | left) } {
            return 1;
        }
        tries += 1;
    }
    0
}
