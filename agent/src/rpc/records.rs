//! Lives: weir-agent, at its gRPC edge.
//! Called by: `export`, for each batch it sends.
//! May touch: nothing.
//! Never: fills `node` of a record; the collector does, from the batch.

use weir_common::addr::Addr;
use weir_proto::v1;

use super::convert;
use crate::{
    exporter::Batch,
    telemetry::record::{End, ProcessInfo, Record, RecordKind},
};

/// A batch as it travels.
pub fn batch(batch: &Batch, node: &str, boot_id: &str) -> v1::Batch {
    v1::Batch {
        node: node.to_owned(),
        boot_id: boot_id.to_owned(),
        sequence: batch.sequence,
        records: batch.records.iter().map(record).collect(),
    }
}

/// A record as it travels.
pub fn record(record: &Record) -> v1::FlowRecord {
    let (kind, loss_cause) = match record.kind {
        RecordKind::Verdict => (v1::RecordType::Verdict, ""),
        RecordKind::Close => (v1::RecordType::Close, ""),
        RecordKind::Cut => (v1::RecordType::Cut, ""),
        RecordKind::Adopted => (v1::RecordType::Adopted, ""),
        RecordKind::Loss(cause) => (v1::RecordType::Loss, cause.name()),
    };
    let (verdict, direction) = (record.verdict.map(convert::verdict), record.direction.map(convert::direction));
    let traffic = record.traffic;
    let staged = record.staged.as_ref();
    let staged_rule = staged.and_then(|staged| staged.rule.as_ref());
    v1::FlowRecord {
        r#type: kind.into(),
        time_ns: record.time_ns,
        end_ns: record.end_ns,
        start_ns: record.start_ns,
        verdict: verdict.unwrap_or(v1::Verdict::Unspecified).into(),
        reason: record.reason.map(|reason| reason.name().to_owned()).unwrap_or_default(),
        hook: record.hook.map(|hook| hook.name().to_owned()).unwrap_or_default(),
        direction: direction.unwrap_or(v1::Direction::Unspecified).into(),
        policy: record.rule.as_ref().map(|rule| rule.policy.clone()).unwrap_or_default(),
        rule: record.rule.as_ref().map(|rule| rule.rule.clone()).unwrap_or_default(),
        refusal: record.refusal.map(|refusal| refusal.name().to_owned()).unwrap_or_default(),
        staged_verdict: staged.map_or(v1::Verdict::Unspecified, |staged| convert::verdict(staged.verdict)).into(),
        staged_policy: staged_rule.map(|rule| rule.policy.clone()).unwrap_or_default(),
        staged_rule: staged_rule.map(|rule| rule.rule.clone()).unwrap_or_default(),
        generation: record.generation,
        local: endpoint(&record.local),
        remote: endpoint(&record.remote),
        protocol: u32::from(record.protocol),
        tcp_flags: record.tcp_flags,
        icmp_type: record.icmp_type.map(u32::from),
        process: record.process.as_deref().map(process),
        cgroup: record.cgroup.as_deref().map(str::to_owned).unwrap_or_default(),
        cookie: record.cookie,
        count: record.count,
        bytes_sent: traffic.bytes_sent,
        bytes_received: traffic.bytes_received,
        packets_sent: traffic.packets_sent,
        packets_received: traffic.packets_received,
        rtt_us: traffic.rtt_us,
        retransmits: traffic.retransmits,
        interface: record.interface.as_deref().map(str::to_owned).unwrap_or_default(),
        loss_cause: loss_cause.to_owned(),
        node: String::new(),
    }
}

fn endpoint(end: &End) -> Option<v1::Endpoint> {
    (*end != End::default()).then(|| v1::Endpoint {
        workload: end.workload.as_ref().map(|workload| workload.name.clone()).unwrap_or_default(),
        labels: end.workload.as_ref().map(|workload| workload.labels.clone()).unwrap_or_default(),
        identity: end.identity,
        address: address(&end.addr),
        port: u32::from(end.port),
        service: end.service.as_deref().map(str::to_owned).unwrap_or_default(),
    })
}

/// 4 or 16 bytes; none for "no address".
fn address(addr: &Addr) -> Vec<u8> {
    match addr.as_v4() {
        Some(v4) => v4.to_vec(),
        None if *addr == Addr::UNSPECIFIED => Vec::new(),
        None => addr.0.to_vec(),
    }
}

fn process(process: &ProcessInfo) -> v1::Process {
    v1::Process {
        pid: process.pid,
        uid: process.uid,
        command: process.command.clone(),
        executable: process.executable.clone(),
        start_ticks: process.start_ticks,
    }
}
