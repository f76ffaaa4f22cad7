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

fn many(count: usize, item: impl Fn(usize) -> String) -> String {
    (0..count).map(item).collect::<Vec<_>>().join(", ")
}

#[test]
fn what_the_api_server_refuses_is_refused_with_its_field() {
    let np = |spec: &str| {
        format!("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: t}}\nspec: {spec}\n")
    };
    let cnp = |spec: &str| {
        format!(
            "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{name: t}}\nspec: {{tier: Admin, priority: 1, subject: {{namespaces: {{}}}}, {spec}}}\n"
        )
    };
    let banp = |name: &str, action: &str| {
        format!(
            "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: BaselineAdminNetworkPolicy\nmetadata: {{name: {name}}}\nspec: {{subject: {{namespaces: {{}}}}, ingress: [{{action: {action}, from: [{{namespaces: {{}}}}]}}]}}\n"
        )
    };
    // The field that is at fault; empty: accepted.
    let rows = [
        (np("{policyTypes: [ingress]}"), "spec.policyTypes[0]"),
        (np("{policyTypes: [Ingress, Egress, Ingress]}"), "spec.policyTypes"),
        (np("{ingress: [{ports: [{port: 0}]}]}"), "spec.ingress[0].ports[0].port"),
        (np("{ingress: [{ports: [{port: \"80\"}]}]}"), "spec.ingress[0].ports[0].port"),
        (np("{ingress: [{ports: [{port: http, endPort: 90}]}]}"), "spec.ingress[0].ports[0].endPort"),
        (np("{ingress: [{ports: [{port: 90, endPort: 80}]}]}"), "spec.ingress[0].ports[0].endPort"),
        (np("{ingress: [{ports: [{port: 80, endPort: 80}]}]}"), ""),
        (np("{ingress: [{from: [{ipBlock: {cidr: 10.0.0.1}}]}]}"), "spec.ingress[0].from[0].ipBlock.cidr"),
        (np("{ingress: [{from: [{ipBlock: {cidr: 10.0.0.1/8}}]}]}"), ""),
        (np("{ingress: [{from: null, ports: null}, null]}"), ""),
        (np("{podSelector: {matchLabels: null}}"), ""),
        (np("{podSelector: {matchLabels: {a: 8}}}"), "spec.podSelector.matchLabels.a"),
        (np("{podSelector: {matchLabels: {a: yes}}}"), "spec.podSelector.matchLabels.a"),
        (np("{podSelector: {matchLabels: {a: \"y\"}}}"), ""),
        (np("{podselector: null}"), "spec.podselector"),
        (cnp("egress: [{action: Deny, to: [{}]}]"), ""),
        (cnp("egress: [{action: Deny, to: []}]"), "spec.egress[0].to"),
        (cnp("ingress: [{action: Deny, from: [{networks: [10.0.0.0/8]}]}]"), "spec.ingress[0].from[0].networks"),
        (
            cnp(
                "egress: [{action: Deny, to: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {range: {start: 8, end: 8}}}}]}]",
            ),
            "spec.egress[0].protocols[0].tcp.destinationPort.range",
        ),
        (
            cnp("egress: [{action: Deny, to: [{networks: [10.0.0.0/8]}], protocols: [{destinationNamedPort: http}]}]"),
            "spec.egress[0]",
        ),
        (
            np("{podSelector: {matchExpressions: [{key: a, operator: In, values: []}]}}"),
            "spec.podSelector.matchExpressions[0].values",
        ),
        (
            np("{podSelector: {matchExpressions: [{key: a, operator: In}]}}"),
            "spec.podSelector.matchExpressions[0].values",
        ),
        (
            np("{podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}"),
            "spec.podSelector.matchExpressions[0].values",
        ),
        (np("{podSelector: {matchExpressions: [{key: a, operator: Exists, values: []}]}}"), ""),
        (
            np("{podSelector: {matchExpressions: [{key: a, operator: exists}]}}"),
            "spec.podSelector.matchExpressions[0].operator",
        ),
        (np("{podSelector: {matchExpressions: [{operator: Exists}]}}"), "spec.podSelector.matchExpressions[0].key"),
        (np("{podSelector: {matchLabels: {\"a/b/c\": d}}}"), "spec.podSelector.matchLabels[a/b/c]"),
        (np("{podSelector: {matchLabels: {\"A.example/b\": d}}}"), "spec.podSelector.matchLabels[A.example/b]"),
        (np(&format!("{{podSelector: {{matchLabels: {{a: {}}}}}}}", "b".repeat(64))), "spec.podSelector.matchLabels.a"),
        (np("{podSelector: {matchLabels: {a: \"\"}}}"), ""),
        (np("{policyTypes: [Ingress, Ingress]}"), ""),
        (np("{policyTypes: [Ingress, null]}"), "spec.policyTypes[1]"),
        (np("{ingress: [{ports: [{protocol: ICMP}]}]}"), "spec.ingress[0].ports[0].protocol"),
        (np("{ingress: [{ports: [{port: -1}]}]}"), "spec.ingress[0].ports[0].port"),
        (np("{ingress: [{ports: [{port: 80.0}]}]}"), "spec.ingress[0].ports[0].port"),
        (np("{ingress: [{ports: [{port: 8_0}]}]}"), "spec.ingress[0].ports[0].port"),
        (np("{ingress: [{ports: [{port: HTTP}]}]}"), "spec.ingress[0].ports[0].port"),
        (np("{ingress: [{ports: [{port: a--b}]}]}"), "spec.ingress[0].ports[0].port"),
        (np("{ingress: [{ports: [{port: \"1-2\"}]}]}"), "spec.ingress[0].ports[0].port"),
        (np("{ingress: [{ports: [{port: 80, endPort: null}]}]}"), ""),
        (np("{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/33}}]}]}"), "spec.egress[0].to[0].ipBlock.cidr"),
        (np("{egress: [{to: [{ipBlock: {cidr: 10.0.0/8}}]}]}"), "spec.egress[0].to[0].ipBlock.cidr"),
        (np("{egress: [{to: [{ipBlock: {except: [10.0.0.0/9]}}]}]}"), "spec.egress[0].to[0].ipBlock.cidr"),
        (
            np("{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.1]}}]}]}"),
            "spec.egress[0].to[0].ipBlock.except[0]",
        ),
        (np("{egress: [{to: [{namespaceSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}]}]}"), "spec.egress[0].to[0]"),
        (np("{egress: [{to: [{podSelector: null}]}]}"), "spec.egress[0].to[0]"),
        (np("{ingress: {}}"), "spec.ingress"),
        (cnp("tier: Admin"), "spec.tier"),
        (
            cnp("ingress: [{action: Deny, from: [{namespaces: {}, pods: {podSelector: {}}}]}]"),
            "spec.ingress[0].from[0]",
        ),
        (
            cnp("ingress: [{action: Deny, from: [{pods: {namespaceSelector: {}}}]}]"),
            "spec.ingress[0].from[0].pods.podSelector",
        ),
        (cnp("ingress: [{action: Deny, from: [{pods: {podSelector: {}}}]}]"), ""),
        (cnp("ingress: [{from: [{namespaces: {}}]}]"), "spec.ingress[0].action"),
        (cnp("ingress: [{action: Deny, from: [{nodes: {}}]}]"), "spec.ingress[0].from[0].nodes"),
        (cnp("ingress: [{action: Deny, from: [{namespaces: {}}], protocols: []}]"), "spec.ingress[0].protocols"),
        (
            cnp("ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{tcp: {}}]}]"),
            "spec.ingress[0].protocols[0].tcp",
        ),
        (
            cnp("ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {}}}]}]"),
            "spec.ingress[0].protocols[0].tcp.destinationPort",
        ),
        (
            cnp("ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{icmp: {}}]}]"),
            "spec.ingress[0].protocols[0].icmp",
        ),
        (
            cnp(
                "ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 1}}, udp: {destinationPort: {number: 1}}}]}]",
            ),
            "spec.ingress[0].protocols[0]",
        ),
        (cnp("ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{destinationNamedPort: HTTP}]}]"), ""),
        (cnp("ingress: [{action: Deny, from: [{namespaces: {}}], ports: [{}]}]"), "spec.ingress[0].ports"),
        (cnp("egress: [{action: Accept, to: [{domainNames: [example.com, \"*.example.org\", a.b.]}]}]"), ""),
        (cnp("egress: [{action: Accept, to: [{domainNames: [example]}]}]"), "spec.egress[0].to[0].domainNames[0]"),
        (cnp("egress: [{action: Accept, to: [{domainNames: [\"a.*.org\"]}]}]"), "spec.egress[0].to[0].domainNames[0]"),
        (cnp("egress: [{action: Accept, to: [{domainNames: []}]}]"), "spec.egress[0].to[0].domainNames"),
        (cnp("egress: [{action: Deny, to: [{domainNames: [example.com]}]}]"), "spec.egress[0].to[0].domainNames"),
        (
            cnp("ingress: [{action: Accept, from: [{domainNames: [example.com]}]}]"),
            "spec.ingress[0].from[0].domainNames",
        ),
        (cnp("egress: [{action: Deny, to: [{networks: []}]}]"), "spec.egress[0].to[0].networks"),
        (
            cnp("egress: [{action: Deny, to: [{networks: [10.0.0.0/8, 10.0.0.0/8]}]}]"),
            "spec.egress[0].to[0].networks[1]",
        ),
        (
            cnp(&format!(
                "egress: [{{action: Deny, to: [{{networks: [{}]}}]}}]",
                many(26, |n| format!("10.{n}.0.0/16"))
            )),
            "spec.egress[0].to[0].networks",
        ),
        (
            cnp(&format!("egress: [{{action: Deny, to: [{}]}}]", many(26, |_| "{namespaces: {}}".to_owned()))),
            "spec.egress[0].to",
        ),
        (
            cnp(&format!("egress: [{}]", many(26, |_| "{action: Deny, to: [{namespaces: {}}]}".to_owned()))),
            "spec.egress",
        ),
        (
            cnp(&format!("egress: [{{name: {}, action: Deny, to: [{{namespaces: {{}}}}]}}]", "n".repeat(101))),
            "spec.egress[0].name",
        ),
        (cnp(&format!("egress: [{{name: {}, action: Deny, to: [{{namespaces: {{}}}}]}}]", "n".repeat(100))), ""),
        (cnp("ingress: []").replace("priority: 1", "priority: 1001"), "spec.priority"),
        (cnp("ingress: []").replace("priority: 1, ", ""), "spec.priority"),
        (cnp("ingress: []").replace("tier: Admin", "tier: NetworkPolicy"), "spec.tier"),
        (cnp("ingress: []").replace("tier: Admin, ", ""), "spec.tier"),
        (cnp("ingress: []").replace("subject: {namespaces: {}}", "subject: {}"), "spec.subject"),
        (cnp("ingress: []").replace("{name: t}", "{name: t, namespace: n}"), "metadata.namespace"),
        (np("{}").replace("{name: t}", "{name: T}"), "metadata.name"),
        (np("{}").replace("{name: t}", "{namespace: n}"), "metadata.name"),
        (np("{}").replace("{name: t}", "{name: t, namespace: a.b}"), "metadata.namespace"),
        (np("{}").replace("{name: t}", "{name: t, label: {}}"), "metadata.label"),
        (np("{}").replace("{name: t}", "{name: t, labels: {a: 1}}"), "metadata.labels.a"),
        (np("{}").replace("{name: t}", "{name: t, annotations: {a: 1}}"), "metadata.annotations.a"),
        (np("{}").replace("{name: t}", "{name: t, annotations: {a: \"x y\"}}"), ""),
        (np("{}").replace("networking.k8s.io/v1", "networking.k8s.io/v1beta1"), "apiVersion"),
        (np("{}").replace("kind: NetworkPolicy", "kind: NetworkPolicys"), "kind"),
        (np("{}").replace("kind: NetworkPolicy", "kind: Ingress"), "kind"),
        (banp("default", "Deny"), ""),
        (banp("other", "Deny"), "metadata.name"),
        (banp("default", "Pass"), "spec.ingress[0].action"),
    ];
    for (text, field) in rows {
        match parse("t", &text) {
            Ok(_) => assert_eq!(field, "", "{text}"),
            Err(faults) => assert_eq!(faults[0].field, field, "{text}: {faults:?}"),
        }
    }
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
