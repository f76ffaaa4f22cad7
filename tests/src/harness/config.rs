//! Lives: weir-tests, configuration files for the programs under test.
//! Called by: harness.
//! May touch: nothing; it makes text.
//! Never: relies on a default that a world must not share with the host (sockets, state folder).

use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::world::World;

/// What differs between tests.
#[derive(Clone, Debug)]
pub struct Options {
    /// Verdict for processes of no known workload: allow or deny.
    pub unknown: &'static str,
    /// Verdict for workloads that no policy selects: allow or deny.
    pub unselected: &'static str,
    /// What the agent logs: debug or info.
    pub log: &'static str,
    /// What judges ingress: cgroup or sk_lookup.
    pub ingress_hook: &'static str,
    /// Interfaces for XDP; by default every port of the bridge.
    pub interfaces: Vec<String>,
    /// How XDP is attached: auto, native, generic.
    pub xdp_mode: &'static str,
    /// What is done where there is an XDP program already: refuse or chain.
    pub xdp_neighbour: &'static str,
    /// Whether what is in force outlives the agent.
    pub pin: bool,
    /// The agent's TCP listener with mutual TLS.
    pub tls: Option<Tls>,
    /// Run the agent in this cgroup of the tree it manages, and not outside.
    pub agent_cgroup: Option<&'static str>,
    /// Where the collector exports to by OTLP: `http://HOST:PORT`.
    pub otlp: Option<String>,
    /// A file that the agent finds empty.
    pub agent_without: Option<&'static str>,
    /// Where the agent finds the collector, if something stands between them.
    pub collector: Option<PathBuf>,
    /// Records that wait to be packed, and MiB of the spool; the agent's defaults where there are none.
    pub room: Option<(u32, u32)>,
    /// How often living connections are recorded, seconds.
    pub progress: u32,
    /// Whether the spool is on a disk of 256 KiB.
    pub small_disk: bool,
    /// The same for the collector's history.
    pub collectors_small_disk: bool,
    /// Metrics that cost something: by policy, and what the kernel counts of programs.
    pub all_metrics: bool,
    /// How many bytes of dropped packets are told.
    pub drop_bytes: Option<u32>,
    /// Whether the agent records what the kernel drops by itself.
    pub kernel_drops: bool,
    /// Whether the agent looks for faults that it is to have ([`faults`]).
    pub faults: bool,
}

/// A listener with certificates.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Where.
    pub listen: SocketAddr,
    /// The server's certificate, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// Who signs clients, PEM.
    pub client_ca: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            unknown: "allow",
            unselected: "allow",
            log: "debug",
            ingress_hook: "cgroup",
            interfaces: vec!["v-*".to_owned()],
            xdp_mode: "auto",
            xdp_neighbour: "refuse",
            pin: true,
            tls: None,
            agent_cgroup: None,
            otlp: None,
            agent_without: None,
            collector: None,
            room: None,
            progress: 30,
            small_disk: false,
            collectors_small_disk: false,
            all_metrics: false,
            drop_bytes: None,
            kernel_drops: true,
            faults: false,
        }
    }
}

/// The file that names the faults which the agent is to have.
pub fn faults(world: &World) -> PathBuf {
    world.folder().join("faults")
}

/// Path of the agent's socket.
pub fn agent_socket(world: &World) -> PathBuf {
    world.folder().join("agent.sock")
}

/// Path of the collector's socket.
pub fn collector_socket(world: &World) -> PathBuf {
    world.folder().join("collector.sock")
}

/// The agent's file. JSON is YAML.
pub fn agent(world: &World, options: &Options) -> String {
    let collector = options.collector.clone().unwrap_or_else(|| collector_socket(world));
    let mut file = json!({
        "node": world.name(),
        "cgroupRoot": world.managed(),
        "interfaces": options.interfaces,
        "xdpMode": options.xdp_mode,
        "xdpNeighbour": options.xdp_neighbour,
        "bpffs": world.bpffs(),
        "pin": options.pin,
        "unknownWorkloads": options.unknown,
        "unselectedWorkloads": options.unselected,
        "ingressHook": options.ingress_hook,
        "stateDir": world.folder().join("state"),
        "grpc": {"socket": {"path": agent_socket(world), "allowedUids": [0]}},
        "collector": {"address": format!("unix:{}", collector.display())},
        "metrics": {"listen": METRICS, "perPolicy": options.all_metrics, "programStats": options.all_metrics},
        "progress": {"seconds": options.progress},
        "log": {"level": options.log, "format": "text"},
    });
    if let (Some((records, mebibytes)), Some(file)) = (options.room, file.as_object_mut()) {
        file.insert("queue".to_owned(), json!({"records": records}));
        file.insert("spool".to_owned(), json!({"mebibytes": mebibytes}));
    }
    if let Some(file) = file.as_object_mut().filter(|_| options.drop_bytes.is_some() || !options.kernel_drops) {
        let bytes = options.drop_bytes.unwrap_or(0);
        file.insert("drops".to_owned(), json!({"packetBytes": bytes, "kernel": options.kernel_drops}));
    }
    if let (Some(tls), Some(grpc)) = (&options.tls, file.get_mut("grpc").and_then(Value::as_object_mut)) {
        let files = json!({"certificate": tls.certificate, "key": tls.key, "clientCa": tls.client_ca});
        grpc.insert("tcp".to_owned(), json!({"listen": tls.listen, "tls": files}));
    }
    file.to_string()
}

/// Where the agent shows its metrics, in its own network namespace.
pub const METRICS: &str = "127.0.0.1:9477";

/// Where the collector shows its own, in the same.
pub const COLLECTOR_METRICS: &str = "127.0.0.1:9478";

/// How many records the collector of a world keeps.
pub const KEPT: usize = 1_000_000;

/// Where the agent spools.
pub fn spool(world: &World) -> PathBuf {
    world.folder().join("state/spool")
}

/// Where the collector keeps records.
pub fn history(world: &World) -> PathBuf {
    world.folder().join("history")
}

/// The collector's file.
pub fn collector(world: &World, options: &Options) -> String {
    let mut file = json!({
        "listen": {"socket": {"path": collector_socket(world), "allowedUids": [0]}},
        "history": {"records": KEPT, "directory": history(world), "mebibytes": 256},
        "metrics": {"listen": COLLECTOR_METRICS},
        "log": {"level": "info", "format": "text"},
    });
    if let (Some(endpoint), Some(sections)) = (&options.otlp, file.as_object_mut()) {
        let otlp = json!({"endpoint": endpoint, "insecure": true, "metricsIntervalSeconds": 1});
        sections.insert("otlp".to_owned(), otlp);
    }
    file.to_string()
}
