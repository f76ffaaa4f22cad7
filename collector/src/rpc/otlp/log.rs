//! Lives: collector, a flow record as a log record of OTLP.
//! Called by: `logs`, for each record.
//! May touch: nothing.
//! Never: says "source" of an end because it is local; the source is who opened.

use std::net::IpAddr;

use opentelemetry_proto::tonic::common::v1::AnyValue;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, SeverityNumber};
use weir_proto::v1::{Direction, Endpoint, FlowRecord, Process, RecordType, Verdict};

use super::attributes::{Attributes, text};
use super::queue::Item;
use crate::otlp::names::{self as n, Attribute};
use crate::rpc::filter::address;
use crate::rpc::tally::verdict_word;

/// A record, to go below its node's resource.
pub fn log_record(item: &Item) -> LogRecord {
    let record = &*item.record;
    let (severity, severity_text) = severity(record);
    LogRecord {
        time_unix_nano: record.time_ns,
        observed_time_unix_nano: item.observed_ns,
        severity_number: severity.into(),
        severity_text: severity_text.to_owned(),
        event_name: format!("weir.flow.{}", kind_word(record.r#type())),
        body: Some(AnyValue { value: Some(text(&sentence(item))) }),
        attributes: attributes(item).done(),
        ..LogRecord::default()
    }
}

const fn kind_word(kind: RecordType) -> &'static str {
    match kind {
        RecordType::Verdict => "verdict",
        RecordType::Close => "close",
        RecordType::Cut => "cut",
        RecordType::Adopted => "adopted",
        RecordType::Progress => "progress",
        RecordType::Loss => "loss",
        RecordType::Unspecified => "unspecified",
    }
}

fn severity(record: &FlowRecord) -> (SeverityNumber, &'static str) {
    let info = (SeverityNumber::Info, "INFO");
    let warn = (SeverityNumber::Warn, "WARN");
    match (record.r#type(), record.verdict()) {
        (RecordType::Loss, _) => (SeverityNumber::Error, "ERROR"),
        (RecordType::Close | RecordType::Progress, _) => info,
        (RecordType::Cut, _) => warn,
        (RecordType::Verdict | RecordType::Adopted | RecordType::Unspecified, Verdict::Deny | Verdict::Audit) => warn,
        (
            RecordType::Verdict | RecordType::Adopted | RecordType::Unspecified,
            Verdict::Allow | Verdict::Unspecified,
        ) => info,
    }
}

/// Both ends, who opened first. As `weirctl observe`, where nothing is said the local end did.
fn ends(record: &FlowRecord) -> (Option<&Endpoint>, Option<&Endpoint>) {
    let (local, remote) = (record.local.as_ref(), record.remote.as_ref());
    match record.direction() {
        Direction::Ingress => (remote, local),
        Direction::Egress | Direction::Unspecified => (local, remote),
    }
}

fn attributes(item: &Item) -> Attributes {
    let record = &*item.record;
    let mut all = Attributes::default();
    let (source, destination) = ends(record);
    end(&mut all, source, [&n::SOURCE_ADDRESS, &n::SOURCE_PORT], &SOURCE);
    end(&mut all, destination, [&n::DESTINATION_ADDRESS, &n::DESTINATION_PORT], &DESTINATION);
    network(&mut all, record);
    decision(&mut all, record);
    if let Some(process) = record.process.as_ref().filter(|process| process.pid != 0) {
        of_process(&mut all, process);
    }
    pod(&mut all, record);
    all.text(&n::CONTAINER_ID, &record.container);
    all.text(&n::CGROUP, &record.cgroup);
    all.text(&n::UNIT, &record.unit);
    all.nonzero(&n::COOKIE, record.cookie);
    if matches!(record.r#type(), RecordType::Close | RecordType::Progress) {
        totals(&mut all, record);
    }
    all.text(&n::PACKET, &hexadecimal(&record.packet));
    all.text(&n::LOSS_CAUSE, &record.loss_cause);
    all.nonzero(&n::LOST_RECORDS, item.lost_records);
    all
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Names of what only Weir says of an end.
struct EndNames {
    workload: Attribute,
    labels: Attribute,
    service: Attribute,
    identity: Attribute,
}

const SOURCE: EndNames = EndNames {
    workload: n::SOURCE_WORKLOAD,
    labels: n::SOURCE_LABELS,
    service: n::SOURCE_SERVICE,
    identity: n::SOURCE_IDENTITY,
};
const DESTINATION: EndNames = EndNames {
    workload: n::DESTINATION_WORKLOAD,
    labels: n::DESTINATION_LABELS,
    service: n::DESTINATION_SERVICE,
    identity: n::DESTINATION_IDENTITY,
};

fn end(all: &mut Attributes, end: Option<&Endpoint>, [at, port]: [&Attribute; 2], names: &EndNames) {
    let Some(end) = end else { return };
    if let Some(address) = address(end) {
        all.text(at, &address.to_string());
    }
    all.nonzero(port, end.port);
    all.text(&names.workload, &end.workload);
    all.texts(&names.labels, &end.labels);
    all.text(&names.service, &end.service);
    all.nonzero(&names.identity, end.identity);
}

fn network(all: &mut Attributes, record: &FlowRecord) {
    all.text(&n::NETWORK_TRANSPORT, transport_word(record.protocol));
    let known = record.remote.iter().chain(&record.local).find_map(address);
    all.text(
        &n::NETWORK_TYPE,
        match known {
            Some(IpAddr::V4(_)) => "ipv4",
            Some(IpAddr::V6(_)) => "ipv6",
            None => "",
        },
    );
    all.text(
        &n::NETWORK_IO_DIRECTION,
        match record.direction() {
            Direction::Ingress => "receive",
            Direction::Egress => "transmit",
            Direction::Unspecified => "",
        },
    );
    all.text(&n::NETWORK_INTERFACE_NAME, &record.interface);
    all.nonzero(&n::PROTOCOL, record.protocol);
    all.nonzero(&n::TCP_FLAGS, record.tcp_flags);
    if let Some(icmp_type) = record.icmp_type {
        all.number(&n::ICMP_TYPE, icmp_type);
    }
}

/// Protocols that carry others; empty for the rest.
const fn transport_word(protocol: u32) -> &'static str {
    match protocol {
        6 => "tcp",
        17 => "udp",
        33 => "dccp",
        132 => "sctp",
        136 => "udplite",
        _ => "",
    }
}

fn decision(all: &mut Attributes, record: &FlowRecord) {
    all.text(&n::VERDICT, some_verdict(record.verdict()));
    all.text(&n::REASON, &record.reason);
    all.text(&n::HOOK, &record.hook);
    all.text(&n::POLICY, &record.policy);
    all.text(&n::RULE, &record.rule);
    all.nonzero(&n::GENERATION, record.generation);
    all.text(&n::REFUSAL, &record.refusal);
    all.text(&n::KERNEL_REASON, &record.kernel_reason);
    all.number(&n::COUNT, record.count);
    if record.r#type() != RecordType::Close && record.end_ns != record.time_ns {
        all.nonzero(&n::END_TIME, record.end_ns);
    }
    all.text(&n::STAGED_VERDICT, some_verdict(record.staged_verdict()));
    all.text(&n::STAGED_POLICY, &record.staged_policy);
    all.text(&n::STAGED_RULE, &record.staged_rule);
}

const fn some_verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Unspecified => "",
        Verdict::Allow | Verdict::Deny | Verdict::Audit => verdict_word(verdict),
    }
}

fn of_process(all: &mut Attributes, process: &Process) {
    all.number(&n::PROCESS_PID, process.pid);
    all.text(&n::PROCESS_EXECUTABLE_PATH, &process.executable);
    all.text(&n::PROCESS_EXECUTABLE_NAME, process.executable.rsplit('/').next().unwrap_or_default());
    all.number(&n::PROCESS_REAL_USER_ID, process.uid);
    all.text(&n::COMMAND, &process.command);
    all.nonzero(&n::START_TICKS, process.start_ticks);
    all.text(&n::COMMAND_LINE_HASH, &process.command_line_hash);
}

/// A workload is known to be a pod by its cgroup, which kubelet names after the pod's UID.
fn pod(all: &mut Attributes, record: &FlowRecord) {
    let workload = record.local.as_ref().and_then(|local| local.workload.split_once('/'));
    if let (Some(uid), Some((namespace, name))) = (pod_uid(&record.cgroup), workload) {
        all.text(&n::K8S_NAMESPACE_NAME, namespace);
        all.text(&n::K8S_POD_NAME, name);
        all.text(&n::K8S_POD_UID, &uid);
    }
}

/// `kubepods-besteffort-podUID.slice` with the systemd driver (dashes as underscores), `podUID` with the other.
fn pod_uid(cgroup: &str) -> Option<String> {
    cgroup.split('/').find_map(|part| {
        let (_, uid) = part.strip_suffix(".slice").unwrap_or(part).rsplit_once("pod")?;
        let uid = uid.replace('_', "-");
        // Static pods have theirs without dashes.
        let legal = uid.chars().all(|c| c == '-' || c.is_ascii_hexdigit());
        (legal && matches!(uid.len(), 32 | 36)).then_some(uid)
    })
}

fn totals(all: &mut Attributes, record: &FlowRecord) {
    let sent = (record.bytes_sent, record.packets_sent);
    let received = (record.bytes_received, record.packets_received);
    let (source, destination) = match record.direction() {
        Direction::Ingress => (received, sent),
        Direction::Egress | Direction::Unspecified => (sent, received),
    };
    all.number(&n::SOURCE_BYTES, source.0);
    all.number(&n::SOURCE_PACKETS, source.1);
    all.number(&n::DESTINATION_BYTES, destination.0);
    all.number(&n::DESTINATION_PACKETS, destination.1);
    all.nonzero(&n::START_TIME, record.start_ns);
    all.nonzero(&n::TCP_RTT, record.rtt_us);
    all.number(&n::TCP_RETRANSMITS, record.retransmits);
}

/// The record for people, in a line.
fn sentence(item: &Item) -> String {
    let record = &*item.record;
    if record.r#type() == RecordType::Loss {
        return loss(item);
    }
    let (source, destination) = ends(record);
    let direction = match record.direction() {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
        Direction::Unspecified => "",
    };
    let what = match record.r#type() {
        kind @ (RecordType::Close | RecordType::Cut | RecordType::Adopted | RecordType::Progress) => kind_word(kind),
        RecordType::Verdict | RecordType::Unspecified | RecordType::Loss => verdict_word(record.verdict()),
    };
    let protocol = match transport_word(record.protocol) {
        "" => format!("protocol {}", record.protocol),
        word => word.to_owned(),
    };
    let flow = format!("{} -> {}", shown(source), shown(destination));
    let by = match record.policy.is_empty() {
        true => String::new(),
        false => format!("by {} \"{}\"", record.policy, record.rule),
    };
    let reason = match record.kernel_reason.as_str() {
        "" => format!("({})", record.reason),
        word => format!("({}: {word})", record.reason),
    };
    let many = if record.count > 1 { format!("x{}", record.count) } else { String::new() };
    let words = [what, direction, &record.hook, &flow, &protocol, &by, &reason, &many];
    clean(&words.into_iter().filter(|word| !word.is_empty() && *word != "()").collect::<Vec<_>>().join(" "))
}

fn loss(item: &Item) -> String {
    let (count, cause) = (item.record.count, &item.record.loss_cause);
    let what = match cause.as_str() {
        "kernel_drop_missed" => "drops by the kernel",
        cause if cause.ends_with("_close") => "records",
        _ => "decisions",
    };
    clean(&match item.lost_records {
        0 => format!("{count} {what} lost: {cause}"),
        records => format!("{records} records of {count} decisions lost: {cause}"),
    })
}

fn shown(end: Option<&Endpoint>) -> String {
    let Some(end) = end else { return "?".to_owned() };
    let address = match (address(end), end.port) {
        (Some(address), 0) => address.to_string(),
        (Some(IpAddr::V6(address)), port) => format!("[{address}]:{port}"),
        (Some(address), port) => format!("{address}:{port}"),
        (None, _) => String::new(),
    };
    let service = if end.service.is_empty() { String::new() } else { format!("Service/{}", end.service) };
    let name = if service.is_empty() { end.workload.as_str() } else { service.as_str() };
    match (name.is_empty(), address.is_empty()) {
        (true, true) => "?".to_owned(),
        (true, false) => address,
        (false, true) => name.to_owned(),
        (false, false) => format!("{name}({address})"),
    }
}

/// A line stays a line, and no terminal is told anything by it.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
