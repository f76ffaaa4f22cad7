//! Lives: host tests.
//! Called by: cargo test.
//! May touch: the public surface of the crate.
//! Never: looks at how the tables are laid out; it asks them through `weir_common::decide`, as the kernel does.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use std::time::Instant;

use support::{address, context, protocol, resources, tables};
use weir_common::{
    addr::Addr,
    decide::{Image, Query},
    image::{
        FIRST_IDENTITY, FLAG_LIMITS, FLAG_LIMITS_ALL, FLAG_REFUSE, FLAG_SETS, FLAG_STAGED, FLAG_SYN, LIMIT_AUDITS,
        LIMIT_COARSE_CLOCK, LIMIT_SYN_ALWAYS, LIMIT_SYN_AUTO, LimitEntry, SOCKET_MPTCP, SOCKET_RAW, SOCKET_SCTP,
        Section, header, reserved,
    },
    verdict::{Direction, Reason, Verdict},
};
use weir_policy::{Compiled, Compiler, Context, Edit, Kind, Resource, ResourceId, Resources, cases::WORLD, compile};

/// Names of the limits that a packet to `to` is charged against.
fn limits_on(compiled: &Compiled, to: &str, word: &str, port: u16) -> Vec<String> {
    let image = Image::open(compiled).unwrap();
    let class = image.identity(image.identify(&address(to))).service_class;
    let word = image.limits_of(class, image.atoms(), image.atom(protocol(word), port).unwrap());
    let numbers = (0..4).map(|slot| (word >> (16 * slot) & 0xffff) as usize).filter(|number| *number != 0);
    numbers.map(|number| compiled.limits[number].policy.clone()).collect()
}

fn limit_named(compiled: &Compiled, name: &str) -> LimitEntry {
    let number = compiled.limits.iter().position(|limit| limit.policy == name).unwrap();
    Image::open(compiled).unwrap().limit(u16::try_from(number).unwrap()).unwrap()
}

fn limit(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: weir.dev/v1alpha1\nkind: RateLimit\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n"
    )
}

fn policy(name: &str, spec: &str) -> String {
    format!("apiVersion: weir.dev/v1alpha1\nkind: Policy\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n")
}

fn workload(name: &str, labels: &str, spec: &str) -> String {
    format!(
        "apiVersion: weir.dev/v1alpha1\nkind: Workload\nmetadata: {{name: {name}, namespace: shop, labels: {labels}}}\nspec: {spec}\n"
    )
}

#[test]
fn limits_are_found_by_destination_and_port() {
    let everywhere = limit("everywhere", "{bytes: {perSecond: 1000000}}");
    let api =
        limit("api", "{workloadSelector: {matchLabels: {app: api}}, ports: [{port: 8080}], packets: {perSecond: 10}}");
    let shop = limit("shop", "{workloadSelector: {}, ports: [{protocol: UDP}], packets: {perSecond: 10}}");
    let compiled = tables(&resources(&[WORLD, &everywhere, &api, &shop]));
    let rows: &[(&str, &str, u16, &[&str])] = &[
        ("10.0.0.3", "TCP", 8080, &["RateLimit/shop/api", "RateLimit/shop/everywhere"]),
        ("fd00::3", "TCP", 8080, &["RateLimit/shop/api", "RateLimit/shop/everywhere"]),
        ("10.0.0.3", "TCP", 8081, &["RateLimit/shop/everywhere"]),
        ("10.0.0.2", "UDP", 53, &["RateLimit/shop/everywhere", "RateLimit/shop/shop"]),
        ("10.0.1.4", "UDP", 53, &["RateLimit/shop/everywhere"]),
        ("192.0.2.1", "ICMP", 0, &["RateLimit/shop/everywhere"]),
    ];
    for (to, word, port, expected) in rows {
        assert_eq!(limits_on(&compiled, to, word, *port), *expected, "{to} {port}/{word}");
    }
    assert_eq!(Image::open(&compiled).unwrap().flags(), FLAG_LIMITS | FLAG_LIMITS_ALL);
}

#[test]
fn a_fifth_limit_on_one_packet_is_refused_by_name() {
    let four: Vec<_> = ["a", "b", "c", "d"].map(|name| limit(name, "{packets: {perSecond: 1}}")).into();
    let fifth =
        limit("e", "{workloadSelector: {matchLabels: {app: api}}, ports: [{port: 80}], packets: {perSecond: 1}}");
    let mut texts: Vec<&str> = four.iter().map(String::as_str).chain([WORLD]).collect();
    assert_eq!(limits_on(&tables(&resources(&texts)), "10.0.0.3", "TCP", 80).len(), 4);
    texts.push(&fifth);
    let faults = compile(&resources(&texts), &context()).unwrap_err();
    assert_eq!(faults.len(), 1, "{faults:?}");
    for name in ["a", "b", "c", "d", "e"] {
        assert!(faults[0].problem.contains(&format!("RateLimit/shop/{name}")), "{}", faults[0]);
    }
}

#[test]
fn a_limit_keeps_its_numbers_and_defaults() {
    let text = limit(
        "all",
        "{packets: {perSecond: 1000}, bytes: {perSecond: 1000}, connections: {perSecond: 5, burst: 2}, mode: audit}",
    );
    let compiled = tables(&resources(&[&text]));
    let entry = limit_named(&compiled, "RateLimit/shop/all");
    assert_eq!(entry.client.packets, Some(weir_common::gcra::Limit::new(1000, 100)));
    assert_eq!(entry.client.bytes, Some(weir_common::gcra::Limit::new(1000, 65_535)));
    assert_eq!(entry.client.connections, Some(weir_common::gcra::Limit::new(5, 2)));
    assert_eq!((entry.prefix_v4, entry.prefix_v6, entry.flags & LIMIT_AUDITS), (32, 64, LIMIT_AUDITS));
    assert_eq!(compiled.rules[entry.rule as usize].policy, "RateLimit/shop/all");
    let edited = limit("all", "{packets: {perSecond: 1}, client: {prefixLengthIPv4: 24, prefixLengthIPv6: 48}}");
    let edited =
        limit_named(&tables(&resources(&[&limit("aaa", "{packets: {perSecond: 9}}"), &edited])), "RateLimit/shop/all");
    assert_eq!(edited.state, entry.state, "an edit and a new neighbour keep the clients' state");
    assert_eq!((edited.prefix_v4, edited.prefix_v6, edited.flags & LIMIT_AUDITS), (24, 48, 0));
}

#[test]
fn a_limit_keeps_the_number_it_is_counted_under_whatever_comes_and_goes() {
    let put = |name: &str, rate: u32| {
        let text = limit(name, &format!("{{packets: {{perSecond: {rate}}}}}"));
        Edit::Put(resources(&[&text]).iter().next().unwrap().clone())
    };
    let gone = |name: &str| Edit::Remove(ResourceId::new(Kind::RateLimit, "shop", name));
    let mut compiler = Compiler::new(context());
    let number = |compiler: &Compiler, name: &str| {
        let wanted = format!("RateLimit/shop/{name}");
        compiler.compiled().limits.iter().position(|limit| limit.policy == wanted)
    };
    let _ = compiler.apply([put("m", 1)]).unwrap();
    let first = number(&compiler, "m");
    let _ = compiler.apply([put("a", 1), put("z", 1)]).unwrap();
    let _ = compiler.apply([put("m", 9), gone("a")]).unwrap();
    assert_eq!((first, number(&compiler, "m"), number(&compiler, "a")), (Some(1), Some(1), None));
    let _ = compiler.apply([put("b", 1)]).unwrap();
    assert_eq!(number(&compiler, "b"), Some(4), "a number that was given back rests");
    let crowd: Vec<Edit> = ["c", "d", "e"].map(|name| put(name, 1)).into();
    assert!(compiler.apply(crowd).is_err(), "more than four on one packet");
    assert_eq!((number(&compiler, "m"), number(&compiler, "b")), (Some(1), Some(4)), "a refused change moves none");
}

#[test]
fn the_coarse_clock_is_used_only_where_the_burst_bridges_its_ticks() {
    // A tick of 4 ms: at 1000 a second, two of them are worth 8.
    let rows = [
        ("{packets: {perSecond: 1000, burst: 8}}", 4_000_000, 1),
        ("{packets: {perSecond: 1000, burst: 7}}", 4_000_000, 0),
        ("{packets: {perSecond: 1000, burst: 8}}", 0, 0),
        ("{packets: {perSecond: 1000, burst: 100}, connections: {perSecond: 1000, burst: 1}}", 4_000_000, 0),
        ("{connections: {perSecond: 1, burst: 1}}", 4_000_000, 1),
    ];
    for (spec, tick_ns, expected) in rows {
        let context = Context { tick_ns, ..context() };
        let compiled = compile(&resources(&[&limit("a", spec)]), &context).unwrap();
        assert_eq!(
            limit_named(&compiled, "RateLimit/shop/a").flags & LIMIT_COARSE_CLOCK,
            expected * LIMIT_COARSE_CLOCK,
            "{spec} with a tick of {tick_ns}"
        );
    }
}

#[test]
fn syn_protection_marks_its_limit_and_is_looked_for_only_where_there_is_some() {
    let rows = [
        ("{packets: {perSecond: 1}}", 0, None),
        ("{packets: {perSecond: 1}, synProtection: off}", 0, None),
        ("{synProtection: auto}", LIMIT_SYN_AUTO, Some(1000)),
        ("{synProtection: auto, synThreshold: 7}", LIMIT_SYN_AUTO, Some(7)),
        ("{synProtection: always, ports: [{port: 80}, {protocol: UDP, port: 80}]}", LIMIT_SYN_ALWAYS, None),
    ];
    for (spec, flags, threshold) in rows {
        let found = resources(&[&limit("a", spec)]);
        let compiled = tables(&found);
        let entry = limit_named(&compiled, "RateLimit/shop/a");
        assert_eq!(entry.flags & (LIMIT_SYN_AUTO | LIMIT_SYN_ALWAYS), flags, "{spec}");
        assert_eq!(entry.syn, threshold.map(|rate| weir_common::gcra::Limit::new(rate, rate)), "{spec}");
        assert_eq!(Image::open(&compiled).unwrap().flags() & FLAG_SYN != 0, flags != 0, "{spec}");
        let info = compiled.limits.iter().find(|info| info.is_some()).unwrap();
        assert_eq!((info.syn_protection.is_some(), info.syn_threshold), (flags != 0, threshold), "{spec}");
        // What is written out is read back as the same.
        let text = found.iter().next().unwrap().to_yaml();
        assert_eq!(resources(&[&text]).iter().next(), found.iter().next(), "{text}");
    }
}

#[test]
fn blocked_addresses_name_the_set_that_blocks_them() {
    let set = |name: &str, list: &str| {
        format!(
            "apiVersion: weir.dev/v1alpha1\nkind: AddressSet\nmetadata: {{name: {name}}}\nspec: {{action: block, addresses: [{list}]}}\n"
        )
    };
    let compiled =
        tables(&resources(&[&set("a", "203.0.113.0/24, \"::/0\""), &set("b", "203.0.113.7, 203.0.113.0/24")]));
    let by = |text: &str| compiled.blocked_by(&address(text)).map(|rule| compiled.rules[rule as usize].policy.as_str());
    let rows = [
        ("203.0.113.1", Some("AddressSet/a")),
        ("203.0.113.7", Some("AddressSet/b")),
        ("203.0.114.1", None),
        ("2001:db8::1", Some("AddressSet/a")),
        ("::1", Some("AddressSet/a")),
    ];
    for (text, expected) in rows {
        assert_eq!(by(text), expected, "{text}");
    }
    assert_eq!(Image::open(&compiled).unwrap().flags(), FLAG_SETS);
}

#[test]
fn socket_kinds_are_refused_only_where_egress_is_isolated_and_nothing_allows_them() {
    let all = SOCKET_RAW | SOCKET_SCTP | SOCKET_MPTCP;
    let rows = [
        ("{policyTypes: [Ingress]}", all),
        ("{policyTypes: [Egress]}", 0),
        ("{policyTypes: [Egress], sockets: [raw, mptcp]}", SOCKET_RAW | SOCKET_MPTCP),
        ("{policyTypes: [Egress], mode: audit}", all),
    ];
    for (spec, expected) in rows {
        let compiled = tables(&resources(&[WORLD, &policy("p", spec)]));
        let image = Image::open(&compiled).unwrap();
        let local = compiled.workloads.values().find(|workload| workload.id.name == "web").unwrap().identity;
        assert_eq!(image.set(image.identity(local).set, Direction::Egress).unwrap().sockets, expected, "{spec}");
    }
    let both = tables(&resources(&[
        WORLD,
        &policy("p", "{policyTypes: [Egress], sockets: [raw]}"),
        &policy("q", "{sockets: [sctp]}"),
    ]));
    let image = Image::open(&both).unwrap();
    let local = both.workloads.values().find(|workload| workload.id.name == "web").unwrap().identity;
    assert_eq!(image.set(image.identity(local).set, Direction::Egress).unwrap().sockets, SOCKET_RAW | SOCKET_SCTP);
}

#[test]
fn an_unknown_workload_gets_the_configured_verdict() {
    for unknown in [Verdict::Allow, Verdict::Deny] {
        let compiled = compile(&Resources::default(), &Context { unknown, ..context() }).unwrap();
        let (protocol, remote) = (protocol("TCP"), address("192.0.2.1"));
        let query = Query { local: reserved::UNKNOWN, direction: Direction::Egress, remote, protocol, port: 1 };
        let decision = Image::open(&compiled).unwrap().decide(&query);
        assert_eq!((decision.verdict, decision.reason, decision.rule), (unknown, Reason::UnknownWorkload, 0));
    }
}

#[test]
fn identities_follow_what_policies_can_tell_apart() {
    let replica = |n: usize| {
        workload(
            &format!("r{n}"),
            &format!("{{app: web, replica: r{n}}}"),
            &format!("{{cgroup: r{n}, addresses: [10.0.0.{n}]}}"),
        )
    };
    let replicas: Vec<_> = (1..6).map(replica).collect();
    let blocks = policy(
        "p",
        "{workloadSelector: {matchLabels: {app: web}}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.4/30}}]}]}",
    );
    let texts: Vec<_> = replicas.iter().chain([&blocks]).map(String::as_str).collect();
    let compiled = compile(&resources(&texts), &Context { host_addresses: vec![], ..context() }).unwrap();
    let local: Vec<_> = compiled.workloads.values().map(|workload| workload.identity).collect();
    let remote: Vec<_> = (1..6).map(|n| compiled.endpoints[&Addr::v4([10, 0, 0, n])]).collect();
    assert_eq!(local, remote, "a workload is what its first address is");
    assert!(local[..3] == [local[0]; 3] && local[0] >= FIRST_IDENTITY, "replicas are alike: {local:?}");
    assert!(remote[3] == remote[4] && remote[3] != local[0], "in the block they are not: {remote:?}");
    assert_eq!(Image::open(&compiled).unwrap().identify(&address("10.0.0.4")), remote[3]);
    assert_eq!(Image::open(&compiled).unwrap().identify(&address("192.0.2.1")), reserved::WORLD);
}

#[test]
fn workloads_that_cannot_live_together_are_refused_with_their_fields() {
    let rows: &[(&str, &str, &[&str])] = &[
        ("{cgroup: a}", "{cgroup: a}", &["spec.cgroup"]),
        ("{addresses: [10.0.0.2]}", "{addresses: [10.0.0.9, 10.0.0.2]}", &["spec.addresses[1]"]),
        ("{cgroup: a}", "{cgroup: b}", &[]),
    ];
    for (first, second, expected) in rows {
        let state = resources(&[&workload("one", "{app: a}", first), &workload("two", "{app: b}", second)]);
        let fields: Vec<_> = match compile(&state, &context()) {
            Ok(_) => Vec::new(),
            Err(faults) => faults.into_iter().map(|fault| (fault.source, fault.line, fault.field)).collect(),
        };
        let expected: Vec<_> = expected.iter().map(|field| ("case".to_owned(), 1, (*field).to_owned())).collect();
        assert_eq!(fields, expected, "{first} and {second}");
    }
    let alike = resources(&[
        &workload("one", "{app: a}", "{addresses: [10.0.0.2]}"),
        &workload("two", "{app: a}", "{addresses: [10.0.0.2]}"),
    ]);
    assert_eq!(compile(&alike, &context()).map(|compiled| compiled.workloads.size()), Ok(2));
}

/// 10,000 workloads of 50 kinds and 500 policies, all here. The bound is far above what it takes.
#[test]
fn a_large_state_compiles_about_as_fast_as_it_is_read() {
    let mut text = String::new();
    for n in 0..10_000 {
        let (kind, spec) = (n % 50, format!("{{cgroup: w{n}, addresses: [10.{}.{}.{}]}}", n % 7, n / 250, n % 250));
        text.push_str(&workload(&format!("w{n}"), &format!("{{app: a{kind}, replica: r{n}}}"), &spec));
        text.push_str("---\n");
    }
    for n in 0..500 {
        let spec = format!(
            "{{workloadSelector: {{matchLabels: {{app: a{}}}}}, ingress: [{{from: [{{workloadSelector: {{matchLabels: {{app: a{}}}}}}}, \
             {{ipBlock: {{cidr: 10.{}.{}.0/24}}}}], ports: [{{port: {}, endPort: {}}}]}}]}}",
            n % 50,
            n * 7 % 50,
            n % 7,
            n % 40,
            1 + n,
            2000 + n
        );
        text.push_str(&policy(&format!("p{n}"), &spec));
        text.push_str("---\n");
    }
    let start = Instant::now();
    let state = resources(&[&text]);
    let read = start.elapsed();
    let start = Instant::now();
    let compiled = tables(&state);
    let took = start.elapsed();
    println!("{took:?}, {} pages, {} rules", compiled.pages.len(), compiled.rules.len());
    // Against reading it, in the same run.
    assert!(took < read * 20, "took {took:?}, reading {read:?}");
}

#[test]
fn a_refusal_is_a_deny_with_a_mark_at_the_called_side_only() {
    let default = "{defaultAction: refuse, policyTypes: [Ingress, Egress]}";
    let by_rule = "{ingress: [{action: refuse, ports: [{port: 81}]}, {action: deny, ports: [{port: 82}]}, {ports: [{port: 80}]}]}";
    let rows = [
        (default, Direction::Ingress, 80, Verdict::Deny, true),
        (default, Direction::Egress, 80, Verdict::Deny, false),
        (by_rule, Direction::Ingress, 80, Verdict::Allow, false),
        (by_rule, Direction::Ingress, 81, Verdict::Deny, true),
        (by_rule, Direction::Ingress, 82, Verdict::Deny, false),
        (by_rule, Direction::Ingress, 83, Verdict::Deny, false),
        ("{defaultAction: refuse, mode: audit}", Direction::Ingress, 80, Verdict::Audit, false),
        ("{defaultAction: refuse, mode: staged}", Direction::Ingress, 80, Verdict::Allow, false),
    ];
    for (spec, direction, port, verdict, refused) in rows {
        let compiled = tables(&resources(&[WORLD, &policy("p", spec)]));
        let web = compiled.workloads.keys().find(|id| id.name == "web").unwrap();
        let said = support::ask(&compiled, web, direction, address("192.0.2.1"), protocol("TCP"), port);
        assert_eq!((said.verdict, said.refused), (verdict, refused), "{spec} {direction:?} {port}");
        let flagged = Image::open(&compiled).unwrap().flags() & FLAG_REFUSE != 0;
        assert_eq!(flagged, !spec.contains("mode"), "{spec}: only an enforced refusal is worth a look");
    }
}

#[test]
fn only_a_staged_policy_that_selects_somebody_here_costs_anything() {
    let rows = [
        ("{mode: staged}", FLAG_STAGED),
        ("{mode: staged, workloadSelector: {matchLabels: {app: nobody}}}", 0),
        ("{mode: audit}", 0),
        ("{}", 0),
    ];
    for (spec, flag) in rows {
        let compiled = tables(&resources(&[WORLD, &policy("p", spec)]));
        let image = Image::open(&compiled).unwrap();
        assert_eq!(image.flags() & FLAG_STAGED, flag, "{spec}");
        let place = compiled.pages[0].word(header::SECTIONS + Section::StagedSets as u32);
        assert_eq!(place >> 32 == 0, flag == 0, "{spec}: the section is empty where nothing is staged");
    }
}

/// Two pods here and one elsewhere, a Service over the first two and one over the first alone.
const THEMSELVES: &str = r#"
{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: shop, labels: {app: web, only: a}}, spec: {nodeName: n1, containers: []}, status: {podIPs: [{ip: 10.0.0.2}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: b, namespace: shop, labels: {app: web}}, spec: {nodeName: n1, containers: []}, status: {podIPs: [{ip: 10.0.0.3}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: all, namespace: shop}, spec: {clusterIPs: [10.96.0.1], selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: one, namespace: shop}, spec: {clusterIPs: [10.96.0.2], selector: {only: a}, ports: [{port: 80, targetPort: 8080}, {name: b, port: 81, targetPort: 8081}]}}
---
"#;

#[test]
fn a_pod_that_calls_itself_by_a_service_is_judged_by_the_tiers_of_the_cluster_both_ways() {
    let closed = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: closed, namespace: shop}, \
        spec: {podSelector: {}, policyTypes: [Ingress, Egress]}}";
    let cluster = |tier: &str, rule: &str| {
        format!(
            "{{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {{name: c}}, spec: \
             {{tier: {tier}, priority: 1, subject: {{namespaces: {{}}}}, {rule}}}}}"
        )
    };
    let out = "egress: [{action: Deny, to: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 8080}}}]}]";
    let back =
        "ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 8080}}}]}]";
    let by = |rule: &'static str| Some(("ClusterNetworkPolicy/c", rule));
    let (default, open) = (Some(("NetworkPolicy/shop/closed", "default egress")), None);
    let [none, admin_out, admin_back, base_back] =
        [String::new(), cluster("Admin", out), cluster("Admin", back), cluster("Baseline", back)];
    // The policies, who calls, which Service at which port, and what denies it.
    let rows = [
        ("closed, to itself", [closed, &none], "a", "10.96.0.2", 80, open),
        ("closed, to itself or its neighbour", [closed, &none], "a", "10.96.0.1", 80, default),
        ("closed, to its neighbour", [closed, &none], "b", "10.96.0.2", 80, default),
        ("closed, to itself by its address", [closed, &none], "a", "10.0.0.2", 8080, open),
        ("closed, to a port that leads nowhere", [closed, &none], "a", "10.96.0.2", 82, default),
        ("denied on its way out", [closed, &admin_out], "a", "10.96.0.2", 80, by("egress[0]")),
        ("another port", [closed, &admin_out], "a", "10.96.0.2", 81, open),
        ("denied on its way back", [closed, &admin_back], "a", "10.96.0.2", 80, by("ingress[0]")),
        ("denied back by the baseline", [&none, &base_back], "a", "10.96.0.2", 80, by("ingress[0]")),
        ("another port back", [&none, &base_back], "a", "10.96.0.2", 81, open),
        ("out to a neighbour, who says himself what he lets in", [&none, &base_back], "b", "10.96.0.2", 80, open),
        ("itself or a neighbour", [&none, &base_back], "b", "10.96.0.1", 80, by("ingress[0]")),
        ("nobody is asked", [&none, &none], "a", "10.96.0.1", 80, open),
    ];
    for (name, policies, who, to, port, denied) in rows {
        let texts: Vec<_> = [THEMSELVES].into_iter().chain(policies).filter(|text| !text.is_empty()).collect();
        let state: Resources = resources(&texts).iter().cloned().map(here).collect();
        let compiled = tables(&state);
        let id = ResourceId::new(Kind::Pod, "shop", who);
        let said = support::ask(&compiled, &id, Direction::Egress, address(to), protocol("TCP"), port);
        let (policy, rule) = denied.unwrap_or_default();
        assert_eq!((said.by.0.as_str(), said.by.1.as_str()), (policy, rule), "{name}: {said:?}");
        assert_eq!(said.verdict, if denied.is_some() { Verdict::Deny } else { Verdict::Allow }, "{name}");
        // Who is told what all like it are told costs no entry.
        let answers: usize = compiled.themselves.values().map(|own| own.len()).sum();
        assert_eq!(answers == 0, policies.iter().all(|text| text.is_empty()), "{name}: {answers} own answers");
    }
}

fn here(resource: Resource) -> Resource {
    let name = resource.id().name.clone();
    resource.running_in(&name)
}
