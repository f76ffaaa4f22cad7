//! Lives: collector.
//! Called by: `observe`, for CollectorStatus.
//! May touch: nothing.
//! Never: sums over boots of a node; their counters in the kernel began anew.

use weir_proto::v1::CollectorStatusResponse;
use weir_proto::v1::collector_status_response::{Disk, Node, Otlp};

use super::otlp::Numbers;
use crate::archive;
use crate::nodes::Boot;
use crate::store::Summary;

/// The store's summary as the wire has it: one entry for each boot of each node, the one heard last at the end.
pub fn response(summary: Summary, otlp: Option<Numbers>) -> CollectorStatusResponse {
    CollectorStatusResponse {
        nodes: summary.boots.into_iter().map(|(node, boot)| entry(node, boot)).collect(),
        history_records: summary.kept,
        history_capacity: summary.capacity,
        evicted: summary.evicted,
        start_ns: summary.start_ns,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        otlp: otlp.map(export),
        disk: summary.disk.map(disk),
    }
}

const fn disk(disk: archive::Disk) -> Disk {
    let archive::Disk { records, bytes, capacity, oldest_ns } = disk;
    Disk { records, bytes, capacity, oldest_ns }
}

fn export(numbers: Numbers) -> Otlp {
    let dropped = numbers.dropped.into_iter().map(|(cause, records)| (cause.name().to_owned(), records));
    Otlp {
        sent: numbers.sent,
        retried: numbers.retried,
        queued: numbers.queued,
        capacity: numbers.capacity,
        dropped: dropped.collect(),
    }
}

fn entry(node: String, boot: Boot) -> Node {
    Node {
        node,
        boot_id: boot.boot_id,
        last_sequence: boot.last_sequence,
        records: boot.records,
        duplicates: boot.duplicates,
        connected: boot.streams > 0,
        last_seen_ns: boot.last_seen_ns,
        decisions: boot.decisions.into_iter().collect(),
        losses: boot.losses.into_iter().collect(),
        lost_decisions: boot.lost_decisions.into_iter().collect(),
        first_sequence: boot.first_sequence,
        missing_batches: boot.missing_batches,
    }
}
