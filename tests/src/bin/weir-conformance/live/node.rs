//! Lives: weir-conformance, a node of the running cluster.
//! Called by: cluster.
//! May touch: its agent, its namespaces and cgroups.
//! Never: puts its own processes into a pod's cgroup.

use anyhow::Result;
use weir_tests::worker::Worker;
use weir_tests::world::{Fabric, Place};

use super::agent::Agent;
use crate::case::Pod;

/// A node: a namespace of its own, an agent, and room for pods.
pub struct Node {
    pub name: String,
    pub place: Place,
    pub agent: Agent,
    /// Its own processes, in no managed cgroup.
    pub own: Worker,
    /// Processes of pods in its network, in a pod's cgroup that nobody polices.
    pub guest: Worker,
    pub rooms: Vec<Room>,
    number: usize,
}

/// Room for one pod: a namespace, a cgroup named as kubelet names it, and a process inside. Used again for other pods.
pub struct Room {
    pub uid: String,
    pub place: Place,
    pub worker: Worker,
    /// Namespace and name of the pod it is taken by.
    pub pod: Option<(String, String)>,
}

impl Node {
    /// A node whose namespace is there already, with its addresses: the agent looks at them when it starts.
    pub fn start(
        fabric: &Fabric,
        name: &str,
        number: usize,
        place: Place,
        collector: &std::path::Path,
    ) -> Result<Node> {
        let root = fabric.cgroup(&tree(name))?;
        let agent = Agent::start(fabric, name, place.netns(), &root, collector)?;
        let own = Worker::start(&format!("{name}-own"), place.netns(), &fabric.outside(), fabric.folder())?;
        let uid = uid(number, 0);
        let inside = fabric.cgroup(&format!("{}/{}/cri-containerd-0.scope", tree(name), directory(&uid, 0)))?;
        let guest = Worker::start(&format!("{name}-guest"), place.netns(), &inside, fabric.folder())?;
        Ok(Node { name: name.to_owned(), place, agent, own, guest, rooms: Vec::new(), number })
    }

    /// The room a pod has, or that it is given now.
    pub fn lodge(&mut self, fabric: &mut Fabric, pod: &Pod) -> Result<usize> {
        let key = (pod.namespace.clone(), pod.name.clone());
        let taken = self.rooms.iter().position(|room| room.pod.as_ref() == Some(&key));
        let free = || self.rooms.iter().position(|room| room.pod.is_none());
        let room = match taken.or_else(free) {
            Some(room) => room,
            None => self.build(fabric)?,
        };
        if let Some(room) = self.rooms.get_mut(room) {
            room.pod = Some(key);
        }
        Ok(room)
    }

    fn build(&mut self, fabric: &mut Fabric) -> Result<usize> {
        let number = self.rooms.len() + 1;
        let uid = uid(self.number, number);
        // As a container below the pod, which has the processes.
        let path = format!("{}/{}/cri-containerd-{number}.scope", tree(&self.name), directory(&uid, number));
        let (inside, place) = (fabric.cgroup(&path)?, fabric.place()?);
        let worker = Worker::start(&format!("{}-pod-{number}", self.name), place.netns(), &inside, fabric.folder())?;
        self.rooms.push(Room { uid, place, worker, pod: None });
        Ok(number - 1)
    }
}

/// The managed tree of a node, below the fabric's cgroup.
fn tree(node: &str) -> String {
    format!("node-{node}")
}

fn uid(node: usize, pod: usize) -> String {
    format!("c0f0{node:04x}-7d54-4c0f-9a51-{pod:012x}")
}

/// The names kubelet gives, by both of its drivers and for its classes of service, in turn.
fn directory(uid: &str, number: usize) -> String {
    let systemd = uid.replace('-', "_");
    match number % 5 {
        0 => format!("kubepods.slice/kubepods-pod{systemd}.slice"),
        1 => format!("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{systemd}.slice"),
        2 => format!("kubepods/besteffort/pod{uid}"),
        3 => format!("kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{systemd}.slice"),
        _ => format!("kubepods/pod{uid}"),
    }
}
