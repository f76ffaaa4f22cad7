//! Lives: weir-agent, at its gRPC edge.
//! Called by: `service`; `ready`, which tells the same of workloads and interfaces.
//! May touch: the tally and the queue, read only.
//! Never: sums what the kernel counted with what was recorded: showing them side by side is the point.

use std::{collections::HashMap, time::Duration};

use weir_policy::ResourceId;
use weir_proto::v1;

use super::{Info, convert::count};
use crate::{
    control::{node::NodeOnly, view::Status},
    datapath::{AttachState, Shield, WorkloadState},
    revoke::report::Report,
};

/// The whole status.
pub fn response(status: &Status, node_only: &[NodeOnly], info: &Info) -> v1::StatusResponse {
    v1::StatusResponse {
        node: info.node.clone(),
        version: crate::VERSION.to_owned(),
        abi_version: weir_common::ABI_VERSION,
        generation: status.generation,
        generation_time_ns: status.generation_time_ns,
        start_ns: status.start_ns,
        enforcing: status.observed.enforcing,
        pinned: status.observed.pinned,
        repairs: status.observed.repairs,
        sealed: info.sealed,
        landlock: info.landlock.to_owned(),
        unknown_workloads: info.unknown.to_owned(),
        unselected_workloads: info.unselected.to_owned(),
        workloads: workloads(status),
        interfaces: interfaces(status),
        counters: counters(status, info),
        limits: limits(status),
        limit_table: status.limit_table.map(|table| v1::LimitTable {
            slots: table.slots,
            busy_permille: table.busy_permille,
            crowded_permille: table.crowded_permille(),
        }),
        exporter: Some(exporter(info)),
        resources: status.resources.iter().map(|(kind, count)| (kind.name().to_owned(), *count)).collect(),
        cgroup_root: info.cgroup_root.display().to_string(),
        connections: Some(connections(&info.revoker.report())),
        node_only: node_only.iter().map(shown).collect(),
    }
}

fn connections(report: &Report) -> v1::ConnectionStatus {
    let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let blocked = report.blocked.iter().map(|blocked| v1::BlockedConnection {
        workload: blocked.workload.clone(),
        connection: blocked.connection.clone(),
        rule: blocked.rule.clone(),
        waited_ns: nanoseconds(blocked.waited),
    });
    v1::ConnectionStatus {
        known: count(report.known),
        cut: report.cut,
        adopted: report.adopted,
        draining: count(report.draining),
        blocked: blocked.collect(),
        clean_generation: report.clean_generation,
        swept_ns: report.swept_ns,
        sweep_ns: nanoseconds(report.sweep),
        sockets: count(report.sockets),
        namespaces: count(report.namespaces),
    }
}

/// The workloads, by name.
pub fn workloads(status: &Status) -> Vec<v1::WorkloadStatus> {
    let states: HashMap<&ResourceId, &WorkloadState> =
        status.observed.workloads.iter().map(|state| (&state.id, state)).collect();
    let shown = status.compiled.workloads.values().map(|workload| {
        let state = states.get(&workload.id);
        // Nobody attaches to what runs elsewhere, so the datapath does not speak of it.
        let unplaced = status.unplaced.get(&workload.id);
        let awaited = workload.cgroup.is_some() || unplaced.is_some();
        let unseen = if awaited { AttachState::Waiting } else { AttachState::Remote };
        v1::WorkloadStatus {
            workload: format!("{}/{}", workload.id.namespace, workload.id.name),
            identity: workload.identity,
            cgroup: workload.cgroup.clone().unwrap_or_default(),
            state: attach_word(state.map_or(unseen, |state| state.state)).to_owned(),
            detail: state.map(|state| &state.detail).or(unplaced).cloned().unwrap_or_default(),
            addresses: workload.addresses.iter().map(|addr| weir_policy::ip(*addr).to_string()).collect(),
            uncovered: state.map(|state| state.uncovered.iter().map(ToString::to_string).collect()).unwrap_or_default(),
            interface: workload.interface.clone().unwrap_or_default(),
            hooks: state.map(|state| state.hooks.iter().map(ToString::to_string).collect()).unwrap_or_default(),
        }
    });
    shown.collect()
}

const fn attach_word(state: AttachState) -> &'static str {
    match state {
        AttachState::Attached => "attached",
        AttachState::Waiting => "waiting",
        AttachState::Remote => "remote",
        AttachState::Failed => "failed",
    }
}

/// The interfaces that XDP is wanted at.
pub fn interfaces(status: &Status) -> Vec<v1::InterfaceStatus> {
    let shown = status.observed.interfaces.iter().map(|interface| {
        let seen = status.seen.iter().find(|seen| seen.index == interface.index && interface.index != 0);
        let (packets, passed) = seen.map_or((0, 0), |seen| (seen.seen, seen.passed));
        v1::InterfaceStatus {
            name: interface.name.clone(),
            mode: interface.mode.to_owned(),
            detail: interface.detail.clone(),
            packets_seen: packets,
            packets_passed: passed,
            packets_dropped: packets.saturating_sub(passed),
            refuses: interface.refuses.iter().map(ToString::to_string).collect(),
        }
    });
    shown.collect()
}

fn shown(one: &NodeOnly) -> v1::NodeOnlyStatus {
    v1::NodeOnlyStatus {
        pod: one.pod.as_ref().map(|pod| format!("{}/{}", pod.namespace, pod.name)).unwrap_or_default(),
        cgroup: one.cgroup.clone().unwrap_or_default(),
        processes: count(one.processes),
    }
}

fn counters(status: &Status, info: &Info) -> Vec<v1::Counter> {
    let shown = status.counters.iter().map(|cell| v1::Counter {
        hook: cell.hook.name().to_owned(),
        verdict: cell.verdict.name().to_owned(),
        reason: cell.reason.name().to_owned(),
        decided: cell.decided,
        recorded: info.tally.recorded(cell.hook, cell.verdict, cell.reason),
        lost: cell.lost,
        quiet: cell.quiet,
    });
    shown.collect()
}

fn limits(status: &Status) -> Vec<v1::LimitStatus> {
    let numbered = status.compiled.limits.iter().zip(&status.limits).filter(|(limit, _)| limit.is_some());
    let shown = numbered.map(|(limit, stats)| v1::LimitStatus {
        limit: limit.policy.clone(),
        passed_packets: stats.passed_packets,
        passed_bytes: stats.passed_bytes,
        exceeded_packets: stats.exceeded_packets,
        exceeded_bytes: stats.exceeded_bytes,
        syn_protection: status.shields.iter().find(|shield| shield.limit == limit.policy).map(shield),
    });
    shown.collect()
}

fn shield(shield: &Shield) -> v1::SynProtectionStatus {
    let stats = shield.stats;
    v1::SynProtectionStatus {
        protection: shield.protection.name().to_owned(),
        threshold: shield.threshold,
        state: shield.state.to_owned(),
        detail: shield.detail.clone(),
        answered: stats.answered,
        completed: stats.completed,
        left_no_cookie: stats.no_cookie,
        left_no_listener: stats.no_listener,
        left_elsewhere: stats.elsewhere,
        left_unusual: stats.unusual,
        failed: stats.failed,
    }
}

fn exporter(info: &Info) -> v1::ExporterStatus {
    let (queue, link) = (info.queue.status(), info.link.state());
    v1::ExporterStatus {
        collector: info.link.collector().to_owned(),
        state: link.word.to_owned(),
        detail: link.detail,
        records_queued: queue.pending + queue.spool.records,
        queue_capacity: queue.capacity,
        records_sent: queue.spool.sent,
        records_acknowledged: queue.spool.acknowledged,
        records_lost: queue.lost,
        boot_id: info.queue.boot_id().to_owned(),
        records_pending: queue.pending,
        spool_bytes: queue.spool.bytes,
        spool_capacity: queue.spool.capacity,
        spool_oldest_ns: queue.spool.oldest_ns,
        spool_fault: queue.spool.fault,
    }
}
