//! Lives: kernel, `cgroup_skb/egress` of each workload's cgroup, and on strict nodes of the root of the managed tree.
//! Called by: the kernel, once per packet that leaves a socket of the workload.
//! May touch: packet bytes through `bytes::Skb`, the socket's state, the reply table.
//! Never: changes a packet; holds back a RST or FIN, or the peer would hang.
//!
//! Why here beside connect and sendmsg: raw sockets, connected UDP after a policy change, and a SYN whose policy changed between
//! `connect()` and now pass no other hook.

use aya_ebpf::{macros::cgroup_skb, programs::SkBuffContext};
use weir_common::{
    addr::Protocol,
    decide::Decision,
    event::Local,
    image::{Cell, FLAG_REFUSE},
    packet::Packet,
    verdict::{Direction, Hook, Reason, Verdict},
};

use crate::{
    bytes::{self, SOCK_RAW, SOCK_STREAM, Sock},
    connect::{ALLOW, DENY},
    emit::{self, Subject},
    replies::{self, Asked},
    shown,
    tables::{self, Judged},
    who,
};

const ESTABLISHED: u32 = 1;
const SYN_SENT: u32 = 2;

/// Whose packets a program sees: those of the workload whose cgroup it is attached to, or those of nobody's.
const OWN: bool = true;
const STRANGERS: bool = false;

/// What becomes of a packet. Without payload: what was decided is reported before, on a stack that is soon free again.
enum Outcome {
    /// TCP of a connection that was judged when it opened.
    Established,
    /// A SYN that may leave: `sock_ops` has counted the opening.
    Opening,
    /// Anything else that passes: counted together with its equals.
    Allowed,
    /// Refused, and counted together with its equals.
    Denied,
}

#[cgroup_skb(egress)]
pub fn egress(ctx: SkBuffContext) -> i32 {
    action(try_egress::<OWN>(&ctx, who::attached))
}

/// For strict nodes: linked to the root of the managed tree, judges packets of sockets whose cgroup no workload names. Sockets
/// of known workloads have been judged by their own program.
#[cgroup_skb(egress)]
pub fn root_egress(ctx: SkBuffContext) -> i32 {
    if who::packet_has_workload(&ctx) {
        return ALLOW;
    }
    action(try_egress::<STRANGERS>(&ctx, || who::UNKNOWN))
}

#[inline(always)]
fn action(outcome: Outcome) -> i32 {
    match outcome {
        Outcome::Established | Outcome::Opening | Outcome::Allowed => ALLOW,
        Outcome::Denied => DENY,
    }
}

/// Asks whose socket it is only where that matters: packets of open connections do not pay for the answer.
#[inline(always)]
fn try_egress<const WHOSE: bool>(ctx: &SkBuffContext, local: impl FnOnce() -> Local) -> Outcome {
    let sock = bytes::socket_of(ctx);
    if is_tcp(&sock) && sock.state != SYN_SENT {
        return Outcome::Established;
    }
    let local = local();
    let mut packet = Packet::EMPTY;
    bytes::headers(ctx, &mut packet);
    judge::<WHOSE>(ctx, local, sock, &packet)
}

#[inline(always)]
fn is_tcp(sock: &Sock) -> bool {
    sock.kind == SOCK_STREAM && sock.protocol == u32::from(Protocol::TCP.0)
}

/// One subject and one decision for whatever comes of it: the stack holds no second of either beside what `emit` needs.
#[inline(always)]
fn judge<const WHOSE: bool>(ctx: &SkBuffContext, local: Local, sock: Sock, packet: &Packet) -> Outcome {
    let subject = Subject {
        hook: Hook::Egress,
        direction: Direction::Egress,
        local,
        local_addr: packet.src,
        remote_addr: packet.dst,
        local_port: packet.src_port,
        remote_port: packet.dst_port,
        protocol: packet.protocol,
        cookie: bytes::cookie(ctx),
        tcp_flags: packet.tcp_flags,
        ifindex: 0,
    };
    let workload = subject.local.workload;
    if let Some(reason) = Reason::from_u8(packet.refused) {
        return decided(ctx, &subject, &Judged::refusal(reason), packet);
    }
    let mut judged = tables::judge(workload, &emit::question(&subject));
    if WHOSE == OWN && who::is_untold(&subject.local) && !judged.decision.verdict.passes() {
        return Outcome::Established;
    }
    // Other sockets send from addresses of their namespace; a raw one writes what it likes.
    if sock.kind == SOCK_RAW && !tables::plausible(workload, packet) {
        let (verdict, reason) = (Verdict::Deny, Reason::Spoofed);
        judged.decision = Decision::plain(verdict, reason, judged.decision.remote_identity);
        return decided(ctx, &subject, &judged, packet);
    }
    if is_tcp(&sock) {
        return if judged.decision.verdict.passes() {
            Outcome::Opening
        } else {
            decided(ctx, &subject, &judged, packet)
        };
    }
    if !judged.decision.verdict.passes() || judged.decision.staged_denies() {
        answer(&subject, &mut judged, packet);
    }
    if !judged.decision.verdict.passes() {
        return decided(ctx, &subject, &judged, packet);
    }
    if judged.decision.reason as u8 != Reason::Reply as u8 && takes_from_anybody(&sock, packet) {
        let thread = replies::thread_of(packet, subject.remote_port);
        replies::expect(Asked::ByUs, workload, subject.cookie, &subject.remote_addr, thread);
        // `sk_lookup` knows no socket, and would refuse the answer.
        if packet.protocol == Protocol::UDP && tables::flags() & FLAG_REFUSE != 0 {
            replies::expect(Asked::ByUs, workload, replies::by_port(subject.local_port), &subject.remote_addr, thread);
        }
    }
    decided(ctx, &subject, &judged, packet)
}

/// Whether the kernel hands the socket more than the answers to this: it looks at both ends of connected UDP only. (Of an echo
/// reply it compares the identifier, but not who sent it.)
#[inline(always)]
fn takes_from_anybody(sock: &Sock, packet: &Packet) -> bool {
    let associated =
        packet.protocol == Protocol::SCTP || (packet.protocol == Protocol::UDP && sock.state == ESTABLISHED);
    sock.kind == SOCK_RAW || !associated
}

/// A datagram no egress rule allows, or none would were staged policies enforced, may still answer one that was let in.
#[inline(always)]
fn answer(subject: &Subject, judged: &mut Judged, packet: &Packet) {
    let Some(asked) = packet.answers() else { return };
    let passes = judged.decision.verdict.passes();
    replies::judge_again_as_answer(subject, asked, judged);
    if judged.decision.verdict.passes() && !passes {
        judged.decision.reason = Reason::Reply;
        replies::note_answered(subject, asked);
        return;
    }
    // The first decision stands, and is asked for again: two of them at a time take more stack than there is.
    let answers = judged.decision.verdict.passes();
    tables::judge_again(subject.local.workload, &emit::question(subject), judged);
    if answers {
        judged.decision.staged = Cell::ABSENT;
    }
}

#[inline(always)]
fn decided(ctx: &SkBuffContext, subject: &Subject, judged: &Judged, packet: &Packet) -> Outcome {
    if emit::merged(subject, judged, packet.length) {
        shown::packet(ctx.skb.skb, subject, judged);
    }
    if judged.decision.verdict.passes() { Outcome::Allowed } else { Outcome::Denied }
}
