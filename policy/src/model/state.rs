//! Lives: host.
//! Called by: the agent, which keeps one; `weirctl` and the tests, which build one.
//! May touch: its index.
//! Never: remembers in which order resources came.
#![expect(clippy::wildcard_enum_match_arm, reason = "each iterator picks one kind out of all, also of those to come")]

use std::sync::Arc;

use rpds::RedBlackTreeMapSync;
use weir_common::addr::Addr;

use super::{
    EndpointSlice, Labels, Node, Policy, Prefix, Resource, Service, ServiceRef, Spec, Workload,
    index::{Index, Role},
};
use crate::id::{Kind, ResourceId};

/// Every resource there is. A clone shares everything until one of the two changes, and then all but the change: a dry run
/// costs no copy.
#[derive(Clone, Debug, Default)]
pub struct Resources {
    by_id: RedBlackTreeMapSync<ResourceId, Arc<Resource>>,
    index: Index,
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

    /// Every workload and pod with an address of its own, in order of its id. Pods in their host's network are none:
    /// they count as their node.
    pub fn workloads(&self) -> impl Iterator<Item = (&Resource, &Workload)> {
        self.of_kind(Kind::Workload).chain(self.of_kind(Kind::Pod)).filter_map(workload)
    }

    /// Those of one namespace.
    pub fn workloads_in<'a, 'n>(
        &'a self,
        namespace: &'n str,
    ) -> impl Iterator<Item = (&'a Resource, &'a Workload)> + use<'a, 'n> {
        let native = self.in_namespace(Kind::Workload, namespace);
        native.chain(self.in_namespace(Kind::Pod, namespace)).filter_map(workload)
    }

    /// The workload that has an address; of several that share it, the first by name.
    #[must_use]
    pub fn workload_at(&self, address: &Addr) -> Option<(&Resource, &Workload)> {
        self.index.at(*address, Role::Workload).find_map(|resource| workload(resource))
    }

    /// The labels of a namespace, if it is described.
    #[must_use]
    pub fn namespace_labels(&self, name: &str) -> Option<&Labels> {
        self.get(&ResourceId::new(Kind::Namespace, "", name)).map(Resource::labels)
    }

    /// Every service, in order of its id.
    pub fn services(&self) -> impl Iterator<Item = (&Resource, &Service)> {
        self.of_kind(Kind::Service).filter_map(|resource| match resource.spec() {
            Spec::Service(service) => Some((resource, service)),
            _ => None,
        })
    }

    /// A service by its id.
    #[must_use]
    pub fn service(&self, id: &ResourceId) -> Option<&Service> {
        match self.get(id)?.spec() {
            Spec::Service(service) => Some(service),
            _ => None,
        }
    }

    /// The service that has an address; of several, the first by name.
    #[must_use]
    pub fn service_at(&self, address: &Addr) -> Option<&ResourceId> {
        self.index.at(*address, Role::Service).next().map(|resource| resource.id())
    }

    /// The endpoint slices of a service, in order of their ids.
    pub fn slices_of<'a, 'n>(
        &'a self,
        service: &'n ServiceRef,
    ) -> impl Iterator<Item = &'a EndpointSlice> + use<'a, 'n> {
        self.index.slices_of(service).filter_map(|resource| match resource.spec() {
            Spec::EndpointSlice(slice) => Some(slice),
            _ => None,
        })
    }

    /// Every node, in order of its id.
    pub fn nodes(&self) -> impl Iterator<Item = (&Resource, &Node)> {
        self.of_kind(Kind::Node).filter_map(|resource| match resource.spec() {
            Spec::Node(node) => Some((resource, node)),
            _ => None,
        })
    }

    /// The addresses of machines, each with its node's name: its own, and those of pods in its network. In order of address;
    /// an address that several claim stands there several times, the machine that [`Self::node_at`] names first.
    pub fn node_addresses(&self) -> impl Iterator<Item = (Addr, &str)> {
        self.index.node_addresses().filter_map(|(address, resource)| Some((address, machine(resource)?)))
    }

    /// The machine that has an address, its own or by a pod in its network.
    #[must_use]
    pub fn node_at(&self, address: &Addr) -> Option<&str> {
        self.index.at(*address, Role::Node).find_map(|resource| machine(resource))
    }

    /// The labels of a node, if it is described.
    #[must_use]
    pub fn node_labels(&self, name: &str) -> Option<&Labels> {
        self.get(&ResourceId::new(Kind::Node, "", name)).map(Resource::labels)
    }

    /// The ranges that pods of the cluster have their addresses from, in order.
    pub fn pod_ranges(&self) -> impl Iterator<Item = &Prefix> {
        self.index.pod_ranges()
    }

    /// Whether pods of the cluster have addresses like this one.
    #[must_use]
    pub fn in_pod_range(&self, address: &Addr) -> bool {
        self.index.in_pod_range(address)
    }

    /// Every policy, in order of its id.
    pub fn policies(&self) -> impl Iterator<Item = (&Resource, &Policy)> {
        POLICIES.into_iter().flat_map(|kind| self.of_kind(kind)).filter_map(policy)
    }

    /// The policies that may select workloads of a namespace: its own, and those that choose their namespaces by a selector.
    pub fn policies_about<'a, 'n>(
        &'a self,
        namespace: &'n str,
    ) -> impl Iterator<Item = (&'a Resource, &'a Policy)> + use<'a, 'n> {
        let own =
            [Kind::Policy, Kind::NetworkPolicy].into_iter().flat_map(move |kind| self.in_namespace(kind, namespace));
        let own = own.filter_map(policy).filter(|(_, policy)| policy.namespaces.is_none());
        own.chain(self.index.wide_policies().filter_map(|resource| policy(resource)))
    }
}

/// The kinds of policies, in the order of kinds.
const POLICIES: [Kind; 5] = [
    Kind::Policy,
    Kind::NetworkPolicy,
    Kind::ClusterNetworkPolicy,
    Kind::AdminNetworkPolicy,
    Kind::BaselineAdminNetworkPolicy,
];

fn workload(resource: &Resource) -> Option<(&Resource, &Workload)> {
    match resource.spec() {
        Spec::Workload(workload) if !workload.host_network => Some((resource, workload)),
        _ => None,
    }
}

fn policy(resource: &Resource) -> Option<(&Resource, &Policy)> {
    match resource.spec() {
        Spec::Policy(policy) => Some((resource, policy)),
        _ => None,
    }
}

/// The name of the machine whose addresses a resource has.
fn machine(resource: &Resource) -> Option<&str> {
    match resource.spec() {
        Spec::Node(_) => Some(&resource.id().name),
        Spec::Workload(workload) => workload.node.as_deref(),
        _ => None,
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
