//! Lives: host. Policies that watch, and policies that wait.
//! Called by: `judge`, with everything the tiers need.
//! May touch: nothing.
//! Never: lets a policy that is not enforced open or close anything.
//!
//! Neither NetworkPolicy nor ClusterNetworkPolicy has modes: theirs are always enforced.

use weir_common::verdict::{Direction, Verdict};

use super::{
    judge::Local,
    outcome::Outcome,
    tiers::{Matches, tiers},
};
use crate::model::Mode;

/// Which policies are taken to be in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trial {
    /// Those that are.
    InForce,
    /// Staged ones too.
    Staged,
}

impl Trial {
    /// Whether a policy of this mode decides.
    pub fn enforces(self, mode: Mode) -> bool {
        match mode {
            Mode::Enforce => true,
            Mode::Staged => self == Self::Staged,
            Mode::Audit => false,
        }
    }

    /// Whether a policy of this mode is asked at all.
    pub fn hears(self, mode: Mode) -> bool {
        mode == Mode::Audit || self.enforces(mode)
    }
}

/// Enforced policies decide; audit policies with them may turn what they let pass into audit, and nothing else.
pub fn by_mode<'a>(
    trial: Trial,
    local: Local<'_, 'a>,
    direction: Direction,
    by_service: bool,
    matches: &Matches<'_>,
) -> Outcome<'a> {
    let heard: Vec<_> = local.bound.iter().filter(|bound| trial.hears(bound.policy.mode)).copied().collect();
    let enforced: Vec<_> = heard.iter().filter(|bound| trial.enforces(bound.policy.mode)).copied().collect();
    let in_force = if enforced.is_empty() {
        // Who is watched only, or waited for, is selected by nobody yet.
        Outcome { verdict: local.unselected, ..Outcome::OPEN }
    } else {
        tiers(&enforced, direction, by_service, matches)
    };
    if in_force.verdict == Verdict::Deny || enforced.len() == heard.len() {
        return in_force;
    }
    let if_enforced = tiers(&heard, direction, by_service, matches);
    match if_enforced.verdict {
        Verdict::Deny => Outcome { verdict: Verdict::Audit, ..if_enforced },
        Verdict::Allow | Verdict::Audit => in_force,
    }
}
