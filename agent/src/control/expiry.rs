//! Lives: weir-agent, control.
//! Called by: `tick`; `apply`, for when to look again.
//! May touch: the state of `Control`, through `follow`; the clock it was handed.
//! Never: brings back what has expired because the clock was set back: only an apply does.
//!
//! A policy or rule that expires goes out of force within a second of its time, by a generation of its own. The clock is the wall
//! clock, as the documents' times are.

use weir_common::verdict::Direction;
use weir_policy::{Context, Policy, Resources, Timestamp};

use super::{
    Control,
    change::{Action, Changed},
};
use crate::datapath::Datapath;

impl<D: Datapath> Control<D> {
    /// Takes out of force what has expired since the tables were made.
    pub(super) fn expire(&mut self) {
        let now = self.now();
        if self.force.next_expiry.is_none_or(|due| now < due) {
            return;
        }
        let since = self.force.context.now;
        let over = |policy: &Policy| ends(policy).any(|end| since < end && end <= now);
        let policies = self.force.resources.policies().filter(|(_, policy)| over(policy));
        let changes: Vec<_> =
            policies.map(|(resource, _)| Changed { action: Action::Expired, id: resource.id().clone() }).collect();
        tracing::info!(policies = changes.len(), "policies or rules of them have expired");
        if self.follow(Context { now, ..self.force.context.clone() }) {
            let generation = self.generation();
            self.force.changed_in.extend(changes.iter().map(|change| (change.id.clone(), generation)));
            self.tell(&changes);
        }
    }
}

/// The first end of a policy or rule after `now`.
pub(super) fn next_expiry(resources: &Resources, now: Timestamp) -> Option<Timestamp> {
    resources.policies().flat_map(|(_, policy)| ends(policy)).filter(|end| now < *end).min()
}

/// When the policy or a rule of it expires.
fn ends(policy: &Policy) -> impl Iterator<Item = Timestamp> {
    let rules = [Direction::Ingress, Direction::Egress].into_iter().flat_map(|direction| policy.rules(direction));
    policy.expires_at.into_iter().chain(rules.filter_map(|rule| rule.expires_at))
}
