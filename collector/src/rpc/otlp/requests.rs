//! Lives: collector, records as the requests that carry them.
//! Called by: `logs`, for each batch.
//! May touch: nothing.
//! Never: makes a request that a receiver with usual limits is too small for.

use std::collections::BTreeMap;
use std::ops::Range;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use prost::Message;

use super::attributes::{resource, scope};
use super::log::log_record;
use super::queue::Item;

/// Largest request, bytes, its envelope not counted: receivers take 4 MiB unless told otherwise.
pub(super) const MAX_BYTES: usize = 3 << 20;

/// Records that travel together, and which of the batch's they are.
pub struct Part {
    pub request: ExportLogsServiceRequest,
    pub range: Range<usize>,
}

/// A batch in as few requests as their size allows; within each, by node, in the order they came.
pub fn parts(items: &[Item]) -> Vec<Part> {
    let mut parts = Vec::new();
    let (mut begin, mut bytes, mut records) = (0, 0, Vec::new());
    for (index, item) in items.iter().enumerate() {
        let record = log_record(item);
        let size = record.encoded_len();
        if bytes + size > MAX_BYTES && !records.is_empty() {
            parts.push(part(std::mem::take(&mut records), begin..index));
            (begin, bytes) = (index, 0);
        }
        bytes += size;
        records.push((item.record.node.as_str(), record));
    }
    if !records.is_empty() {
        parts.push(part(records, begin..items.len()));
    }
    parts
}

fn part(records: Vec<(&str, LogRecord)>, range: Range<usize>) -> Part {
    let mut nodes: BTreeMap<&str, Vec<LogRecord>> = BTreeMap::new();
    for (node, record) in records {
        nodes.entry(node).or_default().push(record);
    }
    let resource_logs = nodes.into_iter().map(|(node, log_records)| ResourceLogs {
        resource: Some(resource(if node.is_empty() { "weir-collector" } else { "weir" }, node, "")),
        scope_logs: vec![ScopeLogs { scope: Some(scope()), log_records, ..ScopeLogs::default() }],
        ..ResourceLogs::default()
    });
    Part { request: ExportLogsServiceRequest { resource_logs: resource_logs.collect() }, range }
}
