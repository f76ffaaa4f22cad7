//! Lives: host tests.
//! Called by: cargo test.
//! May touch: the public surface of the crate.
//! Never: only a verdict; here is what an answer says beside it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking"
)]

mod support;

use support::{address, context, protocol, resources};
use weir_common::verdict::Verdict;
use weir_policy::{
    Answer, Context, End, Explanation, Kind, Question, ResourceId, Resources, Tier, cases::WORLD, evaluate,
    evaluate_service,
};

fn policy(name: &str, spec: &str) -> String {
    format!("apiVersion: weir.dev/v1alpha1\nkind: Policy\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n")
}

fn end(text: &str) -> End {
    match text.split_once('/') {
        Some((namespace, name)) => End::Workload(ResourceId::new(Kind::Workload, namespace, name)),
        None => End::Address(address(text)),
    }
}

fn ask_at(state: &Resources, context: &Context, from: &str, to: &str, word: &str, port: u16) -> Explanation {
    let question = Question { from: end(from), to: end(to), protocol: protocol(word), port };
    evaluate(state, context, &question).unwrap()
}

/// What shop/web says of a call from the world.
fn answer(state: &Resources, word: &str, port: u16) -> Answer {
    ask_at(state, &context(), "192.0.2.1", "shop/web", word, port).ingress.unwrap()
}

#[test]
fn whoever_was_asked_before_is_named_in_order() {
    let state = resources(&[
        WORLD,
        &policy("a", "{tier: admin, priority: 1, ingress: [{action: deny, ports: [{port: 9}]}]}"),
        &policy("b", "{tier: admin, priority: 2, ingress: [{name: through, action: pass, ports: [{port: 80}]}]}"),
        &policy("c", "{tier: admin, priority: 3, ingress: [{action: deny}]}"),
        &policy("d", "{tier: baseline, priority: 1, ingress: [{action: deny, ports: [{port: 9}]}]}"),
        &policy("e", "{tier: baseline, priority: 2, ingress: [{action: deny}]}"),
        &policy("f", "{tier: admin, mode: audit, priority: 0, ingress: [{action: deny, ports: [{port: 9}]}]}"),
    ]);
    let found = answer(&state, "TCP", 80);
    let expected = [
        "in the admin tier no rule of Policy/shop/a matches",
        "Policy/shop/b passes it on by its rule ingress[0] through",
        "in the baseline tier no rule of Policy/shop/d matches",
    ];
    assert_eq!(
        (found.verdict, found.tier, found.passed.as_slice()),
        (Verdict::Deny, Some(Tier::Baseline), &expected.map(String::from)[..])
    );
    assert_eq!(
        found.why,
        format!(
            "{}; Policy/shop/e (baseline tier, priority 2) denies it by its rule ingress[0], the first that matches",
            expected.join("; ")
        )
    );
    let found = answer(&state, "TCP", 81);
    let expected = ["in the admin tier no rule of Policy/shop/a, Policy/shop/b matches".to_owned()];
    assert_eq!((found.policy.as_str(), found.passed.as_slice()), ("Policy/shop/c", &expected[..]));
}

#[test]
fn an_answer_tells_what_staged_policies_would_change_and_nothing_else() {
    let staged = policy(
        "later",
        "{mode: staged, workloadSelector: {matchLabels: {app: web}}, ingress: [{name: ok, ports: [{port: 80}]}]}",
    );
    let state = resources(&[WORLD, &staged]);
    let found = answer(&state, "TCP", 80);
    assert_eq!((found.verdict, found.staged), (Verdict::Allow, None));
    let found = answer(&state, "TCP", 81);
    let would = found.staged.unwrap();
    assert_eq!(found.verdict, Verdict::Allow);
    assert_eq!(
        (would.verdict, would.policy.as_str(), would.rule.as_str()),
        (Verdict::Deny, "Policy/shop/later", "default ingress")
    );
    assert_eq!(ask_at(&state, &context(), "192.0.2.1", "shop/web", "TCP", 81).staged(), Some(Verdict::Deny));
    assert_eq!(ask_at(&state, &context(), "192.0.2.1", "shop/web", "TCP", 80).staged(), None);
    let text = ask_at(&state, &context(), "192.0.2.1", "shop/web", "TCP", 81).to_string();
    let told = "; were staged policies enforced, the verdict would be deny by Policy/shop/later default ingress";
    assert!(text.ends_with(told), "{text}");

    // A staged policy may also open, and an audit policy goes on watching in the world in which it does.
    let closed = policy("closed", "{ingress: []}");
    let watching = policy("watching", "{mode: audit, priority: 1, ingress: [{action: deny}]}");
    let state = resources(&[WORLD, &closed, &policy("open", "{mode: staged, priority: 5, ingress: [{}]}")]);
    assert_eq!(answer(&state, "TCP", 1).staged.map(|staged| staged.verdict), Some(Verdict::Allow));
    let state = resources(&[WORLD, &closed, &watching, &policy("open", "{mode: staged, priority: 5, ingress: [{}]}")]);
    assert_eq!(answer(&state, "TCP", 1).staged.map(|staged| staged.verdict), Some(Verdict::Audit));
}

#[test]
fn what_expires_says_until_when_and_is_gone_at_that_moment() {
    let state = resources(&[
        WORLD,
        &policy(
            "p",
            "{expiresAt: 2027-01-01T00:00:00Z, ingress: [{expiresAt: 2026-12-01T00:00:00Z, ports: [{port: 80}]}]}",
        ),
    ]);
    assert!(answer(&state, "TCP", 80).why.ends_with("(until 2026-12-01T00:00:00Z, when it expires)"));
    assert!(answer(&state, "TCP", 81).why.ends_with("(until 2027-01-01T00:00:00Z, when it expires)"));
    // The moment, and what the two ports are then.
    let rows = [
        ("2026-11-30T23:59:59.999999999Z", [Verdict::Allow, Verdict::Deny]),
        ("2026-12-01T00:00:00Z", [Verdict::Deny, Verdict::Deny]),
        ("2026-12-31T23:59:59Z", [Verdict::Deny, Verdict::Deny]),
        ("2027-01-01T00:00:00Z", [Verdict::Allow, Verdict::Allow]),
    ];
    for (now, expected) in rows {
        let context = Context { now: now.parse().unwrap(), ..context() };
        let verdicts = [80, 81].map(|port| ask_at(&state, &context, "192.0.2.1", "shop/web", "TCP", port).verdict);
        assert_eq!(verdicts, expected, "{now}");
    }
}

#[test]
fn types_of_icmp_and_ports_of_sctp_are_told_apart() {
    let state = resources(&[
        WORLD,
        &policy(
            "p",
            "{ingress: [{ports: [{protocol: ICMP, type: echo-request}, {protocol: ICMPv6, type: 128}, {protocol: SCTP, port: 5, endPort: 6}]}]}",
        ),
    ]);
    let rows = [
        ("ICMP", 8, Verdict::Allow),
        ("ICMP", 0, Verdict::Deny),
        ("ICMP", 128, Verdict::Deny),
        ("ICMPv6", 128, Verdict::Allow),
        ("ICMPv6", 8, Verdict::Deny),
        ("SCTP", 5, Verdict::Allow),
        ("SCTP", 7, Verdict::Deny),
        ("TCP", 5, Verdict::Deny),
    ];
    for (word, port, expected) in rows {
        assert_eq!(answer(&state, word, port).verdict, expected, "{word} {port}");
    }
    assert!(answer(&state, "ICMP", 0).why.contains("no rule matches the peer and ICMP echo-reply"));
    assert!(answer(&state, "ICMP", 40).why.contains("no rule matches the peer and ICMP type 40"));
}

#[test]
fn a_rule_may_ask_for_no_records() {
    let state =
        resources(&[WORLD, &policy("p", "{ingress: [{log: false, ports: [{port: 80}]}, {ports: [{port: 81}]}]}")]);
    assert_eq!([80, 81, 82].map(|port| answer(&state, "TCP", port).logged), [false, true, true]);
}

#[test]
fn a_service_leads_where_its_slices_say_else_where_its_labels_say() {
    let services = r#"
{apiVersion: v1, kind: Service, metadata: {name: api, namespace: shop}, spec: {clusterIPs: [10.96.0.1, "fd00:96::1"], selector: {app: api}, ports: [{port: 80, targetPort: http}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: db, namespace: data}, spec: {clusterIPs: [10.96.0.2, "fd00:96::2"], ports: [{name: sql, port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: listed, namespace: shop}, spec: {clusterIP: 10.96.0.3, selector: {app: web}, ports: [{port: 80}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: a, namespace: shop, labels: {kubernetes.io/service-name: listed}}, addressType: IPv4, endpoints: [{addresses: [10.0.0.3]}], ports: [{port: 8080}]}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: v4, namespace: data, labels: {kubernetes.io/service-name: db}}, addressType: IPv4, endpoints: [{addresses: [10.0.1.4]}, {addresses: [10.9.0.5], conditions: {ready: false}}], ports: [{name: other, port: 1}, {name: sql, port: 5432}]}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: v6, namespace: data, labels: {kubernetes.io/service-name: db}}, addressType: IPv6, endpoints: [{addresses: ["fd00:1::4"]}], ports: [{name: sql, port: 5433}]}
"#;
    let rules = [
        policy("p", "{workloadSelector: {matchLabels: {app: api}}, ingress: [{ports: [{port: 8080}]}]}"),
        policy("p", "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}], ports: [{port: 5432}]}, {from: [{ipBlock: {cidr: \"fd00::/8\"}}], ports: [{port: 5433}]}]}")
            .replace("namespace: shop", "namespace: data"),
    ];
    let state = resources(&[WORLD, services, &rules[0], &rules[1]]);
    let rows = [
        ("10.0.0.2", "10.96.0.1", 80, Verdict::Allow),
        ("10.0.0.2", "10.96.0.1", 8080, Verdict::Allow),
        ("10.0.0.2", "10.96.0.2", 80, Verdict::Allow),
        ("fd00::2", "fd00:96::2", 80, Verdict::Allow),
        ("fd00::2", "fd00:96::1", 80, Verdict::Allow),
        ("10.0.0.2", "10.96.0.3", 80, Verdict::Allow),
    ];
    for (from, to, port, expected) in rows {
        let question = Question { from: end(from), to: end(to), protocol: protocol("TCP"), port };
        let found = evaluate(&state, &context(), &question).unwrap();
        assert_eq!(found.verdict, expected, "{from} to {to}:{port}");
    }
    let id = ResourceId::new(Kind::Service, "shop", "listed");
    let found = evaluate_service(&state, &context(), &end("10.0.0.2"), &id, (protocol("TCP"), 80)).unwrap();
    assert_eq!(found.ingress.unwrap().workload.name, "api", "the slice, not the selector");
}

#[test]
fn a_service_is_as_open_as_the_backend_that_is_most_closed_and_says_which_that_is() {
    let service = r#"
{apiVersion: v1, kind: Service, metadata: {name: both, namespace: shop}, spec: {clusterIP: 10.96.0.4, ports: [{port: 80, targetPort: 8080}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: both, namespace: shop, labels: {kubernetes.io/service-name: both}}, addressType: IPv4, endpoints: [{addresses: [10.0.0.3]}, {addresses: [192.0.2.7]}, {addresses: [192.0.2.8], conditions: {ready: false}}], ports: [{port: 8080}]}
"#;
    let to_api = "{to: [{workloadSelector: {matchLabels: {app: api}}}], ports: [{port: 8080}]}";
    let to_both = "{to: [{ipBlock: {cidr: 192.0.2.7/32}}]}";
    let watching = "{mode: audit, workloadSelector: {matchLabels: {app: web}}, policyTypes: [Egress]}";
    let rows = [
        (
            vec![format!("{{workloadSelector: {{matchLabels: {{app: web}}}}, egress: [{to_api}]}}")],
            "192.0.2.7",
            Verdict::Deny,
        ),
        (
            vec![format!("{{workloadSelector: {{matchLabels: {{app: web}}}}, egress: [{to_api}, {to_both}]}}")],
            "",
            Verdict::Allow,
        ),
        (vec![watching.to_owned()], "", Verdict::Audit),
        // Audit for one does not hide that the other is denied.
        (
            vec![
                watching.to_owned(),
                format!("{{priority: 1, workloadSelector: {{matchLabels: {{app: web}}}}, egress: [{to_api}]}}"),
            ],
            "192.0.2.7",
            Verdict::Deny,
        ),
    ];
    for (specs, decides, expected) in rows {
        let policies: Vec<_> = specs.iter().enumerate().map(|(n, spec)| policy(&format!("p{n}"), spec)).collect();
        let mut texts = vec![WORLD, service];
        texts.extend(policies.iter().map(String::as_str));
        let state = resources(&texts);
        let question = Question { from: end("shop/web"), to: end("10.96.0.4"), protocol: protocol("TCP"), port: 80 };
        let answer = evaluate(&state, &context(), &question).unwrap().egress.unwrap();
        assert_eq!(answer.verdict, expected, "{specs:?}: {answer:?}");
        let leads = format!("Service/shop/both leads to {decides}");
        assert!(answer.why.starts_with(&leads) && answer.why.contains("8080/TCP"), "{}", answer.why);
    }
    let question = Question { from: end("shop/web"), to: end("10.96.0.4"), protocol: protocol("TCP"), port: 81 };
    let answer = evaluate(&resources(&[WORLD, service]), &context(), &question).unwrap().egress.unwrap();
    assert!(answer.why.starts_with("nothing is behind Service/shop/both at 81/TCP, so its address"), "{}", answer.why);
}
