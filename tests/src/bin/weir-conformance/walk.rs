//! Lives: weir-conformance. How states are reached.
//! Called by: check.
//! May touch: nothing.
//! Never: hands objects over in the order in which the case lists them; order must not matter.

use serde_json::{Value, json};
use weir_policy::{Edit, Fault, Resource, Resources, parse, parse_all};

use crate::case::{Pod, State};

/// Every resource of a state, read from documents as the API server would give them.
pub fn read(state: &State) -> Result<Vec<Resource>, Vec<Fault>> {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects(state)}).to_string();
    let policies = state.policies.iter().enumerate().map(|(index, text)| (format!("policies[{index}]"), text));
    let policies: Vec<_> = policies.collect();
    let policies = policies.iter().map(|(name, text)| (name.as_str(), text.as_str()));
    parse_all(policies.chain([("cluster", list.as_str())]))
}

/// The same state object by object: each document on its own must say what it said in the list.
pub fn read_singly(state: &State) -> Result<Vec<Resource>, Vec<Fault>> {
    let mut resources = Vec::new();
    for object in objects(state) {
        resources.extend(parse("object", &object.to_string())?);
    }
    for policy in &state.policies {
        resources.extend(parse("policy", policy)?);
    }
    Ok(resources)
}

/// Turns `state` into the state of `wanted`, one difference at a time, in an order that `seed` decides.
pub fn step(state: &mut Resources, wanted: Vec<Resource>, seed: u64) {
    for edit in edits(state, &wanted.into_iter().collect(), seed) {
        match edit {
            Edit::Put(resource) => drop(state.insert(resource)),
            Edit::Remove(id) => drop(state.remove(&id)),
        }
    }
}

/// What turns one state into another, in an order that `seed` decides.
pub fn edits(state: &Resources, target: &Resources, seed: u64) -> Vec<Edit> {
    let gone = state.iter().filter(|old| target.get(old.id()).is_none()).map(|old| Edit::Remove(old.id().clone()));
    let changed = target.iter().filter(|new| state.get(new.id()) != Some(*new)).cloned().map(Edit::Put);
    let mut differences: Vec<_> = gone.chain(changed).collect();
    shuffle(&mut differences, seed);
    differences
}

/// Fisher and Yates with xorshift64, so that a failing order comes back.
pub fn shuffle<T>(items: &mut [T], seed: u64) {
    let mut random = seed | 1;
    for last in (1..items.len()).rev() {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let bound = u64::try_from(last + 1).unwrap_or(u64::MAX);
        items.swap(last, usize::try_from(random % bound).unwrap_or(0));
    }
}

/// Every object of a state but its policies, as the API server would give it.
pub fn objects(state: &State) -> Vec<Value> {
    let nodes = state.nodes.iter().map(|node| {
        let addresses: Vec<_> = node.ips.iter().map(|ip| json!({"type": "InternalIP", "address": ip})).collect();
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node.name, "labels": node.labels},
            "status": {"addresses": addresses}})
    });
    let namespaces = state.namespaces.iter().map(|namespace| {
        json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": namespace.name, "labels": namespace.labels}})
    });
    let services = state.services.iter().map(|service| {
        let port = |port: &crate::case::ServicePort| match &port.target_port {
            Some(target) => json!({"port": port.port, "protocol": port.protocol, "targetPort": target}),
            None => json!({"port": port.port, "protocol": port.protocol}),
        };
        let ports: Vec<_> = service.ports.iter().map(port).collect();
        json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": service.namespace, "name": service.name},
            "spec": {"clusterIPs": service.cluster_ips, "selector": service.selector, "ports": ports}})
    });
    nodes.chain(namespaces).chain(services).chain(state.pods.iter().map(pod)).collect()
}

fn pod(pod: &Pod) -> Value {
    let port = |port: &crate::case::Port| {
        let mut value = json!({"containerPort": port.port, "protocol": port.protocol});
        if let (Some(name), Some(fields)) = (&port.name, value.as_object_mut()) {
            fields.insert("name".to_owned(), json!(name));
        }
        value
    };
    let ports: Vec<_> = pod.ports.iter().map(port).collect();
    let ips: Vec<_> = pod.ips.iter().map(|ip| json!({"ip": ip})).collect();
    let mut spec = json!({"containers": [{"name": "main", "ports": ports}], "hostNetwork": pod.host_network});
    if let (Some(node), Some(fields)) = (&pod.node, spec.as_object_mut()) {
        fields.insert("nodeName".to_owned(), json!(node));
    }
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": pod.namespace, "name": pod.name, "labels": pod.labels},
        "spec": spec, "status": {"phase": "Running", "podIPs": ips}})
}
