//! Lives: collector, tests of `log`.
//! Called by: cargo test.
//! May touch: nothing.
//! Never: takes a name from elsewhere than its row.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use opentelemetry_proto::tonic::common::v1::any_value::Value;

use super::*;
use crate::otlp::names::LOGS;

fn end(workload: &str, address: &str, port: u32) -> Option<Endpoint> {
    let address = match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(v4)) => v4.octets().to_vec(),
        Ok(IpAddr::V6(v6)) => v6.octets().to_vec(),
        Err(_) => Vec::new(),
    };
    let (workload, labels) = (workload.to_owned(), vec!["app=x".to_owned(), "tier=1".to_owned()]);
    Some(Endpoint { workload, labels, identity: 9, address, port, service: String::new() })
}

fn denied() -> FlowRecord {
    FlowRecord {
        r#type: RecordType::Verdict.into(),
        time_ns: 1000,
        verdict: Verdict::Deny.into(),
        reason: "default".to_owned(),
        hook: "connect".to_owned(),
        direction: Direction::Egress.into(),
        policy: "Policy/shop/db".to_owned(),
        rule: "default ingress".to_owned(),
        generation: 7,
        local: end("shop/web", "", 0),
        remote: end("shop/db", "10.0.0.4", 5432),
        protocol: 6,
        process: Some(Process {
            pid: 123,
            uid: 0,
            command: "curl".to_owned(),
            executable: "/usr/bin/curl".to_owned(),
            start_ticks: 77,
            command_line_hash: "0123456789abcdef".to_owned(),
        }),
        cgroup: "system.slice/web.service".to_owned(),
        unit: "web.service".to_owned(),
        count: 1,
        refusal: "eperm".to_owned(),
        node: "node-1".to_owned(),
        ..FlowRecord::default()
    }
}

fn limited() -> FlowRecord {
    FlowRecord {
        direction: Direction::Ingress.into(),
        hook: "xdp".to_owned(),
        reason: "rate_limit_packets".to_owned(),
        end_ns: 3000,
        local: end("shop/api", "::ffff:10.0.0.2", 80),
        remote: end("", "::ffff:192.0.2.9", 40000),
        tcp_flags: 2,
        interface: "eth0".to_owned(),
        process: None,
        cgroup: "kubepods.slice/kubepods-pod0a0b0c0d_0000_1111_2222_333344445555.slice/cri-1.scope".to_owned(),
        container: "1".repeat(64),
        packet: vec![0x45, 0, 0, 0x1c],
        unit: String::new(),
        count: 900,
        ..denied()
    }
}

fn dropped_by_the_kernel() -> FlowRecord {
    FlowRecord {
        hook: "kernel".to_owned(),
        reason: "kernel".to_owned(),
        kernel_reason: "NO_SOCKET".to_owned(),
        refusal: String::new(),
        policy: String::new(),
        rule: String::new(),
        ..denied()
    }
}

fn closed() -> FlowRecord {
    FlowRecord {
        r#type: RecordType::Close.into(),
        verdict: Verdict::Allow.into(),
        hook: "sock_ops".to_owned(),
        direction: Direction::Ingress.into(),
        local: end("shop/web", "2001:db8::1", 80),
        remote: end("shop/db", "2001:db8::2", 50000),
        end_ns: 1000,
        start_ns: 500,
        cookie: 5,
        count: 0,
        bytes_sent: 10,
        packets_sent: 1,
        bytes_received: 20,
        packets_received: 2,
        rtt_us: 80,
        ..denied()
    }
}

fn staged_ping() -> FlowRecord {
    let service = |end: Option<Endpoint>| end.map(|end| Endpoint { service: "shop/dns".to_owned(), ..end });
    FlowRecord {
        verdict: Verdict::Audit.into(),
        local: service(end("shop/web", "10.0.0.2", 0)),
        remote: service(end("shop/db", "10.0.0.4", 0)),
        protocol: 1,
        icmp_type: Some(0),
        staged_verdict: Verdict::Allow.into(),
        staged_policy: "Policy/shop/next".to_owned(),
        staged_rule: "egress[0]".to_owned(),
        ..denied()
    }
}

fn lost() -> FlowRecord {
    FlowRecord {
        r#type: RecordType::Loss.into(),
        loss_cause: "otlp_queue_full".to_owned(),
        count: 12,
        time_ns: 1000,
        node: "node-1".to_owned(),
        ..FlowRecord::default()
    }
}

fn exported(record: FlowRecord, lost_records: u64) -> LogRecord {
    log_record(&Item { record: Arc::new(record), observed_ns: 5000, lost_records })
}

fn said(record: &LogRecord) -> BTreeMap<&str, String> {
    let words = |value: &Value| {
        if let Value::StringValue(text) = value {
            return text.clone();
        }
        if let Value::IntValue(number) = value { number.to_string() } else { format!("{value:?}") }
    };
    let value = |value: &Option<AnyValue>| words(value.as_ref().unwrap().value.as_ref().unwrap());
    record.attributes.iter().map(|one| (one.key.as_str(), value(&one.value))).collect()
}

/// What is looked for in a record: attribute and value, absent ones as "".
type Expected<'a> = &'a [(&'a str, &'a str)];

fn flows() -> Vec<(FlowRecord, Expected<'static>)> {
    vec![
        (
            denied(),
            &[
                ("source.address", ""),
                ("source.port", ""),
                ("destination.address", "10.0.0.4"),
                ("destination.port", "5432"),
                ("weir.source.workload", "shop/web"),
                ("weir.destination.workload", "shop/db"),
                ("network.io.direction", "transmit"),
                ("network.transport", "tcp"),
                ("network.type", "ipv4"),
                ("process.pid", "123"),
                ("process.executable.name", "curl"),
                ("process.real_user.id", "0"),
                ("process.command_line", ""),
                ("weir.process.command_line_hash", "0123456789abcdef"),
                ("weir.unit", "web.service"),
                ("container.id", ""),
                ("weir.verdict", "deny"),
                ("weir.count", "1"),
                ("weir.end_time_unix_nano", ""),
                ("k8s.pod.name", ""),
            ],
        ),
        (
            limited(),
            &[
                ("source.address", "192.0.2.9"),
                ("source.port", "40000"),
                ("destination.address", "10.0.0.2"),
                ("weir.destination.workload", "shop/api"),
                ("weir.source.workload", ""),
                ("network.io.direction", "receive"),
                ("network.interface.name", "eth0"),
                ("network.type", "ipv4"),
                ("process.pid", ""),
                ("weir.unit", ""),
                ("weir.packet", "4500001c"),
                ("container.id", "1111111111111111111111111111111111111111111111111111111111111111"),
                ("weir.count", "900"),
                ("weir.end_time_unix_nano", "3000"),
                ("k8s.namespace.name", "shop"),
                ("k8s.pod.name", "api"),
                ("k8s.pod.uid", "0a0b0c0d-0000-1111-2222-333344445555"),
            ],
        ),
        (
            closed(),
            &[
                ("source.address", "2001:db8::2"),
                ("destination.address", "2001:db8::1"),
                ("network.type", "ipv6"),
                ("weir.source.bytes", "20"),
                ("weir.source.packets", "2"),
                ("weir.destination.bytes", "10"),
                ("weir.count", "0"),
                ("weir.start_time_unix_nano", "500"),
                ("weir.tcp.retransmits", "0"),
            ],
        ),
        (
            FlowRecord { direction: Direction::Egress.into(), ..closed() },
            &[("source.address", "2001:db8::1"), ("weir.source.bytes", "10"), ("weir.destination.packets", "2")],
        ),
        (
            FlowRecord { r#type: RecordType::Progress.into(), ..closed() },
            &[("weir.source.bytes", "20"), ("weir.start_time_unix_nano", "500")],
        ),
    ]
}

#[test]
fn source_and_destination_follow_who_opened() {
    for (record, expected) in flows() {
        let exported = exported(record, 0);
        let said = said(&exported);
        for (name, value) in expected {
            assert_eq!(said.get(name).map_or("", String::as_str), *value, "{name} in {said:#?}");
        }
    }
}

#[test]
fn severity_event_and_sentence_say_what_happened() {
    let verdict = |verdict: Verdict| FlowRecord { verdict: verdict.into(), ..denied() };
    let kind = |kind: RecordType| FlowRecord { r#type: kind.into(), ..denied() };
    let to_db = "egress connect shop/web -> shop/db(10.0.0.4:5432) tcp by Policy/shop/db \"default ingress\" (default)";
    let hostile = FlowRecord { rule: "a\x1b[2J\nb".to_owned(), ..denied() };
    for (record, lost_records, number, event, body) in [
        (verdict(Verdict::Allow), 0, 9, "weir.flow.verdict", format!("allow {to_db}")),
        (denied(), 0, 13, "weir.flow.verdict", format!("deny {to_db}")),
        (
            dropped_by_the_kernel(),
            0,
            13,
            "weir.flow.verdict",
            "deny egress kernel shop/web -> shop/db(10.0.0.4:5432) tcp (kernel: NO_SOCKET)".to_owned(),
        ),
        (verdict(Verdict::Audit), 0, 13, "weir.flow.verdict", format!("audit {to_db}")),
        (kind(RecordType::Cut), 0, 13, "weir.flow.cut", format!("cut {to_db}")),
        (kind(RecordType::Adopted), 0, 13, "weir.flow.adopted", format!("adopted {to_db}")),
        (kind(RecordType::Close), 0, 9, "weir.flow.close", format!("close {to_db}")),
        (kind(RecordType::Progress), 0, 9, "weir.flow.progress", format!("progress {to_db}")),
        (
            hostile,
            0,
            13,
            "weir.flow.verdict",
            format!("deny {}", to_db.replace("default ingress", "a\u{fffd}[2J\u{fffd}b")),
        ),
        (lost(), 0, 17, "weir.flow.loss", "12 decisions lost: otlp_queue_full".to_owned()),
        (lost(), 3, 17, "weir.flow.loss", "3 records of 12 decisions lost: otlp_queue_full".to_owned()),
    ] {
        let exported = exported(record, lost_records);
        assert_eq!((exported.severity_number, exported.event_name.as_str()), (number, event));
        assert_eq!(exported.body, Some(AnyValue { value: Some(Value::StringValue(body)) }));
        assert_eq!((exported.time_unix_nano, exported.observed_time_unix_nano), (1000, 5000));
    }
}

#[test]
fn every_attribute_that_is_documented_is_sent() {
    let records = [denied(), limited(), dropped_by_the_kernel(), closed(), staged_ping(), lost()];
    let exported: Vec<_> = records.into_iter().map(|record| exported(record, 3)).collect();
    let sent: BTreeSet<&str> = exported.iter().flat_map(|record| said(record).into_keys()).collect();
    assert_eq!(sent, LOGS.iter().map(|attribute| attribute.name).collect());
}

#[test]
fn a_text_without_end_is_cut_between_letters() {
    let record = exported(FlowRecord { rule: "ä".repeat(10_000), hook: "x".repeat(4097), ..denied() }, 0);
    let said = said(&record);
    assert_eq!((said["weir.rule"].len(), said["weir.hook"].len()), (4096, 4096));
}

#[test]
fn pods_are_known_by_the_names_kubelet_gives() {
    for (cgroup, uid) in [
        ("besteffort/pod0a0b0c0d-0000-1111-2222-333344445555/cid", "0a0b0c0d-0000-1111-2222-333344445555"),
        ("kubepods-pod00000000111122223333444455556666.slice", "00000000111122223333444455556666"),
        ("podman/x", ""),
        ("system.slice/pod.service", ""),
        ("", ""),
    ] {
        assert_eq!(pod_uid(cgroup).unwrap_or_default(), uid, "{cgroup}");
    }
}
