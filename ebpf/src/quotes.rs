//! Lives: kernel.
//! Called by: the programs that meet ICMP errors: `ingress` at a raw socket, both programs on a workload's interface.
//! May touch: packet bytes through `bytes`.
//! Never: lets an error pass for what its sender is: routers on the way are nobody's peers. What it quotes decides.

use aya_ebpf::bindings::__sk_buff;
use weir_common::{
    decide::Query,
    packet::Packet,
    verdict::{Direction, Reason},
};

use crate::bytes::{self, Headers};

/// Bytes of an ICMP error before its quote.
const ICMP_HEADER: u32 = 8;

/// Turns an ICMP error whose IP header starts at `base` into the question that the packet it quotes would be: it passes if that
/// packet's connection may be opened, from one side or the other.
///
/// The quote takes the error's place in `packet`, but for the length: the stack has no room for both. The answer is a
/// [`Reason`] to refuse the error for, or 0.
#[inline(always)]
pub fn question(skb: *mut __sk_buff, base: u32, arriving: bool, packet: &mut Packet, query: &mut Query) -> u32 {
    weir_quoted(skb, base, u32::from(arriving), packet, query)
}

/// A global function, which the verifier checks once (see `bytes`).
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn weir_quoted(
    skb: *mut __sk_buff,
    base: u32,
    arriving: u32,
    packet: *mut Packet,
    query: *mut Query,
) -> u32 {
    if packet.is_null() || query.is_null() {
        return Reason::Malformed as u32;
    }
    // SAFETY: not null, and the verifier checks that every caller hands memory of these sizes.
    let (packet, query) = unsafe { (&mut *packet, &mut *query) };
    let length = packet.length;
    let own = if arriving != 0 { packet.dst } else { packet.src };
    let read = bytes::quote(skb, base + packet.header as u32 + ICMP_HEADER, packet);
    packet.length = length;
    if !matches!(read, Headers::Read) {
        return Reason::Malformed as u32;
    }
    // An error that arrives is about a packet of ours, one that leaves is about a packet of theirs.
    let (ours, theirs) = if arriving != 0 { (&packet.src, &packet.dst) } else { (&packet.dst, &packet.src) };
    if ours.halves() != own.halves() {
        return Reason::Spoofed as u32;
    }
    query.direction = if arriving != 0 { Direction::Egress } else { Direction::Ingress };
    query.remote = *theirs;
    query.protocol = packet.protocol;
    query.port = packet.dst_port.number();
    0
}
