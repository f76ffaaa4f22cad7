//! Lives: ctl.
//! Called by: see `view`.
//! May touch: nothing.
//! Never: knows how it travelled.

use jiff::Timestamp;
use serde::Serialize;

/// The address sets of an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AddressSets {
    pub sets: Vec<SetStatus>,
    /// Kernel memory that they take.
    pub memory_bytes: u64,
}

/// One of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SetStatus {
    pub name: String,
    pub action: String,
    /// Entries of the document.
    pub listed: u64,
    /// Entries that were loaded.
    pub loaded: u64,
    /// When the next of those ends.
    pub next_expiry: Option<Timestamp>,
    /// What it refused.
    pub packets: u64,
    pub bytes: u64,
}

/// An entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SetEntry {
    pub prefix: String,
    pub expires: Option<Timestamp>,
    /// Whether the document lists it.
    pub listed: bool,
}

/// What became of entries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SetChanged {
    pub added: u64,
    pub removed: u64,
    pub faults: Vec<SetFault>,
    pub more_faults: u64,
    pub warnings: Vec<String>,
}

/// What is wrong with a line of a list, or with an entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SetFault {
    pub line: u64,
    pub value: String,
    pub problem: String,
    pub remedy: String,
}
