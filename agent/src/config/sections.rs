//! Lives: weir-agent, configuration.
//! Called by: `config::read` and `config::load`.
//! May touch: the tree of the file, the flags, the host name.
//! Never: a default that differs from `options`.

use std::{net::SocketAddr, path::PathBuf};

use weir_common::verdict::Verdict;

use super::{
    Args, Collector, Config, Fault, Grpc, Log, Tcp, TlsFiles, XdpMode,
    reader::{Reader, Section},
    tree::{self, Node, Value},
};

const XDP_MODES: &[(&str, XdpMode)] =
    &[("auto", XdpMode::Auto), ("native", XdpMode::Native), ("generic", XdpMode::Generic)];
const UNKNOWN: &[(&str, Verdict)] = &[("allow", Verdict::Allow), ("deny", Verdict::Deny)];
const LEVELS: &[(&str, &str)] =
    &[("error", "error"), ("warn", "warn"), ("info", "info"), ("debug", "debug"), ("trace", "trace")];
const FORMATS: &[(&str, bool)] = &[("text", false), ("json", true)];
const BOOLEANS: &[(&str, bool)] = &[("true", true), ("false", false)];
const DEFAULT_RECORDS: usize = 65_536;
/// Below this a single batch would not fit; above it the queue alone would take gigabytes.
const RECORDS: std::ops::RangeInclusive<usize> = 1_024..=16_777_216;

/// Reads the file's text and lays the flags over it.
pub fn read(source: &str, text: &str, args: &Args) -> Result<Config, Vec<Fault>> {
    let mut reader = Reader::new(source);
    let root = match tree::parse(text) {
        Ok(root) => root,
        Err(bad) => {
            let place = Node { line: bad.line, column: bad.column, value: Value::Scalar(String::new()) };
            reader.fault("", Some(&place), &format!("not readable as YAML: {}", bad.problem), "correct the line");
            return Err(reader.into_faults());
        }
    };
    let flags = flags(args);
    let mut reader = Sources { file: reader, flags: Reader::new("command line") };
    let config = config(&mut reader, root.as_ref(), &flags);
    let faults: Vec<Fault> = reader.file.into_faults().into_iter().chain(reader.flags.into_faults()).collect();
    match config {
        Some(config) if faults.is_empty() => Ok(config),
        _ => Err(faults),
    }
}

/// Faults of the file and of the flags, apart, because they are corrected in different places.
struct Sources {
    file: Reader,
    flags: Reader,
}

/// The flags as the file they stand for, so that one set of readers checks both.
fn flags(args: &Args) -> Node {
    let paths = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    let mut top: Vec<(Node, Node)> = Vec::new();
    let values = [
        ("node", args.node.clone()),
        ("cgroupRoot", paths(&args.cgroup_root)),
        ("xdpMode", args.xdp_mode.clone()),
        ("unknownWorkloads", args.unknown_workloads.clone()),
        ("stateDir", paths(&args.state_dir)),
        ("policyDir", paths(&args.policy_dir)),
    ];
    top.extend(values.into_iter().filter_map(|(key, value)| Some((text(key), text(&value?)))));
    if !args.interfaces.is_empty() {
        top.push((text("interfaces"), node(Value::List(args.interfaces.iter().map(|name| text(name)).collect()))));
    }
    let socket = map(vec![("path", paths(&args.socket))]);
    top.push((text("grpc"), node(Value::Map(vec![(text("socket"), socket)]))));
    top.push((text("collector"), map(vec![("address", args.collector.clone())])));
    top.push((text("log"), map(vec![("level", args.log_level.clone()), ("format", args.log_format.clone())])));
    node(Value::Map(top))
}

fn map(entries: Vec<(&str, Option<String>)>) -> Node {
    node(Value::Map(entries.into_iter().filter_map(|(key, value)| Some((text(key), text(&value?)))).collect()))
}

fn text(text: &str) -> Node {
    node(Value::Scalar(text.to_owned()))
}

fn node(value: Value) -> Node {
    Node { line: 0, column: 0, value }
}

fn config(reader: &mut Sources, file: Option<&Node>, flags: &Node) -> Option<Config> {
    let top = Layers::new(reader, "", file, Some(flags));
    let [grpc_section, collector_section, queue_section, log_section] =
        ["grpc", "collector", "queue", "log"].map(|key| top.below(reader, key));
    let node = top.read(reader, |reader, section| reader.text(section, "node"));
    let node = node.or_else(|| host_name(reader));
    let cgroup_root = top.read(reader, |reader, section| reader.path(section, "cgroupRoot"));
    if cgroup_root.is_none() && !top.has("cgroupRoot") {
        let remedy = "name the directory of the managed cgroup2 tree here or with --cgroup-root";
        reader.file.fault("cgroupRoot", None, "is missing", remedy);
    }
    let interfaces = top.read(reader, |reader, section| reader.list(section, "interfaces", "eth0"));
    let xdp_mode = top.read(reader, |reader, section| reader.choice(section, "xdpMode", XDP_MODES));
    let unknown = top.read(reader, |reader, section| reader.choice(section, "unknownWorkloads", UNKNOWN));
    let state_dir = top.read(reader, |reader, section| reader.path(section, "stateDir"));
    let policy_dir = top.read(reader, |reader, section| reader.path(section, "policyDir"));
    let grpc = grpc(reader, &grpc_section);
    let collector = collector(reader, &collector_section);
    let queue_records = queue(reader, &queue_section);
    let log = log(reader, &log_section);
    Some(Config {
        node: node?,
        cgroup_root: cgroup_root?,
        interfaces: interfaces.unwrap_or_default(),
        xdp_mode: xdp_mode.unwrap_or(XdpMode::Auto),
        unknown: unknown.unwrap_or(Verdict::Allow),
        state_dir: state_dir.unwrap_or_else(|| PathBuf::from("/var/lib/weir")),
        policy_dir,
        grpc,
        collector,
        queue_records,
        log,
    })
}

/// One section in the file and in the flags; the flags win.
struct Layers<'a> {
    path: String,
    file: Section<'a>,
    flags: Section<'a>,
}

impl<'a> Layers<'a> {
    fn new(reader: &mut Sources, path: &str, file: Option<&'a Node>, flags: Option<&'a Node>) -> Self {
        Self { path: path.to_owned(), file: reader.file.section(path, file), flags: reader.flags.section(path, flags) }
    }

    fn below(&self, reader: &mut Sources, key: &str) -> Self {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Self::new(reader, &path, self.file.get(key), self.flags.get(key))
    }

    fn has(&self, key: &str) -> bool {
        self.file.get(key).is_some() || self.flags.get(key).is_some()
    }

    /// Reads a value from both, so that both are checked, and takes the flag's if there is one.
    fn read<T>(&self, reader: &mut Sources, read: impl Fn(&mut Reader, &Section<'a>) -> Option<T>) -> Option<T> {
        let file = read(&mut reader.file, &self.file);
        read(&mut reader.flags, &self.flags).or(file)
    }
}

fn host_name(reader: &mut Sources) -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|name| name.trim().to_owned());
    let name = name.filter(|name| !name.is_empty());
    if name.is_none() {
        reader.file.fault("node", None, "is missing and the host has no name", "write a name here or with --node");
    }
    name
}

fn grpc(reader: &mut Sources, section: &Layers<'_>) -> Grpc {
    let socket = section.below(reader, "socket");
    let path = socket.read(reader, |reader, section| reader.path(section, "path"));
    let uids = socket.read(reader, |reader, section| reader.list(section, "allowedUids", "a user id such as 0"));
    let tcp = section.has("tcp").then(|| section.below(reader, "tcp")).and_then(|tcp| listen(reader, &tcp));
    Grpc {
        socket: path.unwrap_or_else(|| PathBuf::from("/run/weir/agent.sock")),
        allowed_uids: uids.unwrap_or_else(|| vec![0]),
        tcp,
    }
}

fn listen(reader: &mut Sources, section: &Layers<'_>) -> Option<Tcp> {
    let listen: Option<SocketAddr> = section.read(reader, |reader, section| {
        reader.parsed(section, "listen", "is no address and port", "write ADDRESS:PORT, such as 0.0.0.0:7443")
    });
    if !section.has("listen") {
        reader.file.fault("grpc.tcp.listen", None, "is missing", "write ADDRESS:PORT, such as 0.0.0.0:7443");
    }
    let insecure =
        section.read(reader, |reader, section| reader.choice(section, "insecure", BOOLEANS)).unwrap_or(false);
    let tls_below = section.below(reader, "tls");
    let tls = section.has("tls").then(|| tls_files(reader, &tls_below, "clientCa")).flatten();
    if section.has("tls") == insecure {
        let problem = if insecure {
            "tls and insecure: true contradict each other"
        } else {
            "has neither tls nor insecure: true"
        };
        reader.file.fault(
            "grpc.tcp",
            section.file.get("insecure"),
            problem,
            "give the three tls files and leave insecure out",
        );
    }
    Some(Tcp { listen: listen?, tls })
}

fn tls_files(reader: &mut Sources, section: &Layers<'_>, ca: &str) -> Option<TlsFiles> {
    let mut file = |key: &str| {
        let path = section.read(reader, |reader, section| reader.path(section, key));
        if !section.has(key) {
            let field = section.file.field(key);
            reader.file.fault(
                &field,
                None,
                "is missing",
                "TLS here is always mutual: it takes a certificate, its key and the authorities",
            );
        }
        path
    };
    let (certificate, key, ca) = (file("certificate"), file("key"), file(ca));
    Some(TlsFiles { certificate: certificate?, key: key?, ca: ca? })
}

fn collector(reader: &mut Sources, section: &Layers<'_>) -> Option<Collector> {
    let address = section.read(reader, |reader, section| {
        let text = reader.text(section, "address")?;
        let known = ["unix:/", "https://", "http://"].iter().any(|scheme| text.starts_with(scheme)) || text == "none";
        if !known {
            let remedy = "write unix:/PATH, https://HOST:PORT, http://HOST:PORT or none";
            reader.fault("collector.address", section.get("address"), "is no address of a collector", remedy);
        }
        known.then_some(text)
    });
    let address = address.unwrap_or_else(|| "unix:/run/weir/collector.sock".to_owned());
    let insecure =
        section.read(reader, |reader, section| reader.choice(section, "insecure", BOOLEANS)).unwrap_or(false);
    let below = section.below(reader, "tls");
    let server_name = below.read(reader, |reader, section| reader.text(section, "serverName"));
    let tls = section.has("tls").then(|| tls_files(reader, &below, "ca")).flatten();
    if address.starts_with("https://") && !section.has("tls") {
        reader.file.fault(
            "collector.tls",
            section.file.get("address"),
            "is missing for an https address",
            "give certificate, key and ca",
        );
    }
    if address.starts_with("http://") && !insecure {
        let remedy = "use https with tls, or set collector.insecure: true to send records in the clear";
        reader.file.fault("collector.address", section.file.get("address"), "http is not protected", remedy);
    }
    (address != "none").then_some(Collector { address, tls, server_name, insecure })
}

fn queue(reader: &mut Sources, section: &Layers<'_>) -> usize {
    let records: Option<usize> = section.read(reader, |reader, section| {
        let remedy = format!("write a number from {} to {}", RECORDS.start(), RECORDS.end());
        let value = reader.parsed(section, "records", "is no number", &remedy)?;
        if !RECORDS.contains(&value) {
            reader.fault("queue.records", section.get("records"), "is out of range", &remedy);
        }
        Some(value)
    });
    records.unwrap_or(DEFAULT_RECORDS)
}

fn log(reader: &mut Sources, section: &Layers<'_>) -> Log {
    let level = section.read(reader, |reader, section| reader.choice(section, "level", LEVELS));
    let format = section.read(reader, |reader, section| reader.choice(section, "format", FORMATS));
    Log { level: level.unwrap_or("info"), json: format.unwrap_or(false) }
}
