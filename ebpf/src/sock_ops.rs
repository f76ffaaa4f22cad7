//! Lives: kernel, `sock_ops` of each workload's cgroup.
//! Called by: the kernel, when a TCP socket is about to connect, was accepted, changes state.
//! May touch: the socket's addresses, counters, callback flags; two socket options of a socket it denies.
//! Never: reads the calling task but where it connects; state changes run in whatever task softirq interrupted.
//!
//! Why here beside connect: between the verdict in `connect()` and the SYN a thread can sleep while the policy changes, and the
//! addresses are final only now (DESIGN.md D5). There is no way to fail the call from here, so a denied socket's SYN is dropped
//! at egress and its user timeout set to a millisecond: `connect()` fails at the first retransmission instead of after minutes.

use aya_ebpf::{bindings::bpf_sock_ops, helpers::bpf_setsockopt, macros::sock_ops, programs::SockOpsContext};
use weir_common::{
    addr::Protocol,
    event::Totals,
    image::FLAG_QUIET,
    packet::tcp,
    verdict::{Direction, Hook},
};

use crate::{
    bytes,
    emit::{self, Caller, Subject},
    maps,
    tables::{self, Judged},
    task::{self, Task},
    who,
};

// include/uapi/linux/bpf.h
const TCP_CONNECT_CB: u32 = 3;
const PASSIVE_ESTABLISHED_CB: u32 = 5;
const STATE_CB: u32 = 10;
/// Asks to hear of changes of state.
pub const STATE_CB_FLAG: i32 = 1 << 2;
/// Asked for on accepted sockets only: a rare callback we ignore, whose flag remembers who opened the connection until it
/// closes, without a map entry per connection.
const RTO_CB_FLAG: i32 = 1 << 0;
const TCP_CLOSE: u32 = 7;
const SOL_TCP: i32 = 6;
const TCP_USER_TIMEOUT: i32 = 18;

#[sock_ops]
pub fn sock_ops(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        TCP_CONNECT_CB => connecting(&ctx),
        PASSIVE_ESTABLISHED_CB => accepted(&ctx),
        STATE_CB => changed(&ctx),
        // Never an operation; a reference is what keeps the agent's two grace-period maps in the object.
        u32::MAX => {
            let _ = (maps::GRACE.get(0), maps::GRACE_EVENTS.get(0));
        }
        _ => {}
    }
    1
}

/// The SYN is about to leave: the verdict that counts.
#[inline(always)]
fn connecting(ctx: &SockOpsContext) {
    let subject = subject(ctx, Direction::Egress);
    let mut judged = Judged::NO_TABLES;
    tables::judge_at_once(subject.local.workload, &emit::question(&subject), &mut judged);
    // Others let it pass; of its end it can be told.
    if who::is_untold(&subject.local) && !judged.decision.verdict.passes() {
        let _ = ctx.set_cb_flags(STATE_CB_FLAG);
        return;
    }
    // The task that calls `connect()`, or sends the first bytes where they make the SYN leave. Where it cannot be read, `connect`
    // has told of it.
    let named = task::known() && !judged.decision.quiet;
    let caller = if named { Caller::of(Task::current()) } else { Caller::NONE };
    emit::verdict(&Subject { tcp_flags: tcp::SYN, ..subject }, &judged, &caller);
    if judged.decision.verdict.passes() {
        if !judged.decision.quiet {
            let _ = ctx.set_cb_flags(STATE_CB_FLAG);
        }
    } else {
        let mut milliseconds = 1u32;
        // SAFETY: the option's value lives on this stack for the call.
        unsafe { bpf_setsockopt(ctx.ops.cast(), SOL_TCP, TCP_USER_TIMEOUT, (&raw mut milliseconds).cast(), 4) };
    }
}

/// A handshake the listener's verdict allowed is complete: ask to hear when it ends, unless that verdict made no record. The
/// verdict is looked up again, where there are quiet ones: nothing was kept of the SYN.
#[inline(always)]
fn accepted(ctx: &SockOpsContext) {
    if tables::flags() & FLAG_QUIET != 0 {
        let subject = subject(ctx, Direction::Ingress);
        if tables::judge(subject.local.workload, &emit::question(&subject)).decision.quiet {
            return;
        }
    }
    let _ = ctx.set_cb_flags(STATE_CB_FLAG | RTO_CB_FLAG);
}

/// A connection ended, in whatever way: hand over the kernel's own counters.
#[inline(always)]
fn changed(ctx: &SockOpsContext) {
    if ctx.arg(1) != TCP_CLOSE {
        return;
    }
    let passive = ctx.cb_flags() & RTO_CB_FLAG as u32 != 0;
    let subject = subject(ctx, if passive { Direction::Ingress } else { Direction::Egress });
    emit::closed(&subject, ctx.arg(0) as u8, totals(ctx.ops));
}

#[inline(always)]
fn totals(ops: *const bpf_sock_ops) -> Totals {
    // SAFETY: loads of context fields at their own size. `srtt_us` is kept times eight by the kernel.
    unsafe {
        Totals {
            bytes_acked: (&raw const (*ops).bytes_acked).read_volatile(),
            bytes_received: (&raw const (*ops).bytes_received).read_volatile(),
            segments_out: (&raw const (*ops).segs_out).read_volatile(),
            segments_in: (&raw const (*ops).segs_in).read_volatile(),
            rtt_us: (&raw const (*ops).srtt_us).read_volatile() >> 3,
            retransmits: (&raw const (*ops).total_retrans).read_volatile(),
        }
    }
}

#[inline(always)]
fn subject(ctx: &SockOpsContext, direction: Direction) -> Subject {
    let (local_addr, local_port, remote_addr, remote_port) = bytes::ends(ctx.ops);
    Subject {
        hook: Hook::SockOps,
        direction,
        local: who::attached(),
        local_addr,
        remote_addr,
        local_port,
        remote_port,
        protocol: Protocol::TCP,
        cookie: bytes::cookie(ctx),
        tcp_flags: 0,
        ifindex: 0,
    }
}
