//! Lives: fuzz targets. A small cluster out of bytes, full of things that nearly match each other.
//! Called by: `judge`.
//! May touch: the bytes it is handed.
//! Never: makes a document that the parser refuses, so that no byte of a fuzzer is wasted on one.

mod native;
mod policies;

use arbitrary::{Result, Unstructured};
use serde_json::{Value, json};
use weir_policy::{Kind, Resource};

/// Few of everything, so that things meet.
const NAMESPACES: [&str; 3] = ["a", "b", "c"];
const NODES: [&str; 2] = ["here", "there"];
/// Addresses of pods and of nobody, in blocks that hold each other.
pub const ADDRESSES: [&str; 12] = [
    "10.0.0.1",
    "10.0.0.2",
    "10.0.0.3",
    "10.0.0.4",
    "10.0.0.5",
    "10.1.0.1",
    "192.0.2.1",
    "192.0.2.9",
    "fd00::1",
    "fd00::2",
    "fd00::5",
    "2001:db8::1",
];
/// Ports on both sides of every edge that policies draw.
pub const PORTS: [u16; 9] = [1, 53, 79, 80, 81, 443, 8080, 9000, 65_535];

/// The documents of a cluster, as JSON.
pub struct Documents(pub Vec<String>);

impl Documents {
    /// Pods, namespaces, nodes and policies; the first pod runs here.
    pub fn of(bytes: &mut Unstructured<'_>) -> Result<Self> {
        let mut all = Vec::new();
        for number in 0..bytes.int_in_range(1..=5)? {
            all.push(pod(number, bytes)?);
        }
        for (number, name) in NODES.iter().enumerate() {
            let address = format!("10.0.255.{number}");
            all.push(json!({"apiVersion": "v1", "kind": "Node",
                "metadata": {"name": name, "labels": labels(bytes)?},
                "spec": {"podCIDRs": [format!("10.{number}.0.0/24")]},
                "status": {"addresses": [{"type": "InternalIP", "address": address}]}}));
        }
        for name in NAMESPACES.iter().take(bytes.int_in_range(0..=3)?) {
            all.push(
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels(bytes)?}}),
            );
        }
        services(&mut all, bytes)?;
        for number in 0..bytes.int_in_range(0..=5)? {
            all.push(policies::any(number, bytes)?);
        }
        Ok(Self(all.iter().map(Value::to_string).collect()))
    }

    /// The resources, as the node `here` has them.
    pub fn resources(&self) -> std::result::Result<Vec<Resource>, Vec<weir_policy::Fault>> {
        let all = weir_policy::parse_all(self.0.iter().map(|text| ("cluster", text.as_str())))?;
        let here = |resource: &Resource| {
            let found = matches!(resource.spec(), weir_policy::Spec::Workload(workload)
                if !workload.host_network && workload.node.as_deref() == Some("here"));
            found && resource.id().kind == Kind::Pod
        };
        let placed = all.into_iter().map(|resource| {
            let cgroup = resource.id().to_string();
            if here(&resource) { resource.running_in(&cgroup) } else { resource }
        });
        Ok(placed.collect())
    }
}

/// A pod with an address of each family that nobody else has.
fn pod(number: usize, bytes: &mut Unstructured<'_>) -> Result<Value> {
    let node = if number == 0 { "here" } else { bytes.choose(&NODES)? };
    let host_network = number > 0 && bytes.ratio(1, 8)?;
    let ips = match number {
        _ if host_network => vec![json!({"ip": format!("10.0.255.{}", usize::from(node == "there"))})],
        _ => {
            let ips = [ADDRESSES.get(number), ADDRESSES.get(number + 8).filter(|_| number < 2)];
            ips.into_iter().flatten().map(|ip| json!({"ip": ip})).collect()
        }
    };
    let ports = some(bytes, 2, |bytes| {
        Ok(json!({"name": bytes.choose(&["web", "dns"])?, "containerPort": bytes.choose(&PORTS)?,
            "protocol": bytes.choose(&["TCP", "UDP", "SCTP"])?}))
    })?;
    Ok(json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("p{number}"), "namespace": bytes.choose(&NAMESPACES)?, "labels": labels(bytes)?},
        "spec": {"nodeName": node, "hostNetwork": host_network, "containers": [{"name": "main", "ports": ports}]},
        "status": {"phase": "Running", "podIPs": ips}}))
}

/// A service with a selector, and one whose endpoints are listed. Neither has an address of its own: rules see what is behind.
fn services(all: &mut Vec<Value>, bytes: &mut Unstructured<'_>) -> Result<()> {
    if bytes.arbitrary()? {
        all.push(json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "s0", "namespace": bytes.choose(&NAMESPACES)?},
            "spec": {"clusterIP": "None", "selector": {"app": bytes.choose(&["x", "y"])?}, "ports": [{"port": 80}]}}));
    }
    if bytes.arbitrary()? {
        let v4 = |address: &&&str| address.contains('.');
        let known: Vec<_> = ADDRESSES.iter().filter(v4).collect();
        let listed = few(bytes, 3, |bytes| Ok(json!({"addresses": [bytes.choose(&known)?]})))?;
        all.push(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "s1-a", "namespace": bytes.choose(&NAMESPACES)?,
                "labels": {"kubernetes.io/service-name": "s1"}},
            "addressType": "IPv4", "endpoints": listed, "ports": [{"port": 80}]}));
    }
    Ok(())
}

/// Labels of which selectors know some.
fn labels(bytes: &mut Unstructured<'_>) -> Result<Value> {
    let mut labels = serde_json::Map::new();
    for key in ["app", "team", "replica"] {
        if bytes.arbitrary()? {
            labels.insert(key.to_owned(), json!(bytes.choose(&["x", "y", ""])?));
        }
    }
    Ok(Value::Object(labels))
}

/// A selector of every kind there is.
fn selector(bytes: &mut Unstructured<'_>) -> Result<Value> {
    let key = |bytes: &mut Unstructured<'_>| bytes.choose(&["app", "team", "kubernetes.io/metadata.name"]).copied();
    let value = |bytes: &mut Unstructured<'_>| bytes.choose(&["x", "y", "a", "b"]).copied();
    let (key, word) = (key(bytes)?, value(bytes)?);
    Ok(match bytes.int_in_range(0..=6)? {
        0 => json!({}),
        1..=3 => json!({"matchLabels": {key: word}}),
        4 => {
            let operator = bytes.choose(&["In", "NotIn"])?;
            json!({"matchExpressions": [{"key": key, "operator": operator, "values": [word, value(bytes)?]}]})
        }
        5 => json!({"matchExpressions": [{"key": key, "operator": bytes.choose(&["Exists", "DoesNotExist"])?}]}),
        _ => {
            json!({"matchLabels": {"app": "x"}, "matchExpressions": [{"key": key, "operator": "NotIn", "values": [word]}]})
        }
    })
}

/// Up to `most` of something.
fn some<T>(
    bytes: &mut Unstructured<'_>,
    most: usize,
    mut one: impl FnMut(&mut Unstructured<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    (0..bytes.int_in_range(0..=most)?).map(|_| one(bytes)).collect()
}

/// At least one of something.
fn few<T>(
    bytes: &mut Unstructured<'_>,
    most: usize,
    mut one: impl FnMut(&mut Unstructured<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    (0..bytes.int_in_range(1..=most)?).map(|_| one(bytes)).collect()
}
