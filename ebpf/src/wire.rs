//! Lives: kernel.
//! Called by: `from_workload` and `to_workload`, the programs on a workload's interface.
//! May touch: the tables, the reply table.
//! Never: records what a socket's hook records as well: of what passes, only echo requests, which a kernel answers without one.
//!
//! There is no connection table here. What opens a connection (a SYN, a datagram, an echo request) needs the verdict of its own
//! direction; what can only belong to one (other TCP segments, answers) passes if that connection could exist: if it may be opened
//! from either side. The sockets behind know which connections do exist.

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC},
    programs::TcContext,
};
use weir_common::{
    addr::{Port, Protocol},
    decide::Query,
    event::Local,
    packet::{Packet, tcp},
    verdict::{Direction, Hook, Reason},
};

use crate::{
    emit::{self, Subject},
    maps, quotes,
    replies::{self, Asked},
    shown,
    tables::{self, Judged},
    who,
};

/// What becomes of a frame. Without payload: what was decided is reported before, on a stack that is soon free again.
pub enum Outcome {
    /// Goes on, to other programs of this interface if there are any.
    Passes,
    /// Refused, and counted together with its equals.
    Denied,
}

impl Outcome {
    /// The answer to the kernel.
    #[inline(always)]
    pub const fn action(self) -> i32 {
        match self {
            Self::Passes => TC_ACT_UNSPEC,
            Self::Denied => TC_ACT_SHOT,
        }
    }
}

/// Bytes of Ethernet before the IP header; tags beyond the first, which the kernel keeps aside, make a quote unreadable.
pub const ETHERNET: u32 = 14;
/// The most a TCP header takes.
const TCP_HEADER: u32 = 60;

/// Whose interface this is; nobody known until the agent has said so, which it does before it attaches.
#[inline(always)]
pub fn workload_of(ctx: &TcContext) -> Local {
    let interface = interface(ctx);
    // SAFETY: no program writes this map; the value is copied at once.
    unsafe { maps::INTERFACES.get(interface) }.copied().unwrap_or(who::UNKNOWN)
}

/// The interface's index.
#[inline(always)]
pub fn interface(ctx: &TcContext) -> u32 {
    // SAFETY: 4-byte load of a context field.
    unsafe { (&raw const (*ctx.skb.skb).ifindex).read_volatile() }
}

/// A packet from or to a workload as a decision is made about it.
#[inline(always)]
pub fn subject(hook: Hook, local: Local, ifindex: u32, packet: &Packet) -> Subject {
    let direction = if matches!(hook, Hook::FromWorkload) { Direction::Egress } else { Direction::Ingress };
    let (src, dst) = ((packet.src, packet.src_port), (packet.dst, packet.dst_port));
    Subject {
        tcp_flags: packet.tcp_flags,
        ifindex,
        ..Subject::of_packet(hook, direction, local, packet.protocol, src, dst)
    }
}

/// Judges a packet whose source is in order.
#[inline(always)]
pub fn judge(skb: *mut __sk_buff, subject: &Subject, packet: &mut Packet) -> Outcome {
    if packet.discovers_neighbours() || packet.reports_groups() || ends_connection(packet) {
        return Outcome::Passes;
    }
    if packet.later_fragment == 1 {
        return follows(skb, subject, packet);
    }
    let error = packet.is_error();
    let mut query = emit::question(subject);
    if error {
        // From here on `packet` is what the error quotes.
        let arriving = matches!(subject.direction, Direction::Ingress);
        let reason = quotes::question(skb, ETHERNET, arriving, packet, &mut query);
        if let Some(reason) = Reason::from_u8(reason as u8) {
            return refused(skb, subject, reason, packet);
        }
    }
    let judged = tables::judge(subject.local.workload, &query);
    let answers_only = packet.protocol == Protocol::TCP && packet.tcp_flags & OPENING == OPENING;
    if !judged.decision.verdict.passes() || answers_only {
        return answer(skb, subject, &mut query, &judged, packet, error);
    }
    if error {
        return Outcome::Passes;
    }
    asked(subject, packet, &judged);
    decided(skb, subject, &judged, packet)
}

const OPENING: u8 = tcp::SYN | tcp::ACK;

/// A reset without data: it can only end what exists, and a connection that is cut must be able to say so.
#[inline(always)]
fn ends_connection(packet: &Packet) -> bool {
    packet.protocol == Protocol::TCP
        && packet.tcp_flags & (tcp::RST | tcp::SYN) == tcp::RST
        && packet.length <= packet.header as u32 + TCP_HEADER
}

/// A packet that no rule lets be a question may be an answer. `question` becomes the one it would answer: the stack has no room for both.
#[inline(always)]
fn answer(
    skb: *mut __sk_buff,
    subject: &Subject,
    question: &mut Query,
    denied: &Judged,
    packet: &Packet,
    error: bool,
) -> Outcome {
    if is_answered_inside(subject, denied, packet, error) {
        return Outcome::Passes;
    }
    let Some(asked) = packet.answers() else { return decided(skb, subject, denied, packet) };
    if packet.opens_tcp() {
        return decided(skb, subject, denied, packet);
    }
    question.direction = emit::opposite(question.direction);
    question.port = asked.number();
    let judged = tables::judge(subject.local.workload, question);
    // A segment that can only answer is refused by what refuses the question.
    let refusal = if denied.decision.verdict.passes() { &judged } else { denied };
    if !judged.decision.verdict.passes() {
        return decided(skb, subject, refusal, packet);
    }
    if error {
        return Outcome::Passes;
    }
    if needs_question(subject, &judged) && !was_asked(subject, packet) {
        return decided(skb, subject, refusal, packet);
    }
    if packet.first_fragment == 1 {
        expect_fragments(subject, packet);
    }
    Outcome::Passes
}

/// Whether a refusal is one that the workload's kernel answers (`action: refuse`): what asks goes on to it, where a socket's hook has
/// the last word, and what it says of that comes back.
#[inline(always)]
fn is_answered_inside(subject: &Subject, denied: &Judged, packet: &Packet, error: bool) -> bool {
    let answerable = packet.protocol == Protocol::TCP || packet.protocol == Protocol::UDP;
    denied.decision.refuse && answerable && (error || matches!(subject.direction, Direction::Ingress))
}

/// Whether an answer must be to a question that was seen. What no rule names could be sent to everybody as "answers"; of datagrams that holds
/// for what rules name as well.
#[inline(always)]
fn needs_question(subject: &Subject, judged: &Judged) -> bool {
    // As at the socket (`replies::judge_as_answer`): a rule that lets a peer ask does not let the workload begin.
    let by_rule = subject.protocol != Protocol::UDP && judged.decision.reason as u8 == Reason::Rule as u8;
    matches!(subject.direction, Direction::Egress) && subject.protocol != Protocol::TCP && !by_rule
}

/// Remembers what passes for what follows: further fragments, and answers that need a question.
#[inline(always)]
fn asked(subject: &Subject, packet: &Packet, judged: &Judged) {
    if packet.first_fragment == 1 {
        expect_fragments(subject, packet);
    }
    let by_rule = packet.protocol != Protocol::UDP && judged.decision.reason as u8 == Reason::Rule as u8;
    if matches!(subject.direction, Direction::Ingress) && packet.protocol != Protocol::TCP && !by_rule {
        let (talk, port) = talk(subject, packet);
        replies::expect(Asked::OnWire, subject.local.workload, talk, &subject.remote_addr, port);
    }
}

#[inline(always)]
fn was_asked(subject: &Subject, packet: &Packet) -> bool {
    let (talk, port) = talk(subject, packet);
    replies::expected(Asked::OnWire, subject.local.workload, talk, &subject.remote_addr, port)
}

/// What question and answer have in common: both ports, or an identifier.
#[inline(always)]
fn talk(subject: &Subject, packet: &Packet) -> (u64, Port) {
    match packet.protocol {
        Protocol::ICMP | Protocol::ICMPV6 => (u64::from(packet.ident), Port([0; 2])),
        _ => (u64::from(subject.local_port.number()), subject.remote_port),
    }
}

#[inline(always)]
fn expect_fragments(subject: &Subject, packet: &Packet) {
    let (asked, of) = fragments(subject, packet);
    replies::expect(asked, subject.local.workload, of, &subject.remote_addr, Port([0; 2]));
}

/// A later fragment passes after its first, and never before it.
#[inline(always)]
fn follows(skb: *mut __sk_buff, subject: &Subject, packet: &Packet) -> Outcome {
    let (asked, of) = fragments(subject, packet);
    if replies::expected(asked, subject.local.workload, of, &subject.remote_addr, Port([0; 2])) {
        return Outcome::Passes;
    }
    refused(skb, subject, Reason::FragUnknown, packet)
}

/// What tells the fragments of one packet from those of others: of IPv6, no protocol, which later fragments may call differently.
#[inline(always)]
fn fragments(subject: &Subject, packet: &Packet) -> (Asked, u64) {
    let asked = match subject.direction {
        Direction::Egress => Asked::FragmentOut,
        Direction::Ingress => Asked::FragmentIn,
    };
    let protocol = if packet.src.as_v4().is_some() { packet.protocol.0 } else { 0 };
    (asked, u64::from(packet.ident) | u64::from(protocol) << 32)
}

/// Refuses a packet for a reason that is no policy's.
#[inline(always)]
pub fn refused(skb: *mut __sk_buff, subject: &Subject, reason: Reason, packet: &Packet) -> Outcome {
    decided(skb, subject, &Judged::refusal(reason), packet)
}

/// Reports a refusal, and an echo request that passes: of those no socket's hook would know.
#[inline(always)]
fn decided(skb: *mut __sk_buff, subject: &Subject, judged: &Judged, packet: &Packet) -> Outcome {
    let passes = judged.decision.verdict.passes();
    let told = !passes || (packet.asks_the_kernel() && matches!(subject.direction, Direction::Ingress));
    if told && emit::merged(subject, judged, packet.length) {
        shown::frame(skb, subject, judged);
    }
    if passes { Outcome::Passes } else { Outcome::Denied }
}
