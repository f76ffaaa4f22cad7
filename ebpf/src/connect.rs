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
    decide::Decision,
    event::{Kind, Local},
    icmp,
    maps::AGENT,
    verdict::{Direction, Hook, Reason, Verdict},
};

use crate::{
    bytes,
    emit::{self, Caller, Subject},
    recent, replies,
    tables::{self, Judged},
    task::{self, Task},
    who,
};

/// `return 1`: the call goes on.
pub const ALLOW: i32 = 1;
/// `return 0`: the call fails with EPERM.
pub const DENY: i32 = 0;
/// The id of the tree's root (and 0, which names none).
const ROOT_CGROUP: u64 = 1;

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
    // What only a record needs is asked for when there will be one: each of these is a call into the kernel.
    let mut subject = subject_of(ctx, hook, who::attached(), target, 0);
    let mut judged = Judged::NO_TABLES;
    tables::judge_at_once(subject.local.workload, &emit::question(&subject), &mut judged);
    let passes = judged.decision.verdict.passes();
    let task = Task::current();
    let foreign = is_foreign(&subject.local, task.cgroup());
    recent::vouch(ctx, passes && !foreign);
    if passes && !foreign {
        let tcp = subject.protocol == Protocol::TCP;
        // TCP is counted when the SYN leaves, and recorded then; nothing follows a quiet decision that an attempt could name.
        if tcp && (judged.decision.quiet || task::known()) {
            return ALLOW;
        }
        if judged.decision.quiet {
            emit::counted_only(&subject, &judged.decision);
            return ALLOW;
        }
    }
    subject.cookie = bytes::cookie(ctx);
    let caller = Caller::of(task);
    if !passes {
        if who::is_untold(&subject.local) {
            return ALLOW;
        }
        if judged.generation == 0 {
            error!(ctx, "no generation is in force: every opening is refused");
        }
        emit::verdict(&subject, &judged, &caller);
        return DENY;
    }
    if foreign {
        note_foreign(&subject, &judged);
    }
    if subject.protocol != Protocol::TCP {
        emit::verdict(&subject, &judged, &caller);
    } else if !task::known() {
        emit::named(Kind::Attempt, &subject, &caller);
    }
    ALLOW
}

/// By the calling task's workload, for sockets of every cgroup of the tree; where that is the socket's own, its program has said
/// all there is to say. Speaks up only when it denies what the socket's own program has let through.
#[inline(always)]
pub fn judge_caller(ctx: &SockAddrContext, hook: Hook, target: (Addr, Port)) -> i32 {
    if recent::vouched(ctx) {
        return ALLOW;
    }
    // SAFETY: helper without arguments; non-zero when a program of a lower cgroup has denied already.
    if unsafe { bpf_get_retval() } != 0 || lives_in_root_cgroup() {
        return ALLOW;
    }
    let caller = who::caller();
    if caller.workload == AGENT {
        return ALLOW;
    }
    let subject = subject(ctx, hook, caller, target);
    let mut judged = tables::judge(subject.local.workload, &emit::question(&subject));
    if judged.decision.verdict.passes() || is_reply(hook, &subject) {
        return ALLOW;
    }
    // A socket of its own workload would have been refused before.
    if subject.local.workload != who::UNKNOWN.workload {
        judged.decision.reason = Reason::CallerMismatch;
    }
    emit::refused(&subject, &judged);
    DENY
}

/// Whether the caller may live elsewhere than in the cgroup of the socket it uses. Cheap, and mostly the last word: most callers
/// live in the very cgroup that the workload names.
#[inline(always)]
pub const fn is_foreign(local: &Local, caller: u64) -> bool {
    caller as u32 != local.cgroup && caller > ROOT_CGROUP
}

/// Tells of a call that uses another workload's socket, if the caller's policy allows it too: else the root's program refuses it,
/// and tells. One that was moved, or was handed the socket; a nested cgroup is the workload's own.
#[inline(never)]
pub fn note_foreign(subject: &Subject, judged: &Judged) {
    let workload = who::caller().workload;
    if workload == subject.local.workload {
        return;
    }
    if tables::judge(workload, &emit::question(subject)).decision.verdict.passes() {
        let (verdict, reason) = (Verdict::Allow, Reason::CallerMismatch);
        let decision = Decision { verdict, reason, ..judged.decision };
        emit::verdict(subject, &Judged { decision, ..*judged }, &Caller::current());
    }
}

/// A server's answer by `sendto()`: judged as an answer to what came in on the socket's port.
#[inline(always)]
pub fn is_reply(hook: Hook, subject: &Subject) -> bool {
    matches!(hook, Hook::Sendmsg) && replies::judge_as_answer(subject, subject.local_port).decision.verdict.passes()
}

/// The root cgroup is home to the kernel's own threads (MPTCP subflows connect from one), and to processes that belong to no
/// workload; both are judged by the socket's program alone.
#[inline(always)]
fn lives_in_root_cgroup() -> bool {
    Task::current().cgroup() <= ROOT_CGROUP
}

/// What the call is about.
#[inline(always)]
pub fn subject(ctx: &SockAddrContext, hook: Hook, local: Local, target: (Addr, Port)) -> Subject {
    subject_of(ctx, hook, local, target, bytes::cookie(ctx))
}

/// The same of a socket whose cookie is known.
#[inline(always)]
fn subject_of(ctx: &SockAddrContext, hook: Hook, local: Local, target: (Addr, Port), cookie: u64) -> Subject {
    let protocol = bytes::protocol_of(ctx);
    Subject {
        hook,
        direction: Direction::Egress,
        local,
        local_addr: Addr::UNSPECIFIED,
        remote_addr: target.0,
        // Of a datagram, by which it may be an answer; who connects has mostly none yet.
        local_port: match hook {
            Hook::Sendmsg => Port::new(bytes::socket_behind(ctx).local_port),
            _ => Port([0; 2]),
        },
        // A ping socket's port means nothing; what it sends is judged by its type once more at egress.
        remote_port: icmp::echo_request(protocol).map_or(target.1, Port::new),
        protocol,
        cookie,
        tcp_flags: 0,
        ifindex: 0,
    }
}
