//! Lives: weir-bench.
//! Called by: `cluster`, `edits`.
//! May touch: nothing.
//! Never: gives two pods one address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fastrand::Rng;
use serde_json::{Value, json};
use weir_common::addr::Protocol;
use weir_policy::{ContainerPort, Kind, Labels, Origin, Resource, ResourceId, Spec, Workload, addr};

use super::{Document, Size, apps::App, others::node_name};

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels: those that policies may look at, and those that change with every replica.
    pub labels: Labels,
    /// The node it runs on; 0 is the one that is looked at.
    pub node: usize,
    /// Its addresses, one of each family.
    pub addresses: (Ipv4Addr, Ipv6Addr),
    /// Its ports by name.
    pub ports: Vec<(&'static str, u16)>,
}

/// IPv4 addresses that one node has for its pods.
pub const ADDRESSES: u32 = 1024;

/// The replicas of every app, `size.local` of them on the first node and the others spread evenly.
pub fn make(size: &Size, apps: &[App], rng: &mut Rng) -> Vec<Pod> {
    let mut here = vec![true; size.local];
    here.resize(size.pods, false);
    rng.shuffle(&mut here);
    let mut used = vec![0u32; size.nodes];
    let mut elsewhere = 0;
    let replicas = apps.iter().flat_map(|app| (0..app.replicas).map(move |number| (app, number)));
    let placed = replicas.zip(here).map(|((app, number), here)| {
        let node = if here { 0 } else { 1 + elsewhere % size.nodes.saturating_sub(1).max(1) };
        elsewhere += usize::from(!here);
        let place = used.get_mut(node).map_or(0, |used| {
            *used += 1;
            *used
        });
        Pod::of(app, number, node, addresses(node, place), rng)
    });
    placed.collect()
}

/// The addresses of a node's `place`-th pod: a /22 and a /64 of its own, as networks give them out.
#[must_use]
pub fn addresses(node: usize, place: u32) -> (Ipv4Addr, Ipv6Addr) {
    let node = u32::try_from(node).unwrap_or(u32::MAX);
    let v4 = u32::from(Ipv4Addr::new(10, 4, 0, 0)).wrapping_add(node.wrapping_mul(ADDRESSES)).wrapping_add(place);
    let v6 = u128::from(Ipv6Addr::new(0xfd00, 10, 0, 0, 0, 0, 0, 0)) | u128::from(node) << 64;
    (Ipv4Addr::from(v4), Ipv6Addr::from(v6 + u128::from(place)))
}

impl Pod {
    /// One more pod of an app.
    pub fn of(app: &App, number: usize, node: usize, addresses: (Ipv4Addr, Ipv6Addr), rng: &mut Rng) -> Self {
        let suffix = if app.stateful { number.to_string() } else { hash(rng) };
        let name = format!("{}-{suffix}", app.name);
        let mut labels: Labels =
            [("app", app.name.as_str()), ("tier", app.tier), ("app.kubernetes.io/version", "1.4.2")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into();
        if app.stateful {
            labels.insert("statefulset.kubernetes.io/pod-name".to_owned(), name.clone());
            labels.insert("apps.kubernetes.io/pod-index".to_owned(), suffix);
        } else {
            labels.insert("pod-template-hash".to_owned(), hash(rng));
        }
        let main = if app.stateful { "sql" } else { "http" };
        let mut ports = vec![(main, app.port), ("metrics", 9090)];
        ports.sort_unstable();
        Self { namespace: app.namespace.clone(), name, labels, node, addresses, ports }
    }

    /// As the policy engine has it; a pod of the first node runs in a cgroup here.
    #[must_use]
    pub fn resource(&self) -> Resource {
        let port = |(name, port): &(&str, u16)| ContainerPort {
            name: (*name).to_owned(),
            protocol: Protocol::TCP,
            port: *port,
        };
        let (v4, v6) = self.addresses;
        let workload = Workload {
            addresses: vec![addr(IpAddr::V4(v4)), addr(IpAddr::V6(v6))],
            node: Some(node_name(self.node)),
            ports: self.ports.iter().map(port).collect(),
            ..Workload::default()
        };
        let spec = Spec::Workload(workload);
        let resource = Resource::foreign(self.id(), self.labels.clone(), spec, Origin::default(), "");
        if self.node == 0 { resource.running_in(&format!("pods/{}/{}", self.namespace, self.name)) } else { resource }
    }

    /// Its name as a resource.
    #[must_use]
    pub fn id(&self) -> ResourceId {
        ResourceId::new(Kind::Pod, &self.namespace, &self.name)
    }

    /// As the API server has it.
    #[must_use]
    pub fn document(&self) -> Document {
        let ports: Vec<Value> =
            self.ports.iter().map(|(name, port)| json!({"name": name, "containerPort": port})).collect();
        let (v4, v6) = self.addresses;
        Document(json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"namespace": self.namespace, "name": self.name, "labels": self.labels},
            "spec": {"nodeName": node_name(self.node), "containers": [{"name": "main", "ports": ports}]},
            "status": {"phase": "Running", "podIPs": [{"ip": v4}, {"ip": v6}]},
        }))
    }
}

fn hash(rng: &mut Rng) -> String {
    (0..8).map(|_| rng.alphanumeric().to_ascii_lowercase()).collect()
}
