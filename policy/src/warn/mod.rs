//! Lives: host. What is legal and probably not meant.
//! Called by: the agent for what was applied, `weirctl policy check` for everything, the tests.
//! May touch: nothing but its arguments.
//! Never: refuses anything; judges what the evaluator judges: where one can, it asks the evaluator's own functions.

mod covers;
mod crowd;
mod others;
mod policies;
mod rules;
mod shadow;

use std::fmt;

use crowd::Crowd;

use crate::{
    id::ResourceId,
    model::{Resource, Resources, Spec, Timestamp},
};

/// One thing worth a second look.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Warning {
    /// The document it is about.
    pub id: ResourceId,
    /// The field, as in faults; empty for the document as a whole.
    pub field: String,
    /// What it does that was probably not meant, as a sentence without its subject.
    pub text: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.id, self.text)
    }
}

/// What the checks of one document find.
#[derive(Default)]
struct Found(Vec<(String, String)>);

impl Found {
    fn note(&mut self, field: impl Into<String>, text: impl Into<String>) {
        self.0.push((field.into(), text.into()));
    }
}

/// Everything worth a second look, in order of id.
#[must_use]
pub fn warnings(resources: &Resources, now: Timestamp) -> Vec<Warning> {
    let crowd = Crowd::of(resources);
    resources.iter().flat_map(|resource| of_resource(&crowd, resource, now)).collect()
}

/// What is worth a second look in some documents; ids of nothing are left out.
#[must_use]
pub fn warnings_about(resources: &Resources, ids: &[ResourceId], now: Timestamp) -> Vec<Warning> {
    let crowd = Crowd::of(resources);
    ids.iter().filter_map(|id| resources.get(id)).flat_map(|resource| of_resource(&crowd, resource, now)).collect()
}

fn of_resource(crowd: &Crowd<'_>, resource: &Resource, now: Timestamp) -> Vec<Warning> {
    let mut found =
        Found(resource.remarks().iter().map(|remark| (remark.field.clone(), remark.text.clone())).collect());
    match resource.spec() {
        Spec::Policy(policy) => policies::check(crowd, resource, policy, now, &mut found),
        Spec::RateLimit(limit) => others::rate_limit(crowd, resource, limit, &mut found),
        Spec::Workload(workload) => others::workload(crowd, workload, &mut found),
        Spec::AddressSet(_) | Spec::Namespace | Spec::Node(_) | Spec::Service(_) | Spec::EndpointSlice(_) => {}
    }
    found.0.into_iter().map(|(field, text)| Warning { id: resource.id().clone(), field, text }).collect()
}
