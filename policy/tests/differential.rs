//! Lives: host tests.
//! Called by: cargo test; `WEIR_PROBES` sets how many questions are asked (50,000 unless given).
//! May touch: the public surface of the crate.
//! Never: asks only easy questions; addresses lie at the edges of prefixes, ports at the edges of ranges.
//!
//! The argument between the reference evaluator and the tables, over generated resources.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking"
)]

mod support;

use std::collections::BTreeSet;

use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use support::{Said, ask, context, tables};
use weir_common::{
    addr::{Addr, Protocol},
    image::last_port,
    verdict::Direction,
};
use weir_policy::{
    Action, ContainerPort, End, Entity, IpBlock, Labels, Mode, NAMESPACE_LABEL, Node, Operator, Origin, Peer, Policy,
    PolicyType, PortMatch, PortName, Prefix, Question, Requirement, Resource, Resources, Rule, Selector, Socket, Spec,
    Tier, Workload, evaluate,
};

const NAMESPACES: [&str; 2] = ["shop", "data"];
const KEYS: [&str; 2] = ["app", "tier"];
const VALUES: [&str; 3] = ["a", "b", "c"];
const NODES: [&str; 2] = ["n1", "n2"];
const PORT_NAMES: [&str; 2] = ["web", "dns"];
const QUESTIONS_PER_STATE: usize = 200;

/// Addresses near each other, so that prefixes, exceptions, workloads and the host overlap all the time.
fn an_address() -> impl Strategy<Value = Addr> {
    let v4 = (prop::sample::select(vec![10u8, 11, 127, 192]), 0u8..3, 0u8..2, 0u8..6)
        .prop_map(|(a, b, c, d)| Addr::v4([a, b, c, d]));
    let v6 = (prop::sample::select(vec![0u8, 0xfd, 0xfe]), 0u8..3, 0u8..6).prop_map(|(first, middle, last)| {
        let mut bytes = [0; 16];
        (bytes[0], bytes[7], bytes[15]) = (first, middle, last);
        Addr(bytes)
    });
    prop_oneof![3 => v4, 2 => v6, 1 => prop::sample::select(context().host_addresses)]
}

fn a_prefix() -> impl Strategy<Value = Prefix> {
    (
        an_address(),
        prop::sample::select(vec![0u8, 1, 7, 8, 15, 16, 24, 30, 31, 32]),
        prop::sample::select(vec![0u8, 1, 8, 64, 96, 126, 128]),
    )
        .prop_map(|(addr, v4, v6)| Prefix::new(addr, if addr.as_v4().is_some() { 96 + v4 } else { v6 }))
        .prop_filter("no prefix of the other family's range", |prefix| prefix.is_v4() || !Prefix::V4.covers(prefix))
}

fn a_block() -> impl Strategy<Value = IpBlock> {
    (a_prefix(), prop::collection::vec((an_address(), 1u8..12), 0..3)).prop_map(|(cidr, inner)| {
        let inside = inner.into_iter().map(|(addr, more)| Prefix::new(addr, cidr.bits.saturating_add(more).min(128)));
        let except = inside
            .filter(|inner| cidr.contains(&inner.addr) && inner.bits > cidr.bits && inner.is_v4() == cidr.is_v4());
        IpBlock { cidr, except: except.collect() }
    })
}

fn labels() -> impl Strategy<Value = Labels> {
    prop::collection::btree_map(
        prop::sample::select(KEYS.to_vec()).prop_map(str::to_owned),
        prop::sample::select(VALUES.to_vec()).prop_map(str::to_owned),
        0..3,
    )
}

fn a_requirement(keys: Vec<&'static str>, values: Vec<&'static str>) -> impl Strategy<Value = Requirement> {
    let operators = vec![Operator::In, Operator::NotIn, Operator::Exists, Operator::DoesNotExist];
    (
        prop::sample::select(keys),
        prop::sample::select(operators),
        prop::collection::btree_set(prop::sample::select(values), 1..3),
    )
        .prop_map(|(key, operator, values)| {
            let wanted = matches!(operator, Operator::In | Operator::NotIn);
            let values = values.into_iter().filter(|_| wanted).map(str::to_owned).collect();
            Requirement { key: key.to_owned(), operator, values }
        })
}

fn a_selector() -> impl Strategy<Value = Selector> {
    let expressions = prop::collection::vec(a_requirement(KEYS.to_vec(), VALUES.to_vec()), 0..2);
    (prop_oneof![Just(Labels::new()), labels()], expressions)
        .prop_map(|(match_labels, match_expressions)| Selector { match_labels, match_expressions })
}

fn a_namespace_selector() -> impl Strategy<Value = Selector> {
    let expressions = prop::collection::vec(a_requirement(vec![NAMESPACE_LABEL, "team"], NAMESPACES.to_vec()), 0..2);
    expressions.prop_map(|match_expressions| Selector { match_labels: Labels::new(), match_expressions })
}

fn a_peer() -> impl Strategy<Value = Peer> {
    prop_oneof![
        3 => a_selector().prop_map(|s| Peer::Workloads { workload_selector: Some(s), namespace_selector: None }),
        1 => a_namespace_selector().prop_map(|s| Peer::Workloads { workload_selector: None, namespace_selector: Some(s) }),
        2 => (a_selector(), a_namespace_selector())
            .prop_map(|(w, n)| Peer::Workloads { workload_selector: Some(w), namespace_selector: Some(n) }),
        5 => a_block().prop_map(|ip_block| Peer::IpBlock { ip_block }),
        2 => prop::sample::select(vec![Entity::World, Entity::Host, Entity::Loopback]).prop_map(|entity| Peer::Entity { entity }),
        2 => a_selector().prop_map(|node_selector| Peer::Nodes { node_selector }),
        1 => Just(Peer::Unknown),
    ]
}

fn a_port() -> impl Strategy<Value = PortMatch> {
    let ported = (
        prop::sample::select(vec![Protocol::TCP, Protocol::UDP, Protocol::SCTP, Protocol::ICMP, Protocol::ICMPV6]),
        prop::option::of((1u16..12, 0u16..6)),
        any::<bool>(),
    );
    let ported = ported.prop_map(|(protocol, range, high)| {
        let shift = if high { last_port(protocol) - 17 } else { 0 };
        PortMatch { protocol, ports: range.map(|(first, more)| (first + shift, first + more + shift)) }
    });
    let other = prop::sample::select(vec![Protocol(0), Protocol(255)]);
    prop_oneof![4 => ported, 1 => other.prop_map(|protocol| PortMatch { protocol, ports: None })]
}

fn an_action() -> impl Strategy<Value = Action> {
    prop_oneof![Just(Action::Allow), Just(Action::Deny)]
}

fn a_port_name() -> impl Strategy<Value = PortName> {
    let protocol = prop::option::of(prop::sample::select(vec![Protocol::TCP, Protocol::UDP]));
    (prop::sample::select(PORT_NAMES.to_vec()), protocol)
        .prop_map(|(name, protocol)| PortName { name: name.to_owned(), protocol })
}

fn a_container_port() -> impl Strategy<Value = ContainerPort> {
    let protocol = prop::sample::select(vec![Protocol::TCP, Protocol::UDP]);
    (prop::sample::select(PORT_NAMES.to_vec()), protocol, 1u16..9).prop_map(|(name, protocol, port)| ContainerPort {
        name: name.to_owned(),
        protocol,
        port,
    })
}

fn a_rule() -> impl Strategy<Value = Rule> {
    let names = prop_oneof![3 => Just(vec![]), 1 => prop::collection::vec(a_port_name(), 1..3)];
    (an_action(), prop::collection::vec(a_peer(), 0..3), prop::collection::vec(a_port(), 0..3), names)
        .prop_map(|(action, peers, ports, named_ports)| Rule { peers, ports, named_ports, ..Rule::of(action) })
}

/// A policy of the cluster's tiers, where rules may pass.
fn in_tier(policy: Policy, tier: Tier, namespaces: Selector, passing: usize) -> Policy {
    let pass = |rules: Vec<Rule>| {
        let with_place = rules.into_iter().enumerate();
        with_place.map(|(n, rule)| if n == passing { Rule { action: Action::Pass, ..rule } } else { rule }).collect()
    };
    let (ingress, egress) = (pass(policy.ingress.clone()), pass(policy.egress.clone()));
    Policy { tier, namespaces: Some(namespaces), policy_types: BTreeSet::new(), ingress, egress, ..policy }
}

fn a_policy() -> impl Strategy<Value = Policy> {
    let tier = prop_oneof![3 => Just(Tier::Namespace), 1 => Just(Tier::Admin), 1 => Just(Tier::Baseline)];
    (a_namespaced_policy(), tier, a_namespace_selector(), 0usize..4).prop_map(|(policy, tier, namespaces, passing)| {
        match tier {
            Tier::Namespace => policy,
            Tier::Admin | Tier::Baseline => in_tier(policy, tier, namespaces, passing),
        }
    })
}

fn a_namespaced_policy() -> impl Strategy<Value = Policy> {
    let types = prop::collection::btree_set(prop::sample::select(vec![PolicyType::Ingress, PolicyType::Egress]), 1..3);
    let mode = prop_oneof![3 => Just(Mode::Enforce), 1 => Just(Mode::Audit)];
    let default = prop_oneof![3 => Just(Action::Deny), 1 => Just(Action::Allow)];
    let rules = || prop::collection::vec(a_rule(), 0..4);
    (a_selector(), 0u16..3, types, mode, default, rules(), rules()).prop_map(
        |(workload_selector, priority, policy_types, mode, default_action, ingress, egress)| Policy {
            tier: Tier::Namespace,
            namespaces: None,
            workload_selector,
            priority,
            policy_types,
            mode,
            expires_at: None,
            default_action,
            sockets: BTreeSet::from([Socket::Raw]),
            ingress,
            egress,
        },
    )
}

fn named<T>(
    what: impl Strategy<Value = T>,
    build: fn(&str, usize, T) -> Resource,
) -> impl Strategy<Value = Vec<Resource>> {
    let placed = (prop::sample::select(NAMESPACES.to_vec()), what);
    prop::collection::vec(placed, 1..7).prop_map(move |list| {
        list.into_iter().enumerate().map(|(n, (namespace, what))| build(namespace, n, what)).collect()
    })
}

/// Workloads and policies in some order of arrival.
fn a_state() -> impl Strategy<Value = Vec<Resource>> {
    let workloads = named(
        (
            labels(),
            any::<bool>(),
            prop::collection::btree_set(an_address(), 0..3),
            prop::option::of(prop::sample::select(NODES.to_vec())),
            prop::collection::vec(a_container_port(), 0..3),
        ),
        |namespace, n, (labels, here, addresses, node, ports)| {
            let workload = Workload {
                cgroup: (here || n == 0).then(|| format!("w{n}")),
                addresses: addresses.into_iter().collect(),
                node: node.map(str::to_owned),
                ports,
                host_network: false,
            };
            Resource::new(namespace, &format!("w{n}"), labels, Spec::Workload(workload), Origin::default())
        },
    );
    let policies = named(a_policy(), |namespace, n, policy| {
        Resource::new(namespace, &format!("p{n}"), Labels::new(), Spec::Policy(policy), Origin::default())
    });
    let nodes = prop::collection::vec((labels(), prop::collection::vec(an_address(), 0..3)), NODES.len());
    let nodes = nodes.prop_map(|list| {
        let node = |(name, (labels, addresses)): (&&str, _)| {
            Resource::new("", name, labels, Spec::Node(Node { addresses, pod_ranges: vec![] }), Origin::default())
        };
        NODES.iter().zip(list).map(node).collect::<Vec<_>>()
    });
    let team = prop::option::of(prop::sample::select(NAMESPACES.to_vec()));
    let namespaces = team.prop_map(|team| {
        let labels = |team: &str| Labels::from([("team".to_owned(), team.to_owned())]);
        let namespace = |team| Resource::new("", NAMESPACES[0], labels(team), Spec::Namespace, Origin::default());
        team.map(namespace).into_iter().collect::<Vec<_>>()
    });
    (workloads, policies, nodes, namespaces)
        .prop_map(|(workloads, policies, nodes, namespaces)| {
            [own_addresses_only(workloads), policies, nodes, namespaces].concat()
        })
        .prop_shuffle()
}

/// An address belongs to the first workload that has it.
fn own_addresses_only(workloads: Vec<Resource>) -> Vec<Resource> {
    let mut taken = BTreeSet::new();
    let own = workloads.into_iter().map(|resource| {
        let Spec::Workload(workload) = resource.spec() else { return resource };
        let addresses = workload.addresses.iter().filter(|addr| taken.insert(**addr)).copied().collect();
        let spec = Spec::Workload(Workload { addresses, ..workload.clone() });
        Resource::new(&resource.id().namespace, &resource.id().name, resource.labels().clone(), spec, Origin::default())
    });
    own.collect()
}

type Asked = (prop::sample::Index, bool, Addr, (Protocol, u16));

fn questions() -> impl Strategy<Value = Vec<Asked>> {
    let protocol = prop_oneof![
        4 => prop::sample::select(vec![Protocol::TCP, Protocol::UDP]),
        2 => prop::sample::select(vec![Protocol::SCTP, Protocol::ICMP, Protocol::ICMPV6]),
        1 => prop::sample::select(vec![Protocol(0), Protocol(255)]),
    ];
    let port = prop_oneof![0u16..20, (65_535u16 - 20)..=65_535];
    // A port near the end is near the protocol's own end.
    let called = (protocol, port).prop_map(|(protocol, port)| (protocol, port & last_port(protocol)));
    prop::collection::vec((any::<prop::sample::Index>(), any::<bool>(), an_address(), called), QUESTIONS_PER_STATE)
}

/// What the evaluator says of one workload and direction.
fn reference(
    state: &Resources,
    workload: &Resource,
    direction: Direction,
    remote: Addr,
    protocol: Protocol,
    port: u16,
) -> Said {
    let (own, other) = (End::Workload(workload.id().clone()), End::Address(remote));
    let (from, to) = if direction == Direction::Egress { (own, other) } else { (other, own) };
    let explanation = evaluate(state, &context(), &Question { from, to, protocol, port }).unwrap();
    let answer = if direction == Direction::Egress { explanation.egress } else { explanation.ingress }.unwrap();
    (answer.verdict, answer.reason, answer.policy, answer.rule)
}

#[test]
fn tables_and_evaluator_never_differ_and_order_never_matters() {
    let probes: u32 = std::env::var("WEIR_PROBES").map_or(50_000, |text| text.parse().unwrap());
    let cases = probes.div_ceil(QUESTIONS_PER_STATE as u32);
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 500, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed()));
    let seen = std::cell::RefCell::new(BTreeSet::new());
    let outcome = runner
        .run(&(a_state(), questions()), |(arrived, questions)| argue(&arrived, &questions, &mut seen.borrow_mut()));
    outcome.unwrap_or_else(|error| panic!("{error}"));
    let seen = seen.into_inner();
    assert!(seen.len() >= 6, "the generator reached only {seen:?}");
}

/// The same seed every time unless one is given, so that a failure can be repeated.
fn seed() -> [u8; 32] {
    let number: u64 = std::env::var("WEIR_SEED").map_or(1, |text| text.parse().unwrap());
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&number.to_le_bytes());
    seed
}

/// Asks both sides every question.
fn argue(arrived: &[Resource], questions: &[Asked], seen: &mut BTreeSet<String>) -> Result<(), TestCaseError> {
    let state: Resources = arrived.iter().cloned().collect();
    let compiled = tables(&state);
    let reversed: Resources = arrived.iter().rev().cloned().collect();
    prop_assert_eq!(&compiled, &tables(&reversed), "another order, other tables");
    let local: Vec<_> =
        state.workloads().filter(|(_, workload)| workload.cgroup.is_some()).map(|(resource, _)| resource).collect();
    for (who, egress, remote, (protocol, port)) in questions {
        let workload = local[who.index(local.len())];
        let direction = if *egress { Direction::Egress } else { Direction::Ingress };
        let told = ask(&compiled, workload.id(), direction, *remote, *protocol, *port);
        let meant = reference(&state, workload, direction, *remote, *protocol, *port);
        let question = format!("{} {direction:?} {:?} {protocol:?} {port}", workload.id(), remote.0);
        prop_assert_eq!(&told, &meant, "{}", question);
        seen.insert(format!("{:?} {:?}", told.0, told.1));
    }
    Ok(())
}
