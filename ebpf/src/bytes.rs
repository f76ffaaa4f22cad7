//! Lives: kernel. The only file that touches packet bytes and raw contexts, but for the answers that `syn` writes.
//! Called by: the programs, for addresses, ports and headers.
//! May touch: `xdp_md`, `__sk_buff`, `bpf_sock_addr`, `bpf_sock`, `bpf_sock_ops`, read only.
//! Never: reads past a bound it has not compared in the same expression the verifier sees.

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sk_lookup, bpf_sock, bpf_sock_ops, xdp_md},
    helpers::{
        bpf_get_socket_cookie, bpf_sk_fullsock, bpf_skb_load_bytes, bpf_skb_pull_data, bpf_xdp_get_buff_len,
        bpf_xdp_load_bytes,
    },
    programs::{SkBuffContext, SockAddrContext, TcContext, XdpContext},
};
use weir_common::{
    addr::{Addr, Port, Protocol},
    decide::Image,
    event::MAX_DROP_BYTES,
    packet::{self, Bytes, Fault, Packet, Place},
    source::{self, Other},
    verdict::Reason,
};

use crate::{settings, tables::Active};

/// `AF_INET`.
const AF_INET: u32 = 2;
/// `SOCK_STREAM`.
pub const SOCK_STREAM: u32 = 1;
/// `SOCK_RAW`.
pub const SOCK_RAW: u32 = 3;

/// A frame at XDP, by direct access.
struct Frame<'a>(&'a XdpContext);

impl Bytes for Frame<'_> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        within(self.0.data(), self.0.data_end(), offset)
    }

    /// All of the frame: what lies in further buffers (jumbo frames, super-packets) is no part of the linear one.
    #[inline(always)]
    fn len(&self) -> u32 {
        // SAFETY: the helper takes the program's own context.
        unsafe { bpf_xdp_get_buff_len(self.0.ctx) as u32 }
    }

    /// Asks the helper only where the linear buffer does not answer.
    #[inline(always)]
    fn reaches(&self, end: u32) -> bool {
        end <= (self.0.data_end() - self.0.data()) as u32 || end <= self.len()
    }

    #[inline(always)]
    fn any(&self, number: u16, through: &mut u16) -> u32 {
        reread(number, through)
    }
}

/// A packet at a cgroup_skb hook, which starts at its IP header, or at TC, where it starts at its Ethernet header.
///
/// By direct access to its linear part: the stack has pulled the headers there before it looked up the socket. What is not
/// there counts as cut off.
struct Skb<'a>(&'a SkBuffContext);

impl Bytes for Skb<'_> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        // SAFETY: 4-byte loads of context fields, which the verifier turns into packet pointers.
        let (data, end) = unsafe { ((*self.0.skb.skb).data as usize, (*self.0.skb.skb).data_end as usize) };
        within(data, end, offset)
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        self.0.len()
    }

    #[inline(always)]
    fn any(&self, number: u16, through: &mut u16) -> u32 {
        reread(number, through)
    }
}

/// What is read from memory that a global function was handed is any number to the verifier: rounds of a loop that differ in nothing
/// else are then walked once each, and not once for every way through those before. (What another global function gives back would be
/// too, but a call more is more stack than Linux 6.1 has: it counts frames in steps of 32 bytes.)
#[inline(always)]
fn reread(number: u16, through: &mut u16) -> u32 {
    let through: *mut u16 = through;
    // SAFETY: a live reference of the caller's; volatile, so that both accesses stay.
    unsafe {
        through.write_volatile(number);
        u32::from(through.read_volatile())
    }
}

/// `N` bytes at `offset` of the packet that lies at `data..end`.
#[inline(always)]
fn within<const N: usize>(data: usize, end: usize, offset: u32) -> Option<[u8; N]> {
    let (data, end) = (opaque(data), opaque(end));
    let start = data + offset as usize;
    if start + N > end {
        return None;
    }
    // SAFETY: start..start+N lies inside the packet, as just compared; a byte array has no alignment.
    Some(unsafe { *(start as *const [u8; N]) })
}

/// The same value, of which the compiler no longer knows that it came from 32 bits: it would compare packet pointers by their
/// lower halves, which the verifier does not count as a bounds check.
#[inline(always)]
fn opaque(mut value: usize) -> usize {
    // SAFETY: copies a register onto itself.
    unsafe { core::arch::asm!("{0} = {0}", inout(reg) value, options(pure, nomem, nostack)) };
    value
}

/// A number from a packet, with a bound that the verifier sees; 0 for one beyond it.
#[inline(always)]
pub fn bounded(number: u32, most: u32) -> u32 {
    let number = opaque(number as usize) as u32;
    if number > most { 0 } else { number }
}

/// Bytes of Ethernet.
const ETHERNET: u32 = 14;

/// Where what is shown of a frame starts: its IP packet, or what follows the Ethernet header.
#[inline(always)]
fn shown_from(bytes: &impl Bytes) -> u32 {
    packet::network(bytes).map_or(ETHERNET, |place| place.offset)
}

/// The same of a frame at TC.
#[inline(always)]
pub fn tc_start(skb: *mut __sk_buff) -> u32 {
    weir_tc_start(skb)
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn weir_tc_start(skb: *mut __sk_buff) -> u32 {
    shown_from(&Skb(&SkBuffContext::new(skb)))
}

/// How much of a packet of `length` bytes is copied from `start` on, less one; beyond all bounds if nothing. One less, because a
/// range that begins at 1 is not one that every kernel's verifier keeps.
#[inline(always)]
fn last_shown(length: u32, start: u32) -> usize {
    let there = length.saturating_sub(start);
    let wanted = settings::drop_bytes();
    opaque(if there < wanted { there } else { wanted }.wrapping_sub(1) as usize)
}

/// Copies how a packet begins, by a helper: it may lie in several pieces. How many bytes, 0 if it could not be read.
///
/// # Safety
/// `to` must have [`MAX_DROP_BYTES`] bytes.
#[inline(always)]
pub unsafe fn copy_skb(skb: *mut __sk_buff, start: u32, to: *mut u8) -> u32 {
    let last = last_shown(SkBuffContext::new(skb).len(), start);
    if last >= MAX_DROP_BYTES {
        return 0;
    }
    let length = last as u32 + 1;
    // SAFETY: as the caller promises, and the verifier checks.
    if unsafe { bpf_skb_load_bytes(skb.cast(), start, to.cast(), length) } == 0 { length } else { 0 }
}

/// The same of a frame at XDP, from its IP packet on.
///
/// # Safety
/// As [`copy_skb`].
#[inline(always)]
pub unsafe fn copy_frame(frame: *mut xdp_md, to: *mut u8) -> u32 {
    let ctx = XdpContext::new(frame);
    let bytes = Frame(&ctx);
    let start = shown_from(&bytes);
    let last = last_shown(bytes.len(), start);
    if last >= MAX_DROP_BYTES {
        return 0;
    }
    let length = last as u32 + 1;
    // SAFETY: as the caller promises, and the verifier checks.
    if unsafe { bpf_xdp_load_bytes(frame, start, to.cast(), length) } == 0 { length } else { 0 }
}

/// Where the IP packet of a frame at XDP starts; beyond every frame if it holds none.
#[inline(always)]
pub fn network_offset(frame: *mut xdp_md) -> u32 {
    weir_network_offset(frame)
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn weir_network_offset(frame: *mut xdp_md) -> u32 {
    match packet::network(&Frame(&XdpContext::new(frame))) {
        Ok(place) => place.offset,
        Err(_) => u32::MAX,
    }
}

/// Whether a frame at XDP is for a group of stations, or all.
#[inline(always)]
pub fn is_for_many(frame: *mut xdp_md) -> bool {
    match Frame(&XdpContext::new(frame)).load::<1>(0) {
        Some([first]) => first & 1 != 0,
        None => true,
    }
}

/// What was found of a packet's headers.
#[derive(Clone, Copy)]
pub enum Headers {
    /// The packet is filled in.
    Read,
    /// [`Fault::NotIp`].
    NotIp,
    /// [`Fault::Arp`].
    Arp,
    /// [`Fault::Refused`]; the packet holds what was read until then, and nothing where that contradicts itself.
    Refused(Reason),
}

/// Reads the headers of a packet at a cgroup_skb hook. Why it is refused at once stands in the packet, if it is: the hooks have no
/// room for it elsewhere.
#[inline(always)]
pub fn headers(ctx: &SkBuffContext, packet: &mut Packet) {
    let _ = weir_parse_skb(ctx.skb.skb, packet);
}

/// Reads the headers of a frame at XDP.
#[inline(always)]
pub fn frame_headers(ctx: &XdpContext, packet: &mut Packet) -> Headers {
    answer(weir_parse_frame(ctx.ctx, packet))
}

/// Segments that a packet at a cgroup_skb hook was merged from; 1 for a plain one.
#[inline(always)]
pub fn segments(ctx: &SkBuffContext) -> u32 {
    // SAFETY: a 4-byte load of a context field.
    unsafe { (*ctx.skb.skb).gso_segs }.max(1)
}

/// Answers of the functions below, beside the numbers of [`Reason`]s.
const READ: u32 = 0;
const NOT_IP: u32 = 0x100;
const ARP: u32 = 0x101;

#[inline(always)]
const fn answer(code: u32) -> Headers {
    match code {
        READ => Headers::Read,
        NOT_IP => Headers::NotIp,
        ARP => Headers::Arp,
        _ => match Reason::from_u8(code as u8) {
            Some(reason) => Headers::Refused(reason),
            None => Headers::Refused(Reason::Malformed),
        },
    }
}

#[inline(always)]
const fn code(fault: Fault) -> u32 {
    match fault {
        Fault::NotIp => NOT_IP,
        Fault::Arp => ARP,
        Fault::Refused(reason) => reason as u32,
    }
}

/// A global function: the verifier checks it once, and goes on from it with one state instead of one per path through the
/// headers. Such functions take numbers, the context, and pointers they must check for null.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn weir_parse_skb(skb: *mut __sk_buff, packet: *mut Packet) -> u32 {
    let version = match Skb(&SkBuffContext::new(skb)).load::<1>(0) {
        Some([first]) => u32::from(first >> 4),
        None => 0,
    };
    let code = weir_read_skb(skb, 0, version, packet);
    if !packet.is_null() {
        // SAFETY: not null, and the verifier checks that every caller hands memory of this size.
        unsafe { (*packet).refused = code as u8 };
    }
    code
}

/// Reads the headers of a frame at TC.
#[inline(always)]
pub fn tc_headers(ctx: &TcContext, packet: &mut Packet) -> Headers {
    answer(weir_parse_tc(ctx.skb.skb, packet))
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn weir_parse_tc(skb: *mut __sk_buff, packet: *mut Packet) -> u32 {
    match packet::network(&Skb(&SkBuffContext::new(skb))) {
        Ok(place) => weir_read_skb(skb, place.offset, u32::from(place.version), packet),
        Err(fault) => empty(code(fault), packet, SkBuffContext::new(skb).len()),
    }
}

/// The same for frames.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn weir_parse_frame(frame: *mut xdp_md, packet: *mut Packet) -> u32 {
    let ctx = XdpContext::new(frame);
    match packet::network(&Frame(&ctx)) {
        Ok(place) => weir_read_frame(frame, place.offset, u32::from(place.version), packet),
        Err(fault) => empty(code(fault), packet, Frame(&ctx).len()),
    }
}

/// The most that stands before an IP packet: Ethernet and its tags.
const FRONT: u32 = 14 + 4 * packet::MAX_TAGS;

/// Reads the IP packet at `offset`: once for every number of tags.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn weir_read_skb(skb: *mut __sk_buff, offset: u32, version: u32, to: *mut Packet) -> u32 {
    read::<_, { packet::WHOLE }>(&Skb(&SkBuffContext::new(skb)), offset, version, to)
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn weir_read_frame(frame: *mut xdp_md, offset: u32, version: u32, to: *mut Packet) -> u32 {
    read::<_, { packet::WHOLE }>(&Frame(&XdpContext::new(frame)), offset, version, to)
}

#[inline(always)]
fn read<B: Bytes, const ALL: bool>(bytes: &B, offset: u32, version: u32, to: *mut Packet) -> u32 {
    // No ICMP error starts its quote further in; the verifier wants a bound for packet offsets.
    if to.is_null() || offset > if ALL { FRONT } else { 1024 } {
        return Reason::Malformed as u32;
    }
    // SAFETY: not null, and the verifier checks that every caller hands memory of this size.
    let packet = unsafe { &mut *to };
    match packet::read_ip::<B, ALL>(bytes, Place { offset, version: version as u8 }, packet) {
        Ok(()) => READ,
        Err(fault) => {
            let code = code(fault);
            if code == Reason::Malformed as u32 { empty(code, to, bytes.len()) } else { code }
        }
    }
}

/// Nothing of a packet that contradicts itself is believed; a record of it has its length.
#[inline(always)]
fn empty(code: u32, to: *mut Packet, length: u32) -> u32 {
    if !to.is_null() {
        // SAFETY: not null, and the verifier checks that every caller hands memory of this size.
        unsafe { to.write(Packet { length, ..Packet::EMPTY }) };
    }
    code
}

/// Reads the headers that an ICMP error quotes from `offset` on.
#[inline(always)]
pub fn quote(skb: *mut __sk_buff, offset: u32, packet: &mut Packet) -> Headers {
    answer(weir_parse_quote(skb, offset, packet))
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn weir_parse_quote(skb: *mut __sk_buff, offset: u32, packet: *mut Packet) -> u32 {
    let bytes = Skb(&SkBuffContext::new(skb));
    // What the error itself was read into.
    empty(0, packet, 0);
    match if offset > 1024 { None } else { bytes.load::<1>(offset) } {
        Some([first]) => read::<_, { packet::QUOTED }>(&bytes, offset, u32::from(first >> 4), packet),
        None => Reason::Malformed as u32,
    }
}

/// The most that headers may take: Ethernet with two tags, IP with its options or extension headers, an ICMP error's quote.
const HEADERS: u32 = 512;

/// Brings the headers of a packet at TC into its linear part.
#[inline(always)]
pub fn gather(skb: *mut __sk_buff) {
    // SAFETY: a load of a context field; the helper takes the program's own context, and packet pointers are taken anew after it.
    unsafe {
        let (data, end, length) = ((*skb).data, (*skb).data_end, (*skb).len);
        let linear = end.wrapping_sub(data);
        let wanted = if length < HEADERS { length } else { HEADERS };
        if linear < wanted {
            let _ = bpf_skb_pull_data(skb, wanted);
        }
    }
}

/// Answers of [`source`] and [`neighbour`]: the workload may speak for what the frame says it comes from.
pub const OWN: u32 = 0;
/// It may not.
pub const FOREIGN: u32 = 1;
/// The frame is nothing that is known here.
pub const NOT_ARP: u32 = 2;

/// Whether an IP packet at TC comes from its workload's own address.
#[inline(always)]
pub fn source(ctx: &TcContext, packet: &Packet, workload: u32) -> u32 {
    weir_source(ctx.skb.skb, packet, workload)
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn weir_source(skb: *mut __sk_buff, packet: *const Packet, workload: u32) -> u32 {
    let Some(active) = Active::open() else { return FOREIGN };
    let Some(image) = Image::open(&active) else { return FOREIGN };
    if packet.is_null() {
        return FOREIGN;
    }
    // SAFETY: not null, and the verifier checks that every caller hands memory of this size.
    let own = source::vouched(&Skb(&SkBuffContext::new(skb)), unsafe { &*packet }, &image, workload);
    if own { OWN } else { FOREIGN }
}

/// What a frame at TC that is no IP packet is.
#[inline(always)]
pub fn neighbour(ctx: &TcContext, workload: u32) -> u32 {
    weir_neighbour(ctx.skb.skb, workload)
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn weir_neighbour(skb: *mut __sk_buff, workload: u32) -> u32 {
    let Some(active) = Active::open() else { return FOREIGN };
    let Some(image) = Image::open(&active) else { return FOREIGN };
    match source::other(&Skb(&SkBuffContext::new(skb)), &image, workload) {
        Other::Vouched => OWN,
        Other::Spoofed => FOREIGN,
        Other::Unknown => NOT_ARP,
    }
}

/// Whether a frame at TC is ARP.
#[inline(always)]
pub fn is_arp(ctx: &TcContext) -> bool {
    source::is_arp(&Skb(&SkBuffContext::new(ctx.skb.skb)))
}

/// What the hooks need of a socket.
#[derive(Clone, Copy)]
pub struct Sock {
    pub kind: u32,
    pub protocol: u32,
    pub state: u32,
    /// Host order.
    pub local_port: u16,
}

impl Sock {
    /// No socket. Not an `Option`: the compiler would read the fields of a `None`, which the verifier refuses.
    const NONE: Self = Self { kind: 0, protocol: 0, state: 0, local_port: 0 };
}

/// The socket a packet is delivered to or comes from; all zero for packets the kernel makes without a full socket.
#[inline(always)]
pub fn socket_of(ctx: &SkBuffContext) -> Sock {
    // SAFETY: `sk` is a pointer field of the context that the verifier tracks; null is checked before every use.
    unsafe {
        let sk = (*ctx.skb.skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return Sock::NONE;
        }
        let full = bpf_sk_fullsock(sk);
        if full.is_null() {
            return Sock::NONE;
        }
        read_sock(full)
    }
}

/// The socket behind a `connect` or `sendmsg`.
#[inline(always)]
pub fn socket_behind(ctx: &SockAddrContext) -> Sock {
    // SAFETY: as in `socket_of`.
    unsafe {
        let sk = (*ctx.sock_addr).__bindgen_anon_1.sk;
        if sk.is_null() { Sock::NONE } else { read_sock(sk) }
    }
}

/// # Safety
/// `sk` must be a non-null full socket the verifier knows.
#[inline(always)]
unsafe fn read_sock(sk: *const bpf_sock) -> Sock {
    // SAFETY: volatile, so that each field stays one load of its own size, as the verifier demands of this context.
    unsafe {
        Sock {
            kind: (&raw const (*sk).type_).read_volatile(),
            protocol: (&raw const (*sk).protocol).read_volatile(),
            state: (&raw const (*sk).state).read_volatile(),
            local_port: (&raw const (*sk).src_port).read_volatile() as u16,
        }
    }
}

/// What a `connect` or `sendmsg` is known by while it lasts: the addresses of its context and of its socket.
#[inline(always)]
pub fn call(ctx: &SockAddrContext) -> [u64; 2] {
    // SAFETY: a load of a pointer field of the context. Volatile: two equal loads would become one kept in memory of ours.
    let sk = unsafe { (&raw const (*ctx.sock_addr).__bindgen_anon_1.sk).read_volatile() };
    [ctx.sock_addr as u64, sk as u64]
}

/// Cookie of the socket behind any context that has one.
#[inline(always)]
pub fn cookie(ctx: &impl aya_ebpf::EbpfContext) -> u64 {
    // SAFETY: the helper takes the program's own context.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

/// The address a `connect4` or `sendmsg4` names.
#[inline(always)]
pub fn target_v4(ctx: &SockAddrContext) -> (Addr, Port) {
    // SAFETY: 4-byte loads of context fields.
    unsafe {
        let ip = (&raw const (*ctx.sock_addr).user_ip4).read_volatile();
        (Addr::v4_at_once(ip.to_ne_bytes()), target_port(ctx))
    }
}

/// The address a `connect6` or `sendmsg6` names; may be v4-mapped, which [`Addr`] treats as the IPv4 address it is.
#[inline(always)]
pub fn target_v6(ctx: &SockAddrContext) -> (Addr, Port) {
    // SAFETY: 4-byte loads of context fields.
    unsafe {
        let base = (&raw const (*ctx.sock_addr).user_ip6).cast::<u32>();
        let word = |n: usize| base.add(n).read_volatile();
        (addr_of_words(word(0), word(1), word(2), word(3)), target_port(ctx))
    }
}

#[inline(always)]
fn target_port(ctx: &SockAddrContext) -> Port {
    // SAFETY: 4-byte load of a context field; the port is its first two bytes, in network order.
    let port = unsafe { (&raw const (*ctx.sock_addr).user_port).read_volatile() };
    Port((port as u16).to_ne_bytes())
}

/// Protocol and type of the socket behind a `connect` or `sendmsg`.
#[inline(always)]
pub fn protocol_of(ctx: &SockAddrContext) -> Protocol {
    // SAFETY: 4-byte load of a context field.
    Protocol(unsafe { (&raw const (*ctx.sock_addr).protocol).read_volatile() } as u8)
}

/// Both ends of a sock_ops connection: local address and port, remote address and port.
#[inline(always)]
pub fn ends(ops: *const bpf_sock_ops) -> (Addr, Port, Addr, Port) {
    // Every field is read before the branch: volatile loads in both arms would be merged into one through a computed pointer,
    // which the verifier refuses. SAFETY: 4-byte loads of context fields that exist for both families; `local_port` is in host
    // order, `remote_port` in network order in the upper half.
    let (port, remote_port, family, l4, r4, l6, r6) = unsafe {
        let local_ip6 = (&raw const (*ops).local_ip6).cast::<u32>();
        let remote_ip6 = (&raw const (*ops).remote_ip6).cast::<u32>();
        let words = |at: *const u32| {
            (at.read_volatile(), at.add(1).read_volatile(), at.add(2).read_volatile(), at.add(3).read_volatile())
        };
        (
            (&raw const (*ops).local_port).read_volatile(),
            (&raw const (*ops).remote_port).read_volatile(),
            (&raw const (*ops).family).read_volatile(),
            (&raw const (*ops).local_ip4).read_volatile(),
            (&raw const (*ops).remote_ip4).read_volatile(),
            words(local_ip6),
            words(remote_ip6),
        )
    };
    let (local, remote) = if family == AF_INET {
        (Addr::v4(l4.to_ne_bytes()), Addr::v4(r4.to_ne_bytes()))
    } else {
        (addr_of_words(l6.0, l6.1, l6.2, l6.3), addr_of_words(r6.0, r6.1, r6.2, r6.3))
    };
    (local, Port::new(port as u16), remote, Port::new(u32::from_be(remote_port) as u16))
}

/// Protocol and both ends of what a socket is looked for: local address and port, remote address and port.
#[inline(always)]
pub fn looked_up(lookup: *const bpf_sk_lookup) -> (Protocol, Addr, Port, Addr, Port) {
    // As in `ends`. SAFETY: loads of context fields at their own size; fields of the other family read as zero. `local_port` is in
    // host order, `remote_port` two bytes in network order.
    let (port, remote_port, family, protocol, l4, r4, l6, r6) = unsafe {
        let local_ip6 = (&raw const (*lookup).local_ip6).cast::<u32>();
        let remote_ip6 = (&raw const (*lookup).remote_ip6).cast::<u32>();
        let words = |at: *const u32| {
            (at.read_volatile(), at.add(1).read_volatile(), at.add(2).read_volatile(), at.add(3).read_volatile())
        };
        (
            (&raw const (*lookup).local_port).read_volatile(),
            (&raw const (*lookup).remote_port).read_volatile(),
            (&raw const (*lookup).family).read_volatile(),
            (&raw const (*lookup).protocol).read_volatile(),
            (&raw const (*lookup).local_ip4).read_volatile(),
            (&raw const (*lookup).remote_ip4).read_volatile(),
            words(local_ip6),
            words(remote_ip6),
        )
    };
    let (local, remote) = if family == AF_INET {
        (Addr::v4(l4.to_ne_bytes()), Addr::v4(r4.to_ne_bytes()))
    } else {
        (addr_of_words(l6.0, l6.1, l6.2, l6.3), addr_of_words(r6.0, r6.1, r6.2, r6.3))
    };
    (Protocol(protocol as u8), local, Port::new(port as u16), remote, Port(remote_port.to_ne_bytes()))
}

/// An address from four words as they lie in memory.
#[inline(always)]
pub fn addr_of_words(a: u32, b: u32, c: u32, d: u32) -> Addr {
    Addr::from_words([a, b, c, d])
}
