//! Lives: weir-agent, control.
//! Called by: `apply`, which answers with these; `rpc`, which passes them on.
//! May touch: nothing.
//! Never: tells watchers of what did not happen.

use weir_common::verdict::{Direction, Reason};
use weir_policy::{Fault, Resource, ResourceId};

/// A request to change the policy.
#[derive(Clone, Debug, Default)]
pub struct Apply {
    /// Name and text of each source.
    pub sources: Vec<(String, String)>,
    /// Change nothing.
    pub dry_run: bool,
    /// Delete what is not in the sources.
    pub replace_all: bool,
}

/// The answer to a change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Generation in force afterwards.
    pub generation: u64,
    /// What changed, or would change; unchanged resources that were named are listed too.
    pub changes: Vec<Changed>,
    /// Empty on success.
    pub faults: Vec<Fault>,
    /// Legal, but probably not meant; or in force but not saved.
    pub warnings: Vec<String>,
    /// For a dry run: living connections that would be cut, up to a bound.
    pub doomed: Vec<Doomed>,
    /// How many would be cut.
    pub doomed_count: usize,
}

/// A living connection that a change would cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doomed {
    /// The workload on this node, "namespace/name".
    pub workload: String,
    /// Protocol and both ends, the caller first where it is known.
    pub connection: String,
    /// The direction in which it would be forbidden.
    pub direction: Direction,
    /// Why.
    pub reason: Reason,
    /// The policy that would forbid it.
    pub policy: String,
    /// Its rule.
    pub rule: String,
}

/// What happened to a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// What.
    pub action: Action,
    /// To which.
    pub id: ResourceId,
}

/// What can happen to a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is new.
    Created,
    /// It says something else.
    Changed,
    /// It says the same.
    Unchanged,
    /// It is gone.
    Deleted,
    /// It, or a rule of it, no longer counts: its time is over.
    Expired,
}

impl Action {
    /// The word used in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Changed => "changed",
            Self::Unchanged => "unchanged",
            Self::Deleted => "deleted",
            Self::Expired => "expired",
        }
    }
}

/// What watchers are told: effective changes only.
#[derive(Clone, Debug)]
pub struct ChangeSet {
    /// The generation that brought them.
    pub generation: u64,
    /// Each with the resource as it is now; `None` when it was deleted.
    pub changes: Vec<(Changed, Option<Resource>)>,
}
