//! Lives: weir-agent, telemetry.
//! Called by: `join`, which keeps openings and turns events into records.
//! May touch: nothing but its arguments.
//! Never: remembers anything.

use std::sync::Arc;

use weir_common::{
    addr::{Addr, Port, Protocol},
    event::{Event, Kind, MergeKey, MergeValue, Process},
    image::Cell,
    verdict::{Direction, Hook, Reason, Refusal, Verdict},
};

use crate::revoke::view::Standing;

use super::{
    names::Snapshot,
    record::{About, End, ProcessInfo, Record, Staged, Traffic},
};

/// Who called.
#[derive(Clone, Default)]
pub struct Caller {
    pub process: Option<Arc<ProcessInfo>>,
    pub cgroup: Option<Arc<str>>,
}

/// A connection this side opens: who called, and the decision that let it open, if one did.
pub enum Flow {
    Attempt(Caller),
    Opened(Opened),
}

impl Flow {
    pub fn caller(&self) -> Caller {
        match self {
            Self::Attempt(caller) => caller.clone(),
            Self::Opened(Opened { about, .. }) => {
                Caller { process: about.process.clone(), cgroup: about.cgroup.clone() }
            }
        }
    }

    pub const fn opened(&self) -> Option<&Opened> {
        match self {
            Self::Attempt(_) => None,
            Self::Opened(opened) => Some(opened),
        }
    }
}

/// The decision that let a connection open: when, and what its record was about.
#[derive(Clone)]
pub struct Opened {
    pub time_ns: u64,
    pub about: Arc<About>,
}

/// A connection by its ends. The workload is part of it: two network namespaces may use the same addresses.
pub type Tuple = (u32, Addr, Port, Addr, Port);

/// A socket by what a hook knows that sees none: workload, protocol, port.
pub type Listener = (u32, u8, Port);

/// Who an event is about, without its socket.
pub const fn listener(event: &Event) -> Listener {
    (event.workload, event.protocol, event.local_port)
}

/// Decisions that found the merge table full: counted, their ends not known.
pub fn overflowed(hook: Hook, verdict: Verdict, reason: Reason, count: u64, first_ns: u64, last_ns: u64) -> Record {
    let about = About { verdict: Some(verdict), reason: Some(reason), hook: Some(hook), ..About::default() };
    Record { time_ns: first_ns, end_ns: last_ns, count, ..Record::of(Arc::new(about)) }
}

/// A record of an event: its ports, its socket and what it is about.
pub fn of_event(event: &Event, about: Arc<About>) -> Record {
    let mut record = Record::of(about);
    let Event { local_port, remote_port, protocol, hook, .. } = *event;
    (record.local_port, record.remote_port) = (local_port.number(), remote_port.number());
    record.icmp_type = take_icmp_type(protocol, hook, &mut record.local_port, &mut record.remote_port);
    record.cookie = event.cookie;
    record
}

/// What a decision is about, by an event that tells of it.
pub fn of_decision(event: &Event, what: (Hook, Verdict, Reason), caller: Caller, names: &Snapshot) -> About {
    let (hook, verdict, reason) = what;
    let ends = of_ends(event, names);
    About {
        verdict: Some(verdict),
        reason: Some(reason),
        hook: Some(hook),
        direction: Direction::from_u8(event.direction),
        rule: names.rule(event.generation, event.rule).filter(|_| hook != Hook::Kernel),
        refusal: refusal(verdict, hook, event.protocol),
        staged: staged(event.process().staged, event.generation, names),
        process: caller.process,
        cgroup: caller.cgroup.or(ends.cgroup),
        interface: names.interface(event.ifindex),
        ..ends
    }
}

/// What a connection is about that no event told of: by whom and when it was opened is not known, and it is told by what judges it now.
pub fn of_older(event: &Event, standing: &Standing, names: &Snapshot) -> About {
    let Standing { identity, decision, generation, .. } = *standing;
    let remote_identity = decision.remote_identity;
    let event = Event { local_identity: identity, remote_identity, generation, ..*event };
    About {
        verdict: Some(decision.verdict),
        reason: Some(decision.reason),
        rule: names.rule(generation, decision.rule),
        ..of_ends(&event, names)
    }
}

/// How a denial reached the one that opened.
fn refusal(verdict: Verdict, hook: Hook, protocol: u8) -> Option<Refusal> {
    // What the kernel answers to what it drops by itself is its own affair: some of that it does answer.
    (!verdict.passes() && hook != Hook::Kernel).then(|| hook.refusal(Protocol(protocol)))
}

/// What a cell says that staged policies would have decided.
fn staged(cell: u32, generation: u64, names: &Snapshot) -> Option<Staged> {
    let cell = Cell(cell);
    cell.verdict().map(|verdict| Staged { verdict, rule: names.rule(generation, cell.rule()) })
}

/// The two ends of an event, and the generation that judged them.
pub fn of_ends(event: &Event, names: &Snapshot) -> About {
    let local = local_end(event, names);
    About {
        cgroup: local.workload.as_ref().and_then(|workload| workload.cgroup.clone()),
        local,
        remote: remote_end(event, names),
        protocol: event.protocol,
        generation: event.generation,
        ..About::default()
    }
}

/// The end on this node: its workload by its number. By its address only where the hook knows no socket (XDP); a socket that no
/// workload owns stays nobody's, whatever address it uses.
fn local_end(event: &Event, names: &Snapshot) -> End {
    let Event { generation, workload, local_identity, local, .. } = *event;
    let at_interface = event.hook == Hook::Xdp as u8;
    let workload =
        names.by_number(generation, workload).or_else(|| at_interface.then(|| names.by_addr(generation, &local))?);
    End { workload, service: None, identity: local_identity, addr: local }
}

/// The other end, its workload or service by its address.
fn remote_end(event: &Event, names: &Snapshot) -> End {
    let (generation, addr) = (event.generation, event.remote);
    let (workload, service) = (names.by_addr(generation, &addr), names.service(generation, &addr));
    End { workload, service, identity: event.remote_identity, addr }
}

/// The type of an ICMP message. The kernel side keeps it in the port of the end that was called, whose port it then is not; a
/// refused socket has sent no message.
fn take_icmp_type(protocol: u8, hook: u8, local_port: &mut u16, remote_port: &mut u16) -> Option<u8> {
    let has_types = matches!(Protocol(protocol), Protocol::ICMP | Protocol::ICMPV6);
    if !has_types || hook == Hook::SockCreate as u8 {
        return None;
    }
    let carried = std::mem::take(local_port) | std::mem::take(remote_port);
    u8::try_from(carried).ok()
}

pub fn tuple(event: &Event) -> Tuple {
    (event.workload, event.local, event.local_port, event.remote, event.remote_port)
}

/// Equal decisions that the kernel counted together, as the event that each of them might have been.
pub fn of_merged(key: &MergeKey, value: &MergeValue) -> Event {
    let last_port = Port::new(u16::try_from(value.last_port).unwrap_or(0));
    let process = Process { staged: key.staged, ..Process::default() };
    Event {
        detail: zerocopy::transmute!(process),
        time_ns: value.first_ns,
        generation: key.generation,
        cookie: value.cookie,
        cgroup: 0,
        local: key.local,
        remote: key.remote,
        rule: key.rule,
        local_identity: key.local_identity,
        remote_identity: key.remote_identity,
        workload: key.workload,
        local_port: key.local_port,
        remote_port: if key.remote_port == Port::default() { last_port } else { key.remote_port },
        kind: Kind::Verdict as u8,
        hook: key.hook,
        direction: key.direction,
        verdict: key.verdict,
        reason: key.reason,
        protocol: key.protocol,
        tcp_flags: 0,
        old_state: 0,
        ifindex: key.ifindex,
    }
}

/// Merged decisions are about packets: those at egress were on their way out, all others on their way in.
pub fn carried(hook: Hook, value: &MergeValue) -> Traffic {
    if hook == Hook::Egress {
        Traffic { bytes_sent: value.bytes, packets_sent: value.count, ..Traffic::default() }
    } else {
        Traffic { bytes_received: value.bytes, packets_received: value.count, ..Traffic::default() }
    }
}
