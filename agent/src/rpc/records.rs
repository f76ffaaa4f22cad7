//! Lives: weir-agent, at its gRPC edge.
//! Called by: `pack`, for what a batch tells once.
//! May touch: nothing.
//! Never: fills `node` of a record; the collector does, from the batch.

use weir_common::addr::Addr;
use weir_proto::v1;

use super::convert;
use crate::telemetry::record::{End, ProcessInfo, Record, RecordKind};

/// What of a record is the same for many: all but its times, ends, process, cgroup, cookie, traffic; and `count`, as given.
pub fn judgement(record: &Record, count: u64) -> v1::FlowRecord {
    let (kind, loss_cause) = match record.kind {
        RecordKind::Verdict => (v1::RecordType::Verdict, ""),
        RecordKind::Close => (v1::RecordType::Close, ""),
        RecordKind::Cut => (v1::RecordType::Cut, ""),
        RecordKind::Adopted => (v1::RecordType::Adopted, ""),
        RecordKind::Progress => (v1::RecordType::Progress, ""),
        RecordKind::Loss(cause) => (v1::RecordType::Loss, cause.name()),
    };
    let about = &record.about;
    let (verdict, direction) = (about.verdict.map(convert::verdict), about.direction.map(convert::direction));
    let staged = about.staged.as_ref();
    let staged_rule = staged.and_then(|staged| staged.rule.as_ref());
    v1::FlowRecord {
        r#type: kind.into(),
        verdict: verdict.unwrap_or(v1::Verdict::Unspecified).into(),
        reason: about.reason.map(|reason| reason.name().to_owned()).unwrap_or_default(),
        hook: about.hook.map(|hook| hook.name().to_owned()).unwrap_or_default(),
        direction: direction.unwrap_or(v1::Direction::Unspecified).into(),
        policy: about.rule.as_ref().map(|rule| rule.policy.clone()).unwrap_or_default(),
        rule: about.rule.as_ref().map(|rule| rule.rule.clone()).unwrap_or_default(),
        kernel_reason: about.kernel_reason.as_deref().map(str::to_owned).unwrap_or_default(),
        refusal: about.refusal.map(|refusal| refusal.name().to_owned()).unwrap_or_default(),
        staged_verdict: staged.map_or(v1::Verdict::Unspecified, |staged| convert::verdict(staged.verdict)).into(),
        staged_policy: staged_rule.map(|rule| rule.policy.clone()).unwrap_or_default(),
        staged_rule: staged_rule.map(|rule| rule.rule.clone()).unwrap_or_default(),
        generation: about.generation,
        protocol: u32::from(about.protocol),
        tcp_flags: record.tcp_flags,
        icmp_type: record.icmp_type.map(u32::from),
        count,
        interface: about.interface.as_deref().map(str::to_owned).unwrap_or_default(),
        loss_cause: loss_cause.to_owned(),
        ..v1::FlowRecord::default()
    }
}

/// Whose an end is, without address and port.
pub fn whose(end: &End) -> v1::Endpoint {
    v1::Endpoint {
        workload: end.workload.as_ref().map(|workload| workload.name.clone()).unwrap_or_default(),
        labels: end.workload.as_ref().map(|workload| workload.labels.clone()).unwrap_or_default(),
        identity: end.identity,
        service: end.service.as_deref().map(str::to_owned).unwrap_or_default(),
        ..v1::Endpoint::default()
    }
}

/// 4 or 16 bytes; none for "no address".
pub fn address(addr: &Addr) -> Vec<u8> {
    match addr.as_v4() {
        Some(v4) => v4.to_vec(),
        None if *addr == Addr::UNSPECIFIED => Vec::new(),
        None => addr.0.to_vec(),
    }
}

/// A process as it travels.
pub fn process(process: &ProcessInfo) -> v1::Process {
    v1::Process {
        pid: process.pid,
        uid: process.uid,
        command: process.command.clone(),
        executable: process.executable.clone(),
        start_ticks: process.start_ticks,
        command_line_hash: process.command_line_hash.map(|hash| format!("{hash:016x}")).unwrap_or_default(),
    }
}
