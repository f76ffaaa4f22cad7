//! Lives: kernel, `sk_lookup` of the network namespaces that one workload has to itself.
//! Called by: the kernel, for a TCP segment that no connection takes and a UDP datagram that no connected socket takes, before it
//!   looks for who listens.
//! May touch: both ends' addresses and ports; the reply table.
//! Never: picks a socket; sees what belongs to a connection, multicast, broadcast, or a protocol beside TCP and UDP.
//!
//! Why here: it is the only place from which the kernel answers a denial. What is dropped here looks to the caller as if nobody
//! listened: a reset, or an ICMP port unreachable. No socket and no cgroup is known yet, so the workload is known by the address
//! that is called. `look_up` stands beside `ingress` and takes only what a rule refuses; `alone_look_up` stands in its place.

use aya_ebpf::{macros::sk_lookup, programs::SkLookupContext};
use weir_common::{
    addr::Protocol,
    decide::{Decision, Query},
    event::{Local, NATIVE},
    image::FLAG_REFUSE,
    maps::MAX_WORKLOADS,
    verdict::{Direction, Hook, Reason, Verdict},
};

use crate::{
    bytes,
    emit::{self, Caller, Subject},
    kernel_drops,
    replies::{self, Asked},
    tables::{self, Judged},
};

/// The kernel answers as if nobody listened.
const SK_DROP: u32 = 0;
/// The kernel looks for a socket as ever.
const SK_PASS: u32 = 1;

/// What becomes of an opening.
enum Outcome {
    /// Not for this hook to judge: nothing is counted.
    Left,
    /// Judged and let through; counted.
    Admitted,
    /// Judged and refused; counted.
    Refused,
}

/// Beside `ingress`, which judges whatever passes here.
#[sk_lookup]
pub fn look_up(ctx: SkLookupContext) -> u32 {
    action(&try_refuse(&ctx))
}

/// In place of `ingress`.
#[sk_lookup]
pub fn alone_look_up(ctx: SkLookupContext) -> u32 {
    action(&try_alone(&ctx))
}

#[inline(always)]
const fn action(outcome: &Outcome) -> u32 {
    match outcome {
        Outcome::Left | Outcome::Admitted => SK_PASS,
        Outcome::Refused => SK_DROP,
    }
}

#[inline(always)]
fn try_refuse(ctx: &SkLookupContext) -> Outcome {
    if tables::flags() & FLAG_REFUSE == 0 {
        return Outcome::Left;
    }
    let subject = subject(ctx);
    if subject.local.workload == 0 {
        return Outcome::Left;
    }
    let judged = tables::judge(subject.local.workload, &emit::question(&subject));
    if judged.decision.verdict.passes() || !judged.decision.refuse || is_asked(&subject) {
        return Outcome::Left;
    }
    refused(&subject, &judged)
}

/// Counts a refusal. The kernel drops the packet for want of a socket.
#[inline(always)]
fn refused(subject: &Subject, judged: &Judged) -> Outcome {
    let _ = emit::merged(subject, judged, 0);
    kernel_drops::looked_up(subject);
    Outcome::Refused
}

#[inline(always)]
fn try_alone(ctx: &SkLookupContext) -> Outcome {
    let subject = subject(ctx);
    if subject.local.workload == 0 {
        return nobodys(&subject);
    }
    let mut judged = tables::judge(subject.local.workload, &emit::question(&subject));
    let mut passes = judged.decision.verdict.passes();
    if passes && subject.protocol == Protocol::TCP {
        emit::verdict(&subject, &judged, &Caller::NONE);
        return Outcome::Admitted;
    }
    if passes {
        replies::note_asked(&subject, replies::by_port(subject.local_port));
    }
    if !passes && is_asked(&subject) {
        let asked =
            Query { direction: Direction::Egress, port: subject.remote_port.number(), ..emit::question(&subject) };
        let answer = tables::judge(subject.local.workload, &asked);
        if answer.decision.verdict.passes() {
            judged = answer;
            judged.decision.reason = Reason::Reply;
            passes = true;
        }
    }
    if !passes {
        return refused(&subject, &judged);
    }
    let _ = emit::merged(&subject, &judged, 0);
    Outcome::Admitted
}

/// An address in the workload's namespace that no workload declares. Loopback: its own processes call each other, and `connect`
/// has judged them. Else nobody knows by whose policy to judge, and nothing after this hook would.
#[inline(always)]
fn nobodys(subject: &Subject) -> Outcome {
    if subject.local_addr.is_loopback() {
        return Outcome::Left;
    }
    let decision = Decision::plain(Verdict::Deny, Reason::UnknownWorkload, 0);
    let _ = emit::merged(subject, &Judged { decision, generation: tables::generation(), local_identity: 0 }, 0);
    Outcome::Refused
}

/// Whether the datagram comes from where a socket on its port has asked.
#[inline(always)]
fn is_asked(subject: &Subject) -> bool {
    subject.protocol == Protocol::UDP
        && replies::expected(
            Asked::ByUs,
            subject.local.workload,
            replies::by_port(subject.local_port),
            &subject.remote_addr,
            subject.remote_port,
        )
}

#[inline(always)]
fn subject(ctx: &SkLookupContext) -> Subject {
    let (protocol, local_addr, local_port, remote_addr, remote_port) = bytes::looked_up(ctx.lookup);
    // Addresses that several have, and those of services, are nobody's own.
    let owner = tables::owner(&local_addr) & !NATIVE;
    let workload = if owner < MAX_WORKLOADS { owner } else { 0 };
    Subject {
        hook: Hook::SkLookup,
        direction: Direction::Ingress,
        local: Local::of(workload, 0),
        local_addr,
        remote_addr,
        local_port,
        remote_port,
        protocol,
        cookie: 0,
        tcp_flags: 0,
        ifindex: 0,
    }
}
