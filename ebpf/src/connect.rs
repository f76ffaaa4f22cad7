//! Lives: kernel, `connect4` and `connect6` of each workload's cgroup, and of the root of the managed tree.
//! Called by: the kernel, in the task that calls `connect()`.
//! May touch: the address asked for; nothing is rewritten.
//! Never: takes the last word on TCP; `sock_ops` judges again when the SYN is about to leave (DESIGN.md D5).
//!
//! Why here and not at the packet: the application gets EPERM at once instead of a timeout, and the task is known. A v4-mapped
//! address arrives at connect6 only, so both share one path. The root variant judges by the calling task; both must allow.

use aya_ebpf::{helpers::bpf_get_retval, macros::cgroup_sock_addr, programs::SockAddrContext};
use aya_log_ebpf::error;
use weir_common::{
    addr::{Addr, Port, Protocol},
    event::{Kind, Local},
    icmp,
    verdict::{Direction, Hook},
};

use crate::{
    bytes,
    emit::{self, Caller, Subject},
    replies, tables, who,
};

/// `return 1`: the call goes on.
pub const ALLOW: i32 = 1;
/// `return 0`: the call fails with EPERM.
pub const DENY: i32 = 0;

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    judge(&ctx, Hook::Connect, bytes::target_v4(&ctx))
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    judge(&ctx, Hook::Connect, bytes::target_v6(&ctx))
}

#[cgroup_sock_addr(connect4)]
pub fn root_connect4(ctx: SockAddrContext) -> i32 {
    judge_caller(&ctx, Hook::Connect, bytes::target_v4(&ctx))
}

#[cgroup_sock_addr(connect6)]
pub fn root_connect6(ctx: SockAddrContext) -> i32 {
    judge_caller(&ctx, Hook::Connect, bytes::target_v6(&ctx))
}

/// By the socket's workload.
#[inline(always)]
fn judge(ctx: &SockAddrContext, hook: Hook, target: (Addr, Port)) -> i32 {
    let mut subject = subject(ctx, hook, who::attached(), target);
    let judged = tables::judge(subject.local.workload, &emit::question(&subject));
    if judged.decision.quiet && judged.decision.verdict.passes() && subject.protocol == Protocol::TCP {
        // Nothing would follow that an attempt could name.
        return ALLOW;
    }
    // What only a record needs is asked for when there will be one: each of these is a call into the kernel.
    let caller = if judged.decision.quiet { Caller::NONE } else { Caller::current() };
    subject.cookie = bytes::cookie(ctx);
    if !judged.decision.verdict.passes() {
        if judged.generation == 0 {
            error!(ctx, "no generation is in force: every opening is refused");
        }
        emit::verdict(&subject, &judged, &caller);
        return DENY;
    }
    if subject.protocol == Protocol::TCP {
        emit::note(Kind::Attempt, &subject, caller.cgroup, 0, emit::detail_of(&caller.process));
    } else {
        emit::verdict(&subject, &judged, &caller);
    }
    ALLOW
}

/// By the calling task's workload, for sockets of every cgroup of the tree. Speaks up only when it denies what the socket's
/// own program has let through.
#[inline(always)]
pub fn judge_caller(ctx: &SockAddrContext, hook: Hook, target: (Addr, Port)) -> i32 {
    // SAFETY: helper without arguments; non-zero when a program of a lower cgroup has denied already.
    if unsafe { bpf_get_retval() } != 0 || lives_in_root_cgroup() {
        return ALLOW;
    }
    let mut subject = subject(ctx, hook, who::caller(), target);
    let judged = tables::judge(subject.local.workload, &emit::question(&subject));
    if judged.decision.verdict.passes() {
        return ALLOW;
    }
    subject.cookie = bytes::cookie(ctx);
    if is_reply(ctx, hook, &subject) {
        return ALLOW;
    }
    emit::verdict(&subject, &judged, &Caller::current());
    DENY
}

/// A server's answer by `sendto()`: judged as an answer to what came in on the socket's port.
#[inline(always)]
pub fn is_reply(ctx: &SockAddrContext, hook: Hook, subject: &Subject) -> bool {
    matches!(hook, Hook::Sendmsg)
        && replies::judge_as_answer(subject, Port::new(bytes::socket_behind(ctx).local_port)).decision.verdict.passes()
}

/// The root cgroup is home to the kernel's own threads (MPTCP subflows connect from one), and to processes that belong to no
/// workload; both are judged by the socket's program alone.
#[inline(always)]
fn lives_in_root_cgroup() -> bool {
    crate::task::cgroup() <= 1
}

/// What the call is about, without the socket's cookie: most calls need none.
#[inline(always)]
pub fn subject(ctx: &SockAddrContext, hook: Hook, local: Local, target: (Addr, Port)) -> Subject {
    let protocol = bytes::protocol_of(ctx);
    Subject {
        hook,
        direction: Direction::Egress,
        local,
        local_addr: Addr::UNSPECIFIED,
        remote_addr: target.0,
        local_port: Port([0; 2]),
        // A ping socket's port means nothing; what it sends is judged by its type once more at egress.
        remote_port: icmp::echo_request(protocol).map_or(target.1, Port::new),
        protocol,
        cookie: 0,
        tcp_flags: 0,
        ifindex: 0,
    }
}
