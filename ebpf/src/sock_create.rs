//! Lives: kernel, `sock_create` of each workload's cgroup, and of the root of the managed tree.
//! Called by: the kernel, in the task that calls `socket()` for IPv4 or IPv6.
//! May touch: family, type and protocol asked for.
//! Never: sees AF_PACKET, AF_XDP, vsock or TUN (DESIGN.md D5); those need XDP or TC on the workload's own interface.
//!
//! Why here: raw, SCTP and MPTCP sockets reach the network by ways the connect hooks do not see, so a policy must ask for them.

use aya_ebpf::{bindings::bpf_sock, helpers::bpf_get_retval, macros::cgroup_sock, programs::SockContext};
use weir_common::{
    addr::{Addr, Port, Protocol},
    decide::{Decision, Image},
    event::Local,
    image::{SOCKET_MPTCP, SOCKET_RAW, SOCKET_SCTP},
    maps::AGENT,
    verdict::{Direction, Hook, Reason, Verdict},
};

use crate::{
    bytes::SOCK_RAW,
    connect::{ALLOW, DENY},
    emit::{self, Subject},
    tables::{Active, Judged},
    who,
};

const IPPROTO_MPTCP: u32 = 262;
const IPPROTO_SCTP: u32 = 132;
const IPPROTO_ICMP: u32 = 1;
const IPPROTO_ICMPV6: u32 = 58;
const IPPROTO_UDPLITE: u32 = 136;
const SOCK_DGRAM: u32 = 2;

#[cgroup_sock(sock_create)]
pub fn sock_create(ctx: SockContext) -> i32 {
    judge(&ctx, own, false)
}

/// Whose socket it is, once that is known here.
#[inline(always)]
fn own() -> Option<Local> {
    let local = who::attached();
    if who::is_untold(&local) { None } else { Some(local) }
}

#[cgroup_sock(sock_create)]
pub fn root_sock_create(ctx: SockContext) -> i32 {
    let strange = || {
        // SAFETY: helper without arguments; non-zero when a program of a lower cgroup has denied already.
        let caller = (unsafe { bpf_get_retval() } == 0).then(who::caller)?;
        if caller.workload == AGENT { None } else { Some(caller) }
    };
    judge(&ctx, strange, false)
}

/// Where no program judges packets: whatever neither `connect`, `sendmsg` nor `sk_lookup` sees needs a permission in both directions.
#[cgroup_sock(sock_create)]
pub fn alone_sock_create(ctx: SockContext) -> i32 {
    judge(&ctx, own, true)
}

/// Asks whose socket it is only where that matters: most are TCP's and UDP's, which need no permission. `local` has none where the
/// socket is refused already.
#[inline(always)]
fn judge(ctx: &SockContext, local: impl FnOnce() -> Option<Local>, alone: bool) -> i32 {
    let sock: *const bpf_sock = ctx.sock;
    // SAFETY: 4-byte loads of context fields.
    let (kind, protocol) =
        unsafe { ((&raw const (*sock).type_).read_volatile(), (&raw const (*sock).protocol).read_volatile()) };
    let needed = if alone { needed_alone(kind, protocol) } else { needed(kind, protocol) };
    let Some(needed) = needed else { return ALLOW };
    let Some(local) = local() else { return ALLOW };
    let Some(generation) = refused(local, needed, alone) else { return ALLOW };
    let subject = Subject {
        hook: Hook::SockCreate,
        direction: Direction::Egress,
        local,
        local_addr: Addr::UNSPECIFIED,
        remote_addr: Addr::UNSPECIFIED,
        local_port: Port([0; 2]),
        remote_port: Port([0; 2]),
        protocol: Protocol(protocol as u8),
        cookie: 0,
        tcp_flags: 0,
        ifindex: 0,
    };
    let decision = Decision::plain(Verdict::Deny, Reason::SocketType, 0);
    emit::refused(&subject, &Judged { decision, generation, local_identity: 0 });
    DENY
}

/// The permission a socket needs beside TCP's and UDP's, if any.
#[inline(always)]
const fn needed(kind: u32, protocol: u32) -> Option<u16> {
    match (kind, protocol) {
        (SOCK_RAW, _) => Some(SOCKET_RAW),
        (_, IPPROTO_SCTP) => Some(SOCKET_SCTP),
        (_, IPPROTO_MPTCP) => Some(SOCKET_MPTCP),
        _ => None,
    }
}

/// The same where only openings are judged: ping sockets and UDP-Lite go by no hook that does.
#[inline(always)]
const fn needed_alone(kind: u32, protocol: u32) -> Option<u16> {
    match (kind, protocol) {
        (SOCK_DGRAM, IPPROTO_ICMP | IPPROTO_ICMPV6 | IPPROTO_UDPLITE) => Some(SOCKET_RAW),
        _ => needed(kind, protocol),
    }
}

/// The generation that refuses it, or `None` if the workload's set has the permission. No tables: refused by generation 0.
#[inline(always)]
fn refused(local: Local, needed: u16, both_ways: bool) -> Option<u64> {
    let Some(active) = Active::open() else { return Some(0) };
    let Some(image) = Image::open(&active) else { return Some(0) };
    let set = image.identity(image.local(local.workload)).set;
    let allows = |direction| image.set(set, direction).is_some_and(|set| set.sockets & needed != 0);
    let allowed = allows(Direction::Egress) && (!both_ways || allows(Direction::Ingress));
    if allowed { None } else { Some(image.generation()) }
}
