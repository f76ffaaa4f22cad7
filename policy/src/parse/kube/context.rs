//! Lives: host.
//! Called by: `kube`, for Pod, Node and Service: what policies speak about.
//! May touch: the list of faults.
//! Never: judges fields that policies do not look at; those objects are the cluster's, and newer ones have newer fields.

use weir_common::addr::{Addr, Protocol};

use super::{
    super::{
        faults::Faults,
        fields::{Field, Fields},
        scalars::address,
        selector::labels,
        yaml::Value,
    },
    parts::{TRANSPORTS, cidr, is_number, number, port_name},
};
use crate::model::{ContainerPort, Node, Service, ServicePort, TargetPort, Workload};

/// Marks the API server's image of a pod that a node runs from a file of its own, and holds that pod's UID.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// A pod. One that has ended owns its addresses no more.
pub fn pod(top: &Fields<'_>, faults: &mut Faults) -> Option<Workload> {
    let spec = inner(top, "spec", faults);
    let status = inner(top, "status", faults);
    let get = |fields: &Option<Fields<'_>>, name| fields.as_ref().and_then(|fields| fields.get(name)).map(owned);
    let ended = get(&status, "phase").is_some_and(|phase| matches!(phase.as_str(), "Succeeded" | "Failed"));
    let mut addresses = Vec::new();
    if let (Some(status), false) = (&status, ended) {
        addresses = list_of(status, "podIPs", "ip", faults);
        let single = status.get("podIP").filter(|_| addresses.is_empty());
        addresses.extend(single.and_then(|field| address(&field, faults)));
    }
    Some(Workload {
        cgroup: None,
        interface: None,
        addresses,
        node: get(&spec, "nodeName").filter(|name| !name.is_empty()),
        uid: uid(top, faults),
        ports: spec.as_ref().map(|spec| named_ports(spec, faults)).unwrap_or_default(),
        host_network: get(&spec, "hostNetwork").is_some_and(|word| word == "true"),
    })
}

/// The UID by which the node knows the pod: of a mirrored one, its original's.
fn uid(top: &Fields<'_>, faults: &mut Faults) -> Option<String> {
    let metadata = inner(top, "metadata", faults)?;
    let mirrored = inner(&metadata, "annotations", faults).and_then(|annotations| annotations.get(MIRROR).map(owned));
    mirrored.or_else(|| metadata.get("uid").map(owned)).filter(|uid| !uid.is_empty())
}

/// The ports of all containers that have a name; init containers that go on running (sidecars) are containers too.
fn named_ports(spec: &Fields<'_>, faults: &mut Faults) -> Vec<ContainerPort> {
    let mut ports = Vec::new();
    let mut containers = items(spec, "containers", faults);
    containers.extend(
        items(spec, "initContainers", faults)
            .into_iter()
            .filter(|container| container.get("restartPolicy").map(owned).is_some_and(|policy| policy == "Always")),
    );
    for port in containers.iter().flat_map(|container| items(container, "ports", faults)).collect::<Vec<_>>() {
        let Some(name) = port.get("name").and_then(|name| port_name(&name, faults)) else { continue };
        let found = port.get("containerPort").and_then(|field| number(&field, faults));
        if let (Some(number), Some(protocol)) = (found, transport(&port, faults)) {
            ports.push(ContainerPort { name, protocol, port: number });
        }
    }
    ports.sort();
    ports
}

/// A node: its addresses that are addresses, not host names.
pub fn node(top: &Fields<'_>, faults: &mut Faults) -> Option<Node> {
    let mut addresses = Vec::new();
    if let Some(status) = inner(top, "status", faults) {
        for item in items(&status, "addresses", faults) {
            let kind = item.get("type").map(owned).unwrap_or_default();
            if matches!(kind.as_str(), "InternalIP" | "ExternalIP") {
                addresses.extend(item.get("address").and_then(|field| address(&field, faults)));
            }
        }
    }
    let spec = inner(top, "spec", faults);
    let listed = spec.as_ref().and_then(|spec| spec.get("podCIDRs")).map(|list| list.list(faults)).unwrap_or_default();
    let single = spec.as_ref().and_then(|spec| spec.get("podCIDR")).filter(|_| listed.is_empty());
    let fields = listed.into_iter().chain(single);
    let pod_ranges = fields.filter_map(|field| cidr(&field, faults)).collect();
    Some(Node { addresses, pod_ranges })
}

/// A service.
pub fn service(top: &Fields<'_>, faults: &mut Faults) -> Option<Service> {
    let Some(spec) = inner(top, "spec", faults) else { return Some(Service::default()) };
    let mut addresses = Vec::new();
    let listed = spec.get("clusterIPs").map(|list| list.list(faults)).unwrap_or_default();
    for field in listed.into_iter().chain(spec.get("clusterIP")) {
        // A headless service says None; one that the cluster has not seen yet says nothing.
        if matches!(owned(field.clone()).as_str(), "None" | "") {
            continue;
        }
        let found = address(&field, faults);
        addresses.extend(found.filter(|address| !addresses.contains(address)));
    }
    let selector = spec.get("selector").map(|field| labels(&field, faults)).filter(|labels| !labels.is_empty());
    let ports = items(&spec, "ports", faults);
    let ports = ports.iter().filter_map(|port| service_port(port, faults)).collect();
    Some(Service { addresses, selector, ports })
}

/// Without a targetPort, the pods' port is the service's.
fn service_port(fields: &Fields<'_>, faults: &mut Faults) -> Option<ServicePort> {
    let port = number(&fields.require(faults, "port", "write the port's number")?, faults)?;
    let target = match fields.get("targetPort") {
        None => TargetPort::Number(port),
        Some(field) if is_number(&field) => TargetPort::Number(number(&field, faults)?),
        Some(field) => TargetPort::Name(port_name(&field, faults)?),
    };
    let name = fields.get("name").map(owned).unwrap_or_default();
    Some(ServicePort { name, protocol: transport(fields, faults)?, port, target })
}

pub fn transport(fields: &Fields<'_>, faults: &mut Faults) -> Option<Protocol> {
    fields.get("protocol").map_or(Some(Protocol::TCP), |word| word.word(faults, &TRANSPORTS))
}

pub fn inner<'n>(fields: &Fields<'n>, name: &str, faults: &mut Faults) -> Option<Fields<'n>> {
    fields.get(name).and_then(|field| field.lenient(faults))
}

pub fn items<'n>(fields: &Fields<'n>, name: &str, faults: &mut Faults) -> Vec<Fields<'n>> {
    let list = fields.get(name).map(|list| list.list(faults)).unwrap_or_default();
    list.iter().filter_map(|item| item.lenient(faults)).collect()
}

fn list_of(fields: &Fields<'_>, name: &str, key: &str, faults: &mut Faults) -> Vec<Addr> {
    let found = items(fields, name, faults);
    found.iter().filter_map(|item| item.get(key).and_then(|field| address(&field, faults))).collect()
}

/// The text of a value as it stands; empty if it is none.
pub fn owned(field: Field<'_>) -> String {
    match &field.node.value {
        Value::Scalar { text, .. } => text.clone(),
        Value::List(_) | Value::Map(_) => String::new(),
    }
}
