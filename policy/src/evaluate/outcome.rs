//! Lives: host. What was decided, and by what.
//! Called by: `judge` and `tiers`, which make it; `explain` and `compile`, which read it.
//! May touch: nothing.
//! Never: a verdict of a rule without the rule.

use weir_common::verdict::{Direction, Reason, Verdict};

use super::subject::Bound;
use crate::model::Action;

/// What was decided, and by what.
#[derive(Clone, Copy, Debug)]
pub struct Outcome<'a> {
    /// The verdict.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// The rule; `None` where no policy has a say.
    pub deciding: Option<Deciding<'a>>,
    /// The rule of the admin tier that left it to the tiers below.
    pub passed: Option<Deciding<'a>>,
    /// Why policies have no say.
    pub beyond: Option<Beyond>,
}

/// What policies have no say in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beyond {
    /// A pod reaches its own address.
    Address,
    /// The node of a pod reaches it, to probe whether it lives.
    Node,
    /// A pod reaches itself through a Service, which NetworkPolicies leave open.
    Service,
}

/// The rule that decided.
#[derive(Clone, Copy, Debug)]
pub struct Deciding<'a> {
    /// Whose rule it is.
    pub bound: Bound<'a>,
    /// Which of its rules for the direction.
    pub place: RulePlace,
}

/// A rule's place in its policy and direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RulePlace {
    /// By its index.
    At(usize),
    /// The default action.
    Default,
}

impl Deciding<'_> {
    /// What the rule does.
    pub fn action(&self, direction: Direction) -> Action {
        let policy = self.bound.policy;
        match self.place {
            RulePlace::At(index) => policy.rules(direction).get(index).map_or(Action::Deny, |rule| rule.action),
            RulePlace::Default => policy.default_action,
        }
    }

    /// Whether what it decides makes records.
    pub fn logs(&self, direction: Direction) -> bool {
        match self.place {
            RulePlace::At(index) => self.bound.policy.rules(direction).get(index).is_none_or(|rule| rule.log),
            RulePlace::Default => true,
        }
    }
}

impl Outcome<'_> {
    /// Whether it is a denial that is answered. What a workload opens itself fails with EPERM, whatever the rule says.
    pub fn refuses(&self, direction: Direction) -> bool {
        let action = self.deciding.map(|deciding| deciding.action(direction));
        self.verdict == Verdict::Deny && direction == Direction::Ingress && action == Some(Action::Refuse)
    }

    /// Nobody has a say: allowed.
    pub const OPEN: Self =
        Self { verdict: Verdict::Allow, reason: Reason::NoPolicy, deciding: None, passed: None, beyond: None };
}

/// How strict a verdict is; the strictest first.
pub const fn rank(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Deny => 0,
        Verdict::Audit => 1,
        Verdict::Allow => 2,
    }
}

/// What was decided, and of which direction's policies.
pub type OneWay<'a> = (Direction, Outcome<'a>);

/// The outcome that counts where all must be open, and its place: the strictest. Among equals one of the direction that was asked
/// about, then the first by what decides, so that the order of ends makes no difference to what is said.
pub fn worst<'a>(asked: Direction, outcomes: impl Iterator<Item = OneWay<'a>>) -> Option<(usize, OneWay<'a>)> {
    outcomes.enumerate().min_by_key(|(_, (direction, outcome))| {
        let by = outcome.deciding.map(|deciding| (deciding.bound.id, deciding.place));
        (rank(outcome.verdict), *direction != asked, by)
    })
}
