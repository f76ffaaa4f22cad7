//! Lives: host.
//! Called by: the evaluator, the compiler and the warnings, with what they need to know of the cluster.
//! May touch: nothing.
//! Never: looks at more resources than the answer is about, where an index leads to them.
#![expect(clippy::wildcard_enum_match_arm, reason = "each iterator picks one kind out of all, also of those to come")]

use weir_common::addr::Addr;

use super::{
    EndpointSlice, Labels, Node, Policy, Prefix, Resource, Resources, Service, ServiceRef, Spec, Workload, index::Role,
};
use crate::id::{Kind, ResourceId};

impl Resources {
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
        self.index.node_addresses().filter_map(|(address, resource)| Some((address, resource.machine()?.0)))
    }

    /// The machine that has an address, its own or by a pod in its network.
    #[must_use]
    pub fn node_at(&self, address: &Addr) -> Option<&str> {
        self.index.at(*address, Role::Node).find_map(|resource| Some(resource.machine()?.0))
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
    resource.own_workload().map(|workload| (resource, workload))
}

fn policy(resource: &Resource) -> Option<(&Resource, &Policy)> {
    match resource.spec() {
        Spec::Policy(policy) => Some((resource, policy)),
        _ => None,
    }
}
