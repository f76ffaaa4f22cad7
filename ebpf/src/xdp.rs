//! Lives: kernel, XDP on each managed interface.
//! Called by: the driver (native) or the stack (generic), once per frame that comes in.
//! May touch: packet bytes through `bytes::Frame`, the address sets, rate limit state.
//! Never: judges services by name; segmentation is decided at the socket, where the workload is known for certain.
//!
//! Why here: before the kernel has built a packet, so that a flood costs as little as it can.

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS},
    macros::xdp,
    programs::XdpContext,
};
use weir_common::{
    decide::{Decision, Image},
    image::{FLAG_LIMITS, FLAG_SETS},
    packet::Packet,
    verdict::{Direction, Hook, Reason, Verdict},
};

use crate::{
    atomic,
    bytes::{self, Headers},
    emit::{self, Subject},
    limiter::{self, AUDIT},
    maps, sets,
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
}

#[xdp]
pub fn xdp_edge(ctx: XdpContext) -> u32 {
    let ifindex = ctx.ingress_ifindex() as u32;
    match try_xdp(&ctx, ifindex) {
        Outcome::Unjudged | Outcome::Audited => {
            seen(ifindex, true);
            XDP_PASS
        }
        Outcome::Denied => {
            seen(ifindex, false);
            XDP_DROP
        }
    }
}

#[inline(always)]
fn try_xdp(ctx: &XdpContext, ifindex: u32) -> Outcome {
    let mut packet = Packet::EMPTY;
    match bytes::frame_headers(ctx, &mut packet) {
        Headers::Read => {}
        Headers::NotIp => return Outcome::Unjudged,
        Headers::Malformed => {
            let length = (ctx.data_end() - ctx.data()) as u32;
            emit::malformed(who::UNKNOWN, Hook::Xdp, Direction::Ingress, ifindex, length);
            return Outcome::Denied;
        }
    }
    if packet.discovers_neighbours() {
        return Outcome::Unjudged;
    }
    // Without tables XDP passes: it holds no default deny, and the sockets behind it fail closed.
    let Some(active) = Active::open() else { return Outcome::Unjudged };
    let Some(image) = Image::open(&active) else { return Outcome::Unjudged };
    if image.flags() & FLAG_SETS != 0 {
        let answer = sets::refused(active.slot(), image.flags(), &packet);
        if answer != 0 {
            return decided(&image, answer, &packet, ifindex);
        }
    }
    if image.flags() & FLAG_LIMITS == 0 {
        return Outcome::Unjudged;
    }
    match limited(&image, &packet) {
        0 => Outcome::Unjudged,
        answer => decided(&image, answer, &packet, ifindex),
    }
}

/// Charges every limit on the packet's service; the first exhausted decides. 0 if none is.
///
/// A function of its own in the object, with a number for an answer, for the sake of the stack.
#[inline(never)]
fn limited(image: &Image<'_, Active>, packet: &Packet) -> u64 {
    let service = image.identity(image.identify(&packet.dst)).service_class;
    let Some(atom) = image.atom(packet.protocol, packet.dst_port.number()) else { return 0 };
    let mut numbers = image.limits_of(service, image.atoms(), atom);
    let mut audited = 0;
    while numbers != 0 {
        let number = numbers as u16;
        numbers >>= 16;
        let answer = limiter::exceeded(image, number, packet);
        if answer == 0 {
            continue;
        }
        if answer & AUDIT == 0 {
            return answer;
        }
        audited = answer;
    }
    audited
}

/// Reports a refused (or audited) packet. `answer` is laid out as `limiter::exceeded` gives it.
///
/// A function of its own in the object, for the sake of the stack.
#[inline(never)]
fn decided(image: &Image<'_, Active>, answer: u64, packet: &Packet, ifindex: u32) -> Outcome {
    let verdict = if answer & AUDIT == 0 { Verdict::Deny } else { Verdict::Audit };
    let reason = Reason::from_u8(answer as u8).unwrap_or(Reason::NoTables);
    let decision =
        Decision { rule: (answer >> 32) as u32, ..Decision::plain(verdict, reason, image.identify(&packet.src)) };
    let judged = Judged { decision, generation: image.generation(), local_identity: image.identify(&packet.dst) };
    emit::merged(&subject(packet, ifindex), &judged, packet.length);
    if verdict.passes() { Outcome::Audited } else { Outcome::Denied }
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

#[inline(always)]
fn seen(ifindex: u32, passed: bool) {
    let Some(counts) = maps::SEEN.get_ptr_mut(ifindex) else { return };
    let counts = counts.cast::<u64>();
    // SAFETY: a live map value of two words.
    unsafe {
        atomic::add(counts, 1);
        if passed {
            atomic::add(counts.add(1), 1);
        }
    }
}
