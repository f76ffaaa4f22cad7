//! Lives: ctl.
//! Called by: the clients of this folder.
//! May touch: nothing.
//! Never: fails; what this version does not know is shown as unknown.

use std::net::IpAddr;

use jiff::Timestamp;
use weir_policy::Fault;
use weir_proto::v1;

use crate::protocol;
use crate::view::{
    Change, Changed, Direction, Doomed, End, Explanation, Item, Kind, Listing, Process, Record, Side, Verdict,
    WatchEvent,
};

/// Nanoseconds since the epoch; 0 is no time.
pub fn time(ns: u64) -> Option<Timestamp> {
    (ns != 0).then(|| Timestamp::from_nanosecond(i128::from(ns)).ok()).flatten()
}

pub fn applied(response: v1::ApplyResponse) -> Changed {
    Changed {
        generation: response.generation,
        changes: response.changes.into_iter().map(change).collect(),
        faults: response.faults.into_iter().map(fault).collect(),
        warnings: response.warnings,
        dry_run: response.dry_run,
        would_cut: response.would_cut.into_iter().map(doomed).collect(),
        would_cut_count: response.would_cut_count,
    }
}

pub fn deleted(response: v1::DeleteResponse) -> Changed {
    Changed {
        generation: response.generation,
        changes: response.changes.into_iter().map(change).collect(),
        dry_run: response.dry_run,
        would_cut: response.would_cut.into_iter().map(doomed).collect(),
        would_cut_count: response.would_cut_count,
        ..Changed::default()
    }
}

fn doomed(wire: v1::DoomedConnection) -> Doomed {
    let direction = direction(wire.direction());
    let v1::DoomedConnection { workload, connection, reason, policy, rule, .. } = wire;
    Doomed { workload, connection, direction, reason, policy, rule }
}

pub fn change(wire: v1::Change) -> Change {
    Change { action: wire.action, kind: wire.kind, namespace: wire.namespace, name: wire.name }
}

fn fault(wire: v1::Fault) -> Fault {
    Fault {
        source: wire.source,
        line: wire.line,
        column: wire.column,
        field: wire.field,
        value: wire.value,
        problem: wire.problem,
        remedy: wire.remedy,
    }
}

pub fn item(wire: v1::Resource) -> Item {
    Item { kind: wire.kind, namespace: wire.namespace, name: wire.name, yaml: wire.yaml, generation: wire.generation }
}

pub fn listing(response: v1::ListResponse) -> Listing {
    Listing { generation: response.generation, items: response.resources.into_iter().map(item).collect() }
}

pub fn event(wire: v1::WatchResponse) -> WatchEvent {
    WatchEvent {
        change: wire.change.map(change),
        item: wire.resource.map(item),
        generation: wire.generation,
        synced: wire.synced,
    }
}

pub fn explanation(wire: v1::ExplainResponse) -> Explanation {
    Explanation {
        verdict: verdict(wire.verdict()),
        generation: wire.generation,
        egress: wire.egress.map(side),
        ingress: wire.ingress.map(side),
        limits: wire.limits,
    }
}

fn side(wire: v1::explain_response::Side) -> Side {
    let staged = verdict(wire.staged_verdict());
    Side {
        judged: wire.judged,
        verdict: verdict(wire.verdict()),
        reason: wire.reason,
        policy: wire.policy,
        rule: wire.rule,
        refusal: wire.refusal,
        staged_verdict: (staged != Verdict::Unknown).then_some(staged),
        staged_policy: wire.staged_policy,
        staged_rule: wire.staged_rule,
        why: wire.why,
    }
}

pub fn record(wire: v1::FlowRecord) -> Record {
    let protocol = u8::try_from(wire.protocol).unwrap_or(u8::MAX);
    let staged = verdict(wire.staged_verdict());
    Record {
        staged_verdict: (staged != Verdict::Unknown).then_some(staged),
        time: time(wire.time_ns).unwrap_or_default(),
        end: time(wire.end_ns),
        start: time(wire.start_ns),
        kind: kind(wire.r#type()),
        verdict: verdict(wire.verdict()),
        direction: direction(wire.direction()),
        node: wire.node,
        reason: wire.reason,
        hook: wire.hook,
        policy: wire.policy,
        rule: wire.rule,
        refusal: wire.refusal,
        kernel_reason: wire.kernel_reason,
        staged_policy: wire.staged_policy,
        staged_rule: wire.staged_rule,
        generation: wire.generation,
        local: wire.local.map(end),
        remote: wire.remote.map(end),
        protocol: if protocol == 0 { String::new() } else { protocol::name(protocol) },
        has_ports: protocol::has_ports(protocol),
        tcp_flags: protocol::tcp_flags(wire.tcp_flags),
        icmp_type: wire.icmp_type,
        process: wire.process.map(process),
        cgroup: wire.cgroup,
        container: wire.container,
        unit: wire.unit,
        cookie: wire.cookie,
        count: wire.count,
        bytes_sent: wire.bytes_sent,
        bytes_received: wire.bytes_received,
        packets_sent: wire.packets_sent,
        packets_received: wire.packets_received,
        rtt_us: wire.rtt_us,
        retransmits: wire.retransmits,
        interface: wire.interface,
        loss_cause: wire.loss_cause,
        packet: wire.packet.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

fn end(wire: v1::Endpoint) -> End {
    let bytes = wire.address.as_slice();
    let address = match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(|bytes| IpAddr::from(bytes).to_canonical()),
        _ => None,
    };
    let v1::Endpoint { workload, labels, identity, port, service, .. } = wire;
    End { workload, labels, identity, address, port, service }
}

fn process(wire: v1::Process) -> Process {
    Process {
        pid: wire.pid,
        uid: wire.uid,
        command: wire.command,
        executable: wire.executable,
        start_ticks: wire.start_ticks,
        command_line_hash: wire.command_line_hash,
    }
}

const fn verdict(wire: v1::Verdict) -> Verdict {
    match wire {
        v1::Verdict::Allow => Verdict::Allow,
        v1::Verdict::Deny => Verdict::Deny,
        v1::Verdict::Audit => Verdict::Audit,
        v1::Verdict::Unspecified => Verdict::Unknown,
    }
}

pub const fn wire_verdict(verdict: Verdict) -> v1::Verdict {
    match verdict {
        Verdict::Allow => v1::Verdict::Allow,
        Verdict::Deny => v1::Verdict::Deny,
        Verdict::Audit => v1::Verdict::Audit,
        Verdict::Unknown => v1::Verdict::Unspecified,
    }
}

const fn kind(wire: v1::RecordType) -> Kind {
    match wire {
        v1::RecordType::Verdict => Kind::Verdict,
        v1::RecordType::Close => Kind::Close,
        v1::RecordType::Loss => Kind::Loss,
        v1::RecordType::Cut => Kind::Cut,
        v1::RecordType::Adopted => Kind::Adopted,
        v1::RecordType::Progress => Kind::Progress,
        v1::RecordType::Unspecified => Kind::Unknown,
    }
}

pub const fn wire_kind(kind: Kind) -> v1::RecordType {
    match kind {
        Kind::Verdict => v1::RecordType::Verdict,
        Kind::Close => v1::RecordType::Close,
        Kind::Loss => v1::RecordType::Loss,
        Kind::Cut => v1::RecordType::Cut,
        Kind::Adopted => v1::RecordType::Adopted,
        Kind::Progress => v1::RecordType::Progress,
        Kind::Unknown => v1::RecordType::Unspecified,
    }
}

const fn direction(wire: v1::Direction) -> Direction {
    match wire {
        v1::Direction::Ingress => Direction::Ingress,
        v1::Direction::Egress => Direction::Egress,
        v1::Direction::Unspecified => Direction::Unknown,
    }
}
