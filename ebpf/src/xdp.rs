//! Lives: kernel, XDP on each managed interface.
//! Called by: the driver (native) or the stack (generic), once per frame that comes in.
//! May touch: packet bytes through `bytes::Frame`, the address sets, rate limit state, the memory of first fragments, SYN protection.
//! Never: judges services by name; segmentation is decided at the socket, where the workload is known for certain.
//!
//! Why here: before the kernel has built a packet, so that a flood costs as little as it can.

use aya_ebpf::{
    bindings::{
        xdp_action::{XDP_DROP, XDP_PASS, XDP_TX},
        xdp_md,
    },
    macros::xdp,
    programs::XdpContext,
};
use weir_common::{
    addr::{Addr, Protocol},
    decide::{Decision, Image},
    edge::{self, Edge},
    image::{FLAG_LIMITS, FLAG_LIMITS_ALL, FLAG_SETS, FLAG_SYN},
    maps::HINTS,
    packet::{Packet, tcp},
    verdict::{Direction, Hook, Reason, Verdict},
};

use crate::{
    aims, atomic,
    bytes::{self, Headers},
    drops,
    emit::{self, Subject},
    fragments, kernel_drops,
    limiter::{self, AUDIT},
    maps, paid, sets, settings, shown, syn,
    tables::{Active, Judged},
    who,
};

/// What becomes of a frame.
enum Outcome {
    /// Not IP, or nothing speaks against it.
    Unjudged,
    /// Passes, and is recorded as one that enforcement would drop.
    Audited,
    /// Refused, and recorded.
    Denied,
    /// A SYN that has become its listener's answer, and goes back.
    Answered,
}

#[xdp(frags)]
pub fn xdp_edge(ctx: XdpContext) -> u32 {
    judge(&ctx, place_of(ctx.ingress_ifindex() as u32))
}

/// What Weir has to say of a frame that came in by the interface of this place.
#[inline(always)]
pub fn judge(ctx: &XdpContext, place: u32) -> u32 {
    let ifindex = ctx.ingress_ifindex() as u32;
    let counts = maps::SEEN.get_ptr_mut(place).map_or(core::ptr::null_mut(), |counts| counts.cast::<u64>());
    let edge = maps::EDGES.get(place).copied().unwrap_or(Edge::PLAIN);
    match try_xdp(ctx, ifindex, edge) {
        Outcome::Unjudged | Outcome::Audited => {
            seen(counts, true);
            XDP_PASS
        }
        Outcome::Denied => {
            seen(counts, false);
            XDP_DROP
        }
        Outcome::Answered => {
            seen(counts, true);
            XDP_TX
        }
    }
}

#[inline(always)]
fn try_xdp(ctx: &XdpContext, ifindex: u32, edge: Edge) -> Outcome {
    let mut packet = Packet::EMPTY;
    match bytes::frame_headers(ctx, &mut packet) {
        Headers::Read => {}
        Headers::Arp => return Outcome::Unjudged,
        Headers::NotIp => return not_ip(ctx.ctx, &packet, ifindex, edge),
        Headers::Refused(reason) => return refused(ctx.ctx, reason, &packet, ifindex),
    }
    if edge.refuses & edge::MARTIAN != 0 && packet.is_martian() {
        return refused(ctx.ctx, Reason::Martian, &packet, ifindex);
    }
    if packet.discovers_neighbours() {
        return Outcome::Unjudged;
    }
    // Without tables XDP passes: it holds no default deny, and the sockets behind it fail closed.
    let Some(active) = Active::open() else { return Outcome::Unjudged };
    let Some(image) = Image::open(&active) else { return Outcome::Unjudged };
    if edge.refuses & edge::SPOOFED != 0 && edge.workload == 0 && image.is_of_this_node(&packet.src) {
        return refused(ctx.ctx, Reason::Spoofed, &packet, ifindex);
    }
    if image.flags() & FLAG_SETS != 0 {
        let answer = sets::refused(active.slot(), image.flags(), &packet);
        if answer != 0 {
            return decided(ctx, &image, active.word(), answer, &packet, ifindex);
        }
    }
    if image.flags() & FLAG_LIMITS == 0 {
        return Outcome::Unjudged;
    }
    let shielded = if image.flags() & FLAG_SYN != 0 && packet.protocol == Protocol::TCP {
        // Another's source is its interface's own program's to refuse.
        let own = edge.workload == 0 || image.owns(edge.workload, &packet.src);
        if own { syn::shield(ctx, active.word(), &packet, ifindex) } else { 0 }
    } else {
        0
    };
    match shielded as u8 {
        syn::ANSWERED => {
            answered(&image, shielded, &packet, ifindex, Verdict::Allow);
            return Outcome::Answered;
        }
        syn::SPOILT => {
            answered(&image, shielded, &packet, ifindex, Verdict::Deny);
            return Outcome::Denied;
        }
        _ => {}
    }
    let completes = shielded as u8 == syn::COMPLETES && !paid::completed(&packet);
    let flags = packet.tcp_flags;
    if completes {
        // The first of the connection that is known to come from where it says: it counts as what opens it.
        packet.tcp_flags = tcp::SYN;
    }
    let said = limited(&image, active.word(), &mut packet, edge.workload, ifindex);
    packet.tcp_flags = flags;
    if completes && (said == 0 || said & AUDIT != 0) {
        paid::leave_completion(&packet);
    }
    match said {
        0 => Outcome::Unjudged,
        answer => decided(ctx, &image, active.word(), answer, &packet, ifindex),
    }
}

/// Reports a SYN that was answered by a cookie, or that was to be and went no further. It may come from anywhere, and a flood from
/// everywhere: nobody is named.
#[inline(never)]
fn answered(image: &Image<'_, Active>, shielded: u64, packet: &Packet, ifindex: u32, verdict: Verdict) {
    let mut decision = Decision::plain(verdict, Reason::SynCookie, 0);
    decision.rule = (shielded >> 32) as u32;
    let judged = Judged { decision, generation: image.generation(), local_identity: image.identify(&packet.dst) };
    let nobody = if packet.dst.as_v4().is_some() { Addr::v4([0; 4]) } else { Addr::UNSPECIFIED };
    let _ = emit::merged(&Subject { remote_addr: nobody, ..subject(packet, ifindex) }, &judged, packet.length);
}

/// Charges every limit on the packet's service; the first exhausted decides. 0 if none is.
///
/// What it asks is asked by functions of their own in the object, which give their stack back before anything is charged.
#[inline(always)]
fn limited(image: &Image<'_, Active>, word: u64, packet: &mut Packet, sender: u32, ifindex: u32) -> u64 {
    if packet.first_fragment | packet.later_fragment != 0 {
        match placed(image, packet, sender) {
            0 => {}
            u64::MAX => return 0,
            reason => return reason,
        }
    }
    let numbers = aimed(image, word, packet, sender);
    let said = if numbers != 0 { limiter::exceeded_at_xdp(word, packet, numbers, ifindex) } else { 0 };
    if said == 0 || said & AUDIT != 0 {
        fragments::passed(packet);
    }
    said
}

/// The limits to charge, up to four numbers. What a workload sends in another's name its interface's own program refuses; that other
/// is not charged for it.
#[inline(never)]
fn aimed(image: &Image<'_, Active>, word: u64, packet: &Packet, sender: u32) -> u64 {
    let numbers = aims::numbers(word, packet);
    let charged = numbers != 0 && (sender == 0 || image.owns(sender, &packet.src));
    if charged { numbers } else { 0 }
}

/// Gives a later fragment to a service with limits its port: 0, or the reason to refuse it for, or all bits where no limit is on any of
/// the service's ports.
#[inline(never)]
fn placed(image: &Image<'_, Active>, packet: &mut Packet, sender: u32) -> u64 {
    let service = image.identity(image.identify(&packet.dst)).service_class;
    let limited = service != 0 || image.flags() & FLAG_LIMITS_ALL != 0;
    if !limited || sender != 0 && !image.owns(sender, &packet.src) {
        return u64::MAX;
    }
    u64::from(fragments::place(packet))
}

/// A frame that is neither IP nor ARP: said where it is not refused, because no rule was asked.
#[inline(never)]
fn not_ip(frame: *mut xdp_md, packet: &Packet, ifindex: u32, edge: Edge) -> Outcome {
    let verdict = if edge.refuses & edge::ETHERTYPE != 0 { Verdict::Deny } else { Verdict::Allow };
    let mut judged = Judged::refusal(Reason::Ethertype);
    judged.decision.verdict = verdict;
    told(frame, &subject(packet, ifindex), &judged, packet.length);
    if verdict.passes() { Outcome::Unjudged } else { Outcome::Denied }
}

/// Refuses a packet for a reason that is no policy's.
#[inline(never)]
fn refused(frame: *mut xdp_md, reason: Reason, packet: &Packet, ifindex: u32) -> Outcome {
    told(frame, &subject(packet, ifindex), &Judged::refusal(reason), packet.length);
    kernel_drops::at_edge(&packet.src, &packet.dst);
    Outcome::Denied
}

#[inline(always)]
fn told(frame: *mut xdp_md, subject: &Subject, judged: &Judged, length: u32) {
    if emit::merged(subject, judged, length) {
        shown::at_xdp(frame, subject, judged);
    }
}

/// Reports a refused (or audited) packet. `answer` is laid out as the limiter gives it.
#[inline(always)]
fn decided(
    ctx: &XdpContext,
    image: &Image<'_, Active>,
    active: u64,
    answer: u64,
    packet: &Packet,
    ifindex: u32,
) -> Outcome {
    let cell = drops::counted(image, active, answer, packet, ifindex);
    if answer & AUDIT != 0 {
        return Outcome::Audited;
    }
    kernel_drops::at_edge(&packet.src, &packet.dst);
    if settings::drop_bytes() != 0 && cell & drops::CLAIMED != 0 {
        shown::at_edge(ctx.ctx, cell as u32);
    }
    Outcome::Denied
}

#[inline(always)]
fn subject(packet: &Packet, ifindex: u32) -> Subject {
    Subject {
        hook: Hook::Xdp,
        direction: Direction::Ingress,
        local: who::UNKNOWN,
        local_addr: packet.dst,
        remote_addr: packet.src,
        local_port: packet.dst_port,
        remote_port: packet.src_port,
        protocol: packet.protocol,
        cookie: 0,
        tcp_flags: packet.tcp_flags,
        ifindex,
    }
}

/// The interface's place; beyond all of them for one that the agent has said nothing of.
#[inline(always)]
pub fn place_of(ifindex: u32) -> u32 {
    let hint = maps::PLACE_HINTS.get(ifindex & (HINTS - 1)).copied().unwrap_or(0);
    if hint >> 32 == u64::from(ifindex) {
        return hint as u32;
    }
    // SAFETY: no program writes this map; the value is copied at once.
    unsafe { maps::PLACES.get(ifindex) }.copied().unwrap_or(u32::MAX)
}

#[inline(always)]
fn seen(counts: *mut u64, passed: bool) {
    if counts.is_null() {
        return;
    }
    // SAFETY: a live map value of two words.
    unsafe {
        atomic::add(counts, 1);
        if passed {
            atomic::add(counts.add(1), 1);
        }
    }
}
