//! Lives: host.
//! Called by: `compiler`, for every document of a policy; for each local workload, to find what selects it.
//! May touch: nothing.
//! Never: asks a policy of another namespace whether it selects a workload, unless it speaks for several.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use crate::{
    evaluate::{Bound, Member, selects},
    id::ResourceId,
    model::{Policy, Resource, Spec},
};

/// Every policy, whether or not it selects anybody here, by number.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    slots: Vec<Option<Arc<Resource>>>,
    numbers: HashMap<ResourceId, u32>,
    free: BTreeSet<u32>,
    /// Policies that speak for their own namespace.
    of_namespace: BTreeMap<String, BTreeSet<u32>>,
    /// Policies that say themselves which namespaces they speak for.
    wide: BTreeSet<u32>,
    /// Policies with a rule whose decisions make no records.
    quiet: BTreeSet<u32>,
}

impl Policies {
    /// Takes a policy in, in place of one of the same name.
    pub fn put(&mut self, resource: &Arc<Resource>) -> u32 {
        let Spec::Policy(policy) = resource.spec() else { return u32::MAX };
        let number = self.remove(resource.id()).unwrap_or_else(|| self.next());
        self.free.remove(&number);
        match policy.namespaces {
            Some(_) => drop(self.wide.insert(number)),
            None => drop(self.of_namespace.entry(resource.id().namespace.clone()).or_default().insert(number)),
        }
        if policy.ingress.iter().chain(&policy.egress).any(|rule| !rule.log) {
            self.quiet.insert(number);
        }
        self.numbers.insert(resource.id().clone(), number);
        if let Some(slot) = self.slots.get_mut(number as usize) {
            *slot = Some(Arc::clone(resource));
        }
        number
    }

    /// Forgets a policy.
    pub fn remove(&mut self, id: &ResourceId) -> Option<u32> {
        let number = self.numbers.remove(id)?;
        if let Some(slot) = self.slots.get_mut(number as usize) {
            *slot = None;
        }
        self.wide.remove(&number);
        self.quiet.remove(&number);
        if let Some(neighbours) = self.of_namespace.get_mut(&id.namespace) {
            neighbours.remove(&number);
            if neighbours.is_empty() {
                self.of_namespace.remove(&id.namespace);
            }
        }
        self.free.insert(number);
        Some(number)
    }

    /// Whether some rule's decisions make no records.
    pub fn any_quiet(&self) -> bool {
        !self.quiet.is_empty()
    }

    /// A policy.
    pub fn get(&self, number: u32) -> Option<Bound<'_>> {
        let resource = self.slots.get(number as usize).and_then(Option::as_ref)?;
        let Spec::Policy(policy) = resource.spec() else { return None };
        Some(Bound { id: resource.id(), policy })
    }

    /// Several policies, in order of id.
    pub fn list<'p>(&'p self, numbers: impl IntoIterator<Item = &'p u32>) -> Vec<Bound<'p>> {
        let mut list: Vec<_> = numbers.into_iter().filter_map(|number| self.get(*number)).collect();
        list.sort_unstable_by_key(|bound| bound.id);
        list
    }

    /// The policies that select a workload.
    pub fn selecting(&self, workload: &Member<'_>) -> BTreeSet<u32> {
        let near = self.of_namespace.get(workload.namespace).into_iter().flatten();
        near.chain(&self.wide).copied().filter(|number| self.selects(*number, workload)).collect()
    }

    /// Whether a policy selects a workload.
    pub fn selects(&self, number: u32, workload: &Member<'_>) -> bool {
        self.get(number).is_some_and(|bound| selects(bound.id, bound.policy, workload))
    }

    /// Every policy.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Policy)> {
        (0..).zip(&self.slots).filter_map(|(number, slot)| {
            let Spec::Policy(policy) = slot.as_ref()?.spec() else { return None };
            Some((number, policy))
        })
    }

    fn next(&mut self) -> u32 {
        self.free.pop_first().unwrap_or_else(|| {
            self.slots.push(None);
            // Fewer than 2^32: memory is full long before.
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        })
    }
}
