//! Lives: kernel, `cgroup_skb/ingress` of each workload's cgroup, and on strict nodes of the root of the managed tree.
//! Called by: the kernel, once per packet delivered to a socket of the workload.
//! May touch: packet bytes through `bytes::Skb`, the socket's state, the reply table, rate limit state.
//! Never: changes a packet; looks into packets of established TCP connections, unless limits are about their workload.
//!
//! Why here: the SYN is seen on the listening socket, so a denied connection never reaches the application, whatever network
//! namespace or interface it came through. The kernel's own TCP state is the connection table (DESIGN.md D5).

use aya_ebpf::{macros::cgroup_skb, programs::SkBuffContext};
use weir_common::{
    addr::Protocol,
    decide::Query,
    event::Local,
    image::{ACTIVE_METERED, Cell},
    packet::{Packet, tcp},
    verdict::{Direction, Hook, Reason},
};

use crate::{
    bytes::{self, SOCK_STREAM, Sock},
    connect::{ALLOW, DENY},
    emit::{self, Caller, Subject},
    limiter, quotes,
    replies::{self, Asked},
    shown,
    tables::{self, Judged},
    who,
};

/// States (`include/net/tcp_states.h`) in which a TCP socket belongs to a connection that was judged when it opened:
/// ESTABLISHED 1, SYN_SENT 2, SYN_RECV 3, FIN_WAIT1 4, FIN_WAIT2 5, CLOSE_WAIT 8, LAST_ACK 9, CLOSING 11. And CLOSE 7: closed while
/// this packet was on its way to it. The kernel throws that away; a record would tell of a refusal that was none.
const LIVING: u32 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 11;
/// A UDP socket that called `connect()`.
const ESTABLISHED: u32 = 1;

/// Whose packets a program sees: those of the workload whose cgroup it is attached to, or those of nobody's.
const OWN: bool = true;
const STRANGERS: bool = false;

/// What becomes of a packet. Without payload: what was decided is reported before, on a stack that is soon free again.
enum Outcome {
    /// Belongs to a connection that was judged when it opened; nothing is counted.
    Established,
    /// The last ACK of a handshake that was allowed: judged again, but the SYN's record stands for both.
    SecondLook,
    /// A TCP opening that passes: one event, which names the listener.
    Opened,
    /// Anything else that passes: counted together with its equals.
    Allowed,
    /// Refused, and counted together with its equals.
    Denied,
}

#[cgroup_skb(ingress)]
pub fn ingress(ctx: SkBuffContext) -> i32 {
    action(try_ingress::<OWN>(&ctx, who::attached))
}

/// For strict nodes: linked to the root of the managed tree, judges packets of sockets whose cgroup no workload names. Sockets
/// of known workloads have been judged by their own program.
#[cgroup_skb(ingress)]
pub fn root_ingress(ctx: SkBuffContext) -> i32 {
    if who::packet_has_workload(&ctx) {
        return ALLOW;
    }
    action(try_ingress::<STRANGERS>(&ctx, || who::UNKNOWN))
}

#[inline(always)]
fn action(outcome: Outcome) -> i32 {
    match outcome {
        Outcome::Established | Outcome::SecondLook | Outcome::Opened | Outcome::Allowed => ALLOW,
        Outcome::Denied => DENY,
    }
}

/// Asks whose socket it is only where that matters: packets of open connections do not pay for the answer, unless limits are about
/// them.
#[inline(always)]
fn try_ingress<const WHOSE: bool>(ctx: &SkBuffContext, local: impl FnOnce() -> Local) -> Outcome {
    let sock = bytes::socket_of(ctx);
    let word = tables::word();
    let open =
        sock.kind == SOCK_STREAM && sock.protocol == u32::from(Protocol::TCP.0) && LIVING >> (sock.state & 31) & 1 == 1;
    if open && word & ACTIVE_METERED == 0 {
        return Outcome::Established;
    }
    let local = local();
    if open && !tables::metered(word, local.workload) {
        return Outcome::Established;
    }
    let mut packet = Packet::EMPTY;
    bytes::headers(ctx, &mut packet);
    let mut said = 0;
    if open {
        // What cannot be read was judged when it opened, and the stack has taken it for the connection's.
        said = if packet.refused != 0 { 0 } else { charge(ctx, local.workload, &packet) };
        if said == 0 {
            return Outcome::Established;
        }
    }
    judge::<WHOSE>(ctx, local, said, sock, &mut packet)
}

/// `open`: what limits said of a packet of an open connection; 0 for others.
#[inline(always)]
fn judge<const WHOSE: bool>(ctx: &SkBuffContext, local: Local, open: u64, sock: Sock, packet: &mut Packet) -> Outcome {
    let subject = Subject {
        hook: Hook::Ingress,
        direction: Direction::Ingress,
        local,
        local_addr: packet.dst,
        remote_addr: packet.src,
        local_port: packet.dst_port,
        remote_port: packet.src_port,
        protocol: packet.protocol,
        cookie: bytes::cookie(ctx),
        tcp_flags: packet.tcp_flags,
        ifindex: 0,
    };
    if let Some(reason) = Reason::from_u8(packet.refused) {
        return decided(ctx, &subject, &Judged::refusal(reason), packet);
    }
    let mut judged = tables::judge(subject.local.workload, &emit::question(&subject));
    if WHOSE == OWN && who::is_untold(&subject.local) && !judged.decision.verdict.passes() {
        return Outcome::Established;
    }
    // Whom the policy denies takes nothing from what all clients have together.
    let said =
        if open == 0 && judged.decision.verdict.passes() { charge(ctx, subject.local.workload, packet) } else { open };
    if said != 0 {
        judged.decision = limiter::decision(said, judged.decision.remote_identity);
        if matches!(decided(ctx, &subject, &judged, packet), Outcome::Denied) {
            return Outcome::Denied;
        }
        if open != 0 {
            return Outcome::Established;
        }
        // What limits say is a decision of its own; the policy's is asked for again, as the stack has no room for both.
        tables::judge_again(subject.local.workload, &emit::question(&subject), &mut judged);
    }
    let passes = judged.decision.verdict.passes();
    if passes && packet.protocol == Protocol::TCP {
        if packet.tcp_flags & (tcp::SYN | tcp::ACK) != tcp::SYN {
            return Outcome::SecondLook;
        }
        emit::verdict(&subject, &judged, &Caller::NONE);
        return Outcome::Opened;
    }
    if !passes && packet.protocol != Protocol::TCP {
        return answer(ctx, &subject, &mut judged, packet, sock);
    }
    if judged.decision.staged_denies() && packet.answers().is_some() && may_be_reply(&subject, sock, packet) {
        // Were staged policies enforced, it would pass as an answer.
        judged.decision.staged = Cell::ABSENT;
    }
    if passes && packet.protocol == Protocol::UDP {
        replies::note_asked(&subject, subject.cookie);
    }
    decided(ctx, &subject, &judged, packet)
}

/// What limits say.
#[inline(always)]
fn charge(ctx: &SkBuffContext, workload: u32, packet: &Packet) -> u64 {
    limiter::exceeded(tables::word(), packet, workload, bytes::segments(ctx))
}

/// Whether the datagram can answer one that this socket sent: the kernel matched both ends of it to the socket (connected UDP,
/// SCTP), or the socket has asked this peer, with this identifier.
#[inline(always)]
fn may_be_reply(subject: &Subject, sock: Sock, packet: &Packet) -> bool {
    let connected = subject.protocol == Protocol::UDP && sock.state == ESTABLISHED;
    if sock.kind != bytes::SOCK_RAW && (connected || subject.protocol == Protocol::SCTP) {
        return true;
    }
    let thread = replies::thread_of(packet, subject.remote_port);
    replies::expected(Asked::ByUs, subject.local.workload, subject.cookie, &subject.remote_addr, thread)
}

/// Something no ingress rule allows, from a peer this socket asks: the rule that allowed the question allows the answer. An ICMP
/// error, which only raw sockets are handed, answers the packet that it quotes.
#[inline(always)]
fn answer(ctx: &SkBuffContext, subject: &Subject, judged: &mut Judged, packet: &mut Packet, sock: Sock) -> Outcome {
    let Some(asked) = packet.answers() else { return decided(ctx, subject, judged, packet) };
    let mut query = Query { direction: Direction::Egress, port: asked.number(), ..emit::question(subject) };
    let expected = if packet.is_error() {
        quotes::question(ctx.skb.skb, 0, true, packet, &mut query) == 0
    } else {
        may_be_reply(subject, sock, packet)
    };
    if !expected {
        return decided(ctx, subject, judged, packet);
    }
    tables::judge_again(subject.local.workload, &query, judged);
    if judged.decision.verdict.passes() {
        judged.decision.reason = Reason::Reply;
        let thread = replies::thread_of(packet, subject.remote_port);
        replies::settle(Asked::ByUs, subject.local.workload, subject.cookie, &subject.remote_addr, thread);
    } else {
        // What refuses it is what refused it before; the stack has no room to keep that.
        tables::judge_again(subject.local.workload, &emit::question(subject), judged);
    }
    decided(ctx, subject, judged, packet)
}

#[inline(always)]
fn decided(ctx: &SkBuffContext, subject: &Subject, judged: &Judged, packet: &Packet) -> Outcome {
    if emit::merged(subject, judged, packet.length) {
        shown::packet(ctx.skb.skb, subject, judged);
    }
    if judged.decision.verdict.passes() { Outcome::Allowed } else { Outcome::Denied }
}
