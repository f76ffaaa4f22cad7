//! Lives: host tests.
//! Called by: cargo test.
//! May touch: the public surface of the crate.
//! Never: a warning without the documents that deserve it, and nearly the same ones that do not.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking"
)]

mod support;

use std::{collections::BTreeSet, time::Instant};

use proptest::prelude::*;
use support::{address, context, protocol, resources};
use weir_policy::{
    End, Labels, Origin, Question, Resource, Resources, Spec, Workload, cases::WORLD, evaluate, parse, warnings,
    warnings_about,
};

/// Specs of Policy shop/p, and what is odd about each: field and text.
type Row = (&'static str, &'static [(&'static str, &'static str)]);

const POLICIES: &[Row] = &[
    ("{workloadSelector: {matchLabels: {app: web}}, ingress: [{from: [{workloadSelector: {}}]}]}", &[]),
    (
        "{workloadSelector: {matchLabels: {app: wbe}}}",
        &[("spec.workloadSelector", "its workloadSelector matches no workload")],
    ),
    (
        "{policyTypes: [Ingress], egress: [{}]}",
        &[("spec.egress", "its egress rules are ignored, as policyTypes does not list Egress")],
    ),
    (
        "{egress: []}",
        &[(
            "spec.egress",
            "its empty egress closes nothing, as without policyTypes only rules make a policy about egress; list Egress in \
             policyTypes to close it",
        )],
    ),
    ("{policyTypes: [Egress], egress: []}", &[]),
    (
        "{ingress: [{from: [{workloadSelector: {}}]}, {ports: [{port: 80}]}]}",
        &[(
            "spec.ingress[1]",
            "ingress[0] and ingress[1] are two rules, one about peers at any port, one about ports for everybody; if those \
             ports for those peers are meant, make them one item: remove the second dash",
        )],
    ),
    ("{ingress: [{from: [{workloadSelector: {}}], ports: [{port: 80}]}]}", &[]),
    ("{ingress: [{from: [{workloadSelector: {}}]}, {action: deny, ports: [{port: 80}]}]}", &[]),
    (
        "{ingress: [{from: [{workloadSelector: {matchLabels: {app: x}}}, {namespaceSelector: {matchLabels: {team: x}}}]}]}",
        &[
            ("spec.ingress[0].from[0]", "from[0] of its rule ingress[0] matches no workload"),
            ("spec.ingress[0].from[1]", "from[1] of its rule ingress[0] matches no workload"),
        ],
    ),
    ("{ingress: [{from: [{namespaceSelector: {}, workloadSelector: {matchLabels: {app: db}}}]}]}", &[]),
    (
        "{egress: [{name: out, to: [{service: {name: api}}, {service: {name: empty}}, {service: {name: wbe}}]}]}",
        &[
            (
                "spec.egress[0].to[1]",
                "to[1] of its rule egress[0] out matches nothing: service Service/shop/empty has nothing behind it",
            ),
            ("spec.egress[0].to[2]", "to[2] of its rule egress[0] out matches nothing: there is no Service/shop/wbe"),
        ],
    ),
    (
        "{ingress: [{ports: [{port: http}, {port: https}, {protocol: UDP, port: http}]}]}",
        &[
            ("spec.ingress[0].ports", "its rule ingress[0] names port https/TCP, which no workload has"),
            ("spec.ingress[0].ports", "its rule ingress[0] names port http/UDP, which no workload has"),
        ],
    ),
    (
        "{expiresAt: 2026-11-22T11:00:00Z, workloadSelector: {matchLabels: {app: wbe}}}",
        &[("spec.expiresAt", "it expired at 2026-11-22T11:00:00Z and does nothing any more; delete it")],
    ),
    ("{expiresAt: 2026-11-22T13:00:00Z}", &[]),
    (
        "{ingress: [{expiresAt: 2026-11-22T12:00:00Z, from: [{workloadSelector: {matchLabels: {app: x}}}]}]}",
        &[(
            "spec.ingress[0].expiresAt",
            "its rule ingress[0] expired at 2026-11-22T12:00:00Z and does nothing any more; delete it",
        )],
    ),
    (
        "{ingress: [{action: deny, log: false, ports: [{port: 1}]}, {log: false}]}",
        &[(
            "spec.ingress[0].log",
            "what its rule ingress[0] denies makes no record: nobody will see why it does not arrive",
        )],
    ),
    (
        "{ingress: [{ports: [{port: 80, endPort: 90}]}, {ports: [{port: 85}]}]}",
        &[(
            "spec.ingress[1]",
            "its rule ingress[1] decides nothing: its own ingress[0] decides about all of its traffic before",
        )],
    ),
    ("{ingress: [{ports: [{port: 85}]}, {ports: [{port: 80, endPort: 90}]}]}", &[]),
    (
        "{ingress: [{ports: [{port: 85}]}, {action: deny}]}",
        &[(
            "spec.ingress[0]",
            "its rule ingress[0] decides nothing: its own ingress[1] decides about all of its traffic before",
        )],
    ),
    (
        "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]}, {from: [{ipBlock: {cidr: 10.2.0.0/16}}]}, \
         {from: [{ipBlock: {cidr: 10.0.0.0/14}}]}]}",
        &[(
            "spec.ingress[1]",
            "its rule ingress[1] decides nothing: its own ingress[0] decides about all of its traffic before",
        )],
    ),
    ("{ingress: [{expiresAt: 2027-01-01T00:00:00Z}, {ports: [{port: 85}]}]}", &[]),
    ("{priority: 5, ingress: [{ports: [{port: 9999}]}]}", &[]),
    (
        "{priority: 500, workloadSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: 7}]}, {ports: [{port: 8}]}]}",
        &[(
            "spec.ingress[0]",
            "its rule ingress[0] decides nothing: ingress[0] of Policy/shop/first decides about all of its traffic before",
        )],
    ),
];

/// Beside the policy under test: a policy asked before most, and services.
const AROUND: &str = r#"
{apiVersion: weir.dev/v1alpha1, kind: Policy, metadata: {name: first, namespace: shop}, spec: {priority: 100, ingress: [{ports: [{port: 7}]}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: api, namespace: shop}, spec: {selector: {app: api}, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: empty, namespace: shop}, spec: {ports: [{port: 80}]}}
"#;

fn policy(spec: &str) -> String {
    format!("apiVersion: weir.dev/v1alpha1\nkind: Policy\nmetadata: {{name: p, namespace: shop}}\nspec: {spec}\n")
}

fn told(state: &Resources) -> Vec<String> {
    warnings(state, context().now).iter().map(ToString::to_string).collect()
}

#[test]
fn what_is_legal_and_probably_not_meant_is_told_with_its_field() {
    for (spec, expected) in POLICIES {
        let state = resources(&[WORLD, AROUND, &policy(spec)]);
        let found = warnings(&state, context().now);
        let found: Vec<_> = found.iter().map(|warning| (warning.field.as_str(), warning.text.as_str())).collect();
        assert_eq!(found, *expected, "{spec}");
    }
}

#[test]
fn other_kinds_are_looked_at_too() {
    let limit = "{apiVersion: weir.dev/v1alpha1, kind: RateLimit, metadata: {name: tiny, namespace: shop}, spec: {bytes: \
                 {perSecond: 100, burst: 100}, workloadSelector: {matchLabels: {app: nobody}}}}";
    let inner = "{apiVersion: weir.dev/v1alpha1, kind: Workload, metadata: {name: inner, namespace: shop}, spec: {cgroup: \
                 web/inner}}";
    let names = "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: s, namespace: shop}, addressType: \
                 FQDN, endpoints: [{addresses: [db.example.org]}]}";
    let expected = [
        "Workload/shop/inner: its cgroup lies inside web, another workload's; both judge it",
        "RateLimit/shop/tiny: its workloadSelector matches no workload",
        "RateLimit/shop/tiny: packets larger than its byte burst never pass; 1500 lets full Ethernet packets through",
        "EndpointSlice/shop/s: its endpoints are host names, which nothing here resolves: it leads nowhere",
    ];
    assert_eq!(told(&resources(&[WORLD, limit, inner, names])), expected);
}

#[test]
fn cluster_policies_below_others_and_network_policies_are_looked_at() {
    let cnp = |name: &str, priority: u16, namespaces: &str, rules: &str| {
        format!(
            "{{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {{name: {name}}}, spec: {{tier: \
             Admin, priority: {priority}, subject: {{namespaces: {namespaces}}}, ingress: {rules}}}}}"
        )
    };
    let above = cnp("above", 1, "{}", "[{action: Deny, from: [{namespaces: {}}]}]");
    let below = cnp(
        "below",
        2,
        "{matchLabels: {kubernetes.io/metadata.name: shop}}",
        "[{action: Accept, from: [{pods: {podSelector: {matchLabels: {app: web}}}}]}]",
    );
    let nobody = cnp("nobody", 1, "{matchLabels: {team: x}}", "[]");
    let closed = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: np, namespace: shop}, spec: \
                  {podSelector: {matchLabels: {app: nobody}}, egress: []}}";
    let expected = [
        "NetworkPolicy/shop/np: its empty egress closes nothing, as without policyTypes only rules make a policy about \
         egress; list Egress in policyTypes to close it",
        "NetworkPolicy/shop/np: its podSelector matches no workload",
        "ClusterNetworkPolicy/below: its rule ingress[0] decides nothing: ingress[0] of ClusterNetworkPolicy/above decides \
         about all of its traffic before",
        "ClusterNetworkPolicy/nobody: its subject matches no workload",
    ];
    let state = resources(&[WORLD, &above, &below, &nobody, closed]);
    assert_eq!(told(&state), expected);
    let only = [state.iter().find(|resource| resource.id().name == "nobody").unwrap().id().clone()];
    assert_eq!(warnings_about(&state, &only, context().now).len(), 1);
}

#[test]
fn without_workloads_nothing_is_said_about_whom_selectors_select() {
    let text =
        "{workloadSelector: {matchLabels: {app: x}}, ingress: [{from: [{workloadSelector: {}}], ports: [{port: x}]}]}";
    assert_eq!(told(&resources(&[&policy(text)])), Vec::<String>::new());
}

/// 30,000 workloads and 5,000 policies, in a debug build. The bound is far above what it takes.
#[test]
fn warnings_take_no_long_time_at_cluster_size() {
    let workload = |n: u32| {
        let labels = Labels::from([("app".to_owned(), format!("a{}", n % 97)), ("replica".to_owned(), n.to_string())]);
        let spec = Spec::Workload(Workload::default());
        Resource::new(&format!("n{}", n % 500), &format!("w{n}"), labels, spec, Origin::default())
    };
    let policy = |n: u32| {
        let text = format!(
            "{{apiVersion: weir.dev/v1alpha1, kind: Policy, metadata: {{name: p{n}, namespace: n{}}}, spec: {{workloadSelector: \
             {{matchLabels: {{app: a{}}}}}, ingress: [{{from: [{{namespaceSelector: {{}}, workloadSelector: {{matchLabels: {{app: \
             nobody{n}}}}}}}, {{namespaceSelector: {{matchLabels: {{team: t{n}}}}}}}]}}]}}}}",
            n % 500,
            n % 97
        );
        parse("p", &text).unwrap().remove(0)
    };
    let start = Instant::now();
    let policies: Vec<_> = (0..5_000).map(policy).collect();
    let one = [policies[0].id().clone()];
    let state: Resources = (0..30_000).map(workload).chain(policies).collect();
    let built = start.elapsed();
    let start = Instant::now();
    let all = warnings(&state, context().now);
    let whole = start.elapsed();
    assert!(all.len() >= 10_000, "{}", all.len());
    let start = Instant::now();
    assert!(warnings_about(&state, &one, context().now).len() >= 2);
    let single = start.elapsed();
    println!("built in {built:?}, all {whole:?}, one {single:?}");
    // Against reading the policies, in the same run: asking each policy about each workload would take hundreds of times that.
    assert!(whole < built * 20 && single < whole, "built in {built:?}, all {whole:?}, one {single:?}");
}

const PEERS: [&str; 8] = [
    "{workloadSelector: {matchLabels: {app: web}}}",
    "{workloadSelector: {matchExpressions: [{key: app, operator: In, values: [web, api]}]}}",
    "{workloadSelector: {}}",
    "{namespaceSelector: {}}",
    "{ipBlock: {cidr: 10.0.0.0/8}}",
    "{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/30]}}",
    "{ipBlock: {cidr: 10.0.0.0/24}}",
    "{entity: world}",
];

fn a_rule() -> impl Strategy<Value = String> {
    let peers = prop::collection::vec(prop::sample::select(PEERS.to_vec()), 0..3);
    let ports = prop::collection::vec((1u16..5, 0u16..3), 0..3);
    (prop::sample::select(vec!["allow", "deny", "pass"]), peers, ports).prop_map(|(action, peers, ports)| {
        let ports: Vec<_> =
            ports.iter().map(|(first, more)| format!("{{port: {first}, endPort: {}}}", first + more)).collect();
        format!("{{action: {action}, from: [{}], ports: [{}]}}", peers.join(", "), ports.join(", "))
    })
}

fn a_policy(name: usize) -> impl Strategy<Value = String> {
    let tier = prop::sample::select(vec!["admin", "namespace", "baseline"]);
    let selector = prop::sample::select(vec!["{}", "{matchLabels: {app: web}}"]);
    let mode = prop::sample::select(vec!["enforce", "enforce", "enforce", "audit", "staged"]);
    (tier, selector, mode, 0u16..3, prop::collection::vec(a_rule(), 0..4)).prop_map(
        move |(tier, selector, mode, priority, rules)| {
            let rules = rules.join(", ");
            let rules = if tier == "namespace" { rules.replace("action: pass", "action: deny") } else { rules };
            let spec = format!(
                "{{tier: {tier}, workloadSelector: {selector}, mode: {mode}, priority: {priority}, ingress: [{rules}]}}"
            );
            policy(&spec).replace("name: p,", &format!("name: p{name},"))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// The evaluator never hears a rule of which it is said that it decides nothing.
    #[test]
    fn a_rule_that_is_said_to_decide_nothing_decides_nothing(texts in (a_policy(0), a_policy(1), a_policy(2), a_policy(3))) {
        let state = resources(&[WORLD, &texts.0, &texts.1, &texts.2, &texts.3]);
        let found = warnings(&state, context().now);
        let idle: BTreeSet<_> = found
            .iter()
            .filter(|warning| warning.text.contains("decides nothing"))
            .map(|warning| (warning.id.to_string(), warning.field.trim_start_matches("spec.").to_owned()))
            .collect();
        let ends = ["10.0.0.2", "10.0.0.3", "10.0.1.4", "10.0.0.1", "10.0.0.77", "10.3.0.1", "192.0.2.1"];
        for (from, to, port) in ends.iter().flat_map(|from| ["10.0.0.2", "10.0.0.3"].map(|to| (from, to))).flat_map(|(from, to)| (1..9).map(move |port| (from, to, port))) {
            let (from, to) = (End::Address(address(from)), End::Address(address(to)));
            let answer = evaluate(&state, &context(), &Question { from, to, protocol: protocol("TCP"), port }).unwrap().ingress.unwrap();
            prop_assert!(!idle.contains(&(answer.policy.clone(), answer.rule.clone())), "{idle:?}: {answer:?}");
            for passed in &answer.passed {
                let heard = |(id, rule): &(String, String)| *passed == format!("{id} passes it on by its rule {rule}");
                prop_assert!(!idle.iter().any(heard), "{idle:?}: {passed}");
            }
        }
    }
}

#[test]
fn a_policy_that_drains_connections_of_a_workload_with_an_interface_is_warned_about() {
    let rows = [
        ("cut", "cgroup: web, addresses: [10.0.0.1], interface: veth1", 0),
        ("drain", "cgroup: web", 0),
        ("drain", "cgroup: web, addresses: [10.0.0.1], interface: veth1", 1),
    ];
    for (on_change, spec, expected) in rows {
        let documents = format!(
            "
apiVersion: weir.dev/v1alpha1
kind: Workload
metadata: {{name: web, namespace: shop, labels: {{app: web}}}}
spec: {{{spec}}}
---
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {{name: p, namespace: shop}}
spec: {{onChange: {on_change}, workloadSelector: {{matchLabels: {{app: web}}}}, policyTypes: [Egress], defaultAction: deny}}
"
        );
        let found = warnings(&resources(&[&documents]), context().now);
        let about =
            found.iter().filter(|warning| warning.field == "spec.onChange" && warning.text.contains("shop/web"));
        assert_eq!(about.count(), expected, "{on_change}, {spec}: {found:?}");
    }
}
