//! Lives: ctl.
//! Called by: the clients of this folder.
//! May touch: nothing.
//! Never: sorts or sums; that is for whoever shows it.

use weir_proto::v1;

use super::convert::time;
use crate::view::{
    Agent, Blocked, Collector, Connections, Counter, Disk, Exporter, Interface, Limit, LimitTable, Node, NodeOnly,
    Otlp, SynProtection, Workload,
};

pub fn agent(wire: v1::StatusResponse) -> Agent {
    Agent {
        node: wire.node,
        version: wire.version,
        abi_version: wire.abi_version,
        generation: wire.generation,
        generation_time: time(wire.generation_time_ns),
        start: time(wire.start_ns),
        enforcing: wire.enforcing,
        pinned: wire.pinned,
        repairs: wire.repairs,
        sealed: wire.sealed,
        landlock: wire.landlock,
        unknown_workloads: wire.unknown_workloads,
        unselected_workloads: wire.unselected_workloads,
        cgroup_root: wire.cgroup_root,
        resources: wire.resources.into_iter().collect(),
        workloads: wire.workloads.into_iter().map(workload).collect(),
        interfaces: wire.interfaces.into_iter().map(interface).collect(),
        counters: wire.counters.into_iter().map(counter).collect(),
        limits: wire.limits.into_iter().map(limit).collect(),
        limit_table: wire.limit_table.map(|table| LimitTable {
            slots: table.slots,
            busy_permille: table.busy_permille,
            crowded_permille: table.crowded_permille,
        }),
        exporter: wire.exporter.map(exporter),
        connections: wire.connections.map(connections),
        node_only: wire.node_only.into_iter().map(node_only).collect(),
    }
}

fn node_only(wire: v1::NodeOnlyStatus) -> NodeOnly {
    NodeOnly { pod: wire.pod, cgroup: wire.cgroup, processes: wire.processes }
}

fn connections(wire: v1::ConnectionStatus) -> Connections {
    let blocked = wire.blocked.into_iter().map(|wire| Blocked {
        workload: wire.workload,
        connection: wire.connection,
        rule: wire.rule,
        waited_ms: wire.waited_ns / 1_000_000,
    });
    Connections {
        known: wire.known,
        cut: wire.cut,
        adopted: wire.adopted,
        draining: wire.draining,
        blocked: blocked.collect(),
        clean_generation: wire.clean_generation,
        swept: time(wire.swept_ns),
        sweep_us: wire.sweep_ns / 1000,
        sockets: wire.sockets,
        namespaces: wire.namespaces,
    }
}

fn workload(wire: v1::WorkloadStatus) -> Workload {
    Workload {
        workload: wire.workload,
        identity: wire.identity,
        cgroup: wire.cgroup,
        state: wire.state,
        detail: wire.detail,
        addresses: wire.addresses,
        hooks: wire.hooks,
        uncovered: wire.uncovered,
        interface: wire.interface,
    }
}

fn interface(wire: v1::InterfaceStatus) -> Interface {
    Interface {
        name: wire.name,
        mode: wire.mode,
        detail: wire.detail,
        packets_seen: wire.packets_seen,
        packets_passed: wire.packets_passed,
        packets_dropped: wire.packets_dropped,
        refuses: wire.refuses,
    }
}

fn counter(wire: v1::Counter) -> Counter {
    Counter {
        hook: wire.hook,
        verdict: wire.verdict,
        reason: wire.reason,
        decided: wire.decided,
        recorded: wire.recorded,
        lost: wire.lost,
        quiet: wire.quiet,
    }
}

fn limit(wire: v1::LimitStatus) -> Limit {
    Limit {
        limit: wire.limit,
        passed_packets: wire.passed_packets,
        passed_bytes: wire.passed_bytes,
        exceeded_packets: wire.exceeded_packets,
        exceeded_bytes: wire.exceeded_bytes,
        syn_protection: wire.syn_protection.map(syn_protection),
    }
}

fn syn_protection(wire: v1::SynProtectionStatus) -> SynProtection {
    SynProtection {
        protection: wire.protection,
        threshold: wire.threshold,
        state: wire.state,
        detail: wire.detail,
        answered: wire.answered,
        completed: wire.completed,
        left_no_cookie: wire.left_no_cookie,
        left_no_listener: wire.left_no_listener,
        left_elsewhere: wire.left_elsewhere,
        left_unusual: wire.left_unusual,
        failed: wire.failed,
    }
}

fn exporter(wire: v1::ExporterStatus) -> Exporter {
    Exporter {
        collector: wire.collector,
        state: wire.state,
        detail: wire.detail,
        records_queued: wire.records_queued,
        queue_capacity: wire.queue_capacity,
        records_sent: wire.records_sent,
        records_acknowledged: wire.records_acknowledged,
        records_lost: wire.records_lost,
        boot_id: wire.boot_id,
        records_pending: wire.records_pending,
        spool_bytes: wire.spool_bytes,
        spool_capacity: wire.spool_capacity,
        spool_oldest: time(wire.spool_oldest_ns),
        spool_fault: wire.spool_fault,
    }
}

pub fn collector(wire: v1::CollectorStatusResponse) -> Collector {
    Collector {
        version: wire.version,
        start: time(wire.start_ns),
        history_records: wire.history_records,
        history_capacity: wire.history_capacity,
        evicted: wire.evicted,
        disk: wire.disk.map(disk),
        nodes: wire.nodes.into_iter().map(node).collect(),
        otlp: wire.otlp.map(otlp),
    }
}

fn disk(wire: v1::collector_status_response::Disk) -> Disk {
    Disk { records: wire.records, bytes: wire.bytes, capacity: wire.capacity, oldest: time(wire.oldest_ns) }
}

fn otlp(wire: v1::collector_status_response::Otlp) -> Otlp {
    Otlp {
        sent: wire.sent,
        retried: wire.retried,
        queued: wire.queued,
        capacity: wire.capacity,
        dropped: wire.dropped.into_iter().collect(),
    }
}

fn node(wire: v1::collector_status_response::Node) -> Node {
    Node {
        node: wire.node,
        boot_id: wire.boot_id,
        connected: wire.connected,
        records: wire.records,
        duplicates: wire.duplicates,
        first_sequence: wire.first_sequence,
        last_sequence: wire.last_sequence,
        missing_batches: wire.missing_batches,
        last_seen: time(wire.last_seen_ns),
        decisions: wire.decisions.into_iter().collect(),
        losses: wire.losses.into_iter().collect(),
        lost_decisions: wire.lost_decisions.into_iter().collect(),
    }
}
