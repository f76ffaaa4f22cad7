//! Lives: host.
//! Called by: the agent, which keeps one; `weirctl` and the tests, which build one.
//! May touch: its index.
//! Never: remembers in which order resources came.

use std::sync::Arc;

use rpds::RedBlackTreeMapSync;

use super::{Resource, index::Index};
use crate::id::{Kind, ResourceId};

/// Every resource there is. A clone shares everything until one of the two changes, and then all but the change: a dry run
/// costs no copy.
#[derive(Clone, Debug, Default)]
pub struct Resources {
    by_id: RedBlackTreeMapSync<ResourceId, Arc<Resource>>,
    pub(super) index: Index,
}

/// The index follows from the resources.
impl PartialEq for Resources {
    fn eq(&self, other: &Self) -> bool {
        self.by_id == other.by_id
    }
}

impl Eq for Resources {}

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
        let resource = Arc::new(resource);
        let old = self.by_id.get(resource.id()).cloned();
        if let Some(old) = &old {
            self.index.remove(old);
        }
        self.index.add(&resource);
        self.by_id.insert_mut(resource.id().clone(), Arc::clone(&resource));
        match old {
            None => Change::Created,
            Some(old) if old == resource => Change::Unchanged,
            Some(_) => Change::Changed,
        }
    }

    /// Removes the resource of this id and gives it back.
    pub fn remove(&mut self, id: &ResourceId) -> Option<Resource> {
        let old = self.by_id.get(id).cloned()?;
        self.index.remove(&old);
        self.by_id.remove_mut(id);
        Some(Arc::unwrap_or_clone(old))
    }

    /// Puts a resource under its id, or takes the one that is there away. Gives back what was there.
    pub fn exchange(&mut self, id: &ResourceId, new: Option<Arc<Resource>>) -> Option<Arc<Resource>> {
        let old = self.by_id.get(id).cloned();
        if let Some(old) = &old {
            self.index.remove(old);
        }
        match new {
            Some(new) => {
                self.index.add(&new);
                self.by_id.insert_mut(id.clone(), new);
            }
            None => drop(self.by_id.remove_mut(id)),
        }
        old
    }

    /// Every resource as it is shared, in order of its id.
    pub fn shared(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.by_id.values()
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
        self.by_id.size()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Every resource of a kind, in order of its id.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Resource> {
        let onwards = self.by_id.range(ResourceId::new(kind, "", "")..);
        onwards.take_while(move |(id, _)| id.kind == kind).map(|(_, resource)| resource.as_ref())
    }

    /// Every resource of a kind in a namespace, in order of its id.
    pub fn in_namespace<'a, 'n>(
        &'a self,
        kind: Kind,
        namespace: &'n str,
    ) -> impl Iterator<Item = &'a Resource> + use<'a, 'n> {
        let onwards = self.by_id.range(ResourceId::new(kind, namespace, "")..);
        let there = onwards.take_while(move |(id, _)| id.kind == kind && id.namespace == namespace);
        there.map(|(_, resource)| resource.as_ref())
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
