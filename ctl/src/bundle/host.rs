//! Lives: ctl, the host's own facts for a support bundle.
//! Called by: `bundle`.
//! May touch: named files of `/proc` and `/boot`, reading.
//! Never: reads a file that is not named here: what it does not open it cannot give away.

use std::env;
use std::fs;
use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;
use serde_json::{Map, Value, json};

/// Settings, below `/proc/sys`.
const SETTINGS: [&str; 12] = [
    "kernel/bpf_stats_enabled",
    "kernel/unprivileged_bpf_disabled",
    "net/core/bpf_jit_enable",
    "net/core/bpf_jit_harden",
    "net/core/bpf_jit_limit",
    "net/core/somaxconn",
    "net/core/netdev_max_backlog",
    "net/ipv4/tcp_syncookies",
    "net/ipv4/tcp_max_syn_backlog",
    "net/ipv4/ip_forward",
    "net/ipv6/conf/all/forwarding",
    "net/netfilter/nf_conntrack_max",
];
/// Options of the kernel's build that programs and hooks need.
const OPTIONS: [&str; 22] = [
    "CONFIG_BPF",
    "CONFIG_BPF_SYSCALL",
    "CONFIG_BPF_JIT",
    "CONFIG_BPF_JIT_ALWAYS_ON",
    "CONFIG_BPF_UNPRIV_DEFAULT_OFF",
    "CONFIG_BPF_LSM",
    "CONFIG_BPF_PRELOAD",
    "CONFIG_CGROUPS",
    "CONFIG_CGROUP_BPF",
    "CONFIG_DEBUG_INFO_BTF",
    "CONFIG_HZ",
    "CONFIG_INET_DIAG",
    "CONFIG_INET_DIAG_DESTROY",
    "CONFIG_INET_UDP_DIAG",
    "CONFIG_IP_SCTP",
    "CONFIG_MPTCP",
    "CONFIG_NET_CLS_BPF",
    "CONFIG_NET_NS",
    "CONFIG_NET_XGRESS",
    "CONFIG_SECURITY_LOCKDOWN_LSM",
    "CONFIG_SYN_COOKIES",
    "CONFIG_XDP_SOCKETS",
];
/// Kinds of file systems whose mounts matter.
const MOUNTED: [&str; 7] = ["cgroup", "cgroup2", "bpf", "tracefs", "debugfs", "securityfs", "sysfs"];

/// Everything. `agent`: its process id. `state_dir`: whose file system is shown.
pub fn facts(versions: Value, agent: Option<u32>, state_dir: Option<&Path>) -> Value {
    let release = read("/proc/sys/kernel/osrelease");
    json!({
        "versions": versions,
        "uname": {
            "system": read("/proc/sys/kernel/ostype"),
            "release": release,
            "version": read("/proc/sys/kernel/version"),
            "machine": env::consts::ARCH,
        },
        "bootId": read("/proc/sys/kernel/random/boot_id"),
        "uptime": read("/proc/uptime"),
        "processors": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        "kernelConfig": kernel_config(release.as_deref()),
        "settings": settings(),
        "mounts": mounts(&read("/proc/self/mountinfo").unwrap_or_default(), state_dir),
        "limits": agent.and_then(|pid| read(&format!("/proc/{pid}/limits"))).map(lines),
        "agentCgroup": agent.and_then(|pid| read(&format!("/proc/{pid}/cgroup"))).map(lines),
    })
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn lines(text: String) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

fn settings() -> Value {
    let all = SETTINGS.iter().map(|name| (name.replace('/', "."), json!(read(&format!("/proc/sys/{name}")))));
    Value::Object(all.collect::<Map<_, _>>())
}

/// The options by their values; null where the kernel's configuration is not to be had.
fn kernel_config(release: Option<&str>) -> Value {
    let packed = fs::read("/proc/config.gz").ok().and_then(|bytes| {
        let mut text = String::new();
        GzDecoder::new(bytes.as_slice()).take(4 << 20).read_to_string(&mut text).ok()?;
        Some(text)
    });
    let text = packed.or_else(|| read(&format!("/boot/config-{}", release?)));
    let Some(text) = text else { return Value::Null };
    let value = |option: &str| {
        let found = text.lines().find_map(|line| line.strip_prefix(option)?.strip_prefix('='));
        (option.to_owned(), json!(found.unwrap_or("not set")))
    };
    Value::Object(OPTIONS.iter().map(|option| value(option)).collect::<Map<_, _>>())
}

/// Mounts of the kinds that matter, and the one that the state directory lies on: where, of which kind, with which flags. Sources and
/// options of a file system are left out: those of network file systems may name users.
fn mounts(table: &str, state_dir: Option<&Path>) -> Vec<Value> {
    let all = table.lines().filter_map(|line| {
        let (place, source) = line.split_once(" - ")?;
        let mut words = place.split(' ').skip(4);
        Some((words.next()?, words.next()?, source.split(' ').next()?))
    });
    let all: Vec<(&str, &str, &str)> = all.collect();
    let under = |at: &&str| state_dir.is_some_and(|dir| dir.starts_with(at));
    let state = all.iter().map(|(at, _, _)| *at).filter(under).max_by_key(|at| at.len());
    let matters = |(at, _, kind): &&(&str, &str, &str)| MOUNTED.contains(kind) || state == Some(*at);
    all.iter().filter(matters).map(|(at, flags, kind)| json!({"at": at, "type": kind, "flags": flags})).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_shown_without_their_sources_and_options() {
        let table = "1 0 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n\
                     2 1 0:9 / /sys/fs/cgroup rw,nosuid shared:2 - cgroup2 cgroup2 rw\n\
                     3 1 0:8 / /home rw - cifs //server/CANARY rw,username=CANARY\n\
                     4 1 0:7 / /var/lib rw - nfs server:/x rw,CANARY\n";
        let shown = json!(mounts(table, Some(Path::new("/var/lib/weir")))).to_string();
        assert!(shown.contains("/sys/fs/cgroup") && shown.contains("/var/lib"), "{shown}");
        assert!(!shown.contains("CANARY") && !shown.contains("/home") && !shown.contains("ext4"), "{shown}");
    }

    #[test]
    fn this_host_says_which_kernel_it_runs() {
        let facts = facts(Value::Null, Some(std::process::id()), None);
        assert!(facts["uname"]["release"].as_str().is_some_and(|release| release.contains('.')), "{facts}");
        assert!(facts["limits"].to_string().contains("Max open files"), "{facts}");
    }
}
