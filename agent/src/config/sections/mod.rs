//! Lives: weir-agent, configuration.
//! Called by: `config::read` and `config::load`.
//! May touch: the tree of the file, the flags, the host name.
//! Never: a default that differs from `options`.

mod collector;
mod grpc;
mod interfaces;
mod layers;
mod tls;

use std::{fmt::Display, net::SocketAddr, ops::RangeInclusive, path::PathBuf, str::FromStr, time::Duration};

use collector::collector;
use grpc::grpc;
use interfaces::interfaces;
use layers::{Layers, Sources, flags};
use weir_common::{event::MAX_DROP_BYTES, verdict::Verdict};

use crate::spool::Limits;

use super::{
    Args, Config, Fault, IngressHook, Log, Metrics, Neighbours, XdpMode,
    reader::Reader,
    tree::{self, Node, Value},
};

const XDP_MODES: &[(&str, XdpMode)] =
    &[("auto", XdpMode::Auto), ("native", XdpMode::Native), ("generic", XdpMode::Generic)];
const XDP_NEIGHBOURS: &[(&str, bool)] = &[("refuse", false), ("chain", true)];
const UNKNOWN: &[(&str, Verdict)] = &[("allow", Verdict::Allow), ("deny", Verdict::Deny)];
const INGRESS_HOOKS: &[(&str, IngressHook)] = &[("cgroup", IngressHook::Cgroup), ("sk_lookup", IngressHook::SkLookup)];
const LEVELS: &[(&str, &str)] =
    &[("error", "error"), ("warn", "warn"), ("info", "info"), ("debug", "debug"), ("trace", "trace")];
const FORMATS: &[(&str, bool)] = &[("text", false), ("json", true)];
const BOOLEANS: &[(&str, bool)] = &[("true", true), ("false", false)];
const DEFAULT_RECORDS: usize = 65_536;
/// Below this a single batch would not fit; above it the queue alone would take gigabytes.
const RECORDS: RangeInclusive<usize> = 1_024..=16_777_216;
const DEFAULT_MEBIBYTES: u64 = 256;
const MEBIBYTES: RangeInclusive<u64> = 0..=1_048_576;
const DEFAULT_HOURS: u64 = 24;
const DEFAULT_PROGRESS: u64 = 30;
/// Up to a day.
const PROGRESS: RangeInclusive<u64> = 0..=86_400;
const DROP_BYTES: RangeInclusive<u32> = 0..=MAX_DROP_BYTES as u32;
/// Up to a year.
const HOURS: RangeInclusive<u64> = 1..=8_784;

/// Reads the files' texts, lays each over those before it, and the flags over all.
pub fn read(files: &[(String, String)], args: &Args) -> Result<Config, Vec<Fault>> {
    let sources: Vec<&str> = files.iter().map(|(source, _)| source.as_str()).collect();
    let mut reader = Reader::new(&sources);
    let mut root = None;
    for (file, (_, text)) in files.iter().enumerate() {
        match tree::parse(file, text) {
            Ok(read) => root = tree::lay(root, read),
            Err(bad) => {
                let place = Node { file, line: bad.line, column: bad.column, value: Value::Scalar(String::new()) };
                reader.fault("", Some(&place), &format!("not readable as YAML: {}", bad.problem), "correct the line");
            }
        }
    }
    let mut faults = reader.into_faults();
    if !faults.is_empty() {
        return Err(faults);
    }
    let flags = flags(args);
    let mut reader = Sources { file: Reader::new(&sources), flags: Reader::new(&["command line"]) };
    let config = config(&mut reader, root.as_ref(), &flags);
    faults.extend(reader.file.into_faults());
    // As a person reads the files; what has no place in one comes last.
    let file = |fault: &Fault| sources.iter().position(|source| *source == fault.source);
    faults.sort_by_key(|fault| (fault.line == 0, file(fault), fault.line, fault.column));
    faults.extend(reader.flags.into_faults());
    match config {
        Some(config) if faults.is_empty() => Ok(config),
        _ => Err(faults),
    }
}

fn config(reader: &mut Sources, file: Option<&Node>, flags: &Node) -> Option<Config> {
    let top = Layers::new(reader, "", file, Some(flags));
    let [
        grpc_section,
        collector_section,
        queue_section,
        spool_section,
        progress_section,
        drops_section,
        metrics_section,
        log_section,
    ] = ["grpc", "collector", "queue", "spool", "progress", "drops", "metrics", "log"]
        .map(|key| top.below(reader, key));
    let node = top.read(reader, |reader, section| reader.text(section, "node"));
    let node = node.or_else(|| host_name(reader));
    let cgroup_root = top.read(reader, |reader, section| reader.path(section, "cgroupRoot"));
    if cgroup_root.is_none() && !top.has("cgroupRoot") {
        let remedy = "name the directory of the managed cgroup2 tree here or with --cgroup-root";
        reader.file.fault("cgroupRoot", None, "is missing", remedy);
    }
    let interfaces = top.read(reader, interfaces);
    let xdp_mode = top.read(reader, |reader, section| reader.choice(section, "xdpMode", XDP_MODES));
    let chain = top.read(reader, |reader, section| reader.choice(section, "xdpNeighbour", XDP_NEIGHBOURS));
    let bpffs = top.read(reader, |reader, section| reader.path(section, "bpffs"));
    let pin = top.read(reader, |reader, section| reader.choice(section, "pin", BOOLEANS));
    let unknown = top.read(reader, |reader, section| reader.choice(section, "unknownWorkloads", UNKNOWN));
    let unselected = top.read(reader, |reader, section| reader.choice(section, "unselectedWorkloads", UNKNOWN));
    let ingress_hook = top.read(reader, |reader, section| reader.choice(section, "ingressHook", INGRESS_HOOKS));
    let state_dir = top.read(reader, |reader, section| reader.path(section, "stateDir"));
    let policy_dir = top.read(reader, |reader, section| reader.path(section, "policyDir"));
    let grpc = grpc(reader, &grpc_section);
    let collector = collector(reader, &collector_section);
    let queue_records = number(reader, &queue_section, "records", &RECORDS).unwrap_or(DEFAULT_RECORDS);
    let mebibytes = number(reader, &spool_section, "mebibytes", &MEBIBYTES).unwrap_or(DEFAULT_MEBIBYTES);
    let progress = number(reader, &progress_section, "seconds", &PROGRESS).unwrap_or(DEFAULT_PROGRESS);
    let drop_bytes = number(reader, &drops_section, "packetBytes", &DROP_BYTES).unwrap_or(0);
    let kernel_drops = drops_section.read(reader, |reader, section| reader.choice(section, "kernel", BOOLEANS));
    let hours = number(reader, &spool_section, "hours", &HOURS).unwrap_or(DEFAULT_HOURS);
    let metrics = metrics(reader, &metrics_section);
    let log = log(reader, &log_section);
    Some(Config {
        node: node?,
        cgroup_root: cgroup_root?,
        interfaces: interfaces.unwrap_or_default(),
        xdp_mode: xdp_mode.unwrap_or(XdpMode::Auto),
        neighbours: neighbours(chain, bpffs),
        pin: pin.unwrap_or(true),
        unknown: unknown.unwrap_or(Verdict::Allow),
        unselected: unselected.unwrap_or(Verdict::Allow),
        ingress_hook: ingress_hook.unwrap_or_default(),
        state_dir: state_dir.unwrap_or_else(|| PathBuf::from("/var/lib/weir")),
        policy_dir,
        grpc,
        collector,
        queue_records,
        progress: Duration::from_secs(progress),
        drop_bytes,
        kernel_drops: kernel_drops.unwrap_or(true),
        spool: Limits { bytes: mebibytes << 20, age: Duration::from_hours(hours) },
        metrics,
        log,
    })
}

fn neighbours(chain: Option<bool>, bpffs: Option<PathBuf>) -> Neighbours {
    let default = Neighbours::default();
    Neighbours { chain: chain.unwrap_or(default.chain), bpffs: bpffs.unwrap_or(default.bpffs) }
}

fn host_name(reader: &mut Sources) -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|name| name.trim().to_owned());
    let name = name.filter(|name| !name.is_empty());
    if name.is_none() {
        reader.file.fault("node", None, "is missing and the host has no name", "write a name here or with --node");
    }
    name
}

/// A number within bounds.
fn number<T>(reader: &mut Sources, section: &Layers<'_>, key: &str, bounds: &RangeInclusive<T>) -> Option<T>
where
    T: FromStr + PartialOrd + Display,
{
    section.read(reader, |reader, section| {
        let remedy = format!("write a number from {} to {}", bounds.start(), bounds.end());
        let value = reader.parsed(section, key, "is no whole number", &remedy)?;
        if !bounds.contains(&value) {
            reader.fault(&section.field(key), section.get(key), "is out of range", &remedy);
        }
        Some(value)
    })
}

fn metrics(reader: &mut Sources, section: &Layers<'_>) -> Option<Metrics> {
    const REMEDY: &str = "write ADDRESS:PORT, such as 127.0.0.1:9477";
    let listen: Option<SocketAddr> =
        section.read(reader, |reader, section| reader.parsed(section, "listen", "is no address and port", REMEDY));
    let mut wanted = |key| {
        let chosen = section.read(reader, |reader, section| reader.choice(section, key, BOOLEANS)).unwrap_or(false);
        if chosen && !section.has("listen") {
            reader.file.fault("metrics.listen", section.file.get(key), "is missing", REMEDY);
        }
        chosen
    };
    let (per_policy, program_stats) = (wanted("perPolicy"), wanted("programStats"));
    Some(Metrics { listen: listen?, per_policy, program_stats })
}

fn log(reader: &mut Sources, section: &Layers<'_>) -> Log {
    let level = section.read(reader, |reader, section| reader.choice(section, "level", LEVELS));
    let format = section.read(reader, |reader, section| reader.choice(section, "format", FORMATS));
    Log { level: level.unwrap_or("info"), json: format.unwrap_or(false) }
}
