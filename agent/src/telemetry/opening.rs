//! Lives: weir-agent, telemetry.
//! Called by: `join`, which keeps openings and turns events into records.
//! May touch: nothing but its arguments.
//! Never: remembers anything.

use std::sync::Arc;

use weir_common::{
    addr::{Addr, Port, Protocol},
    event::{Event, MergeValue},
    image::Cell,
    verdict::{Hook, Reason, Refusal, Verdict},
};

use crate::revoke::view::Standing;

use super::{
    names::Snapshot,
    record::{End, ProcessInfo, Record, RuleName, Staged, Traffic},
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
    pub const fn caller(&self) -> &Caller {
        match self {
            Self::Attempt(caller) | Self::Opened(Opened { caller, .. }) => caller,
        }
    }

    pub const fn opened(&self) -> Option<&Opened> {
        match self {
            Self::Attempt(_) => None,
            Self::Opened(opened) => Some(opened),
        }
    }
}

/// The decision that let a connection open.
#[derive(Clone)]
pub struct Opened {
    pub time_ns: u64,
    pub verdict: Verdict,
    pub reason: Reason,
    pub hook: Hook,
    pub rule: Option<Arc<RuleName>>,
    pub staged: Option<Staged>,
    pub generation: u64,
    pub local_identity: u32,
    pub remote_identity: u32,
    pub caller: Caller,
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
    let (verdict, reason, hook) = (Some(verdict), Some(reason), Some(hook));
    Record { time_ns: first_ns, end_ns: last_ns, verdict, reason, hook, count, ..Record::default() }
}

/// The decision that a record tells of, which let the connection of its event open.
pub fn opened(event: &Event, what: (Hook, Verdict, Reason), record: &Record, caller: Caller) -> Opened {
    let (hook, verdict, reason) = what;
    Opened {
        time_ns: event.time_ns,
        verdict,
        reason,
        hook,
        rule: record.rule.clone(),
        staged: record.staged.clone(),
        generation: event.generation,
        local_identity: event.local_identity,
        remote_identity: event.remote_identity,
        caller,
    }
}

/// A record with what the decision at the opening and the event have in common.
pub fn of_opening(event: &Event, opened: Opened, names: &Snapshot) -> Record {
    let mut record = of_ends(event, names);
    record.verdict = Some(opened.verdict);
    record.reason = Some(opened.reason);
    record.hook = Some(opened.hook);
    record.rule = opened.rule;
    record.refusal = refusal(opened.verdict, opened.hook, event.protocol);
    record.staged = opened.staged;
    record.generation = opened.generation;
    record.local.identity = opened.local_identity;
    record.remote.identity = opened.remote_identity;
    record.process = opened.caller.process;
    record.cgroup = opened.caller.cgroup.or(record.cgroup);
    record
}

/// A record of a connection that no event told of: by whom and when it was opened is not known, and it is told by what judges it now.
pub fn of_older(event: &Event, standing: &Standing, names: &Snapshot) -> Record {
    let Standing { identity, decision, generation, .. } = *standing;
    let remote_identity = decision.remote_identity;
    let event = Event { local_identity: identity, remote_identity, generation, ..*event };
    Record {
        verdict: Some(decision.verdict),
        reason: Some(decision.reason),
        rule: names.rule(generation, decision.rule),
        generation,
        ..of_ends(&event, names)
    }
}

/// How a denial reached the one that opened.
pub fn refusal(verdict: Verdict, hook: Hook, protocol: u8) -> Option<Refusal> {
    // What the kernel answers to what it drops by itself is its own affair: some of that it does answer.
    (!verdict.passes() && hook != Hook::Kernel).then(|| hook.refusal(Protocol(protocol)))
}

/// What a cell says that staged policies would have decided.
pub fn staged(cell: u32, generation: u64, names: &Snapshot) -> Option<Staged> {
    let cell = Cell(cell);
    cell.verdict().map(|verdict| Staged { verdict, rule: names.rule(generation, cell.rule()) })
}

/// A record with the two ends of an event.
pub fn of_ends(event: &Event, names: &Snapshot) -> Record {
    let generation = event.generation;
    let place = (event.hook, event.workload, event.local_identity);
    let mut local = local_end(place, event.local, event.local_port, generation, names);
    let mut remote = remote_end(event.remote_identity, event.remote, event.remote_port, generation, names);
    let icmp_type = take_icmp_type(event.protocol, event.hook, &mut local, &mut remote);
    Record {
        cgroup: local.workload.as_ref().and_then(|workload| workload.cgroup.clone()),
        local,
        remote,
        protocol: event.protocol,
        icmp_type,
        cookie: event.cookie,
        ..Record::default()
    }
}

/// The end on this node: its workload by its number. By its address only where the hook knows no socket (XDP); a socket that no
/// workload owns stays nobody's, whatever address it uses.
pub fn local_end(place: (u8, u32, u32), addr: Addr, port: Port, generation: u64, names: &Snapshot) -> End {
    let (hook, number, identity) = place;
    let at_interface = hook == Hook::Xdp as u8;
    let workload =
        names.by_number(generation, number).or_else(|| at_interface.then(|| names.by_addr(generation, &addr))?);
    End { workload, service: None, identity, addr, port: port.number() }
}

/// The other end, its workload or service by its address.
pub fn remote_end(identity: u32, addr: Addr, port: Port, generation: u64, names: &Snapshot) -> End {
    let (workload, service) = (names.by_addr(generation, &addr), names.service(generation, &addr));
    End { workload, service, identity, addr, port: port.number() }
}

/// The type of an ICMP message. The kernel side keeps it in the port of the end that was called, whose port it then is not; a
/// refused socket has sent no message.
pub fn take_icmp_type(protocol: u8, hook: u8, local: &mut End, remote: &mut End) -> Option<u8> {
    let has_types = matches!(Protocol(protocol), Protocol::ICMP | Protocol::ICMPV6);
    if !has_types || hook == Hook::SockCreate as u8 {
        return None;
    }
    let carried = std::mem::take(&mut local.port) | std::mem::take(&mut remote.port);
    u8::try_from(carried).ok()
}

pub fn tuple(event: &Event) -> Tuple {
    (event.workload, event.local, event.local_port, event.remote, event.remote_port)
}

/// Merged decisions are about packets: those at egress were on their way out, all others on their way in.
pub fn carried(hook: Hook, value: &MergeValue) -> Traffic {
    if hook == Hook::Egress {
        Traffic { bytes_sent: value.bytes, packets_sent: value.count, ..Traffic::default() }
    } else {
        Traffic { bytes_received: value.bytes, packets_received: value.count, ..Traffic::default() }
    }
}
