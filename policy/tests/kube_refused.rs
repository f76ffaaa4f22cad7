//! Lives: host tests.
//! Called by: cargo test.
//! May touch: the public surface of the crate.
//! Never: takes a fault for the right one because there is one; each row names the field.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use weir_policy::parse;

/// Specs of NetworkPolicies, and the field that is at fault; empty: accepted.
const NETWORK_POLICIES: &[(&str, &str)] = &[
    ("{policyTypes: [ingress]}", "spec.policyTypes[0]"),
    ("{policyTypes: [Ingress, Egress, Ingress]}", "spec.policyTypes"),
    ("{ingress: [{ports: [{port: 0}]}]}", "spec.ingress[0].ports[0].port"),
    ("{ingress: [{ports: [{port: \"80\"}]}]}", "spec.ingress[0].ports[0].port"),
    ("{ingress: [{ports: [{port: http, endPort: 90}]}]}", "spec.ingress[0].ports[0].endPort"),
    ("{ingress: [{ports: [{port: 90, endPort: 80}]}]}", "spec.ingress[0].ports[0].endPort"),
    ("{ingress: [{ports: [{port: 80, endPort: 80}]}]}", ""),
    ("{ingress: [{from: [{ipBlock: {cidr: 10.0.0.1}}]}]}", "spec.ingress[0].from[0].ipBlock.cidr"),
    ("{ingress: [{from: [{ipBlock: {cidr: 10.0.0.1/8}}]}]}", ""),
    ("{ingress: [{from: null, ports: null}, null]}", ""),
    ("{podSelector: {matchLabels: null}}", ""),
    ("{podSelector: {matchLabels: {a: 8}}}", "spec.podSelector.matchLabels.a"),
    ("{podSelector: {matchLabels: {a: yes}}}", "spec.podSelector.matchLabels.a"),
    ("{podSelector: {matchLabels: {a: \"y\"}}}", ""),
    ("{podselector: null}", "spec.podselector"),
    (
        "{podSelector: {matchExpressions: [{key: a, operator: In, values: []}]}}",
        "spec.podSelector.matchExpressions[0].values",
    ),
    ("{podSelector: {matchExpressions: [{key: a, operator: In}]}}", "spec.podSelector.matchExpressions[0].values"),
    (
        "{podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}",
        "spec.podSelector.matchExpressions[0].values",
    ),
    ("{podSelector: {matchExpressions: [{key: a, operator: Exists, values: []}]}}", ""),
    (
        "{podSelector: {matchExpressions: [{key: a, operator: exists}]}}",
        "spec.podSelector.matchExpressions[0].operator",
    ),
    ("{podSelector: {matchExpressions: [{operator: Exists}]}}", "spec.podSelector.matchExpressions[0].key"),
    ("{podSelector: {matchLabels: {\"a/b/c\": d}}}", "spec.podSelector.matchLabels[a/b/c]"),
    ("{podSelector: {matchLabels: {\"A.example/b\": d}}}", "spec.podSelector.matchLabels[A.example/b]"),
    ("{podSelector: {matchLabels: {a: \"\"}}}", ""),
    ("{policyTypes: [Ingress, Ingress]}", ""),
    ("{policyTypes: [Ingress, null]}", "spec.policyTypes[1]"),
    ("{ingress: [{ports: [{protocol: ICMP}]}]}", "spec.ingress[0].ports[0].protocol"),
    ("{ingress: [{ports: [{port: -1}]}]}", "spec.ingress[0].ports[0].port"),
    ("{ingress: [{ports: [{port: 80.0}]}]}", "spec.ingress[0].ports[0].port"),
    ("{ingress: [{ports: [{port: 8_0}]}]}", "spec.ingress[0].ports[0].port"),
    ("{ingress: [{ports: [{port: HTTP}]}]}", "spec.ingress[0].ports[0].port"),
    ("{ingress: [{ports: [{port: a--b}]}]}", "spec.ingress[0].ports[0].port"),
    ("{ingress: [{ports: [{port: \"1-2\"}]}]}", "spec.ingress[0].ports[0].port"),
    ("{ingress: [{ports: [{port: 80, endPort: null}]}]}", ""),
    ("{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/33}}]}]}", "spec.egress[0].to[0].ipBlock.cidr"),
    ("{egress: [{to: [{ipBlock: {cidr: 10.0.0/8}}]}]}", "spec.egress[0].to[0].ipBlock.cidr"),
    ("{egress: [{to: [{ipBlock: {except: [10.0.0.0/9]}}]}]}", "spec.egress[0].to[0].ipBlock.cidr"),
    ("{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.1]}}]}]}", "spec.egress[0].to[0].ipBlock.except[0]"),
    ("{egress: [{to: [{namespaceSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}]}]}", "spec.egress[0].to[0]"),
    ("{egress: [{to: [{podSelector: null}]}]}", "spec.egress[0].to[0]"),
    ("{ingress: {}}", "spec.ingress"),
];

/// What ClusterNetworkPolicies say beside tier, priority and subject, likewise.
const CLUSTER_POLICIES: &[(&str, &str)] = &[
    ("egress: [{action: Deny, to: [{}]}]", ""),
    ("egress: [{action: Deny, to: []}]", "spec.egress[0].to"),
    ("ingress: [{action: Deny, from: [{networks: [10.0.0.0/8]}]}]", "spec.ingress[0].from[0].networks"),
    (
        "egress: [{action: Deny, to: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {range: {start: 8, end: 8}}}}]}]",
        "spec.egress[0].protocols[0].tcp.destinationPort.range",
    ),
    (
        "egress: [{action: Deny, to: [{networks: [10.0.0.0/8]}], protocols: [{destinationNamedPort: http}]}]",
        "spec.egress[0]",
    ),
    ("tier: Admin", "spec.tier"),
    ("ingress: [{action: Deny, from: [{namespaces: {}, pods: {podSelector: {}}}]}]", "spec.ingress[0].from[0]"),
    ("ingress: [{action: Deny, from: [{pods: {namespaceSelector: {}}}]}]", "spec.ingress[0].from[0].pods.podSelector"),
    ("ingress: [{action: Deny, from: [{pods: {podSelector: {}}}]}]", ""),
    ("ingress: [{from: [{namespaces: {}}]}]", "spec.ingress[0].action"),
    ("ingress: [{action: Deny, from: [{nodes: {}}]}]", "spec.ingress[0].from[0].nodes"),
    ("ingress: [{action: Deny, from: [{namespaces: {}}], protocols: []}]", "spec.ingress[0].protocols"),
    ("ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{tcp: {}}]}]", "spec.ingress[0].protocols[0].tcp"),
    (
        "ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {}}}]}]",
        "spec.ingress[0].protocols[0].tcp.destinationPort",
    ),
    (
        "ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{icmp: {}}]}]",
        "spec.ingress[0].protocols[0].icmp",
    ),
    (
        "ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 1}}, udp: {destinationPort: {number: 1}}}]}]",
        "spec.ingress[0].protocols[0]",
    ),
    ("ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{destinationNamedPort: HTTP}]}]", ""),
    ("ingress: [{action: Deny, from: [{namespaces: {}}], ports: [{}]}]", "spec.ingress[0].ports"),
    ("egress: [{action: Accept, to: [{domainNames: [example.com, \"*.example.org\", a.b.]}]}]", ""),
    ("egress: [{action: Accept, to: [{domainNames: [example]}]}]", "spec.egress[0].to[0].domainNames[0]"),
    ("egress: [{action: Accept, to: [{domainNames: [\"a.*.org\"]}]}]", "spec.egress[0].to[0].domainNames[0]"),
    ("egress: [{action: Accept, to: [{domainNames: []}]}]", "spec.egress[0].to[0].domainNames"),
    ("egress: [{action: Deny, to: [{domainNames: [example.com]}]}]", "spec.egress[0].to[0].domainNames"),
    ("ingress: [{action: Accept, from: [{domainNames: [example.com]}]}]", "spec.ingress[0].from[0].domainNames"),
    ("egress: [{action: Deny, to: [{networks: []}]}]", "spec.egress[0].to[0].networks"),
    ("egress: [{action: Deny, to: [{networks: [10.0.0.0/8, 10.0.0.0/8]}]}]", "spec.egress[0].to[0].networks[1]"),
];

/// Each row is refused for the field it names, or accepted.
fn hold(rows: impl IntoIterator<Item = (String, &'static str)>) {
    for (text, field) in rows {
        match parse("t", &text) {
            Ok(_) => assert_eq!(field, "", "{text}"),
            Err(faults) => assert_eq!(faults[0].field, field, "{text}: {faults:?}"),
        }
    }
}

#[test]
fn network_policies_that_the_api_server_refuses_are_refused_with_their_field() {
    hold(NETWORK_POLICIES.iter().map(|(spec, field)| (np(spec), *field)));
}

#[test]
fn cluster_policies_that_the_api_server_refuses_are_refused_with_their_field() {
    hold(CLUSTER_POLICIES.iter().map(|(spec, field)| (cnp(spec), *field)));
}

#[test]
fn what_is_too_long_is_refused_with_its_field() {
    hold([
        (np(&format!("{{podSelector: {{matchLabels: {{a: {}}}}}}}", "b".repeat(64))), "spec.podSelector.matchLabels.a"),
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
    ]);
}

#[test]
fn names_kinds_and_tiers_that_the_api_server_refuses_are_refused() {
    hold([
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
        (np("{}").replace("{name: t}", "{name: t, annotations: {weir.dev/on-change: drain}}"), ""),
        (
            np("{}").replace("{name: t}", "{name: t, annotations: {weir.dev/on-change: keep}}"),
            "metadata.annotations[weir.dev/on-change]",
        ),
        (np("{}").replace("networking.k8s.io/v1", "networking.k8s.io/v1beta1"), "apiVersion"),
        (np("{}").replace("kind: NetworkPolicy", "kind: NetworkPolicys"), "kind"),
        (np("{}").replace("kind: NetworkPolicy", "kind: Ingress"), "kind"),
        (banp("default", "Deny"), ""),
        (banp("other", "Deny"), "metadata.name"),
        (banp("default", "Pass"), "spec.ingress[0].action"),
    ]);
}

/// Found by hand: a faulty protocol hid the fault of the port beside it.
#[test]
fn every_fault_of_a_port_is_told() {
    let faults = parse("t", &np("{ingress: [{ports: [{protocol: tcp, port: 70000, endPort: x}]}]}")).unwrap_err();
    let fields: Vec<_> = faults.iter().filter_map(|fault| fault.field.rsplit('.').next()).collect();
    assert_eq!(fields, ["protocol", "port", "endPort"], "{faults:?}");
}

fn np(spec: &str) -> String {
    format!("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: t}}\nspec: {spec}\n")
}

fn cnp(spec: &str) -> String {
    format!(
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{name: t}}\nspec: {{tier: Admin, priority: 1, subject: {{namespaces: {{}}}}, {spec}}}\n"
    )
}

fn banp(name: &str, action: &str) -> String {
    format!(
        "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: BaselineAdminNetworkPolicy\nmetadata: {{name: {name}}}\nspec: {{subject: {{namespaces: {{}}}}, ingress: [{{action: {action}, from: [{{namespaces: {{}}}}]}}]}}\n"
    )
}

fn many(count: usize, item: impl Fn(usize) -> String) -> String {
    (0..count).map(item).collect::<Vec<_>>().join(", ")
}
