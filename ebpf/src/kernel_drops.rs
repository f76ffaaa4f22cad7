//! Lives: kernel; raw tracepoint `skb:kfree_skb`, which every packet passes that the kernel drops.
//! Called by: the kernel, in whatever runs there; loaded and attached only where the kernel has it and tells where its parts lie.
//! May touch: the packet and its socket, by reading; the counters and merge tables; what the other programs said of their last refusal.
//! Never: tells a drop of Weir's own twice where it can be recognised (docs/records.md says where not), or one that is nobody's we know; decides anything.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use weir_common::{
    addr::{Addr, Port, Protocol},
    decide::{Decision, Tables as _},
    event::{Endpoint, Local},
    verdict::{Direction, Hook, Reason, Verdict},
};

use crate::{
    emit::{self, Subject},
    maps,
    settings::DROP_PLACES,
    tables::{Active, Judged},
    tracepoint::{argument, read},
    who,
};

/// A word of [`DROP_PLACES`]: for the verifier a constant.
macro_rules! place {
    ($field:ident) => {
        // SAFETY: initialised, aligned, and only ever written before the program is loaded.
        unsafe { (&raw const DROP_PLACES.$field).read_volatile() }
    };
}

/// `ETH_P_IP` and `ETH_P_IPV6`, as on the wire.
const IPV4: u16 = 0x0800u16.to_be();
const IPV6: u16 = 0x86ddu16.to_be();
const IPV6_HEADER: u64 = 40;
/// Where a TCP header says how long it is, and its flags behind that; of these the six that RFC 9293 section 3.1 has beside those of ECN.
const TCP_OFFSET: u64 = 12;
const TCP_FLAGS: u8 = 0x3f;
const TCP_ACK: u8 = 0x10;
/// Of the fragment field of IPv4: what follows the header is no port where any of these is set.
const FRAGMENT_OFFSET: u16 = 0x1fff;

#[raw_tracepoint(tracepoint = "kfree_skb")]
pub fn kernel_drop(ctx: RawTracePointContext) -> i32 {
    let _ = dropped(&ctx);
    0
}

#[inline(always)]
fn dropped(ctx: &RawTracePointContext) -> Option<()> {
    let reason = argument(ctx, 2) as u32;
    if !is_told(reason) {
        return None;
    }
    let skb = argument(ctx, 0);
    // Behind a constant: a kernel whose tracepoint has three arguments refuses a program that could read a fourth.
    let receiver = if place!(names_receiver) != 0 { argument(ctx, 3) } else { 0 };
    let socket = if receiver != 0 { receiver } else { read(skb, place!(skb_sk))? };
    let packet = Packet::of(skb)?;
    if was_ours(u64::from(reason), &packet) || was_heard(u64::from(reason), &packet) {
        return None;
    }
    let (local, direction) = whose(socket, receiver != 0, &packet)?;
    let (src, dst) = ((packet.src, packet.src_port), (packet.dst, packet.dst_port));
    let subject = Subject::of_packet(Hook::Kernel, direction, local, packet.protocol, src, dst);
    let mut judged = Judged::refusal(Reason::Kernel);
    // Of the kernel's reasons there are more than ours; the place of a rule's number is free.
    judged.decision = Decision { rule: reason, verdict: Verdict::Deny, ..judged.decision };
    let _ = emit::merged(&subject, &judged, read(skb, place!(skb_len)).unwrap_or(0));
    Some(())
}

/// Says that Weir refuses this packet at `sk_lookup`: the kernel drops it next, as if nobody listened.
#[inline(always)]
pub fn looked_up(subject: &Subject) {
    let ports = ports(subject.remote_port, subject.local_port);
    is_ours(place!(no_socket), &subject.remote_addr, &subject.local_addr, ports);
}

/// The same at XDP: veth drops it next, and gives no reason. Other drivers drop it without a word, or give XDP as the reason.
#[inline(always)]
pub fn at_edge(src: &Addr, dst: &Addr) {
    is_ours(place!(not_specified), src, dst, 0);
}

/// Expects that this CPU drops such a packet for this reason, which is Weir's drop then and no other.
#[inline(always)]
fn is_ours(reason: u64, src: &Addr, dst: &Addr, ports: u64) {
    // A constant: where the kernel's drops are not recorded, there is nothing here.
    if reason == 0 {
        return;
    }
    if let Some(last) = maps::OWN_DROP.get_ptr_mut(0) {
        // SAFETY: a live map value of this CPU.
        unsafe { last.write_volatile(mark(reason, src, dst, ports)) };
    }
}

/// Whether it was expected; once.
#[inline(always)]
fn was_ours(reason: u64, packet: &Packet) -> bool {
    let ports = if reason == place!(no_socket) {
        ports(packet.src_port, packet.dst_port)
    } else if reason == place!(not_specified) {
        0
    } else {
        return false;
    };
    let Some(last) = maps::OWN_DROP.get_ptr_mut(0) else { return false };
    // SAFETY: as above.
    unsafe {
        let ours = last.read_volatile() == mark(reason, &packet.src, &packet.dst, ports);
        if ours {
            last.write_volatile(0);
        }
        ours
    }
}

/// Whether it is an acknowledgement and nothing else, and no reason is given. The kernel throws those away so once it has heard them: of every
/// connection that the peer has half closed, at least one.
#[inline(always)]
fn was_heard(reason: u64, packet: &Packet) -> bool {
    if reason != place!(not_specified) || packet.protocol != Protocol::TCP {
        return false;
    }
    let Some([offset, flags]) = read::<[u8; 2]>(packet.transport, TCP_OFFSET) else { return false };
    flags & TCP_FLAGS == TCP_ACK && packet.carried == u32::from(offset >> 4) * 4
}

#[inline(always)]
fn ports(src: Port, dst: Port) -> u64 {
    u64::from(src.number()) << 16 | u64::from(dst.number())
}

/// Tells a packet from others that a CPU may drop before it drops this one. Never 0.
#[inline(always)]
fn mark(reason: u64, src: &Addr, dst: &Addr, ports: u64) -> u64 {
    let ((a, b), (c, d)) = (src.halves(), dst.halves());
    let ends = (a ^ b.rotate_left(16)) ^ (c ^ d.rotate_left(16)).rotate_left(32);
    (ends ^ (reason << 32 | ports).rotate_left(8)) | 1 << 63
}

#[inline(always)]
fn is_told(reason: u32) -> bool {
    // Each word by a place of its own, which is a constant to the verifier.
    let word = match reason / 64 {
        0 => told(0),
        1 => told(1),
        2 => told(2),
        3 => told(3),
        // Above there are only subsystems' own.
        _ => return true,
    };
    word >> (reason % 64) & 1 == 1
}

#[inline(always)]
fn told(word: usize) -> u64 {
    // SAFETY: as `place!`; one of four words.
    unsafe { (&raw const DROP_PLACES.told).cast::<u64>().add(word).read_volatile() }
}

/// The ends of a packet.
struct Packet {
    src: Addr,
    dst: Addr,
    src_port: Port,
    dst_port: Port,
    protocol: Protocol,
    /// Where what follows its IP header lies; 0 where that is not known, or the rest of something.
    transport: u64,
    /// Bytes of that, as the IP header says.
    carried: u32,
}

impl Packet {
    /// `None` where it is no IP, or its headers are gone.
    #[inline(always)]
    fn of(skb: u64) -> Option<Self> {
        let kind: u16 = read(skb, place!(skb_protocol))?;
        let head: u64 = read(skb, place!(skb_head))?;
        let offset: u16 = read(skb, place!(skb_network_header))?;
        let header = head + u64::from(offset);
        if kind == IPV4 {
            let words: [u32; 5] = read(header, 0)?;
            let length = u64::from((words[0].to_ne_bytes()[0] & 0xf) * 4);
            let protocol = Protocol(words[2].to_ne_bytes()[1]);
            let [src, dst] = [words[3], words[4]].map(|word| Addr::v4(word.to_ne_bytes()));
            if u16::from_be_bytes([words[1].to_ne_bytes()[2], words[1].to_ne_bytes()[3]]) & FRAGMENT_OFFSET != 0 {
                let (src_port, dst_port) = (Port([0; 2]), Port([0; 2]));
                return Some(Self { src, dst, src_port, dst_port, protocol, transport: 0, carried: 0 });
            }
            let [_, _, high, low] = words[0].to_ne_bytes();
            let carried = u32::from(u16::from_be_bytes([high, low])).wrapping_sub(length as u32);
            Some(Self::with_ports(src, dst, protocol, (header + length, carried)))
        } else if kind == IPV6 {
            let [high, low, protocol] = read::<[u8; 3]>(header, 4)?;
            let (src, dst): (Addr, Addr) = (read(header, 8)?, read(header, 24)?);
            let carried = u32::from(u16::from_be_bytes([high, low]));
            Some(Self::with_ports(src, dst, Protocol(protocol), (header + IPV6_HEADER, carried)))
        } else {
            None
        }
    }

    /// Behind extension headers no ports are looked for.
    #[inline(always)]
    fn with_ports(src: Addr, dst: Addr, protocol: Protocol, rest: (u64, u32)) -> Self {
        let (transport, carried) = rest;
        let has_ports = matches!(protocol, Protocol::TCP | Protocol::UDP | Protocol::SCTP);
        let ports = if has_ports { read::<[[u8; 2]; 2]>(transport, 0) } else { None };
        let [src_port, dst_port] = ports.unwrap_or_default();
        Self { src, dst, src_port: Port(src_port), dst_port: Port(dst_port), protocol, transport, carried }
    }
}

/// The workload it is about, and which way it went: by its socket, else by its addresses.
#[inline(always)]
fn whose(socket: u64, receives: bool, packet: &Packet) -> Option<(Local, Direction)> {
    let local = who::of_socket(socket);
    if let Some(local) = local.filter(|_| receives) {
        return Some((local, Direction::Ingress));
    }
    // Of what is for many, whoever does not want it throws a copy away: that is no drop of who has sent it.
    let known = !packet.dst.is_of_many();
    let (to, from) = if known { (owner(&packet.dst), owner(&packet.src)) } else { (0, 0) };
    if let Some(local) = local {
        let arrives = to == local.workload && from != local.workload;
        return Some((local, if arrives { Direction::Ingress } else { Direction::Egress }));
    }
    if to != 0 {
        return Some((Local::of(to, 0), Direction::Ingress));
    }
    (from != 0).then(|| (Local::of(from, 0), Direction::Egress))
}

/// The number of the local workload that alone has an address; 0 for none.
#[inline(always)]
fn owner(addr: &Addr) -> u32 {
    let end: Option<Endpoint> = Active::open().and_then(|active| active.endpoint(addr));
    end.map_or(0, |end| end.sole_owner())
}
