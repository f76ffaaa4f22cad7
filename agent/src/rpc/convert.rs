//! Lives: weir-agent, at its gRPC edge.
//! Called by: `service`.
//! May touch: nothing.
//! Never: loses what control said.

use tonic::Status;
use weir_policy::{Fault, Kind, ResourceId};
use weir_proto::v1;

use crate::control::{
    Applied, Changed, ControlError, Doomed,
    explain::{EndError, Explained, Side},
    sets::SetError,
    view::ResourceView,
};

/// The gRPC status of an error: the code for programs, the words for people.
pub fn status(error: &ControlError) -> Status {
    let words = error.to_string();
    match error {
        ControlError::NotFound(_) => Status::not_found(words),
        ControlError::Faulty(_) => Status::failed_precondition(words),
        ControlError::Set(SetError::NotThere { .. }) => Status::not_found(words),
        ControlError::Set(SetError::TooMany { .. }) => Status::resource_exhausted(words),
        ControlError::End(EndError::NoAddress(_)) => Status::failed_precondition(words),
        ControlError::End(EndError::Unknown(_)) => Status::not_found(words),
        ControlError::End(EndError::Ambiguous { .. }) => Status::invalid_argument(words),
        ControlError::Busy => Status::resource_exhausted(words),
        ControlError::Stopping => Status::unavailable(words),
        ControlError::Install { .. }
        | ControlError::Empty(_)
        | ControlError::Set(SetError::Kernel { .. })
        | ControlError::Stored { .. }
        | ControlError::Damaged { .. }
        | ControlError::Newer { .. }
        | ControlError::Read { .. }
        | ControlError::PolicyDir(_)
        | ControlError::Counters(_) => Status::internal(words),
    }
}

pub fn applied(applied: Applied, dry_run: bool) -> v1::ApplyResponse {
    v1::ApplyResponse {
        generation: applied.generation,
        changes: applied.changes.iter().map(change).collect(),
        faults: applied.faults.into_iter().map(fault).collect(),
        warnings: applied.warnings,
        dry_run,
        would_cut: applied.doomed.iter().map(doomed).collect(),
        would_cut_count: count(applied.doomed_count),
    }
}

pub fn deleted(applied: &Applied, dry_run: bool) -> v1::DeleteResponse {
    v1::DeleteResponse {
        generation: applied.generation,
        changes: applied.changes.iter().map(change).collect(),
        dry_run,
        would_cut: applied.doomed.iter().map(doomed).collect(),
        would_cut_count: count(applied.doomed_count),
    }
}

fn doomed(doomed: &Doomed) -> v1::DoomedConnection {
    v1::DoomedConnection {
        workload: doomed.workload.clone(),
        connection: doomed.connection.clone(),
        direction: direction(doomed.direction).into(),
        reason: doomed.reason.name().to_owned(),
        policy: doomed.policy.clone(),
        rule: doomed.rule.clone(),
    }
}

/// A number of things, as it travels.
pub fn count(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

pub fn change(change: &Changed) -> v1::Change {
    v1::Change {
        action: change.action.name().to_owned(),
        kind: change.id.kind.name().to_owned(),
        namespace: change.id.namespace.clone(),
        name: change.id.name.clone(),
    }
}

fn fault(fault: Fault) -> v1::Fault {
    v1::Fault {
        source: fault.source,
        line: fault.line,
        column: fault.column,
        field: fault.field,
        value: fault.value,
        problem: fault.problem,
        remedy: fault.remedy,
    }
}

pub fn resource(view: &ResourceView) -> v1::Resource {
    let id = view.resource.id();
    v1::Resource {
        kind: id.kind.name().to_owned(),
        namespace: id.namespace.clone(),
        name: id.name.clone(),
        yaml: view.resource.to_yaml(),
        generation: view.generation,
    }
}

/// A kind word.
pub fn kind(word: &str) -> Result<Kind, Status> {
    word.parse().map_err(|error: weir_policy::UnknownKind| Status::invalid_argument(error.to_string()))
}

/// A kind word, where none means all.
pub fn any_kind(word: &str) -> Result<Option<Kind>, Status> {
    if word.is_empty() { Ok(None) } else { kind(word).map(Some) }
}

/// An id as asked for; a namespace left out is "default" for kinds that have one.
pub fn id(kind_word: &str, namespace: &str, name: &str) -> Result<ResourceId, Status> {
    let kind = kind(kind_word)?;
    if name.is_empty() {
        return Err(Status::invalid_argument("the name of the resource is missing"));
    }
    let namespace = match (kind.namespaced(), namespace) {
        (false, _) => "",
        (true, "") => "default",
        (true, given) => given,
    };
    Ok(ResourceId::new(kind, namespace, name))
}

pub fn verdict(verdict: weir_common::verdict::Verdict) -> v1::Verdict {
    match verdict {
        weir_common::verdict::Verdict::Allow => v1::Verdict::Allow,
        weir_common::verdict::Verdict::Deny => v1::Verdict::Deny,
        weir_common::verdict::Verdict::Audit => v1::Verdict::Audit,
    }
}

pub fn direction(direction: weir_common::verdict::Direction) -> v1::Direction {
    match direction {
        weir_common::verdict::Direction::Ingress => v1::Direction::Ingress,
        weir_common::verdict::Direction::Egress => v1::Direction::Egress,
    }
}

pub fn explained(explained: Explained) -> v1::ExplainResponse {
    v1::ExplainResponse {
        verdict: verdict(explained.verdict).into(),
        generation: explained.generation,
        egress: Some(side(explained.egress)),
        ingress: Some(side(explained.ingress)),
        limits: explained.limits,
    }
}

fn side(side: Side) -> v1::explain_response::Side {
    let (staged, staged_policy, staged_rule) = match side.staged {
        Some((staged, policy, rule)) => (verdict(staged), policy, rule),
        None => (v1::Verdict::Unspecified, String::new(), String::new()),
    };
    v1::explain_response::Side {
        refusal: side.refusal.map(|refusal| refusal.name().to_owned()).unwrap_or_default(),
        staged_verdict: staged.into(),
        staged_policy,
        staged_rule,
        verdict: side.decided.map_or(v1::Verdict::Unspecified, |(given, _)| verdict(given)).into(),
        reason: side.decided.map(|(_, reason)| reason.name().to_owned()).unwrap_or_default(),
        policy: side.policy,
        rule: side.rule,
        why: side.why,
        judged: side.decided.is_some(),
    }
}
