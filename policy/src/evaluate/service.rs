//! Lives: host. What is behind a service.
//! Called by: `explain`; rules are asked about what is behind a service, never about its own address and port. `compile`,
//! for the services that rules name.
//! May touch: nothing.
//! Never: guesses a port: a pod without the target's name is not behind it.

use std::collections::BTreeSet;

use weir_common::addr::{Addr, Protocol};

use super::{question::End, subject::Bound};
use crate::{
    id::{Kind, ResourceId},
    model::{
        Endpoint, EndpointPort, EndpointSlice, Labels, Peer, Resource, Resources, ServicePort, ServiceRef, Spec,
        TargetPort, Workload,
    },
};

/// Something behind a service, and its port.
pub struct Backend {
    pub end: End,
    pub port: u16,
}

/// What is called: one port of a service, in a family of addresses if that is known.
#[derive(Clone, Copy, Debug)]
pub struct Called {
    pub protocol: Protocol,
    pub port: u16,
    /// Whether by IPv4.
    pub v4: Option<bool>,
}

impl Called {
    fn reaches(&self, address: &Addr) -> bool {
        self.v4.is_none_or(|v4| address.as_v4().is_some() == v4)
    }
}

/// What is behind one port of a service: what its endpoint slices list, if there are any; else the pods with its labels, in
/// order of their ids. Asked is then about those and their port, as a Service's own address and port are translated before
/// policies are asked.
pub fn backends(resources: &Resources, id: &ResourceId, called: Called) -> Vec<Backend> {
    let Some(service) = resources.service(id) else { return Vec::new() };
    let Called { protocol, port, .. } = called;
    let ports = || service.ports.iter().filter(move |known| known.protocol == protocol && known.port == port);
    let name = ServiceRef { namespace: id.namespace.clone(), name: id.name.clone() };
    let slices: Vec<_> = resources.slices_of(&name).collect();
    if !slices.is_empty() {
        return ports()
            .flat_map(|port| slices.iter().flat_map(|slice| listed(resources, slice, port, called)))
            .collect();
    }
    let Some(selector) = &service.selector else { return Vec::new() };
    let mut found = Vec::new();
    let pods = [Kind::Workload, Kind::Pod].into_iter().flat_map(|kind| resources.in_namespace(kind, &id.namespace));
    for resource in pods.filter(|resource| has_labels(resource, &id.namespace, selector)) {
        let Spec::Workload(workload) = resource.spec() else { continue };
        let Some(end) = reached(resource.id(), workload, called) else { continue };
        let targets = ports().filter_map(|port| target(workload, &port.target, protocol));
        found.extend(targets.map(|port| Backend { end: end.clone(), port }));
    }
    found
}

/// A pod by its address of the family; by its name where none is known. `None`: it has addresses, and none of the family, or
/// is its node, which is known by addresses only.
fn reached(id: &ResourceId, workload: &Workload, called: Called) -> Option<End> {
    let addresses = &workload.addresses;
    match addresses.iter().find(|address| called.reaches(address)) {
        Some(address) if called.v4.is_some() => Some(End::Address(*address)),
        Some(_) => Some(End::Workload(id.clone())),
        None => (addresses.is_empty() && !workload.host_network).then(|| End::Workload(id.clone())),
    }
}

/// Whether an end is behind a service that a rule names: the pods with the service's labels; of a service without a selector
/// what its endpoint slices list. A service that is not there has nothing behind it.
pub fn is_behind(
    resources: &Resources,
    name: &ServiceRef,
    workload: Option<&Resource>,
    address: Option<&Addr>,
) -> bool {
    match resources.service(&name.id()).map(|service| &service.selector) {
        None => false,
        Some(Some(selector)) => workload.is_some_and(|workload| has_labels(workload, &name.namespace, selector)),
        Some(None) => {
            let mut endpoints = resources.slices_of(name).flat_map(|slice| &slice.endpoints);
            endpoints.any(|endpoint| is_endpoint(endpoint, workload, address))
        }
    }
}

/// The services that the policies name and an end is behind, in order.
pub fn named_services(
    resources: &Resources,
    bound: &[Bound<'_>],
    workload: Option<&Resource>,
    address: Option<Addr>,
) -> Vec<ServiceRef> {
    let rules = bound.iter().flat_map(|bound| bound.policy.ingress.iter().chain(&bound.policy.egress));
    let named: BTreeSet<_> = rules.flat_map(|rule| &rule.peers).filter_map(service_of).collect();
    named.into_iter().filter(|name| is_behind(resources, name, workload, address.as_ref())).cloned().collect()
}

const fn service_of(peer: &Peer) -> Option<&ServiceRef> {
    match peer {
        Peer::Service { service } => Some(service),
        Peer::Workloads { .. } | Peer::IpBlock { .. } | Peer::Entity { .. } | Peer::Nodes { .. } | Peer::Unknown => {
            None
        }
    }
}

fn has_labels(resource: &Resource, namespace: &str, selector: &Labels) -> bool {
    resource.id().namespace == namespace
        && selector.iter().all(|(key, value)| resource.labels().get(key) == Some(value))
}

/// Whether an endpoint is this workload or has this address.
fn is_endpoint(endpoint: &Endpoint, workload: Option<&Resource>, address: Option<&Addr>) -> bool {
    let by_name = workload.is_some_and(|workload| endpoint.pod.as_ref() == Some(workload.id()));
    by_name || address.is_some_and(|address| endpoint.addresses.contains(address))
}

/// The endpoints of a slice at the port that a port of the service leads to: the one of the same name and protocol.
fn listed(resources: &Resources, slice: &EndpointSlice, service: &ServicePort, called: Called) -> Vec<Backend> {
    let of_port = |known: &&EndpointPort| known.name == service.name && known.protocol == service.protocol;
    let Some(port) = slice.ports.iter().find(of_port) else { return Vec::new() };
    let port = port.port.unwrap_or(service.port);
    let of_family = |endpoint: &&Endpoint| endpoint.addresses.first().is_none_or(|address| called.reaches(address));
    let ends = slice.endpoints.iter().filter(of_family).filter_map(|endpoint| end_of(resources, endpoint));
    ends.map(|end| Backend { end, port }).collect()
}

/// By its address if somebody has that, else by the pod it names; the addresses of an endpoint are one thing's.
fn end_of(resources: &Resources, endpoint: &Endpoint) -> Option<End> {
    // A pod in its host's network is known by its address only.
    let own = |id: &&ResourceId| resources.get(id).is_some_and(|resource| resource.own_workload().is_some());
    let pod = endpoint.pod.as_ref().filter(own);
    let address = endpoint.addresses.first();
    let owned = address.filter(|address| resources.workload_at(address).is_some());
    match (owned, pod, address) {
        (Some(address), _, _) | (None, None, Some(address)) => Some(End::Address(*address)),
        (None, Some(pod), _) => Some(End::Workload(pod.clone())),
        (None, None, None) => None,
    }
}

/// The number of a pod's port.
fn target(workload: &Workload, target: &TargetPort, protocol: Protocol) -> Option<u16> {
    match target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => {
            let mut named = workload.ports.iter();
            named.find(|port| port.name == *name && port.protocol == protocol).map(|port| port.port)
        }
    }
}
