//! Lives: weir-bench. Namespaces, nodes and services.
//! Called by: `cluster`, `edits`.
//! May touch: nothing.
//! Never: names one thing in two ways.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::json;

use super::{Document, apps::App, pods};

/// Where a namespace's apps are used; policies select namespaces by it.
pub const STAGES: [&str; 3] = ["prod", "staging", "dev"];
/// Namespaces that one team has.
pub const PER_TEAM: usize = 4;

/// The first namespace is the cluster's own, where name resolution lives.
#[must_use]
pub fn namespace_name(number: usize) -> String {
    if number == 0 { "kube-system".to_owned() } else { format!("ns-{number}") }
}

/// The node's name.
#[must_use]
pub fn node_name(number: usize) -> String {
    format!("node-{number}")
}

/// The team that owns a namespace.
#[must_use]
pub fn team(namespace: usize) -> String {
    format!("team-{}", namespace / PER_TEAM)
}

/// A node's own addresses.
#[must_use]
pub fn node_addresses(number: usize) -> (Ipv4Addr, Ipv6Addr) {
    let number = u32::try_from(number).unwrap_or(u32::MAX);
    let v4 = u32::from(Ipv4Addr::new(192, 168, 0, 1)).wrapping_add(number);
    let v6 = u128::from(Ipv6Addr::new(0xfd50, 0, 0, 0, 0, 0, 0, 1)) + u128::from(number);
    (Ipv4Addr::from(v4), Ipv6Addr::from(v6))
}

/// A namespace with its labels.
#[must_use]
pub fn namespace(number: usize) -> Document {
    let stage = STAGES.get(number % STAGES.len()).copied().unwrap_or("prod");
    Document(json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": namespace_name(number),
            "labels": {"stage": stage, "team": team(number), "pod-security.kubernetes.io/enforce": "baseline"},
        },
    }))
}

/// A node with its labels, addresses, and the addresses of its pods.
#[must_use]
pub fn node(number: usize) -> Document {
    let (v4, v6) = node_addresses(number);
    let (pods_v4, pods_v6) = pods::addresses(number, 0);
    let role = if number.is_multiple_of(20) { "ingress" } else { "worker" };
    let name = node_name(number);
    Document(json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "pool": role}},
        "spec": {"podCIDRs": [format!("{pods_v4}/22"), format!("{pods_v6}/64")]},
        "status": {"addresses": [
            {"type": "InternalIP", "address": v4},
            {"type": "InternalIP", "address": v6},
            {"type": "Hostname", "address": name},
        ]},
    }))
}

/// A service in front of each of the first apps.
#[must_use]
pub fn services(apps: &[App], count: usize) -> Vec<Document> {
    (0u16..).zip(apps).take(count).map(|(number, app)| service(number, app)).collect()
}

fn service(number: u16, app: &App) -> Document {
    let [high, low] = number.to_be_bytes();
    let v4 = Ipv4Addr::new(172, 20, high, low);
    let v6 = Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 1, number);
    let target = if app.stateful { "sql" } else { "http" };
    Document(json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": app.namespace, "name": app.name},
        "spec": {
            "clusterIP": v4,
            "clusterIPs": [v4, v6],
            "selector": {"app": app.name},
            "ports": [{"port": 80, "targetPort": target, "protocol": "TCP"}],
        },
    }))
}
