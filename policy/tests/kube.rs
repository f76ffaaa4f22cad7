//! Lives: host tests.
//! Called by: cargo test.
//! May touch: the public surface of the crate.
//! Never: repeats a case of tests/conformance; here is what those leave out.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking"
)]

mod support;

use support::{address, context, protocol, resources, tables};
use weir_common::verdict::Verdict;
use weir_policy::{End, Explanation, Kind, Question, ResourceId, Resources, Spec, evaluate, parse};

/// Two pods on two nodes, and what they need around them.
const CLUSTER: &str = r#"
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Node, metadata: {name: n1}, status: {addresses: [{type: InternalIP, address: 192.168.0.1}, {type: Hostname, address: n1}]}}
- {apiVersion: v1, kind: Node, metadata: {name: n2}, status: {addresses: [{type: InternalIP, address: 192.168.0.2}]}}
- {apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {team: red}}}
- apiVersion: v1
  kind: Pod
  metadata: {name: web, namespace: shop, labels: {app: web}}
  spec:
    nodeName: n1
    containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]
  status: {phase: Running, podIPs: [{ip: 10.0.0.10}, {ip: "fd00::10"}]}
- apiVersion: v1
  kind: Pod
  metadata: {name: db, namespace: data, labels: {app: db}}
  spec: {nodeName: n2, containers: [{name: c, ports: [{name: sql, containerPort: 5432, protocol: TCP}]}]}
  status: {phase: Running, podIP: 10.0.0.20}
"#;

fn ask(state: &Resources, from: &str, to: &str, word: &str, port: u16) -> Explanation {
    let end = |text: &str| match text.split_once('/') {
        Some((namespace, name)) => End::Workload(ResourceId::new(Kind::Pod, namespace, name)),
        None => End::Address(address(text)),
    };
    let question = Question { from: end(from), to: end(to), protocol: protocol(word), port };
    evaluate(state, &context(), &question).unwrap()
}

fn cluster_policy(name: &str, priority: u16, action: &str) -> String {
    format!(
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{name: {name}}}\n\
         spec: {{tier: Admin, priority: {priority}, subject: {{namespaces: {{}}}}, \
         ingress: [{{name: r, action: {action}, from: [{{namespaces: {{}}}}]}}]}}\n"
    )
}

const CLOSED: &str =
    "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: closed, namespace: shop}\n";

#[test]
fn policies_of_one_priority_that_disagree_are_heard_from_the_most_cautious_on() {
    let rows = [
        (["Accept", "Deny"], Verdict::Deny),
        (["Pass", "Deny"], Verdict::Deny),
        (["Accept", "Pass"], Verdict::Deny),
        (["Accept", "Accept"], Verdict::Allow),
    ];
    for (actions, expected) in rows {
        for (first, second) in [(0, 1), (1, 0)] {
            let (one, other) = (cluster_policy("a", 5, actions[first]), cluster_policy("b", 5, actions[second]));
            let state = resources(&[CLUSTER, CLOSED, &one, &other]);
            let explanation = ask(&state, "data/db", "shop/web", "TCP", 80);
            assert_eq!(explanation.verdict, expected, "{actions:?} {first}: {explanation}");
        }
    }
}

#[test]
fn an_answer_names_the_rule_that_decided_and_the_one_that_passed() {
    let state = resources(&[CLUSTER, CLOSED, &cluster_policy("admin", 5, "Pass")]);
    let explanation = ask(&state, "data/db", "shop/web", "TCP", 80);
    let text = explanation.to_string();
    assert!(text.contains("ClusterNetworkPolicy/admin passes it on by its rule ingress[0] r"), "{text}");
    assert!(
        text.contains("NetworkPolicy/shop/closed (namespace tier, priority 1000) denies it by its default"),
        "{text}"
    );
    assert_eq!(explanation.deciding().unwrap().policy, "NetworkPolicy/shop/closed");
}

#[test]
fn a_policy_without_spec_closes_its_namespace_for_ingress_only() {
    let state = resources(&[CLUSTER, CLOSED]);
    let rows = [
        ("data/db", "shop/web", Verdict::Deny),
        ("192.0.2.1", "shop/web", Verdict::Deny),
        ("192.168.0.2", "shop/web", Verdict::Deny),
        ("192.168.0.1", "shop/web", Verdict::Allow),
        ("shop/web", "shop/web", Verdict::Allow),
        ("shop/web", "data/db", Verdict::Allow),
    ];
    for (from, to, expected) in rows {
        let explanation = ask(&state, from, to, "TCP", 80);
        assert_eq!(explanation.verdict, expected, "{from} to {to}: {explanation}");
    }
}

#[test]
fn the_address_of_a_service_leads_to_its_pods() {
    let service = "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.96.0.1, \
                   selector: {app: web}, ports: [{port: 80, targetPort: http}]}}";
    let open = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: shop}\n\
                spec: {ingress: [{ports: [{port: http}]}]}\n";
    let state = resources(&[CLUSTER, service, open]);
    assert_eq!(ask(&state, "data/db", "10.96.0.1", "TCP", 80).verdict, Verdict::Allow);
    assert_eq!(ask(&state, "data/db", "shop/web", "TCP", 80).verdict, Verdict::Deny);
    assert_eq!(ask(&state, "data/db", "shop/web", "TCP", 8080).verdict, Verdict::Allow);
}

#[test]
fn pods_that_ended_own_no_address_and_pods_of_the_host_count_as_it() {
    let pod = |name: &str, more: &str, status: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: shop, labels: {{app: db}}}}, spec: {{nodeName: n2{more}}}, status: {status}}}"
        )
    };
    let ended = pod("ended", "", "{phase: Succeeded, podIP: 10.0.0.10}");
    let guest = pod("guest", ", hostNetwork: true", "{phase: Running, podIP: 192.168.0.2}");
    let state = resources(&[CLUSTER, &ended, &guest, CLOSED]);
    let explanation = ask(&state, "data/db", "10.0.0.10", "TCP", 80);
    assert_eq!(explanation.ingress.unwrap().workload.name, "web");
    assert_eq!(ask(&state, "data/db", "shop/guest", "TCP", 80).ingress, None);
    assert_eq!(ask(&state, "shop/guest", "shop/web", "TCP", 80).verdict, Verdict::Deny);
}

#[test]
fn documents_of_kubernetes_survive_being_written_and_read() {
    let state = resources(&[CLUSTER, CLOSED, &cluster_policy("a", 5, "Pass")]);
    for resource in state.iter() {
        let again = parse("again", &resource.to_yaml()).unwrap_or_else(|faults| panic!("{faults:?}"));
        assert_eq!(again.as_slice(), std::slice::from_ref(resource), "{}", resource.to_yaml());
    }
    let typed = r#"{"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": [{"metadata": {"name": "p"}, "spec": {}}]}"#;
    let pod = parse("typed", typed).unwrap().remove(0);
    assert_eq!(pod.id(), &ResourceId::new(Kind::Pod, "default", "p"));
    assert_eq!(parse("again", &pod.to_yaml()).unwrap(), [pod]);
}

#[test]
fn a_pod_keeps_the_uid_its_node_knows_it_by() {
    let rows = [
        ("uid: 3b1f0e2c-7d54-4c0f-9a51-0d6b8a1f6e77", Some("3b1f0e2c-7d54-4c0f-9a51-0d6b8a1f6e77")),
        ("uid: 12345678, labels: {a: b}", Some("12345678")),
        ("uid: api-server, annotations: {kubernetes.io/config.mirror: 58c9a3d6}", Some("58c9a3d6")),
        ("uid: a, annotations: {kubernetes.io/config.hash: b}", Some("a")),
        ("uid: \"\"", None),
        ("labels: {a: b}", None),
    ];
    for (metadata, uid) in rows {
        let pod = parse("pod", &format!("{{apiVersion: v1, kind: Pod, metadata: {{name: p, {metadata}}}}}"))
            .unwrap()
            .remove(0);
        let Spec::Workload(workload) = pod.spec() else { panic!("{pod:?}") };
        assert_eq!(workload.uid.as_deref(), uid, "{metadata}");
        assert_eq!(parse("again", &pod.to_yaml()).unwrap(), [pod]);
    }
}

/// Found by fuzzing: readers recognise a key by its colon only within 1024 characters.
#[test]
fn a_key_of_any_length_survives_being_written_and_read() {
    for length in [1, 999, 1000, 1023, 1024, 5000] {
        let key = "k\\x01".repeat(length);
        let document = format!("apiVersion: v1\nkind: Node\nmetadata: {{name: n}}\n? \"{key}\"\n: [{{a: 1}}]\n");
        let node = parse("first", &document).unwrap().remove(0);
        let again = parse("again", &node.to_yaml()).unwrap_or_else(|faults| panic!("{length}: {faults:?}"));
        assert_eq!(again, [node], "{length}");
    }
}

#[test]
fn kubernetes_policies_hold_for_native_workloads_too() {
    let state = resources(&[weir_policy::cases::WORLD, CLOSED]);
    let web = End::Workload(ResourceId::new(Kind::Workload, "shop", "web"));
    let from = End::Address(address("192.0.2.1"));
    let question = Question { from, to: web, protocol: protocol("TCP"), port: 80 };
    assert_eq!(evaluate(&state, &context(), &question).unwrap().verdict, Verdict::Deny);
    let compiled = tables(&state);
    assert!(compiled.rules.iter().any(|rule| rule.policy == "NetworkPolicy/shop/closed"));
    assert!(state.iter().any(|resource| matches!(resource.spec(), Spec::Policy(_))));
}
