//! Lives: host tests.
//! Called by: cargo test.
//! May touch: the public surface of weir-bench and of the policy crate.
//! Never: asserts how long anything takes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use weir_bench::{
    cluster::{Cluster, Pod, Size},
    edits::{Editor, Kinds},
    here::context,
    measure::edits::edits,
};
use weir_common::{
    addr::Protocol,
    decide::{Image, Query},
    verdict::{Direction, Reason, Verdict},
};
use weir_policy::{Compiled, Compiler, Kind, ResourceId, Resources, compile};

fn small() -> Cluster {
    Cluster::generate(&Size::of(600, 120, 40))
}

fn tables(resources: &Resources) -> Compiled {
    compile(resources, &context()).unwrap_or_else(|faults| panic!("{faults:#?}"))
}

#[test]
fn the_same_seed_makes_the_same_cluster_and_another_another() {
    let (one, again) = (small(), small());
    assert!(one.documents().eq(again.documents()));
    let other = Cluster::generate(&Size { seed: 2, ..one.size });
    assert!(!one.documents().eq(other.documents()));
}

#[test]
fn text_and_resources_say_the_same() {
    let cluster = small();
    let resources = cluster.resources().unwrap();
    assert_eq!(cluster.pods.len(), 600);
    assert_eq!(cluster.policies.len(), 120);
    let mut seen = 0;
    for document in cluster.documents() {
        let read = document.parse().unwrap();
        let [read] = read.as_slice() else { panic!("{} documents in one", read.len()) };
        let mine = resources.get(read.id()).unwrap_or_else(|| panic!("{} is missing", read.id()));
        let here = cluster.pods.iter().any(|pod| pod.node == 0 && pod.id() == *read.id());
        let read = if here {
            read.clone().running_in(&format!("pods/{}/{}", read.id().namespace, read.id().name))
        } else {
            read.clone()
        };
        assert_eq!(*mine, read);
        assert_eq!(weir_policy::parse("yaml", &document.yaml()).unwrap(), document.parse().unwrap());
        seen += 1;
    }
    assert_eq!(seen, resources.len());
}

#[test]
fn shapes_are_those_of_clusters() {
    let cluster = Cluster::generate(&Size::of(3_000, 500, 250));
    let labels = |pod: &Pod| (pod.namespace.clone(), pod.labels.get("app").cloned());
    let sets: BTreeSet<_> = cluster.pods.iter().map(labels).collect();
    let share = sets.len() as f64 / cluster.pods.len() as f64;
    assert!((0.6..0.73).contains(&share), "{share} label sets a pod");
    assert_eq!(cluster.pods.iter().filter(|pod| pod.node == 0).count(), 250);
    let simple = |document: &&weir_bench::cluster::Document| {
        let spec = &document.0["spec"];
        spec["policyTypes"] == serde_json::json!(["Ingress"])
            && spec["ingress"][0]["from"].as_array().is_some_and(|from| from.len() == 1)
    };
    let simple = cluster.policies.iter().filter(simple).count();
    assert!(simple * 10 > cluster.policies.len() * 6, "{simple} of {} open one way in", cluster.policies.len());
    let kinds: BTreeSet<_> = cluster.resources().unwrap().iter().map(|resource| resource.id().kind).collect();
    let wanted =
        [Kind::Pod, Kind::Namespace, Kind::Node, Kind::Service, Kind::NetworkPolicy, Kind::ClusterNetworkPolicy];
    assert_eq!(kinds, BTreeSet::from(wanted));
}

/// Twins of all pods: alike but for name, addresses, and the labels that change with every replica.
fn doubled(cluster: &Cluster) -> Cluster {
    let mut cluster = cluster.clone();
    let twins: Vec<Pod> = cluster.pods.iter().map(twin).collect();
    cluster.pods.extend(twins);
    cluster
}

fn twin(pod: &Pod) -> Pod {
    let mut twin = Pod { name: format!("{}-twin", pod.name), ..pod.clone() };
    for key in ["pod-template-hash", "statefulset.kubernetes.io/pod-name", "apps.kubernetes.io/pod-index"] {
        twin.labels.entry(key.to_owned()).and_modify(|value| value.push_str("-twin"));
    }
    let (v4, v6) = pod.addresses;
    twin.addresses = ((u32::from(v4) + 512).into(), (u128::from(v6) + 512).into());
    twin
}

#[test]
fn replicas_make_no_identities() {
    let cluster = small();
    let once = tables(&cluster.resources().unwrap());
    let twice = tables(&doubled(&cluster).resources().unwrap());
    assert_eq!(twice.sizes.identities, once.sizes.identities);
    assert_eq!(twice.sizes.classes, once.sizes.classes);
    assert_eq!(twice.sizes.cells, once.sizes.cells);
    assert!(twice.sizes.endpoints > once.sizes.endpoints + 2 * cluster.pods.len() - 10, "addresses they do make");
}

#[test]
fn one_pod_touches_its_own_entries_and_no_others() {
    let cluster = small();
    let mut compiler = Compiler::of(&cluster.resources().unwrap(), context()).unwrap();
    let mut editor = Editor::new(cluster);
    for (kind, words) in Kinds::ALL.into_iter().filter(|(kind, _)| kind.is_of_a_pod()) {
        for _ in 0..10 {
            let before = compiler.compiled();
            let touched = compiler.apply(edits(editor.next(kind).unwrap())).unwrap();
            assert!(touched.addresses <= 2, "{words}: {touched:?}");
            let after = compiler.compiled();
            let same = |(address, identity): &(&_, &u32)| before.endpoints.get(address) == Some(identity);
            assert!(
                after.endpoints.iter().filter(|entry| !same(entry)).count() <= 2,
                "{words}: other addresses changed"
            );
            if kind == Kinds::PodAdded {
                assert_eq!((touched.identities, touched.sets, touched.cells), (0, 0, 0), "{words}: {touched:?}");
            }
        }
    }
}

/// What the tables say of every pod here to some addresses.
fn decisions(compiled: &Compiled, cluster: &Cluster) -> Vec<(ResourceId, Verdict, Reason, String)> {
    let image = Image::open(compiled).unwrap();
    let mut all = Vec::new();
    for workload in compiled.local() {
        for pod in cluster.pods.iter().step_by(7) {
            for (direction, port) in [(Direction::Ingress, 8080), (Direction::Egress, 5432), (Direction::Egress, 53)] {
                let remote = weir_policy::addr(pod.addresses.0.into());
                let query = Query { local: workload.identity, direction, remote, protocol: Protocol::TCP, port };
                let decision = image.decide(&query);
                let rule =
                    compiled.rules.get(decision.rule as usize).map(|rule| format!("{} {}", rule.policy, rule.rule));
                all.push((workload.id.clone(), decision.verdict, decision.reason, rule.unwrap_or_default()));
            }
        }
    }
    all
}

#[test]
fn a_day_of_edits_ends_where_building_it_from_scratch_does() {
    let cluster = small();
    let mut compiler = Compiler::of(&cluster.resources().unwrap(), context()).unwrap();
    let mut editor = Editor::new(cluster);
    let mut verdicts = BTreeSet::new();
    for _ in 0..4 {
        for (kind, words) in Kinds::ALL {
            compiler.apply(edits(editor.next(kind).unwrap())).unwrap_or_else(|faults| panic!("{words}: {faults:#?}"));
        }
        let resources = editor.cluster().resources().unwrap();
        assert_eq!(*compiler.resources(), resources);
        let (walked, scratch) = (compiler.compiled(), tables(&resources));
        let said = decisions(&walked, editor.cluster());
        assert_eq!(said, decisions(&scratch, editor.cluster()));
        verdicts.extend(said.into_iter().map(|(_, verdict, reason, _)| format!("{verdict:?} {reason:?}")));
        let sizes = |compiled: &Compiled| {
            (compiled.sizes.identities, compiled.sizes.classes, compiled.sizes.sets, compiled.sizes.endpoints)
        };
        assert_eq!(sizes(&walked), sizes(&scratch));
    }
    assert!(verdicts.len() >= 3, "the cluster asks too little: {verdicts:?}");
}
