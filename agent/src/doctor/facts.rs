//! Lives: weir-agent, `--doctor`: what a support bundle says of the host and no check judges.
//! Called by: `doctor`.
//! May touch: asks the kernel, through `kernel::preflight`.
//! Never: copies the text of a configuration: what is shown is what was understood, and of that paths, names and numbers.

use serde::Serialize;
use serde_json::{Value, json};

use super::{neighbours, others::Running};
use crate::{
    config::{Config, IngressHook, InterfaceOption, TlsFiles},
    kernel::preflight,
};

/// Things as they are.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// The agent that runs with this configuration.
    pub agent_pid: Option<u32>,
    /// The configuration in effect, flags laid over the file; null where it is not usable.
    pub configuration: Value,
    /// The interfaces of this network namespace, with the programs on them.
    pub interfaces: Value,
    /// Every program in the kernel.
    pub programs: Value,
    /// Every link in the kernel.
    pub links: Value,
}

pub(super) fn gather(config: Option<&Config>, running: &Running) -> Facts {
    Facts {
        agent_pid: running.pid(),
        configuration: config.map_or(Value::Null, configuration),
        interfaces: interfaces(),
        programs: programs(),
        links: links(),
    }
}

/// By the keys of the file, as it is understood.
fn configuration(config: &Config) -> Value {
    let tls = |tls: &TlsFiles| json!({"certificate": tls.certificate, "key": tls.key, "clientCa": tls.ca});
    let tcp = config.grpc.tcp.as_ref().map(|tcp| {
        let files = tcp.tls.as_ref().map(tls);
        json!({"listen": tcp.listen, "insecure": files.is_none(), "tls": files})
    });
    let interface = |option: &InterfaceOption| json!({"name": option.name, "refuse": option.words()});
    let interfaces: Vec<Value> = config.interfaces.iter().map(interface).collect();
    let collector = config.collector.as_ref().map(|collector| {
        let name = &collector.server_name;
        let files = collector.tls.as_ref().map(
            |files| json!({"certificate": files.certificate, "key": files.key, "ca": files.ca, "serverName": name}),
        );
        json!({"address": collector.address, "tls": files, "insecure": collector.insecure})
    });
    json!({
        "node": config.node,
        "cgroupRoot": config.cgroup_root,
        "interfaces": interfaces,
        "xdpMode": format!("{:?}", config.xdp_mode).to_lowercase(),
        "xdpNeighbour": if config.neighbours.chain { "chain" } else { "refuse" },
        "bpffs": config.neighbours.bpffs,
        "unknownWorkloads": config.unknown.name(),
        "unselectedWorkloads": config.unselected.name(),
        "ingressHook": match config.ingress_hook {
            IngressHook::Cgroup => "cgroup",
            IngressHook::SkLookup => "sk_lookup",
        },
        "stateDir": config.state_dir,
        "policyDir": config.policy_dir,
        "grpc": {"socket": {"path": config.grpc.socket, "allowedUids": config.grpc.allowed_uids}, "tcp": tcp},
        "collector": collector,
        "queue": {"records": config.queue_records},
        "spool": {"mebibytes": config.spool.bytes >> 20, "hours": config.spool.age.as_secs() / 3600},
        "progress": {"seconds": config.progress.as_secs()},
        "metrics": config.metrics.map(|metrics| {
            json!({"listen": metrics.listen, "perPolicy": metrics.per_policy, "programStats": metrics.program_stats})
        }),
        "log": {"level": config.log.level, "format": if config.log.json { "json" } else { "text" }},
    })
}

fn interfaces() -> Value {
    let all = preflight::all_interfaces().unwrap_or_default();
    let shown = all.iter().map(|interface| {
        let xdp = interface.xdp.map(|(mode, program)| json!({"mode": mode, "program": program}));
        json!({"index": interface.index, "name": interface.name, "xdp": xdp})
    });
    shown.collect()
}

fn programs() -> Value {
    let shown = neighbours::programs().into_values().map(|program| {
        let tag = format!("{:016x}", program.tag);
        json!({"id": program.id, "name": program.name, "type": program.kind, "tag": tag, "uid": program.uid})
    });
    shown.collect()
}

fn links() -> Value {
    let all = preflight::all_links().unwrap_or_default();
    all.iter().map(|(id, kind, program)| json!({"id": id, "type": kind, "program": program})).collect()
}
