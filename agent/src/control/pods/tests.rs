//! Lives: weir-agent, tests of pods and their cgroups.
//! Called by: `cargo test`.
//! May touch: a fake kernel, a temporary folder that stands for the managed tree.
//! Never: asks a real kernel.

use std::{fs, path::PathBuf};

use weir_common::verdict::{Reason, Verdict};
use weir_policy::{Kind, ResourceId};

use crate::{
    control::{
        explain::Ask,
        tests::{World, actions, world, world_in},
    },
    datapath::AttachState,
};

const UID: &str = "3b1f0e2c-7d54-4c0f-9a51-0d6b8a1f6e77";
const CLOSED: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: shop}
spec: {podSelector: {}}
";

/// Pod shop/NAME on a node, with whatever else its metadata and spec say.
fn pod(name: &str, node: &str, metadata: &str, spec: &str, last: u8) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop{metadata}}}\n\
         spec: {{nodeName: {node}{spec}}}\nstatus: {{podIPs: [{{ip: 10.9.0.{last}}}]}}\n"
    )
}

fn here(name: &str, uid: &str, last: u8) -> String {
    pod(name, "n1", &format!(", uid: {uid}"), "", last)
}

impl World {
    /// Makes the directory kubelet's systemd driver would make for a pod.
    fn starts(&self, uid: &str) -> PathBuf {
        let path = self.dir.path().join("tree").join(directory(uid));
        fs::create_dir_all(path.join("cri-containerd-0a.scope")).unwrap();
        path
    }

    fn cgroup(&self, name: &str) -> Option<String> {
        let compiled = &self.control.force.compiled;
        compiled.workloads.get(&ResourceId::new(Kind::Pod, "shop", name)).unwrap().cgroup.clone()
    }

    fn attached(&self) -> Vec<String> {
        let inner = self.fake.inner();
        inner.reconciled.last().unwrap().iter().map(ToString::to_string).collect()
    }
}

fn directory(uid: &str) -> String {
    let uid = uid.replace('-', "_");
    format!("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid}.slice")
}

#[test]
fn a_pod_is_judged_in_its_cgroup_from_the_apply_on_if_it_is_there_already() {
    let mut world = world();
    world.starts(UID);
    let applied = world.apply(&[&here("a", UID, 1), CLOSED]);
    assert_eq!((applied.warnings, world.cgroup("a")), (vec![], Some(directory(UID))));
    assert_eq!(world.attached(), ["Pod/shop/a"]);
}

#[test]
fn a_cgroup_that_comes_and_goes_makes_a_generation_each_and_changes_no_document() {
    let mut world = world();
    let document = here("a", UID, 1);
    let mut watch = world.control.watch(None);
    world.apply(&[&document, CLOSED]);
    let (saved, mark) = (world.saved().unwrap(), watch.changes.len());
    world.control.tick();
    assert_eq!((world.generations(), world.cgroup("a")), (vec![1, 2], None));
    let path = world.starts(UID);
    world.control.tick();
    world.control.tick();
    assert_eq!((world.generations(), world.cgroup("a")), (vec![1, 2, 3], Some(directory(UID))));
    assert_eq!(world.attached(), ["Pod/shop/a"], "attached in the same turn");
    let view = world.control.get(&ResourceId::new(Kind::Pod, "shop", "a")).unwrap();
    assert_eq!((view.resource.to_yaml().contains("kubepods"), view.generation), (false, 2));
    assert_eq!(world.saved().unwrap(), saved.replace("generation 2", "generation 3"));
    assert_eq!(watch.changes.len(), mark, "watchers hear of documents");
    assert!(actions(&world.apply(&[&document])).iter().all(|(action, _)| *action == "unchanged"));
    fs::remove_dir_all(path).unwrap();
    world.control.tick();
    assert_eq!((world.generations(), world.cgroup("a")), (vec![1, 2, 3, 4], None));
    assert!(watch.changes.try_recv().is_ok());
}

#[test]
fn a_pod_that_is_made_anew_is_found_by_its_new_uid() {
    let mut world = world();
    world.starts(UID);
    world.apply(&[&here("a", UID, 1)]);
    let new = "4c1f0e2c-7d54-4c0f-9a51-0d6b8a1f6e78";
    world.apply(&[&here("a", new, 1)]);
    assert_eq!(world.cgroup("a"), None, "the old directory is another pod's");
    world.starts(new);
    world.control.tick();
    assert_eq!(world.cgroup("a"), Some(directory(new)));
}

#[test]
fn a_kernel_that_refuses_is_asked_again_at_the_next_tick() {
    let mut world = world();
    world.apply(&[&here("a", UID, 1)]);
    world.starts(UID);
    world.fake.inner().fail_install = true;
    world.control.tick();
    assert_eq!((world.control.generation(), world.cgroup("a")), (2, None));
    world.fake.inner().fail_install = false;
    world.control.tick();
    assert_eq!((world.control.generation(), world.cgroup("a")), (3, Some(directory(UID))));
}

#[test]
fn a_restart_finds_the_cgroups_again() {
    let mut world = world();
    world.starts(UID);
    world.apply(&[&here("a", UID, 1), CLOSED]);
    let mut again = world_in(world.dir);
    assert!(again.control.restore().unwrap());
    assert_eq!(again.cgroup("a"), Some(directory(UID)));
}

#[test]
fn only_this_nodes_pods_with_packets_of_their_own_are_looked_for() {
    let mut world = world();
    let uids: Vec<_> = (1..=3).map(|n| UID.replace("3b1f", &format!("3b1{n}"))).collect();
    uids.iter().for_each(|uid| drop(world.starts(uid)));
    let on = |n: usize| format!(", uid: {}", uids[n]);
    let mirrored = format!(", uid: another, annotations: {{kubernetes.io/config.mirror: {}}}", uids[2]);
    let pods = [
        pod("elsewhere", "n2", &on(0), "", 1),
        pod("host", "n1", &on(1), ", hostNetwork: true", 2),
        pod("static", "n1", &mirrored, "", 3),
    ];
    let applied = world.apply(&pods.each_ref().map(String::as_str));
    assert_eq!((applied.faults, applied.warnings), (vec![], vec![]));
    assert_eq!((world.cgroup("elsewhere"), world.cgroup("static")), (None, Some(directory(&uids[2]))));
    assert_eq!(world.attached(), ["Pod/shop/static"]);
}

#[test]
fn what_a_document_names_goes_before_what_is_found() {
    let mut world = world();
    world.starts(UID);
    let by_hand = format!(
        "apiVersion: weir.dev/v1alpha1\nkind: Workload\nmetadata: {{name: mine, namespace: shop}}\nspec: {{cgroup: {}}}\n",
        directory(UID)
    );
    let applied = world.apply(&[&here("a", UID, 1), &by_hand]);
    assert_eq!((applied.faults, world.attached()), (vec![], vec!["Workload/shop/mine".to_owned()]));
    world.control.tick();
    assert_eq!(world.generations(), [1, 2]);
}

#[test]
fn what_is_not_enforced_is_told_and_shown() {
    let rows = [
        (here("a", UID, 1), "pods of this node without a cgroup below ", "shop/a"),
        (pod("a", "n1", "", "", 1), "pods of this node without metadata.uid: shop/a", "kubectl get pods"),
        (pod("a", "n9", "", "", 1), "none of the Pods runs on n1, which this node is called", "set `node`"),
    ];
    for (document, start, part) in rows {
        let mut world = world();
        let warnings = world.apply(&[&document, CLOSED]).warnings;
        assert!(warnings.iter().any(|text| text.starts_with(start) && text.contains(part)), "{start}: {warnings:?}");
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        let waits = world.control.status().unwrap().unplaced.len() == 1;
        assert_eq!(waits, !start.starts_with("none"), "{start}");
    }
}

#[test]
fn explain_answers_for_a_pod_as_its_kernel_does() {
    let mut world = world();
    world.apply(&[&here("a", UID, 1), CLOSED]);
    let ask = |world: &World, from: &str| {
        let ask = Ask { from: from.into(), to: "shop/a".into(), protocol: 6, port: 80 };
        world.control.explain(&ask).unwrap().ingress
    };
    let unplaced = ask(&world, "10.9.0.7");
    assert!(
        unplaced.decided.is_none() && unplaced.why.contains("is not policed although it runs here"),
        "{unplaced:?}"
    );
    world.starts(UID);
    world.control.tick();
    assert_eq!(world.control.observed.workloads[0].state, AttachState::Attached);
    assert_eq!(ask(&world, "10.9.0.7").decided, Some((Verdict::Deny, Reason::Default)));
    let own = ask(&world, "10.9.0.1");
    assert_eq!(own.decided, Some((Verdict::Allow, Reason::NoPolicy)), "its own address: {own:?}");
    assert!(!own.why.contains("report"), "{}", own.why);
}
