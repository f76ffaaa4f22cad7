//! Lives: kernel.
//! Called by: XDP for TCP packets, where some service is protected against floods of SYNs.
//! May touch: the frame, of a SYN that it answers; the limits' state and counts of SYNs; the listener, by reference, for a moment.
//! Never: answers for an address that is none of the interface's own network namespace, or where nobody listens; charges anyone
//! for a SYN whose sender has shown nothing yet.
//!
//! ```text
//!   SYN ─ weir_shield ─► above its threshold? ─ weir_cookie ─► the listener's cookie ─► SYN+ACK, back by the same interface
//!   ACK ─ weir_shield ─► answered lately? ──── weir_cookie ─► is it a cookie of the listener's? then it counts as what opens
//! ```
//! Only what completes a handshake reaches the listener: the stack makes the connection from the cookie in the ACK, by itself
//! (`net/ipv4/syncookies.c`). Leans on `bpf_tcp_gen_syncookie`, which gives a cookie if `net.ipv4.tcp_syncookies` is 2, and while the
//! listener's queue is full if it is 1.

use core::mem::offset_of;

use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_tuple, tcphdr, xdp_md},
    helpers::{
        bpf_sk_release, bpf_skc_lookup_tcp, bpf_tcp_check_syncookie, bpf_tcp_gen_syncookie, bpf_xdp_adjust_tail,
        bpf_xdp_get_buff_len, bpf_xdp_load_bytes, bpf_xdp_store_bytes,
    },
    programs::XdpContext,
};
use weir_common::{
    addr::Addr,
    decide::Image,
    event::SynStats,
    gcra::Limit,
    image::{LIMIT_KEY, LIMIT_STATE, LIMIT_SYN, LIMIT_SYN_ALWAYS, LIMIT_SYN_AUTO, LimitEntry, Page},
    packet::{Packet, tcp},
    syn::{Cookie, Syn, V4_WORDS, V6_WORDS, answer_v4, answer_v6},
};

use crate::{aims, atomic, bytes, emit, limiter, maps, tables::Active};

/// Answers of [`shield`], in the low byte; the rule of the limit is in the high half.
pub const ANSWERED: u8 = 1;
/// The packet completes a handshake that was answered by a cookie.
pub const COMPLETES: u8 = 2;
/// The frame is neither what it was nor an answer.
pub const SPOILT: u8 = 3;
const NOTHING: u32 = 0;

/// For how long SYNs are answered after the last one beyond the threshold; for so long after that, ACKs may complete handshakes.
const HOLD_NS: u64 = 5_000_000_000;

/// What SYN protection makes of a TCP packet.
#[inline(always)]
pub fn shield(ctx: &XdpContext, word: u64, packet: &Packet, ifindex: u32) -> u64 {
    let opens = packet.opens_tcp();
    if !opens && packet.tcp_flags & (tcp::SYN | tcp::RST | tcp::ACK) != tcp::ACK {
        return 0;
    }
    let found = weir_shield(word, packet, ifindex, u32::from(opens));
    if found == 0 {
        return 0;
    }
    let said = weir_cookie(ctx.ctx, packet, found as u32, u32::from(opens));
    found >> 32 << 32 | u64::from(said)
}

/// The first limit under which the packet's service is protected now: its number, and its rule in the high half; 0 for none. Every
/// limit counts the SYN.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn weir_shield(word: u64, packet: *const Packet, ifindex: u32, opens: u32) -> u64 {
    if packet.is_null() {
        return 0;
    }
    // SAFETY: not null, and the verifier checks that every caller hands memory of this size.
    let mut numbers = aims::numbers(word, unsafe { &*packet });
    let mut found = 0;
    while numbers != 0 {
        let said = weir_shields(word, numbers as u32 & 0xffff, ifindex, opens);
        if found == 0 {
            found = said;
        }
        numbers >>= 16;
    }
    found
}

/// The same for one limit. A global function, so that the verifier checks it once and not once for each of four.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn weir_shields(word: u64, number: u32, ifindex: u32, opens: u32) -> u64 {
    let Some(active) = Active::of(word) else { return 0 };
    let Some(image) = Image::open(&active) else { return 0 };
    let Some((page, first)) = image.limit_page(number as u16) else { return 0 };
    let entry = LimitEntry::with_key(page.word(first + LIMIT_KEY), page.word(first + LIMIT_STATE));
    if entry.flags & (LIMIT_SYN_AUTO | LIMIT_SYN_ALWAYS) == 0 {
        return 0;
    }
    if entry.interfaces != 0 && entry.interfaces & image.interface_lists(ifindex) == 0 {
        return 0;
    }
    let always = entry.flags & LIMIT_SYN_ALWAYS != 0;
    if !always && !is_on(page, first, number, opens != 0) {
        return 0;
    }
    u64::from(number & 0xffff) | u64::from(entry.rule) << 32
}

/// Whether SYNs of the service are answered now; of an ACK, whether they were lately. Counts the SYN.
///
/// A bucket of one second's worth of the threshold, that fills up twice as fast while it is on: a flood turns it on that brings
/// more than the threshold, and it goes off when there was less than half of that for a while, so it does not flap.
#[inline(always)]
fn is_on(page: &Page, first: u32, number: u32, opens: bool) -> bool {
    let Some(until) = maps::SYN_STATE.get_ptr_mut(number) else { return false };
    let now = emit::now();
    // SAFETY: a live map value; volatile because other CPUs write it.
    let off = unsafe { until.read_volatile() };
    let left = off.wrapping_sub(now) as i64;
    let on = off != 0 && left > 0;
    if !opens {
        return off != 0 && left > -(HOLD_NS as i64);
    }
    let threshold = LimitEntry::limit(page.word(first + LIMIT_SYN), page.word(first + LIMIT_SYN + 1))
        .unwrap_or(Limit { interval_q16: 0, tolerance_ns: u64::MAX });
    if threshold.tolerance_ns == u64::MAX {
        return on;
    }
    // The fourth of the limit's places there; the others are those of its aggregates.
    let place = u64::from(number) << 2 | 3;
    let cost = threshold.cost_ns(if on { 2 } else { 1 });
    if limiter::weir_advance_total(place, now, cost, threshold.tolerance_ns) == 1 {
        return on;
    }
    // SAFETY: as above.
    unsafe { until.write_volatile(now + HOLD_NS) };
    true
}

/// What the helpers are handed: they want the TCP header with its options, and not a byte more.
#[repr(C, align(8))]
pub struct Scratch {
    ip: [u8; 40],
    tcp: [u8; 64],
}

/// `sizeof(struct tcphdr)`.
const SHORTEST: u32 = 20;
/// `TCP_LISTEN` (`include/net/tcp_states.h`).
const LISTEN: u32 = 10;
/// `BPF_F_CURRENT_NETNS`: that of the interface.
const ITS_OWN: u64 = u64::MAX;
/// `ENOENT`.
const NO_ENTRY: i64 = -2;
/// The most that stands before an IP packet, as `bytes` has it.
const FRONT: u32 = 14 + 4 * weir_common::packet::MAX_TAGS;
const PLAIN_V4: u16 = 20;
const PLAIN_V6: u16 = 40;

/// Answers a SYN by its listener's cookie, or finds out whether an ACK holds one.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn weir_cookie(frame: *mut xdp_md, packet: *const Packet, number: u32, opens: u32) -> u32 {
    if packet.is_null() {
        return NOTHING;
    }
    // SAFETY: not null, and the verifier checks that every caller hands memory of this size.
    let packet = unsafe { &*packet };
    let Some(stats) = maps::SYN_STATS.get_ptr_mut(number) else { return NOTHING };
    let Some(scratch) = maps::SYN_SCRATCH.get_ptr_mut(0) else { return NOTHING };
    let plain = if packet.dst.as_v4().is_some() { PLAIN_V4 } else { PLAIN_V6 };
    let offset = bytes::network_offset(frame);
    if packet.header != plain || packet.first_fragment != 0 || offset > FRONT || bytes::is_for_many(frame) {
        return passed(stats, opens, offset_of!(SynStats, unusual));
    }
    if !is_here(scratch, packet) {
        return passed(stats, opens, offset_of!(SynStats, elsewhere));
    }
    let length = fetch(frame, scratch, offset, plain);
    if length == 0 {
        return passed(stats, opens, offset_of!(SynStats, unusual));
    }
    let number = weir_ask(frame, packet, length, opens);
    if opens == 0 {
        if number != 0 {
            return NOTHING;
        }
        count(stats, offset_of!(SynStats, completed));
        return u32::from(COMPLETES);
    }
    match number {
        NO_LISTENER => return passed(stats, opens, offset_of!(SynStats, no_listener)),
        TAKEN => return NOTHING,
        NO_ENTRY => return passed(stats, opens, offset_of!(SynStats, no_cookie)),
        number if number < 0 => return passed(stats, opens, offset_of!(SynStats, failed)),
        _ => {}
    }
    let said = weir_answer(frame, packet, number as u64, offset);
    if said == u32::from(ANSWERED) {
        count(stats, offset_of!(SynStats, answered));
    } else {
        count(stats, offset_of!(SynStats, failed));
    }
    said
}

/// Whether the packet is for an address of its interface's own network namespace.
#[inline(always)]
fn is_here(scratch: *mut Scratch, packet: &Packet) -> bool {
    // Linux 6.1 takes no key that lies in the memory a global function was handed, and on the stack it would take room.
    // SAFETY: a live map value of this CPU, aligned for words, which nothing is in yet.
    let dst = unsafe {
        scratch.cast::<[u32; 4]>().write(packet.dst.words());
        &*scratch.cast::<Addr>()
    };
    // SAFETY: no program writes this map; only whether there is an entry counts.
    unsafe { maps::HERE.get(dst) }.is_some()
}

/// Answers of [`weir_ask`] beside those of the helpers.
const NO_LISTENER: i64 = -1000;
/// The packet is some connection's, or some handshake's that the listener knows of.
const TAKEN: i64 = -1001;

/// Fetches the headers; the length of the TCP header, 0 if that is not possible.
#[inline(always)]
fn fetch(frame: *mut xdp_md, scratch: *mut Scratch, offset: u32, plain: u16) -> u32 {
    let plain = u32::from(plain);
    // SAFETY: a live map value of this CPU, with room for each of these; the frame is the program's own.
    unsafe {
        let (ip, tcp) = (&raw mut (*scratch).ip, &raw mut (*scratch).tcp);
        let read = if plain == u32::from(PLAIN_V4) {
            bpf_xdp_load_bytes(frame, offset, ip.cast(), PLAIN_V4 as u32)
        } else {
            bpf_xdp_load_bytes(frame, offset, ip.cast(), PLAIN_V6 as u32)
        };
        if read != 0 || bpf_xdp_load_bytes(frame, offset + plain, tcp.cast(), SHORTEST) != 0 {
            return 0;
        }
        let words = tcp.cast::<u8>().add(12).read_volatile();
        let length = bytes::bounded(u32::from(words >> 4) * 4, 60);
        if length < SHORTEST || bpf_xdp_load_bytes(frame, offset + plain, tcp.cast(), length) != 0 {
            return 0;
        }
        length
    }
}

/// Asks the socket that the packet is for: the cookie that opens a connection there, or 0 for an ACK that holds one.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn weir_ask(frame: *mut xdp_md, packet: *const Packet, length: u32, opens: u32) -> i64 {
    if packet.is_null() {
        return NO_LISTENER;
    }
    // SAFETY: as in `weir_cookie`.
    let packet = unsafe { &*packet };
    let Some(scratch) = maps::SYN_SCRATCH.get_ptr_mut(0) else { return NO_LISTENER };
    let (src, dst) = (packet.src.words(), packet.dst.words());
    let ports = [packet.src_port.0, packet.dst_port.0];
    if packet.dst.as_v4().is_some() {
        let mut tuple = Tuple { src: src[3], dst: dst[3], ports };
        // SAFETY: the tuple is as long as is said; the verifier knows the answer for a socket or null.
        let sock =
            unsafe { bpf_skc_lookup_tcp(frame.cast(), (&raw mut tuple).cast::<bpf_sock_tuple>(), 12, ITS_OWN, 0) };
        ask(sock, scratch, PLAIN_V4.into(), length, opens)
    } else {
        let mut tuple = Tuple { src, dst, ports };
        // SAFETY: as above.
        let sock =
            unsafe { bpf_skc_lookup_tcp(frame.cast(), (&raw mut tuple).cast::<bpf_sock_tuple>(), 36, ITS_OWN, 0) };
        ask(sock, scratch, PLAIN_V6.into(), length, opens)
    }
}

/// `struct bpf_sock_tuple` of one family.
#[repr(C)]
struct Tuple<A> {
    src: A,
    dst: A,
    ports: [[u8; 2]; 2],
}

#[inline(always)]
fn ask(sock: *mut bpf_sock, scratch: *mut Scratch, plain: u32, length: u32, opens: u32) -> i64 {
    if sock.is_null() {
        return NO_LISTENER;
    }
    let length = bytes::bounded(length, 60);
    // SAFETY: a socket that was just looked up, given back before this ends; volatile, so that the load keeps its size. The headers
    // are a live map value, and as long as is said.
    unsafe {
        let said = if (&raw const (*sock).state).read_volatile() != LISTEN || length < SHORTEST {
            TAKEN
        } else {
            let (ip, tcp) = ((&raw mut (*scratch).ip).cast(), (&raw mut (*scratch).tcp).cast::<tcphdr>());
            if opens != 0 {
                bpf_tcp_gen_syncookie(sock.cast(), ip, plain, tcp, length)
            } else {
                bpf_tcp_check_syncookie(sock.cast(), ip, plain, tcp, length)
            }
        };
        let _ = bpf_sk_release(sock.cast());
        said
    }
}

/// Turns the frame into the answer.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn weir_answer(frame: *mut xdp_md, packet: *const Packet, number: u64, offset: u32) -> u32 {
    if packet.is_null() || offset > FRONT {
        return NOTHING;
    }
    // SAFETY: as in `weir_cookie`.
    let packet = unsafe { &*packet };
    let Some(scratch) = maps::SYN_SCRATCH.get_ptr_mut(0) else { return NOTHING };
    // SAFETY: a live map value of this CPU, aligned for words, where `weir_cookie` has put the header.
    let (ports, sequence) = unsafe {
        let words = (&raw const (*scratch).tcp).cast::<u32>();
        (words.read_volatile(), words.add(1).read_volatile())
    };
    let (syn, cookie) = (Syn { ports, sequence: u32::from_be(sequence) }, Cookie::of(number));
    let (src, dst) = (packet.src.words(), packet.dst.words());
    if packet.dst.as_v4().is_some() {
        replace::<V4_WORDS>(frame, offset, answer_v4(src[3], dst[3], syn, cookie))
    } else {
        replace::<V6_WORDS>(frame, offset, answer_v6(src, dst, syn, cookie))
    }
}

/// Gives the frame its new length, and its parts.
#[inline(always)]
fn replace<const N: usize>(frame: *mut xdp_md, offset: u32, mut answer: [u32; N]) -> u32 {
    let bytes = 4 * N as u32;
    let mut stations = [[0u16; 3]; 3];
    let stations = (&raw mut stations).cast::<[u16; 3]>();
    // SAFETY: the helpers take the program's own context, and memory as long as is said.
    unsafe {
        let length = bpf_xdp_get_buff_len(frame) as u32;
        let more = (offset + bytes).wrapping_sub(length) as i32;
        if bpf_xdp_load_bytes(frame, 0, stations.cast(), 12) != 0 || bpf_xdp_adjust_tail(frame, more) != 0 {
            return NOTHING;
        }
        // To, from, to: the last two are the answer's.
        stations.add(2).write(stations.read());
        if bpf_xdp_store_bytes(frame, 0, stations.add(1).cast(), 12) != 0
            || bpf_xdp_store_bytes(frame, offset, (&raw mut answer).cast(), bytes) != 0
        {
            return u32::from(SPOILT);
        }
    }
    u32::from(ANSWERED)
}

/// The stack has it; counted, if it is a SYN.
#[inline(always)]
fn passed(stats: *mut SynStats, opens: u32, place: usize) -> u32 {
    if opens != 0 {
        count(stats, place);
    }
    NOTHING
}

/// `place`: where the number to add to stands in `SynStats`.
#[inline(always)]
fn count(stats: *mut SynStats, place: usize) {
    // SAFETY: a field of a live map value.
    unsafe { atomic::add(stats.cast::<u8>().add(place).cast::<u64>(), 1) };
}
