//! Lives: ctl.
//! Called by: see `view`.
//! May touch: nothing.
//! Never: interprets a document.

use serde::Serialize;
use weir_policy::Fault;

use super::{Direction, Verdict};

/// What became, or would become, of one resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    pub action: String,
    pub kind: String,
    pub namespace: String,
    pub name: String,
}

/// The answer to apply and delete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    pub generation: u64,
    pub changes: Vec<Change>,
    pub faults: Vec<Fault>,
    pub warnings: Vec<String>,
    pub dry_run: bool,
    /// For a dry run: living connections that would be cut, the first of them.
    pub would_cut: Vec<Doomed>,
    pub would_cut_count: u64,
}

/// A living connection that a change would cut.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Doomed {
    pub workload: String,
    pub connection: String,
    pub direction: Direction,
    pub reason: String,
    pub policy: String,
    pub rule: String,
}

/// A resource as the agent holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Item {
    pub kind: String,
    pub namespace: String,
    pub name: String,
    pub yaml: String,
    pub generation: u64,
}

/// Resources and the generation they make.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    pub generation: u64,
    pub items: Vec<Item>,
}

/// One message of a watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchEvent {
    pub change: Option<Change>,
    pub item: Option<Item>,
    pub generation: u64,
    pub synced: bool,
}

/// Why something is allowed or not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    pub verdict: Verdict,
    pub generation: u64,
    pub egress: Option<Side>,
    pub ingress: Option<Side>,
    pub limits: Vec<String>,
}

/// One direction of a question.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Side {
    pub judged: bool,
    pub verdict: Verdict,
    pub reason: String,
    pub policy: String,
    pub rule: String,
    pub refusal: String,
    pub staged_verdict: Option<Verdict>,
    pub staged_policy: String,
    pub staged_rule: String,
    pub why: String,
}

/// "Kind/namespace/name", without the namespace where there is none.
pub fn id(kind: &str, namespace: &str, name: &str) -> String {
    match namespace.is_empty() {
        true => format!("{kind}/{name}"),
        false => format!("{kind}/{namespace}/{name}"),
    }
}

impl Change {
    /// "Kind/namespace/name".
    pub fn id(&self) -> String {
        id(&self.kind, &self.namespace, &self.name)
    }
}

impl Item {
    /// "Kind/namespace/name".
    pub fn id(&self) -> String {
        id(&self.kind, &self.namespace, &self.name)
    }
}
