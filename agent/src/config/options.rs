//! Lives: weir-agent, configuration.
//! Called by: `reader`, for the keys that exist; `sample`, for the file it prints.
//! May touch: nothing.
//! Never: an option documented a second time elsewhere; what is not in this table is an unknown key.

/// One option: where it stands, what it does, and how it looks in the sample.
pub struct OptionDoc {
    /// Path in the file.
    pub path: &'static str,
    /// Value in the sample: the default, or an example where the default is "absent".
    pub sample: &'static str,
    /// Whether the sample has it commented out, because absent is the default.
    pub absent: bool,
    /// What it does.
    pub doc: &'static str,
}

const fn option(path: &'static str, sample: &'static str, doc: &'static str) -> OptionDoc {
    OptionDoc { path, sample, absent: false, doc }
}

const fn absent(path: &'static str, sample: &'static str, doc: &'static str) -> OptionDoc {
    OptionDoc { path, sample, absent: true, doc }
}

/// Every option, in the order of the sample.
pub const OPTIONS: &[OptionDoc] = &[
    absent(
        "node",
        "node-1",
        "Name of this node in records, and in the `spec.nodeName` of its pods. Default: the host name.",
    ),
    option("cgroupRoot", "/sys/fs/cgroup/unified/weir", "Directory of the managed cgroup2 tree. Required."),
    option(
        "interfaces",
        "[]",
        "Interfaces whose incoming packets XDP judges; names, or patterns such as \"veth*\". With more to refuse there than what contradicts itself: {name: eth0, refuse: [martian, spoofed, ethertype]} (docs/coverage.md).",
    ),
    option(
        "xdpMode",
        "auto",
        "auto (native where the driver has it, else generic; on a veth native only while a limit is in force, docs/operations.md), native, or generic.",
    ),
    option(
        "xdpNeighbour",
        "refuse",
        "Where an interface already has somebody else's XDP program. refuse: it stays, and the interface is reported as failed. chain: Weir goes in front of it and hands it what passes (docs/operations.md).",
    ),
    option(
        "bpffs",
        "/sys/fs/bpf",
        "A mounted BPF file system: what must outlive the agent is pinned below it, in weir/.",
    ),
    option(
        "pin",
        "true",
        "true: what is in force stays in force when the agent stops, crashes or is replaced, until `weirctl detach`. false: enforcement ends with the agent. For experiments.",
    ),
    option(
        "unknownWorkloads",
        "allow",
        "What applies to processes in the tree that belong to no Workload: allow or deny.",
    ),
    option(
        "unselectedWorkloads",
        "allow",
        "What applies to workloads that no policy selects: allow or deny. A workload that only audit or staged policies select counts as unselected.",
    ),
    option(
        "ingressHook",
        "cgroup",
        "cgroup: every packet of a workload is looked at. sk_lookup: only openings are, where a workload has a network namespace to itself; docs/modes.md says which to use when.",
    ),
    option("stateDir", "/var/lib/weir", "Where the lock file and the last good policy are kept."),
    absent(
        "policyDir",
        "/etc/weir/policy",
        "Directory of *.yaml policy files applied at start, on top of the last good policy.",
    ),
    option("grpc.socket.path", "/run/weir/agent.sock", "Unix socket of the gRPC API."),
    option("grpc.socket.allowedUids", "[0]", "User ids that may connect to it; root always may."),
    absent("grpc.tcp.listen", "0.0.0.0:7443", "Address of the gRPC API on the network; absent: not on the network."),
    absent("grpc.tcp.tls.certificate", "/etc/weir/tls/agent.crt", "Certificate chain (PEM) shown to clients."),
    absent("grpc.tcp.tls.key", "/etc/weir/tls/agent.key", "Private key (PEM) of the certificate."),
    absent(
        "grpc.tcp.tls.clientCa",
        "/etc/weir/tls/ca.crt",
        "Authorities (PEM) that client certificates must come from.",
    ),
    absent(
        "grpc.tcp.insecure",
        "false",
        "true instead of tls: anybody who reaches the port controls this node. For experiments.",
    ),
    option(
        "collector.address",
        "unix:/run/weir/collector.sock",
        "Where records go: unix:/PATH, https://HOST:PORT, http://HOST:PORT (insecure), or none.",
    ),
    absent("collector.tls.certificate", "/etc/weir/tls/agent.crt", "Certificate chain (PEM) shown to the collector."),
    absent("collector.tls.key", "/etc/weir/tls/agent.key", "Private key (PEM) of the certificate."),
    absent(
        "collector.tls.ca",
        "/etc/weir/tls/ca.crt",
        "Authorities (PEM) that the collector's certificate must come from.",
    ),
    absent(
        "collector.tls.serverName",
        "collector.example",
        "Name in the collector's certificate. Default: the host of the address.",
    ),
    absent("collector.insecure", "false", "Must be true for an http:// address: records then travel in the clear."),
    option(
        "queue.records",
        "65536",
        "Records that wait in memory to be packed into batches; beyond it new ones are dropped and counted.",
    ),
    option(
        "spool.mebibytes",
        "256",
        "Disk space below stateDir for batches that the collector has not acknowledged; beyond it the oldest are dropped and counted. 0: only 8 MiB of memory.",
    ),
    option("spool.hours", "24", "How long such batches are kept."),
    option(
        "progress.seconds",
        "30",
        "How often living TCP connections that are at least so old are recorded with what they came to; 0: at their end only. Needs kernel 6.9.",
    ),
    option(
        "drops.packetBytes",
        "0",
        "How many bytes of dropped packets records tell, from the IP header on: 0 for none, up to 128. Beyond the headers that is what people sent (docs/records.md).",
    ),
    option(
        "drops.kernel",
        "true",
        "Whether what the kernel itself drops of workloads' packets is recorded, with its reason, where the kernel has the tracepoint (docs/records.md).",
    ),
    absent(
        "metrics.listen",
        "127.0.0.1:9477",
        "Where /metrics (OpenMetrics), /livez and /readyz are served, without TLS; absent: nowhere.",
    ),
    absent(
        "metrics.perPolicy",
        "false",
        "true: decisions in records by the policy that decided, too; as many values as there are policies.",
    ),
    absent(
        "metrics.programStats",
        "false",
        "true: the kernel counts and times the runs of its BPF programs, all of them, also those of others, which costs each run two looks at the clock.",
    ),
    option("log.level", "info", "error, warn, info, debug or trace; RUST_LOG overrides it."),
    option("log.format", "text", "text or json."),
];

/// The keys of an entry of a list, by the list's path.
const ENTRIES: &[(&str, &[&str])] = &[("interfaces", &["name", "refuse"])];

/// The keys that exist directly below `prefix` ("" is the top, "LIST[N]" an entry of a list).
pub fn keys_below(prefix: &str) -> Vec<&'static str> {
    if let Some((list, _)) = prefix.split_once('[') {
        return ENTRIES.iter().filter(|(path, _)| *path == list).flat_map(|(_, keys)| keys.to_vec()).collect();
    }
    let mut keys = Vec::new();
    for option in OPTIONS {
        let rest = match prefix {
            "" => Some(option.path),
            _ => option.path.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.')),
        };
        let key = rest.and_then(|rest| rest.split('.').next());
        if let Some(key) = key.filter(|key| !keys.contains(key)) {
            keys.push(key);
        }
    }
    keys
}
