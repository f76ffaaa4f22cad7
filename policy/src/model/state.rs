//! Lives: host.
//! Called by: the agent, which keeps one; `weirctl explain` and the tests, which build one.
//! May touch: nothing.
//! Never: remembers in which order resources came.
#![expect(clippy::wildcard_enum_match_arm, reason = "each iterator picks one kind out of all, also of those to come")]

use std::{collections::BTreeMap, sync::Arc};

use weir_common::addr::Addr;

use super::{EndpointSlice, Labels, Node, Policy, Prefix, Resource, Service, ServiceRef, Spec, Workload};
use crate::id::{Kind, ResourceId};

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

    /// Every workload and pod with an address of its own, in order of its id. Pods in their host's network are none:
    /// they count as their node.
    pub fn workloads(&self) -> impl Iterator<Item = (&Resource, &Workload)> {
        self.iter().filter_map(|resource| match resource.spec() {
            Spec::Workload(workload) if !workload.host_network => Some((resource, workload)),
            _ => None,
        })
    }

    /// The workload that has an address.
    #[must_use]
    pub fn workload_at(&self, address: &Addr) -> Option<(&Resource, &Workload)> {
        self.workloads().find(|(_, workload)| workload.addresses.contains(address))
    }

    /// The labels of a namespace, if it is described.
    #[must_use]
    pub fn namespace_labels(&self, name: &str) -> Option<&Labels> {
        self.get(&ResourceId::new(Kind::Namespace, "", name)).map(Resource::labels)
    }

    /// Every service, in order of its id.
    pub fn services(&self) -> impl Iterator<Item = (&Resource, &Service)> {
        self.iter().filter_map(|resource| match resource.spec() {
            Spec::Service(service) => Some((resource, service)),
            _ => None,
        })
    }

    /// Every node, in order of its id.
    pub fn nodes(&self) -> impl Iterator<Item = (&Resource, &Node)> {
        self.iter().filter_map(|resource| match resource.spec() {
            Spec::Node(node) => Some((resource, node)),
            _ => None,
        })
    }

    /// The addresses of machines, each with its node's name: its own, and those of pods in its network.
    pub fn node_addresses(&self) -> impl Iterator<Item = (Addr, &str)> {
        let own = self
            .nodes()
            .flat_map(|(resource, node)| node.addresses.iter().map(|address| (*address, resource.id().name.as_str())));
        let guests = self.iter().filter_map(|resource| match resource.spec() {
            Spec::Workload(workload) if workload.host_network => Some(workload),
            _ => None,
        });
        let shared = guests.flat_map(|workload| {
            let node = workload.node.as_deref();
            workload.addresses.iter().filter_map(move |address| node.map(|node| (*address, node)))
        });
        own.chain(shared)
    }

    /// The machine that has an address, its own or by a pod in its network.
    #[must_use]
    pub fn node_at(&self, address: &Addr) -> Option<&str> {
        self.node_addresses().find(|(known, _)| known == address).map(|(_, name)| name)
    }

    /// The ranges that pods of the cluster have their addresses from.
    pub fn pod_ranges(&self) -> impl Iterator<Item = &Prefix> {
        self.nodes().flat_map(|(_, node)| &node.pod_ranges)
    }

    /// The endpoint slices of a service, in order of their ids.
    pub fn slices_of(&self, service: &ServiceRef) -> impl Iterator<Item = &EndpointSlice> {
        self.iter().filter_map(move |resource| match resource.spec() {
            Spec::EndpointSlice(slice) if slice.service.as_ref() == Some(service) => Some(slice),
            _ => None,
        })
    }

    /// The labels of a node, if it is described.
    #[must_use]
    pub fn node_labels(&self, name: &str) -> Option<&Labels> {
        self.get(&ResourceId::new(Kind::Node, "", name)).map(Resource::labels)
    }

    /// Every policy, in order of its id.
    pub fn policies(&self) -> impl Iterator<Item = (&Resource, &Policy)> {
        self.iter().filter_map(|resource| match resource.spec() {
            Spec::Policy(policy) => Some((resource, policy)),
            _ => None,
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
