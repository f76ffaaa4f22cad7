//! Lives: host.
//! Called by: the agent, which keeps one; `weirctl explain` and the tests, which build one.
//! May touch: nothing.
//! Never: remembers in which order resources came.

use std::{collections::BTreeMap, sync::Arc};

use super::{Policy, Resource, Spec, Workload};
use crate::id::ResourceId;

/// Every resource there is. Cloning shares them, so that a dry run costs no copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    by_id: BTreeMap<ResourceId, Arc<Resource>>,
}

/// What an insertion did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// There was none of that name.
    Created,
    /// There was one that said something else.
    Changed,
    /// There was one that said the same.
    Unchanged,
}

impl Resources {
    /// Adds a resource, in place of one of the same id.
    pub fn insert(&mut self, resource: Resource) -> Change {
        let change = match self.by_id.get(resource.id()) {
            None => Change::Created,
            Some(old) if **old == resource => Change::Unchanged,
            Some(_) => Change::Changed,
        };
        self.by_id.insert(resource.id().clone(), Arc::new(resource));
        change
    }

    /// Removes the resource of this id and gives it back.
    pub fn remove(&mut self, id: &ResourceId) -> Option<Resource> {
        self.by_id.remove(id).map(Arc::unwrap_or_clone)
    }

    /// The resource of this id.
    #[must_use]
    pub fn get(&self, id: &ResourceId) -> Option<&Resource> {
        self.by_id.get(id).map(Arc::as_ref)
    }

    /// Every resource, in order of its id.
    pub fn iter(&self) -> impl Iterator<Item = &Resource> {
        self.by_id.values().map(Arc::as_ref)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Every workload, in order of its id.
    pub fn workloads(&self) -> impl Iterator<Item = (&Resource, &Workload)> {
        self.iter().filter_map(|resource| match resource.spec() {
            Spec::Workload(workload) => Some((resource, workload)),
            Spec::Policy(_) | Spec::RateLimit(_) | Spec::AddressSet(_) => None,
        })
    }

    /// Every policy, in order of its id.
    pub fn policies(&self) -> impl Iterator<Item = (&Resource, &Policy)> {
        self.iter().filter_map(|resource| match resource.spec() {
            Spec::Policy(policy) => Some((resource, policy)),
            Spec::Workload(_) | Spec::RateLimit(_) | Spec::AddressSet(_) => None,
        })
    }
}

impl FromIterator<Resource> for Resources {
    fn from_iter<I: IntoIterator<Item = Resource>>(resources: I) -> Self {
        let mut state = Self::default();
        for resource in resources {
            state.insert(resource);
        }
        state
    }
}
