//! Lives: host tests.
//! Called by: the argument between evaluator and tables.
//! May touch: nothing.
//! Never: makes what the parser would refuse; makes things so different that they never meet.

use std::collections::BTreeSet;

use proptest::prelude::*;
use weir_common::{
    addr::{Addr, Protocol},
    image::last_port,
};
use weir_policy::{
    Action, ContainerPort, Edit, Endpoint, EndpointPort, EndpointSlice, Entity, IpBlock, Kind, Labels, Mode,
    NAMESPACE_LABEL, Node, OnChange, Operator, Origin, Peer, Policy, PolicyType, PortMatch, PortName, Prefix,
    Requirement, Resource, ResourceId, Rule, Selector, Service, ServicePort, ServiceRef, Socket, Spec, TargetPort,
    Tier, Timestamp, Workload,
};

use super::context;

const NAMESPACES: [&str; 2] = ["shop", "data"];
const KEYS: [&str; 2] = ["app", "tier"];
const VALUES: [&str; 3] = ["a", "b", "c"];
const NODES: [&str; 2] = ["n1", "n2"];
const PORT_NAMES: [&str; 2] = ["web", "dns"];
const SERVICES: [&str; 2] = ["front", "back"];
const ENTITIES: [Entity; 5] = [Entity::World, Entity::Host, Entity::Loopback, Entity::Node, Entity::Unknown];

/// Addresses near each other, so that prefixes, exceptions, workloads and the host overlap all the time.
pub fn an_address() -> impl Strategy<Value = Addr> {
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
        2 => prop::sample::select(ENTITIES.to_vec()).prop_map(|entity| Peer::Entity { entity }),
        2 => a_selector().prop_map(|node_selector| Peer::Nodes { node_selector }),
        2 => a_service().prop_map(|service| Peer::Service { service }),
        1 => Just(Peer::Unknown),
    ]
}

fn a_service() -> impl Strategy<Value = ServiceRef> {
    (prop::sample::select(NAMESPACES.to_vec()), prop::sample::select(SERVICES.to_vec()))
        .prop_map(|(namespace, name)| ServiceRef { namespace: namespace.to_owned(), name: name.to_owned() })
}

/// Never, before now, now, or after.
fn an_expiry() -> impl Strategy<Value = Option<Timestamp>> {
    let now = context().now.0;
    prop_oneof![6 => Just(None), 3 => prop::sample::select(vec![now - 1, now, now + 1, now + 2])
        .prop_map(|at| Some(Timestamp(at)))]
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
    prop_oneof![3 => Just(Action::Allow), 2 => Just(Action::Deny), 1 => Just(Action::Refuse)]
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
    let (peers, ports) = (prop::collection::vec(a_peer(), 0..3), prop::collection::vec(a_port(), 0..3));
    (an_action(), peers, ports, names, an_expiry(), prop::bool::weighted(0.8)).prop_map(
        |(action, peers, ports, named_ports, expires_at, log)| Rule {
            peers,
            ports,
            named_ports,
            expires_at,
            log,
            ..Rule::of(action)
        },
    )
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
    let mode = prop_oneof![4 => Just(Mode::Enforce), 1 => Just(Mode::Audit), 1 => Just(Mode::Staged)];
    let default = prop_oneof![3 => Just(Action::Deny), 1 => Just(Action::Refuse), 1 => Just(Action::Allow)];
    let rules = || prop::collection::vec(a_rule(), 0..4);
    (a_selector(), 0u16..3, types, mode, default, rules(), rules(), an_expiry()).prop_map(
        |(workload_selector, priority, policy_types, mode, default_action, ingress, egress, expires_at)| Policy {
            tier: Tier::Namespace,
            namespaces: None,
            workload_selector,
            priority,
            policy_types,
            mode,
            on_change: if priority == 1 { OnChange::Drain } else { OnChange::Cut },
            expires_at,
            default_action,
            sockets: BTreeSet::from([Socket::Raw]),
            ingress,
            egress,
        },
    )
}

fn a_workload(n: usize) -> impl Strategy<Value = Resource> {
    let about = (
        prop::sample::select(NAMESPACES.to_vec()),
        labels(),
        any::<bool>(),
        prop::collection::btree_set(an_address(), 0..3),
        prop::option::of(prop::sample::select(NODES.to_vec())),
        prop::collection::vec(a_container_port(), 0..3),
        prop::bool::weighted(0.1),
    );
    about.prop_map(move |(namespace, labels, here, addresses, node, ports, host_network)| {
        let workload = Workload {
            cgroup: (here || n == 0).then(|| format!("w{n}")),
            addresses: addresses.into_iter().collect(),
            node: node.map(str::to_owned),
            ports,
            host_network: host_network && n > 1,
            ..Workload::default()
        };
        // Each is always in one namespace, or two of them could run in one cgroup.
        let namespace = if n == 0 { NAMESPACES[0] } else { namespace };
        named(n, namespace, labels, workload)
    })
}

/// Most are pods, which no policy keeps from themselves.
fn kind(n: usize) -> Kind {
    if n.is_multiple_of(3) { Kind::Workload } else { Kind::Pod }
}

fn named(n: usize, namespace: &str, labels: Labels, workload: Workload) -> Resource {
    let id = ResourceId::new(kind(n), namespace, format!("w{n}-{namespace}"));
    if id.kind == Kind::Pod {
        Resource::foreign(id, labels, Spec::Workload(workload), Origin::default(), "")
    } else {
        Resource::new(namespace, &id.name, labels, Spec::Workload(workload), Origin::default())
    }
}

fn a_policy_resource(n: usize) -> impl Strategy<Value = Resource> {
    (prop::sample::select(NAMESPACES.to_vec()), a_policy()).prop_map(move |(namespace, policy)| {
        Resource::new(namespace, &format!("p{n}"), Labels::new(), Spec::Policy(policy), Origin::default())
    })
}

fn a_node() -> impl Strategy<Value = Resource> {
    let about = (
        prop::sample::select(NODES.to_vec()),
        labels(),
        prop::collection::vec(an_address(), 0..3),
        prop::collection::vec(a_prefix(), 0..2),
    );
    about.prop_map(|(name, labels, addresses, pod_ranges)| {
        Resource::new("", name, labels, Spec::Node(Node { addresses, pod_ranges }), Origin::default())
    })
}

fn a_namespace() -> impl Strategy<Value = Resource> {
    let names = || prop::sample::select(NAMESPACES.to_vec());
    (names(), prop::option::of(names())).prop_map(|(name, team)| {
        let labels = team.map(|team| ("team".to_owned(), team.to_owned())).into_iter().collect();
        Resource::new("", name, labels, Spec::Namespace, Origin::default())
    })
}

/// Two names for ports of services, of which one is none.
fn a_service_port_name() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["", "web"]).prop_map(str::to_owned)
}

fn a_service_port() -> impl Strategy<Value = ServicePort> {
    let protocol = prop::sample::select(vec![Protocol::TCP, Protocol::UDP]);
    let target = prop_oneof![
        2 => (1u16..12).prop_map(TargetPort::Number),
        1 => prop::sample::select(PORT_NAMES.to_vec()).prop_map(|name| TargetPort::Name(name.to_owned())),
    ];
    (a_service_port_name(), protocol, 1u16..9, target).prop_map(|(name, protocol, port, target)| ServicePort {
        name,
        protocol,
        port,
        target,
    })
}

fn a_service_resource() -> impl Strategy<Value = Resource> {
    let addresses = prop::collection::btree_set(an_address(), 0..3);
    let ports = prop::collection::vec(a_service_port(), 0..3);
    (a_service(), prop::option::of(labels()), addresses, ports).prop_map(|(name, selector, addresses, ports)| {
        let service = Service { addresses: addresses.into_iter().collect(), selector, ports };
        Resource::new(&name.namespace, &name.name, Labels::new(), Spec::Service(service), Origin::default())
    })
}

/// A Service that leads back to some of those who call it: no slice names it, and it selects by few labels.
fn a_way_back() -> impl Strategy<Value = Resource> {
    let selector = prop_oneof![1 => Just(Labels::new()), 1 => labels()];
    let ports = prop::collection::vec(a_service_port(), 1..4);
    (prop::sample::select(NAMESPACES.to_vec()), selector, an_address(), ports).prop_map(
        |(namespace, selector, address, ports)| {
            let service = Service { addresses: vec![address], selector: Some(selector), ports };
            Resource::new(namespace, "own", Labels::new(), Spec::Service(service), Origin::default())
        },
    )
}

fn an_endpoint_port() -> impl Strategy<Value = EndpointPort> {
    let protocol = prop::sample::select(vec![Protocol::TCP, Protocol::UDP]);
    (a_service_port_name(), protocol, prop::option::of(1u16..12)).prop_map(|(name, protocol, port)| EndpointPort {
        name,
        protocol,
        port,
    })
}

fn a_slice() -> impl Strategy<Value = Resource> {
    let endpoint = (prop::collection::vec(an_address(), 1..3), prop::option::of(0usize..7));
    let ports = prop::collection::vec(an_endpoint_port(), 0..3);
    (a_service(), 0usize..2, prop::collection::vec(endpoint, 0..3), ports).prop_map(|(service, n, endpoints, ports)| {
        let namespace = service.namespace.clone();
        let pod = |n: usize| ResourceId::new(kind(n), &namespace, format!("w{n}-{namespace}"));
        let endpoints = endpoints.into_iter().map(|(addresses, n)| Endpoint { addresses, pod: n.map(pod) }).collect();
        let slice = EndpointSlice { service: Some(service.clone()), endpoints, ports };
        Resource::new(
            &service.namespace,
            &format!("s{n}"),
            Labels::new(),
            Spec::EndpointSlice(slice),
            Origin::default(),
        )
    })
}

/// Resources of every kind in some order of arrival.
pub fn a_state() -> impl Strategy<Value = Vec<Resource>> {
    let workloads = (1usize..7).prop_flat_map(|count| (0..count).map(a_workload).collect::<Vec<_>>());
    let policies = (1usize..7).prop_flat_map(|count| (0..count).map(a_policy_resource).collect::<Vec<_>>());
    let others = prop_oneof![3 => a_node().boxed(), 2 => a_namespace().boxed(), 3 => a_service_resource().boxed(), 3 => a_way_back().boxed(), 3 => a_slice().boxed()];
    (workloads, policies, prop::collection::vec(others, 0..9))
        .prop_map(|(workloads, policies, others)| {
            let mut seen = BTreeSet::new();
            let once = others.into_iter().filter(|resource| seen.insert(resource.id().clone())).collect();
            [own_addresses_only(workloads), policies, once].concat()
        })
        .prop_shuffle()
}

/// Something that happens: resources come, change or go.
pub fn a_change() -> impl Strategy<Value = Edit> {
    let put = prop_oneof![
        4 => (0usize..7).prop_flat_map(a_workload).boxed(),
        4 => (0usize..7).prop_flat_map(a_policy_resource).boxed(),
        1 => a_node().boxed(),
        1 => a_namespace().boxed(),
        2 => a_service_resource().boxed(),
        2 => a_way_back().boxed(),
        2 => a_slice().boxed(),
    ];
    (put, prop::bool::weighted(0.3)).prop_map(|(resource, gone)| match gone {
        // The first workload stays, so that there is always somebody to ask.
        true if !resource.id().name.starts_with("w0") => Edit::Remove(resource.id().clone()),
        _ => Edit::Put(resource),
    })
}

/// An address belongs to the first workload that has it.
fn own_addresses_only(workloads: Vec<Resource>) -> Vec<Resource> {
    let mut taken = BTreeSet::new();
    let own = workloads.into_iter().map(|resource| {
        let Spec::Workload(workload) = resource.spec() else { return resource };
        let addresses = workload.addresses.iter().filter(|addr| taken.insert(**addr)).copied().collect();
        let workload = Workload { addresses, ..workload.clone() };
        let id = resource.id();
        let n = id.name.strip_prefix('w').and_then(|rest| rest.split_once('-')).and_then(|(n, _)| n.parse().ok());
        named(n.unwrap(), &id.namespace, resource.labels().clone(), workload)
    });
    own.collect()
}
