//! Lives: host. Where a Service leads.
//! Called by: `explain`; rules are asked about the pods behind a Service, never about its own address and port.
//! May touch: nothing.
//! Never: guesses a port: a pod without the target's name is not behind it.

use weir_common::addr::{Addr, Protocol};

use super::explain::End;
use crate::{
    id::ResourceId,
    model::{Resource, Resources, Service, Spec, TargetPort, Workload},
};

/// A pod behind a Service, and its port.
pub struct Backend {
    pub end: End,
    pub port: u16,
}

/// The pods behind one port of a Service, in order of their ids.
pub fn backends(resources: &Resources, id: &ResourceId, protocol: Protocol, port: u16) -> Vec<Backend> {
    let Some(Spec::Service(service)) = resources.get(id).map(Resource::spec) else { return Vec::new() };
    let Some(selector) = &service.selector else { return Vec::new() };
    let ports = || service.ports.iter().filter(|known| known.protocol == protocol && known.port == port);
    let behind = |resource: &Resource| {
        resource.id().namespace == id.namespace
            && selector.iter().all(|(key, value)| resource.labels().get(key) == Some(value))
    };
    let mut found = Vec::new();
    for resource in resources.iter().filter(|resource| behind(resource)) {
        let Spec::Workload(workload) = resource.spec() else { continue };
        let targets = ports().filter_map(|port| target(workload, &port.target, protocol));
        found.extend(targets.map(|port| Backend { end: End::Workload(resource.id().clone()), port }));
    }
    found
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

/// The Service that owns an address of the cluster.
pub fn service_at(resources: &Resources, address: Addr) -> Option<&ResourceId> {
    let owns = |(_, service): &(&Resource, &Service)| service.addresses.contains(&address);
    resources.services().find(owns).map(|(resource, _)| resource.id())
}
