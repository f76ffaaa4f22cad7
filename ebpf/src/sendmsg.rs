//! Lives: kernel, `sendmsg4` and `sendmsg6` of each workload's cgroup, and of the root of the managed tree.
//! Called by: the kernel, in the task that sends a datagram from a socket that is not connected to that peer.
//! May touch: the address asked for; nothing is rewritten.
//! Never: has the last word; `egress` judges every datagram again, whichever way it was sent, and counts it.
//!
//! `alone_sendmsg` stands where no program judges packets: there it counts what it lets through, and notes whom to take answers from.
//!
//! Why at all, when egress judges: the application gets EPERM at once, and here the task is known.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use weir_common::{
    addr::{Addr, Port},
    event::Kind,
    verdict::{Hook, Reason},
};

use crate::{
    bytes,
    connect::{self, ALLOW, DENY},
    emit::{self, Caller, Subject},
    recent,
    replies::{self, Asked},
    tables,
    task::Task,
    who,
};

#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    judge(&ctx, bytes::target_v4(&ctx))
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    judge(&ctx, bytes::target_v6(&ctx))
}

#[cgroup_sock_addr(sendmsg4)]
pub fn root_sendmsg4(ctx: SockAddrContext) -> i32 {
    connect::judge_caller(&ctx, Hook::Sendmsg, bytes::target_v4(&ctx))
}

#[cgroup_sock_addr(sendmsg6)]
pub fn root_sendmsg6(ctx: SockAddrContext) -> i32 {
    connect::judge_caller(&ctx, Hook::Sendmsg, bytes::target_v6(&ctx))
}

#[cgroup_sock_addr(sendmsg4)]
pub fn alone_sendmsg4(ctx: SockAddrContext) -> i32 {
    judge_alone(&ctx, bytes::target_v4(&ctx))
}

#[cgroup_sock_addr(sendmsg6)]
pub fn alone_sendmsg6(ctx: SockAddrContext) -> i32 {
    judge_alone(&ctx, bytes::target_v6(&ctx))
}

#[inline(always)]
fn judge_alone(ctx: &SockAddrContext, target: (Addr, Port)) -> i32 {
    let subject = connect::subject(ctx, Hook::Sendmsg, who::attached(), target);
    let local_port = subject.local_port;
    let workload = subject.local.workload;
    let mut judged = tables::judge(workload, &emit::question(&subject));
    if judged.decision.verdict.passes() {
        let socket = replies::by_port(local_port);
        replies::expect(Asked::ByUs, workload, socket, &subject.remote_addr, subject.remote_port);
    } else {
        if who::is_untold(&subject.local) {
            return ALLOW;
        }
        let answer = replies::judge_as_answer(&subject, local_port);
        if !answer.decision.verdict.passes() {
            // Here, because `emit::refused` keeps the caller in a frame more, for which Linux 6.1 has no room.
            emit::verdict(&subject, &judged, &Caller::current());
            return DENY;
        }
        judged = answer;
        judged.decision.reason = Reason::Reply;
        replies::note_answered(&subject, local_port);
    }
    if !judged.decision.quiet && replies::first_of_socket(workload, subject.cookie) {
        let caller = Caller::current();
        emit::named(Kind::Attempt, &subject, &caller);
    }
    let _ = emit::merged(&subject, &judged, 0);
    ALLOW
}

#[inline(always)]
fn judge(ctx: &SockAddrContext, target: (Addr, Port)) -> i32 {
    let subject = connect::subject(ctx, Hook::Sendmsg, who::attached(), target);
    let judged = tables::judge(subject.local.workload, &emit::question(&subject));
    if judged.decision.verdict.passes() || connect::is_reply(Hook::Sendmsg, &subject) {
        let caller = Task::current().cgroup();
        let foreign = connect::is_foreign(&subject.local, caller);
        recent::vouch(ctx, !foreign);
        // Once for each caller of the socket.
        let foreign = foreign && replies::first_of_socket(subject.local.workload, subject.cookie ^ caller << 16);
        // Quiet first: a later datagram of the socket may make a record, and is then the first that needs a name.
        let first = !judged.decision.quiet && replies::first_of_socket(subject.local.workload, subject.cookie);
        if foreign {
            connect::note_foreign(&subject, &judged);
        }
        if first {
            note_sender(&subject);
        }
        // Behind a service's address `egress` may see the datagram translated already, and the answer comes from this address.
        if judged.decision.translated {
            let Subject { local, cookie, remote_addr, remote_port, .. } = &subject;
            replies::expect(Asked::ByUs, local.workload, *cookie, remote_addr, *remote_port);
        }
        return ALLOW;
    }
    if who::is_untold(&subject.local) {
        return ALLOW;
    }
    emit::refused(&subject, &judged);
    DENY
}

/// Says who is the first to send from a socket. A function of its own in the object, for the sake of the stack.
#[inline(never)]
fn note_sender(subject: &Subject) {
    emit::named(Kind::Attempt, subject, &Caller::current());
}
