//! Lives: kernel.
//! Called by: the XDP program, for packets to services that have limits.
//! May touch: the memory of first fragments.
//! Never: grows; lets a later fragment pass uncounted because it has no ports, or two first ones give it two.
//!
//! Fixed buckets of four, found by a keyed hash; within one the oldest goes. What is pushed out or never was there fails closed.

use weir_common::{
    addr::Port,
    event::Reply,
    hash,
    maps::{FRAGMENT_BUCKETS, FRAGMENT_TTL_NS},
    packet::Packet,
    verdict::Reason,
};

use crate::{bucket, emit, maps, settings};

/// The low bits of an entry's tag hold the port; the others tell datagrams apart.
const PORT: u64 = 0xffff;
const KNOWN: u32 = 1 << 16;

/// Gives a later fragment the port of its first. 0, or the [`Reason`] to refuse the packet for.
#[inline(always)]
pub fn place(packet: &mut Packet) -> u8 {
    if packet.first_fragment | packet.later_fragment == 0 {
        return 0;
    }
    let found = weir_fragment(packet, 0);
    if packet.later_fragment == 1 {
        if found & KNOWN == 0 {
            return Reason::FragUnknown as u8;
        }
        packet.dst_port = Port::new(found as u16);
        return 0;
    }
    // Receivers keep the first of two that overlap. Which of the ports that is, nobody knows who has not seen the datagram end.
    let agrees = found & KNOWN == 0 || found as u16 == packet.dst_port.number();
    if agrees { 0 } else { Reason::FragOverlap as u8 }
}

/// Remembers a first fragment that goes on.
#[inline(always)]
pub fn passed(packet: &Packet) {
    if packet.first_fragment == 1 {
        weir_fragment(packet, 1);
    }
}

/// What fragments of one datagram have in common. Of IPv6 the protocol is not: later fragments may name another (RFC 8200
/// section 4.5), and receivers do not look.
#[inline(always)]
fn datagram(packet: &Packet) -> u64 {
    let protocol = if packet.src.as_v4().is_some() { packet.protocol.0 } else { 0 };
    let (high, low) = packet.src.halves();
    let source = hash::keyed(settings::secret(), u64::from(packet.ident) | u64::from(protocol) << 32, high, low);
    let (high, low) = packet.dst.halves();
    hash::keyed(settings::secret(), source, high, low)
}

/// The port of this datagram's first fragment with [`KNOWN`], or 0; remembers the packet's own first if asked to. A global function
/// (see `bytes`).
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn weir_fragment(packet: *const Packet, remember: u32) -> u32 {
    if packet.is_null() {
        return 0;
    }
    // SAFETY: not null, and the verifier checks that every caller hands memory of this size.
    let packet = unsafe { &*packet };
    let datagram = datagram(packet);
    let Some(bucket) = maps::FRAGMENTS.get_ptr_mut(datagram as u32 & (FRAGMENT_BUCKETS - 1)) else { return 0 };
    let entries = bucket.cast::<Reply>();
    let now = emit::now();
    // SAFETY: a bucket of this run.
    let entry = unsafe { bucket::find(entries, datagram & !PORT, PORT, now, FRAGMENT_TTL_NS) };
    if remember != 0 {
        let tag = datagram & !PORT | u64::from(packet.dst_port.number());
        // SAFETY: as above.
        unsafe { bucket::put(entries, tag, PORT, now) };
    }
    if entry == 0 { 0 } else { (entry & PORT) as u32 | KNOWN }
}
