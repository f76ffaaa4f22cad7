//! Lives: weir-tests, live tests of pods that call themselves by a Service.
//! Called by: main.
//! May touch: a world of its own, because the translation stays in its namespaces; directories below its managed cgroup.
//! Never: believes a verdict whose connection did not reach the pod's own server.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use weir_tests::harness::ctl::Mark;
use weir_tests::harness::{Harness, Options};
use weir_tests::process::{Running, program};
use weir_tests::report::Attempt;
use weir_tests::world::Who::{self, Node, Web};
use weir_tests::world::nat::Translation;
use weir_tests::world::{World, WorldError, cgroup};

use crate::abreast;
use crate::stage::agrees;

pub fn trials() -> Vec<Trial> {
    vec![
        abreast("a_pod_behind_a_service_calls_itself_through_a_proxy_of_its_own", || {
            themselves("self-own", ["10.96.0.10", "fd96::10"], World::translate, Web)
        }),
        abreast("a_pod_behind_a_service_calls_itself_through_its_nodes_proxy", || {
            themselves("self-node", ["10.0.0.1", "fd77:0:0:1::1"], World::translate_for_others, Node)
        }),
    ]
}

const UID: &str = "7c1f0e2c-7d54-4c0f-9a51-0d6b8a1f6e78";
/// The Service's port, and the pod's own.
const PORTS: [u16; 2] = [80, 8080];
const GIVE_UP_MS: u64 = 8_000;

/// A policy of the cluster's beside the one that closes the pod both ways, and the rule that denies the call.
const STEPS: [(&str, Option<&str>); 4] = [
    ("", None),
    ("egress: [{action: Deny, to: [{namespaces: {}}]}]", Some("egress[0]")),
    ("ingress: [{action: Deny, from: [{namespaces: {}}]}]", Some("ingress[0]")),
    ("egress: [{action: Deny, to: [{namespaces: {matchLabels: {of: others}}}]}]", None),
];

type Translate = fn(&World, Who, &[Translation<'_>]) -> Result<(), WorldError>;

fn themselves(label: &str, front: [&str; 2], translate: Translate, proxy: Who) -> Result<()> {
    let mut harness = Harness::start(World::new(label)?, Options::default())?;
    let pod = pod_cgroup(&harness)?;
    let own = [Web.v4(), Web.v6()].map(|address| [(address, PORTS[1])]);
    let called = [front[0].parse()?, front[1].parse()?].map(|address| SocketAddr::new(address, PORTS[0]));
    let mut translations = Vec::new();
    for protocol in ["tcp", "udp"] {
        for (from, to) in called.iter().zip(&own) {
            translations.push(Translation { protocol, from: (from.ip(), from.port()), to });
        }
    }
    translate(harness.world(), proxy, &translations)?;
    let servers = [serve(&harness, &pod, "tcp-serve")?, serve(&harness, &pod, "udp-serve")?];
    for (cluster, denied) in STEPS {
        let generation = harness.apply(&documents(harness.world().name(), front, cluster))?;
        harness.wait("the pod to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
        for verb in ["tcp-connect --bytes 1000", "udp-exchange", "udp-exchange --connected"] {
            for to in called {
                // The world gives web a second address of each family, which is not the pod's.
                let from = if to.is_ipv4() { Web.v4() } else { Web.v6() };
                let line = format!("{verb} --from {from} --to {to} --timeout-ms {GIVE_UP_MS}");
                call(&harness, &pod, &line, denied, generation)?;
            }
        }
    }
    // Two steps let each of two families through, by TCP once and by UDP twice.
    let [tcp, udp] = servers;
    let (tcp, udp) = (tcp.served()?, udp.served()?);
    let datagrams: u64 = udp.clients.values().map(|client| client.packets).sum();
    ensure!((tcp.accepted, datagrams) == (4, 8), "{tcp:?} {udp:?}");
    agrees(&harness)?;
    drop(harness);
    Ok(())
}

/// What the client sees, and the record of its socket.
fn call(harness: &Harness, pod: &Path, line: &str, denied: Option<&str>, generation: u64) -> Result<()> {
    let mark = Mark::now();
    let attempt = attempt(harness, pod, line)?;
    let as_it_must = match denied {
        None => attempt.result == "ok" && attempt.received == attempt.sent && attempt.sent > 0,
        Some(_) => attempt.result == "EPERM",
    };
    ensure!(as_it_must, "{line}, denied by {denied:?}: the client saw {attempt:?}");
    harness.record(mark, line, |record| {
        let by = match denied {
            Some(rule) => record.policy == "ClusterNetworkPolicy/cluster" && record.rule == rule,
            None => record.policy.is_empty() && record.reason == "no_policy",
        };
        record.verdict == if denied.is_some() { "deny" } else { "allow" }
            && record.direction == "egress"
            && record.generation == generation
            && record.local.workload == "shop/web"
            && by
    })?;
    Ok(())
}

fn documents(node: &str, [v4, v6]: [&str; 2], cluster: &str) -> String {
    let mut text = format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: {node}}}\nstatus: {{addresses: [{{type: InternalIP, address: {}}}, \
         {{type: InternalIP, address: \"{}\"}}]}}\n---\n\
         apiVersion: v1\nkind: Pod\nmetadata: {{name: web, namespace: shop, uid: {UID}, labels: {{app: web}}}}\n\
         spec: {{nodeName: {node}}}\nstatus: {{podIPs: [{{ip: {}}}, {{ip: \"{}\"}}]}}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop}}\nspec: {{clusterIPs: [{v4}, \"{v6}\"], \
         selector: {{app: web}}, ports: [{{name: a, port: {}, targetPort: {port}}}, \
         {{name: b, port: {}, targetPort: {port}, protocol: UDP}}]}}\n---\n\
         apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: closed, namespace: shop}}\n\
         spec: {{podSelector: {{}}, policyTypes: [Ingress, Egress]}}\n",
        Node.v4(),
        Node.v6(),
        Web.v4(),
        Web.v6(),
        PORTS[0],
        PORTS[0],
        port = PORTS[1],
    );
    if !cluster.is_empty() {
        text += &format!(
            "---\napiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{name: cluster}}\n\
             spec: {{tier: Admin, priority: 1, subject: {{namespaces: {{}}}}, {cluster}}}\n"
        );
    }
    text
}

/// The cgroup of the pod's container, with its parents, as kubelet names them.
fn pod_cgroup(harness: &Harness) -> Result<PathBuf> {
    let mut path = harness.world().managed();
    for part in ["kubepods", "burstable", &format!("pod{UID}"), "cri-containerd-1.scope"] {
        path.push(part);
        cgroup::create(&path)?;
    }
    Ok(path)
}

fn probe(harness: &Harness, pod: &Path, line: &str) -> Command {
    let mut command = Command::new(program("weir-probe"));
    command.arg("--netns").arg(harness.world().netns(Web)).arg("--cgroup").arg(pod);
    command.args(line.split_whitespace());
    command
}

fn serve(harness: &Harness, pod: &Path, verb: &str) -> Result<Running> {
    let listen = [Web.v4(), Web.v6()].map(|address| format!(" --listen {}", SocketAddr::new(address, PORTS[1])));
    let command = probe(harness, pod, &format!("{verb}{}", listen.concat()));
    let mut server = harness.world().start(&format!("pod-{verb}"), command)?;
    server.wait_listening(listen.len())?;
    Ok(server)
}

fn attempt(harness: &Harness, pod: &Path, line: &str) -> Result<Attempt> {
    Ok(harness.world().start("pod-client", probe(harness, pod, line))?.attempt()?)
}
