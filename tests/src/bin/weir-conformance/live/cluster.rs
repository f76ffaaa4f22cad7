//! Lives: weir-conformance, the running cluster.
//! Called by: run, for each state of each case.
//! May touch: the fabric, the agents, the collector.
//! Never: builds anew what can be used again: worlds, agents and servers outlive a case.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use weir_policy::{Resource, parse};
use weir_tests::process::{Running, program};
use weir_tests::worker::{Transport, Worker};
use weir_tests::world::{Fabric, Place};

use super::flows::Flows;
use super::node::Node;
use crate::case::{Pod, State};
use crate::walk;

/// Where pods run that the case puts nowhere.
const NOWHERE: &str = "nowhere";
/// Agents at a time: each has tables and programs of its own.
const NODES: usize = 6;
const COLLECTOR_WITHIN: Duration = Duration::from_secs(20);

/// Whose process it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seat {
    /// A pod, by its node and room.
    Pod(String, usize),
    /// A pod in its node's network.
    Guest(String),
    /// A node itself.
    Node(String),
    /// Somebody outside of the cluster.
    Outside(usize),
}

/// Everything that runs.
pub struct Cluster {
    // Declared before the fabric: programs stop while their namespaces are still there.
    nodes: BTreeMap<String, Node>,
    outside: Vec<(Place, Worker)>,
    pub flows: Flows,
    _collector: Running,
    collector: PathBuf,
    started: usize,
    pub sctp: bool,
    fabric: Fabric,
}

impl Cluster {
    /// A fabric, a collector and a reader of its records; nodes come with the cases.
    pub fn start() -> Result<Cluster> {
        let fabric = Fabric::new("conformance")?;
        let socket = fabric.folder().join("collector.sock");
        let file = fabric.folder().join("collector.yaml");
        let config = json!({
            "listen": {"socket": {"path": socket, "allowedUids": [0]}},
            "history": {"records": 200_000},
            "log": {"level": "info", "format": "text"},
        });
        std::fs::write(&file, config.to_string()).with_context(|| file.display().to_string())?;
        let mut command = Command::new(program("weir-probe"));
        command.arg("--netns").arg(fabric.router()).arg("--cgroup").arg(fabric.outside());
        command.args(["exec", "--"]).arg(program("weir-collector")).arg("--config").arg(file);
        let mut collector = Running::start_daemon("collector", command, fabric.folder())?;
        let deadline = Instant::now() + COLLECTOR_WITHIN;
        while !socket.exists() {
            if collector.ended() || Instant::now() > deadline {
                return Err(collector.fault("does not listen".to_owned()).into());
            }
            thread::sleep(Duration::from_millis(20));
        }
        let flows = Flows::follow(&socket, fabric.folder())?;
        let sctp = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, Some(socket2::Protocol::SCTP));
        Ok(Cluster {
            nodes: BTreeMap::new(),
            outside: Vec::new(),
            flows,
            _collector: collector,
            collector: socket,
            started: 0,
            sctp: sctp.is_ok(),
            fabric,
        })
    }

    /// Makes the running cluster this one: everything anew for the first state of a case, else by what differs. The
    /// generation in force on each node.
    pub fn set(&mut self, state: &State, first: bool) -> Result<BTreeMap<String, u64>> {
        let names = nodes_of(state);
        let wanted: BTreeMap<String, Vec<IpAddr>> =
            names.iter().map(|name| (name.clone(), node_addresses(state, name))).collect();
        self.make_room(&names);
        let new: Vec<String> = names.iter().filter(|name| !self.nodes.contains_key(*name)).cloned().collect();
        let mut places = Vec::new();
        for name in new {
            places.push((name, self.fabric.place()?));
        }
        self.lodge(state)?;
        let moved = self.readdress(state, &wanted, &mut places)?;
        for (name, place) in places {
            self.started += 1;
            let node = Node::start(&self.fabric, &name, self.started, place, &self.collector)?;
            self.nodes.insert(name, node);
        }
        // Pods of nodes that have just been started.
        self.lodge(state)?;
        self.readdress(state, &wanted, &mut [])?;
        for (name, generation) in moved {
            self.nodes.get_mut(&name).map_or(Ok(()), |node| node.agent.wait_past(generation))?;
        }
        self.apply(state, &names, first)
    }

    /// Who is meant by a word of the case; `None` for a Service, and for what is not in the case.
    pub fn seat(&self, state: &State, word: &str) -> Option<Seat> {
        if let Some(name) = word.strip_prefix("node:") {
            return Some(Seat::Node(name.to_owned()));
        }
        if let Some(name) = word.strip_prefix("ext:") {
            return state.externals.iter().position(|external| external.name == name).map(Seat::Outside);
        }
        let pod = state.pods.iter().find(|pod| word.split_once('/') == Some((&pod.namespace, &pod.name)))?;
        if pod.host_network {
            return Some(Seat::Guest(node_of(pod)));
        }
        let node = self.nodes.get(&node_of(pod))?;
        let is = |owner: &Option<(String, String)>| {
            owner.as_ref().is_some_and(|(ns, name)| *ns == pod.namespace && *name == pod.name)
        };
        node.rooms.iter().position(|room| is(&room.pod)).map(|room| Seat::Pod(node.name.clone(), room))
    }

    /// The process that sits there.
    pub fn worker(&mut self, seat: &Seat) -> Result<&mut Worker> {
        let found = match seat {
            Seat::Pod(node, room) => {
                self.nodes.get_mut(node).and_then(|node| node.rooms.get_mut(*room)).map(|room| &mut room.worker)
            }
            Seat::Guest(node) => self.nodes.get_mut(node).map(|node| &mut node.guest),
            Seat::Node(node) => self.nodes.get_mut(node).map(|node| &mut node.own),
            Seat::Outside(number) => self.outside.get_mut(*number).map(|(_, worker)| worker),
        };
        found.with_context(|| format!("nobody sits at {seat:?}"))
    }

    /// Serves the ports that pods list and those that are asked for, and no others.
    pub fn serve(&mut self, state: &State, asked: BTreeMap<Seat, BTreeSet<(Transport, u16)>>) -> Result<()> {
        let mut wanted: BTreeMap<Seat, BTreeSet<(Transport, u16)>> = BTreeMap::new();
        for pod in &state.pods {
            let Some(seat) = self.seat(state, &format!("{}/{}", pod.namespace, pod.name)) else { continue };
            let listed = pod.ports.iter().filter_map(|port| Some((transport(&port.protocol)?, port.port)));
            wanted.entry(serving(seat)).or_default().extend(listed);
        }
        for (seat, ports) in asked {
            wanted.entry(serving(seat)).or_default().extend(ports);
        }
        for (seat, mut ports) in wanted {
            ports.retain(|(transport, _)| self.sctp || *transport != Transport::Sctp);
            self.worker(&seat)?.serve(ports)?;
        }
        Ok(())
    }

    /// Every place where kernel, agents and collector do not agree.
    pub fn disagreements(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for (name, node) in &self.nodes {
            let differences = node.agent.status()?.disagreements();
            found.extend(differences.into_iter().map(|difference| format!("{name}: {difference}")));
        }
        Ok(found)
    }

    /// Stops nodes that are not needed when there would be too many.
    fn make_room(&mut self, needed: &BTreeSet<String>) {
        let new = needed.iter().filter(|name| !self.nodes.contains_key(*name)).count();
        let idle: Vec<_> = self.nodes.keys().filter(|name| !needed.contains(*name)).cloned().collect();
        let excess = (self.nodes.len() + new).saturating_sub(NODES);
        for name in idle.into_iter().take(excess) {
            if let Some(mut node) = self.nodes.remove(&name) {
                // Its namespaces stay until the end; its addresses must not.
                let rooms = node.rooms.iter_mut().map(|room| (&mut room.place, Vec::new()));
                let all = rooms.chain([(&mut node.place, Vec::new())]).collect();
                if let Err(error) = self.fabric.readdress(all) {
                    eprintln!("weir-conformance: node {name}: {error}");
                }
            }
        }
    }

    /// Gives every pod a room on its node; those that left make theirs free.
    fn lodge(&mut self, state: &State) -> Result<()> {
        let lodgers = || state.pods.iter().filter(|pod| !pod.host_network);
        for node in self.nodes.values_mut() {
            let here = |(namespace, name): &(String, String)| {
                lodgers().any(|pod| pod.namespace == *namespace && pod.name == *name && node_of(pod) == node.name)
            };
            node.rooms.iter_mut().filter(|room| !room.pod.as_ref().is_some_and(here)).for_each(|room| room.pod = None);
        }
        for pod in lodgers() {
            if let Some(node) = self.nodes.get_mut(&node_of(pod)) {
                node.lodge(&mut self.fabric, pod)?;
            }
        }
        while self.outside.len() < state.externals.len() {
            let place = self.fabric.place()?;
            let name = format!("outside-{}", self.outside.len() + 1);
            let worker = Worker::start(&name, place.netns(), &self.fabric.outside(), self.fabric.folder())?;
            self.outside.push((place, worker));
        }
        Ok(())
    }

    /// Everybody gets the addresses of the state. Nodes that got others, with the generation in force before.
    fn readdress(
        &mut self,
        state: &State,
        nodes: &BTreeMap<String, Vec<IpAddr>>,
        new: &mut [(String, Place)],
    ) -> Result<Vec<(String, u64)>> {
        let in_use: BTreeSet<IpAddr> = nodes.values().flatten().copied().chain(others(state)).collect();
        let (mut wanted, mut moved) = (Vec::new(), Vec::new());
        for (name, place) in new {
            wanted.push((place, nodes.get(name).cloned().unwrap_or_default()));
        }
        for (name, node) in &mut self.nodes {
            let keeps = || node.place.addresses().iter().filter(|ip| !in_use.contains(ip)).copied().collect();
            let own = nodes.get(name).cloned().unwrap_or_else(keeps);
            if own != node.place.addresses() {
                moved.push((name.clone(), node.agent.status()?.agent.generation));
            }
            wanted.push((&mut node.place, own));
            for room in &mut node.rooms {
                let pod = room
                    .pod
                    .as_ref()
                    .and_then(|(ns, name)| state.pods.iter().find(|pod| pod.namespace == *ns && pod.name == *name));
                wanted.push((&mut room.place, pod.map(|pod| addresses(&pod.ips)).unwrap_or_default()));
            }
        }
        for (number, (place, _)) in self.outside.iter_mut().enumerate() {
            let ips = state.externals.get(number).map(|external| addresses(&external.ips));
            wanted.push((place, ips.unwrap_or_default()));
        }
        self.fabric.readdress(wanted)?;
        Ok(moved)
    }

    /// Tells every agent what there is, all of them at once.
    fn apply(&mut self, state: &State, names: &BTreeSet<String>, first: bool) -> Result<BTreeMap<String, u64>> {
        let wanted = self.documents(state)?;
        let nodes = self.nodes.iter_mut().filter(|(name, _)| names.contains(*name));
        thread::scope(|scope| {
            let work: Vec<_> = nodes
                .map(|(name, node)| {
                    let wanted = &wanted;
                    let task = scope.spawn(move || {
                        if first { node.agent.replace(wanted) } else { node.agent.change(wanted) }?;
                        node.agent.settled().with_context(|| format!("node {}", node.name))
                    });
                    (name.clone(), task)
                })
                .collect();
            let done = |(name, task): (String, thread::ScopedJoinHandle<'_, Result<u64>>)| match task.join() {
                Ok(generation) => Ok((name, generation?)),
                Err(_) => bail!("node {name}: the thread that spoke with its agent panicked"),
            };
            work.into_iter().map(done).collect()
        })
    }

    /// The state's documents, pods with the UIDs of the rooms they have.
    fn documents(&self, state: &State) -> Result<Vec<Resource>> {
        let mut resources = Vec::new();
        let mut read = |name: &str, text: &str| -> Result<()> {
            let found = parse(name, text).map_err(|faults| {
                anyhow::anyhow!("{}", faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
            })?;
            resources.extend(found);
            Ok(())
        };
        for mut object in walk::objects(state) {
            if object.get("kind").and_then(Value::as_str) == Some("Pod") {
                self.complete(&mut object);
            }
            read("object", &object.to_string())?;
        }
        for (number, policy) in state.policies.iter().enumerate() {
            read(&format!("policies[{number}]"), policy)?;
        }
        Ok(resources)
    }

    /// What the API server knows of a pod and the case does not say: its UID, and a node.
    fn complete(&self, pod: &mut Value) {
        let word =
            |value: &Value, path: &str| value.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        if let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) {
            spec.entry("nodeName").or_insert_with(|| json!(NOWHERE));
        }
        let key = (word(pod, "/metadata/namespace"), word(pod, "/metadata/name"));
        let node = self.nodes.get(&word(pod, "/spec/nodeName"));
        let room = node.and_then(|node| node.rooms.iter().find(|room| room.pod.as_ref() == Some(&key)));
        if let (Some(room), Some(metadata)) = (room, pod.get_mut("metadata").and_then(Value::as_object_mut)) {
            metadata.insert("uid".to_owned(), json!(room.uid));
        }
    }
}

/// Ports of pods in their node's network are served by the node.
fn serving(seat: Seat) -> Seat {
    match seat {
        Seat::Guest(node) => Seat::Node(node),
        other @ (Seat::Pod(..) | Seat::Node(_) | Seat::Outside(_)) => other,
    }
}

/// The transport of that name, if it is one with ports.
pub fn transport(protocol: &str) -> Option<Transport> {
    match protocol {
        "TCP" => Some(Transport::Tcp),
        "UDP" => Some(Transport::Udp),
        "SCTP" => Some(Transport::Sctp),
        _ => None,
    }
}

/// The node a pod runs on.
pub fn node_of(pod: &Pod) -> String {
    pod.node.clone().unwrap_or_else(|| NOWHERE.to_owned())
}

fn nodes_of(state: &State) -> BTreeSet<String> {
    state.nodes.iter().map(|node| node.name.clone()).chain(state.pods.iter().map(node_of)).collect()
}

/// A node's own, and those of pods in its network.
fn node_addresses(state: &State, name: &str) -> Vec<IpAddr> {
    let own = state.nodes.iter().filter(|node| node.name == name).flat_map(|node| &node.ips);
    let guests = state.pods.iter().filter(|pod| pod.host_network && node_of(pod) == name).flat_map(|pod| &pod.ips);
    let mut all = Vec::new();
    for ip in own.chain(guests).filter_map(|ip| ip.parse().ok()) {
        if !all.contains(&ip) {
            all.push(ip);
        }
    }
    all
}

fn others(state: &State) -> impl Iterator<Item = IpAddr> + '_ {
    let pods = state.pods.iter().flat_map(|pod| &pod.ips);
    pods.chain(state.externals.iter().flat_map(|external| &external.ips)).filter_map(|ip| ip.parse().ok())
}

fn addresses(ips: &[String]) -> Vec<IpAddr> {
    ips.iter().filter_map(|ip| ip.parse().ok()).collect()
}
