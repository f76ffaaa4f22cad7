//! Lives: weir-tests, pods and the cgroups kubelet makes for them.
//! Called by: main.
//! May touch: the stage; directories below its managed cgroup.
//! Never: tells the agent where a pod runs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use weir_tests::harness::Harness;
use weir_tests::harness::ctl::Mark;
use weir_tests::harness::status::NodeOnly;
use weir_tests::process::program;
use weir_tests::report::Attempt;
use weir_tests::world::{Who, cgroup};

use crate::stage::on_stage;

const UID: &str = "5b1f0e2c-7d54-4c0f-9a51-0d6b8a1f6e77";
const GUEST: &str = "6c1f0e2c-7d54-4c0f-9a51-0d6b8a1f6e78";
const TICK: Duration = Duration::from_secs(1);
/// A tick is a second; the rest is for a busy machine.
const SOON: Duration = Duration::from_secs(15);

pub fn trials() -> Vec<Trial> {
    vec![
        on_stage("a pod is policed in its cgroup from when it appears, and no more when it is gone", comes_and_goes),
        on_stage("a pod is policed at once when its cgroup appears, and not with the next tick", at_once),
        on_stage("adversarial 54: what has only its node's policies is let be by others and shown as such", node_only),
    ]
}

fn comes_and_goes(harness: &mut Harness) -> Result<()> {
    let root = harness.world().managed();
    let rows = [
        format!("kubepods/burstable/pod{UID}"),
        format!("kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{}.slice", UID.replace('-', "_")),
    ];
    let _server = harness.world().serve(Who::Client, "tcp-serve --listen [::]:7070")?;
    for directory in rows {
        harness.apply(&documents(harness.world().name()))?;
        state(harness, "waiting")?;
        let pod = root.join(&directory);
        let container = make(&root, &format!("{directory}/cri-containerd-1.scope"))?;
        let appeared = Instant::now();
        state(harness, "attached")?;
        ensure!(appeared.elapsed() < SOON, "attached after {:?}", appeared.elapsed());
        let mark = Mark::now();
        let refused = connect(harness, &container)?;
        ensure!(refused.result == "EPERM", "{directory}: {refused:?}");
        harness.record(mark, "the pod's refusal", |record| {
            record.is("deny", "connect")
                && record.local.workload == "shop/web"
                && record.policy == "NetworkPolicy/shop/closed"
                && record.cgroup.starts_with(&directory)
        })?;
        let get = harness.ctl(&["get", "pod", "web", "-n", "shop", "-o", "yaml"], "")?.ok()?;
        ensure!(get.contains(UID) && !get.contains("kubepods"), "get tells what was found:\n{get}");
        cgroup::remove(&pod)?;
        state(harness, "waiting")?;
        // Another cgroup is another pod's, whatever its address.
        let other = make(&root, "kubepods/other")?;
        let free = connect(harness, &other)?;
        ensure!(free.result == "ok", "{directory}: {free:?}");
        cgroup::remove(&other)?;
    }
    cgroup::remove(&root.join("kubepods"))?;
    Ok(cgroup::remove(&root.join("kubepods.slice"))?)
}

/// Without being told of directories the agent finds each with its next tick, which is most of a second away: the one before has just
/// found the last one gone.
fn at_once(harness: &mut Harness) -> Result<()> {
    const TIMES: u32 = 10;
    let root = harness.world().managed();
    harness.apply(&documents(harness.world().name()))?;
    let mut waited = Duration::ZERO;
    for _ in 0..TIMES {
        state(harness, "waiting")?;
        let appeared = Instant::now();
        // Neither is the folder of pods there, nor that of their class.
        make(&root, &format!("kubepods/burstable/pod{UID}/cri-containerd-1.scope"))?;
        state(harness, "attached")?;
        waited += appeared.elapsed();
        cgroup::remove(&root.join("kubepods"))?;
    }
    println!("    attached {} ms after its directory appeared", (waited / TIMES).as_millis());
    ensure!(waited < TIMES * TICK / 2, "{TIMES} times {:?}", waited / TIMES);
    state(harness, "waiting")
}

/// A pod in its node's network, and processes of no workload: policies that select all pods of the namespace do not select them.
fn node_only(harness: &mut Harness) -> Result<()> {
    let root = harness.world().managed();
    harness.apply(&format!("{}---\n{}", documents(harness.world().name()), guest(harness.world().name())))?;
    let _server = harness.world().serve(Who::Client, "tcp-serve --listen [::]:7070")?;
    let place = format!("kubepods/pod{GUEST}");
    let (pod, stray) = (make(&root, &format!("{place}/container"))?, make(&root, "stray/deeper")?);
    let mut stays = Vec::new();
    for (number, cgroup) in [&pod, &stray, &stray].into_iter().enumerate() {
        let free = connect(harness, cgroup)?;
        ensure!(free.result == "ok", "{}: {free:?}", cgroup.display());
        let line = format!("tcp-serve --listen [::]:717{number}");
        let mut server = harness.world().start("node-only", probe(harness, cgroup, &line))?;
        server.wait_listening(1)?;
        stays.push(server);
    }
    let status = harness.status()?;
    let one =
        |pod: &str, cgroup: &str, processes| NodeOnly { pod: pod.to_owned(), cgroup: cgroup.to_owned(), processes };
    ensure!(
        status.agent.node_only == [one("shop/guest", &place, 1), one("", "stray", 2)],
        "{:?}",
        status.agent.node_only
    );
    ensure!(
        status.agent.workloads.iter().all(|workload| workload.workload != "shop/guest"),
        "{:?}",
        status.agent.workloads
    );
    let text = harness.ctl(&["status"], "")?.ok()?;
    for said in [
        "pod shop/guest, host network",
        "processes of no workload",
        "unknown workload: allow",
        "no policy selects these",
    ] {
        ensure!(text.contains(said), "{said} in:\n{text}");
    }
    drop(stays);
    // A document without the UID says nothing of where the pod runs: its processes are nobody's.
    harness.apply(&guest(harness.world().name()).replace(&format!(", uid: {GUEST}"), ""))?;
    let status = harness.status()?;
    ensure!(status.agent.node_only == [one("shop/guest", "", 0)], "{:?}", status.agent.node_only);
    ensure!(harness.ctl(&["status"], "")?.ok()?.contains("not judged: outside of the cgroup root"), "{status:?}");
    cgroup::remove(&root.join("stray"))?;
    Ok(cgroup::remove(&root.join("kubepods"))?)
}

fn guest(node: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: guest, namespace: shop, uid: {GUEST}}}\n\
         spec: {{nodeName: {node}, hostNetwork: true}}\nstatus: {{podIP: 192.0.2.77}}\n"
    )
}

fn documents(node: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: web, namespace: shop, uid: {UID}}}\nspec: {{nodeName: {node}}}\n\
         status: {{podIPs: [{{ip: {}}}, {{ip: \"{}\"}}]}}\n---\n\
         apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: closed, namespace: shop}}\n\
         spec: {{podSelector: {{}}, policyTypes: [Egress]}}\n",
        Who::Web.v4(),
        Who::Web.v6()
    )
}

/// Waits until the pod is in this state.
fn state(harness: &mut Harness, wanted: &str) -> Result<()> {
    let is = |harness: &Harness| {
        harness.status().is_ok_and(|status| {
            status.agent.workloads.iter().any(|pod| pod.workload == "shop/web" && pod.state == wanted)
        })
    };
    Ok(harness.wait(&format!("the pod to be {wanted}"), is)?)
}

fn connect(harness: &Harness, cgroup: &Path) -> Result<Attempt> {
    let line = format!("tcp-connect --to {}:7070 --timeout-ms 1000 --bytes 8", Who::Client.v4());
    Ok(harness.world().start("pod", probe(harness, cgroup, &line))?.attempt()?)
}

fn probe(harness: &Harness, cgroup: &Path, line: &str) -> Command {
    let mut command = Command::new(program("weir-probe"));
    command.arg("--netns").arg(harness.world().netns(Who::Web)).arg("--cgroup").arg(cgroup);
    command.args(line.split_whitespace());
    command
}

/// A cgroup with its parents.
fn make(root: &Path, path: &str) -> Result<PathBuf> {
    let mut whole = root.to_owned();
    for part in path.split('/') {
        whole.push(part);
        if !whole.exists() {
            cgroup::create(&whole)?;
        }
    }
    Ok(whole)
}
