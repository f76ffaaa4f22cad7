//! Lives: host.
//! Called by: `state`, with every resource that comes or goes.
//! May touch: itself.
//! Never: an answer that looking at every resource would not give; it only finds the few that matter sooner.

use std::sync::Arc;

use rpds::RedBlackTreeMapSync;
use weir_common::addr::Addr;

use super::{Prefix, Resource, ServiceRef, Spec};
use crate::id::{Kind, ResourceId};

/// What having an address means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// A workload's own.
    Workload,
    /// A machine's: its own, or that of a pod in its network.
    Node,
    /// A service's, in front of others.
    Service,
}

/// Resources by what they are asked for. All maps are shared between clones until one of them changes.
#[derive(Clone, Debug, Default)]
pub struct Index {
    by_address: RedBlackTreeMapSync<(Addr, Role, ResourceId), Arc<Resource>>,
    slices: RedBlackTreeMapSync<(ServiceRef, ResourceId), Arc<Resource>>,
    wide_policies: RedBlackTreeMapSync<ResourceId, Arc<Resource>>,
    pod_ranges: RedBlackTreeMapSync<(Prefix, ResourceId), ()>,
    /// How many pod ranges have this many bits.
    range_lengths: RedBlackTreeMapSync<u8, usize>,
}

impl Index {
    pub fn add(&mut self, resource: &Arc<Resource>) {
        let id = resource.id();
        for (address, role) in addresses(resource) {
            self.by_address.insert_mut((address, role, id.clone()), Arc::clone(resource));
        }
        if let Some(service) = slice_of(resource) {
            self.slices.insert_mut((service.clone(), id.clone()), Arc::clone(resource));
        }
        if is_wide(resource) {
            self.wide_policies.insert_mut(id.clone(), Arc::clone(resource));
        }
        for range in pod_ranges(resource) {
            let key = (*range, id.clone());
            if !self.pod_ranges.contains_key(&key) {
                self.pod_ranges.insert_mut(key, ());
                self.count(range.bits, |count| count + 1);
            }
        }
    }

    pub fn remove(&mut self, resource: &Resource) {
        let id = resource.id();
        for (address, role) in addresses(resource) {
            self.by_address.remove_mut(&(address, role, id.clone()));
        }
        if let Some(service) = slice_of(resource) {
            self.slices.remove_mut(&(service.clone(), id.clone()));
        }
        self.wide_policies.remove_mut(id);
        for range in pod_ranges(resource) {
            if self.pod_ranges.remove_mut(&(*range, id.clone())) {
                self.count(range.bits, |count| count.saturating_sub(1));
            }
        }
    }

    /// The resources that have an address in a role, in order of their ids.
    pub fn at(&self, address: Addr, role: Role) -> impl Iterator<Item = &Arc<Resource>> {
        let first = (address, role, least());
        let onwards = self.by_address.range(first..);
        onwards.take_while(move |((at, of, _), _)| (*at, *of) == (address, role)).map(|(_, resource)| resource)
    }

    /// Every address of machines.
    pub fn node_addresses(&self) -> impl Iterator<Item = (Addr, &Arc<Resource>)> {
        let entries = self.by_address.iter().filter(|((_, role, _), _)| *role == Role::Node);
        entries.map(|((address, _, _), resource)| (*address, resource))
    }

    /// The endpoint slices of a service, in order of their ids.
    pub fn slices_of<'a, 'n>(
        &'a self,
        service: &'n ServiceRef,
    ) -> impl Iterator<Item = &'a Arc<Resource>> + use<'a, 'n> {
        let onwards = self.slices.range((service.clone(), least())..);
        onwards.take_while(move |((of, _), _)| of == service).map(|(_, resource)| resource)
    }

    /// The policies that choose their namespaces by a selector, in order of their ids.
    pub fn wide_policies(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.wide_policies.values()
    }

    /// Every range that pods have their addresses from.
    pub fn pod_ranges(&self) -> impl Iterator<Item = &Prefix> {
        self.pod_ranges.keys().map(|(range, _)| range)
    }

    /// Whether an address is in one of those ranges.
    pub fn in_pod_range(&self, address: &Addr) -> bool {
        self.range_lengths.keys().any(|bits| {
            let range = Prefix::new(*address, *bits);
            let first = self.pod_ranges.range((range, least())..).next();
            range.contains(address) && first.is_some_and(|((found, _), ())| *found == range)
        })
    }

    fn count(&mut self, bits: u8, change: impl Fn(usize) -> usize) {
        match change(self.range_lengths.get(&bits).copied().unwrap_or(0)) {
            0 => drop(self.range_lengths.remove_mut(&bits)),
            count => self.range_lengths.insert_mut(bits, count),
        }
    }
}

/// An id before all others.
pub fn least() -> ResourceId {
    ResourceId::new(Kind::Workload, "", "")
}

fn addresses(resource: &Resource) -> impl Iterator<Item = (Addr, Role)> + '_ {
    let (addresses, role): (&[Addr], Role) = if let Some(workload) = resource.own_workload() {
        (&workload.addresses, Role::Workload)
    } else if let Some((_, addresses)) = resource.machine() {
        (addresses, Role::Node)
    } else if let Spec::Service(service) = resource.spec() {
        (&service.addresses, Role::Service)
    } else {
        (&[], Role::Workload)
    };
    addresses.iter().map(move |address| (*address, role))
}

fn slice_of(resource: &Resource) -> Option<&ServiceRef> {
    let Spec::EndpointSlice(slice) = resource.spec() else { return None };
    slice.service.as_ref()
}

fn is_wide(resource: &Resource) -> bool {
    matches!(resource.spec(), Spec::Policy(policy) if policy.namespaces.is_some())
}

fn pod_ranges(resource: &Resource) -> &[Prefix] {
    let Spec::Node(node) = resource.spec() else { return &[] };
    &node.pod_ranges
}
