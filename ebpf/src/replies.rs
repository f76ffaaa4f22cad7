//! Lives: kernel.
//! Called by: egress when a socket sends that takes answers from anybody, ingress when something arrives, each to know answers by;
//! the programs on a workload's interface, for answers and for fragments.
//! May touch: the reply table.
//! Never: lets one workload push out another's entries; each owns its buckets. Within its own, the oldest of four goes, and what
//! nobody waits for counts as old from the start: else who asks much would push out those whose answers are under way.

use weir_common::{
    addr::{Addr, Port, Protocol},
    decide::Query,
    event::Reply,
    hash,
    maps::{MAX_WORKLOADS, REPLY_BUCKETS, REPLY_TTL_NS},
    packet::Packet,
    verdict::{Direction, Reason, Verdict},
};

use crate::{
    bucket,
    emit::{self, Subject},
    maps, settings,
    tables::{self, Judged},
};

/// What an entry remembers: in the low bits of its tag, so that none is taken for one of another kind. Never 0, which is free.
#[derive(Clone, Copy)]
pub enum Asked {
    /// The socket sent one, so an answer may come in.
    ByUs = 1,
    /// The peer sent one that was let in, so an answer may go out.
    ByPeer = 2,
    /// The same, seen on the workload's interface, where sockets are not known.
    OnWire = 3,
    /// The first fragment of a packet that left by the interface.
    FragmentOut = 4,
    /// The first fragment of a packet that came by the interface.
    FragmentIn = 5,
}

/// Bits of a tag that say which kind it is.
const KIND_BITS: u32 = 3;

/// Remembers that a datagram went between `cookie`'s socket and this peer, so that the answer may pass.
#[inline(always)]
pub fn expect(asked: Asked, workload: u32, cookie: u64, peer: &Addr, port: Port) {
    weir_remember(workload, tag(asked, cookie, peer, port), 0);
}

/// How old an entry counts as that nobody waits for any more: good for as long again, and the first to make room.
const SETTLED_NS: u64 = REPLY_TTL_NS / 2;

/// What was asked has been answered. More may follow, but room is taken from here before it is taken from who still waits.
#[inline(always)]
pub fn settle(asked: Asked, workload: u32, cookie: u64, peer: &Addr, port: Port) {
    let tag = tag(asked, cookie, peer, port);
    if weir_recall(workload, tag) != 0 {
        weir_remember(workload, tag, SETTLED_NS);
    }
}

/// Whether there was one within [`REPLY_TTL_NS`].
#[inline(always)]
pub fn expected(asked: Asked, workload: u32, cookie: u64, peer: &Addr, port: Port) -> bool {
    weir_recall(workload, tag(asked, cookie, peer, port)) != 0
}

/// What stands for a socket where none is known: its port. No cookie is as large.
#[inline(always)]
pub fn by_port(local: Port) -> u64 {
    1 << 63 | u64::from(local.number())
}

/// Judges a datagram to `subject.remote` from `local_port` as an answer: by what lets the peer ask, reversed (DESIGN.md D5), and
/// only if it did ask this socket. A rule that lets a peer ask on every port would else let every socket ask it.
#[inline(always)]
pub fn judge_as_answer(subject: &Subject, local_port: Port) -> Judged {
    let mut judged = Judged::NO_TABLES;
    judge_again_as_answer(subject, local_port, &mut judged);
    judged
}

/// The same in place of another decision.
#[inline(always)]
pub fn judge_again_as_answer(subject: &Subject, local_port: Port, judged: &mut Judged) {
    let asked = Query { direction: Direction::Ingress, port: local_port.number(), ..emit::question(subject) };
    tables::judge_again(subject.local.workload, &asked, judged);
    // What has no ports is matched to its socket by the kernel.
    let by_rule = subject.protocol != Protocol::UDP && judged.decision.reason as u8 == Reason::Rule as u8;
    if !by_rule && !has_asked(subject, subject.cookie) && !has_asked(subject, by_port(local_port)) {
        judged.decision.verdict = Verdict::Deny;
    }
}

/// Whether the peer has asked: noted by the socket, or where `sk_lookup` judges alone by its port.
#[inline(always)]
fn has_asked(subject: &Subject, socket: u64) -> bool {
    expected(Asked::ByPeer, subject.local.workload, socket, &subject.remote_addr, subject.remote_port)
}

/// Remembers a peer that was let in. Always: whether its answer could leave by an egress rule as well may be another question by the
/// time it leaves, when a new generation is in force.
#[inline(always)]
pub fn note_asked(subject: &Subject, socket: u64) {
    expect(Asked::ByPeer, subject.local.workload, socket, &subject.remote_addr, subject.remote_port);
}

/// An answer has left. Not before it leaves: the next question would take the room of an answer that is on its way from `sendmsg` to
/// `egress`.
#[inline(always)]
pub fn note_answered(subject: &Subject, local_port: Port) {
    for socket in [subject.cookie, by_port(local_port)] {
        settle(Asked::ByPeer, subject.local.workload, socket, &subject.remote_addr, subject.remote_port);
    }
}

/// Whether this is the first datagram of a socket (of late): its task is then reported once.
#[inline(always)]
pub fn first_of_socket(workload: u32, cookie: u64) -> bool {
    let tag = tag(Asked::ByUs, cookie, &Addr::UNSPECIFIED, Port([0; 2]));
    let known = weir_recall(workload, tag) != 0;
    if !known {
        weir_remember(workload, tag, SETTLED_NS);
    }
    !known
}

/// What tells an answer to one question from that to another: the peer's port, an ICMP message's identifier.
#[inline(always)]
pub const fn thread_of(packet: &Packet, peer_port: Port) -> Port {
    match packet.protocol {
        Protocol::ICMP | Protocol::ICMPV6 => Port::new(packet.ident as u16),
        _ => peer_port,
    }
}

#[inline(always)]
fn tag(asked: Asked, cookie: u64, peer: &Addr, port: Port) -> u64 {
    let (high, low) = peer.halves();
    let socket = cookie ^ u64::from(port.number()) << 48;
    hash::keyed(settings::secret(), socket, high, low) >> KIND_BITS << KIND_BITS | asked as u64
}

/// The bucket of `tag` among the workload's own.
#[inline(always)]
fn bucket(workload: u32, tag: u64) -> Option<*mut Reply> {
    let index = (workload & (MAX_WORKLOADS - 1)) * REPLY_BUCKETS + ((tag >> KIND_BITS) as u32 & (REPLY_BUCKETS - 1));
    Some(maps::REPLIES.get_ptr_mut(index)?.cast::<Reply>())
}

/// 1 if there is a fresh entry. Global functions, both: the verifier checks them once (see `bytes`).
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn weir_recall(workload: u32, tag: u64) -> u32 {
    let Some(entries) = bucket(workload, tag) else { return 0 };
    // SAFETY: a bucket of this run.
    u32::from(unsafe { bucket::find(entries, tag, 0, emit::now(), REPLY_TTL_NS) } != 0)
}

/// Makes an entry that is `age_ns` old already, or makes an old one so. The answer means nothing: the verifier wants one.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn weir_remember(workload: u32, tag: u64, age_ns: u64) -> u32 {
    let Some(entries) = bucket(workload, tag) else { return 0 };
    // SAFETY: as above.
    unsafe { bucket::put(entries, tag, 0, emit::now().wrapping_sub(age_ns)) };
    1
}
