//! Lives: weir-agent, control.
//! Called by: `tick`; `apply`, so that a change finds nothing overdue.
//! May touch: the state of `Control`, through `advance`; the clock it was handed.
//! Never: brings back what has expired because the clock was set back: only an apply does.
//!
//! A policy or rule that expires goes out of force within a second of its time, by a generation of its own. The clock is the wall
//! clock, as the documents' times are.

use weir_policy::Policy;

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
        let over = |policy: &Policy| policy.expiries().any(|end| since < end && end <= now);
        let policies = self.force.resources.policies().filter(|(_, policy)| over(policy));
        let changes: Vec<_> =
            policies.map(|(resource, _)| Changed { action: Action::Expired, id: resource.id().clone() }).collect();
        tracing::info!(policies = changes.len(), "policies or rules of them have expired");
        if self.advance(now) {
            self.remember(&changes);
            self.tell(&changes);
        }
    }
}
