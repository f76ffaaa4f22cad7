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
use weir_tests::process::program;
use weir_tests::report::Attempt;
use weir_tests::world::{Who, cgroup};

use crate::stage::on_stage;

const UID: &str = "5b1f0e2c-7d54-4c0f-9a51-0d6b8a1f6e77";
/// A tick is a second; the rest is for a busy machine.
const SOON: Duration = Duration::from_secs(15);

pub fn trials() -> Vec<Trial> {
    vec![on_stage("a pod is policed in its cgroup from when it appears, and no more when it is gone", comes_and_goes)]
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
    let world = harness.world();
    let mut command = Command::new(program("weir-probe"));
    command.arg("--netns").arg(world.netns(Who::Web)).arg("--cgroup").arg(cgroup);
    let line = format!("tcp-connect --to {}:7070 --timeout-ms 1000 --bytes 8", Who::Client.v4());
    command.args(line.split_whitespace());
    Ok(world.start("pod", command)?.attempt()?)
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
