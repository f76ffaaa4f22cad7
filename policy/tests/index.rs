//! Lives: host tests.
//! Called by: cargo test.
//! May touch: the public surface of the crate.
//! Never: asks an index what it could not also find by looking at every resource.
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
use support::context;
use weir_common::addr::{Addr, Protocol};
use weir_policy::{
    End, EndpointSlice, Labels, Node, Origin, Prefix, Question, Resource, ResourceId, Resources, Service, ServiceRef,
    Spec, V4_BITS, Workload, evaluate, parse,
};

fn v4(last: u8) -> Addr {
    Addr::v4([10, 0, 0, last])
}

fn resource(kind: u8, name: u8, address: u8, other: u8) -> Resource {
    let addresses = vec![v4(address), v4(other)];
    let service = Some(ServiceRef { namespace: "n".into(), name: format!("r{}", other % 2) });
    let spec = match kind {
        0 => Spec::Workload(Workload { addresses, ..Workload::default() }),
        1 => Spec::Workload(Workload { addresses, host_network: true, node: Some("m".into()), ..Workload::default() }),
        2 => Spec::Node(Node { addresses, pod_ranges: vec![Prefix::new(v4(address), V4_BITS + 28 + other % 4)] }),
        3 => Spec::Service(Service { addresses, ..Service::default() }),
        _ => Spec::EndpointSlice(EndpointSlice { service, ..EndpointSlice::default() }),
    };
    Resource::new("n", &format!("r{name}"), Labels::new(), spec, Origin::default())
}

/// What looking at every resource says of an address.
fn by_looking(state: &Resources, address: Addr) -> (Option<ResourceId>, Option<String>, Option<ResourceId>, bool) {
    let (mut workload, mut node, mut service, mut pods) = (None, None, None, false);
    for resource in state.iter() {
        match resource.spec() {
            Spec::Workload(found) if found.addresses.contains(&address) && !found.host_network => {
                workload = workload.or(Some(resource.id().clone()));
            }
            Spec::Workload(found) if found.addresses.contains(&address) => node = node.or(found.node.clone()),
            Spec::Node(found) => {
                let own = found.addresses.contains(&address);
                node = node.or(own.then(|| resource.id().name.clone()));
                pods |= found.pod_ranges.iter().any(|range| range.contains(&address));
            }
            Spec::Service(found) if found.addresses.contains(&address) => {
                service = service.or(Some(resource.id().clone()));
            }
            _ => {}
        }
    }
    (workload, node, service, pods)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_index_says_what_looking_at_everything_says(
        steps in prop::collection::vec((any::<bool>(), 0u8..5, 0u8..3, 0u8..20, 0u8..20), 1..60),
    ) {
        let mut state = Resources::default();
        let before = state.clone();
        for (remove, kind, name, address, other) in steps {
            let resource = resource(kind, name, address, other);
            if remove {
                state.remove(resource.id());
            } else {
                state.insert(resource);
            }
        }
        for last in 0..22 {
            let at = v4(last);
            let found = (
                state.workload_at(&at).map(|(resource, _)| resource.id().clone()),
                state.node_at(&at).map(str::to_owned),
                state.service_at(&at).cloned(),
                state.in_pod_range(&at),
            );
            prop_assert_eq!(found, by_looking(&state, at), "{}", last);
        }
        for name in ["r0", "r1"] {
            let service = ServiceRef { namespace: "n".into(), name: name.into() };
            let looked = state.iter().filter(|resource| {
                matches!(resource.spec(), Spec::EndpointSlice(slice) if slice.service.as_ref() == Some(&service))
            });
            prop_assert_eq!(state.slices_of(&service).count(), looked.count());
        }
        let kinds: BTreeSet<_> = state.iter().map(|resource| resource.id().kind).collect();
        let by_kind: Vec<_> = kinds.into_iter().flat_map(|kind| state.of_kind(kind)).collect();
        prop_assert_eq!(by_kind, state.iter().collect::<Vec<_>>());
        prop_assert_eq!(before, Resources::default(), "a clone keeps what it had");
    }
}

/// 30,000 workloads in 500 namespaces and 5,000 policies. The bounds are far above what it takes, and far below what looking
/// at everything would.
#[test]
fn a_question_and_a_clone_look_at_next_to_nothing_at_cluster_size() {
    let address = |n: u32| Addr::v4([10, (n >> 16) as u8, (n >> 8) as u8, n as u8]);
    let labels = |n: u32| Labels::from([("app".to_owned(), format!("a{}", n % 7))]);
    let workload = |n: u32| {
        let spec = Spec::Workload(Workload { addresses: vec![address(n)], ..Workload::default() });
        Resource::new(&format!("n{}", n % 500), &format!("w{n}"), labels(n), spec, Origin::default())
    };
    let policy = |n: u32| {
        let text = format!(
            "{{apiVersion: weir.dev/v1alpha1, kind: Policy, metadata: {{name: p{n}, namespace: n{}}}, spec: {{workloadSelector: \
             {{matchLabels: {{app: a{}}}}}, ingress: [{{from: [{{namespaceSelector: {{}}}}], ports: [{{port: {}}}]}}]}}}}",
            n % 500,
            n % 7,
            n % 1000 + 1
        );
        parse("p", &text).unwrap().remove(0)
    };
    let policies: Vec<_> = (0..5_000).map(policy).collect();
    let start = Instant::now();
    let mut state: Resources = (0..30_000).map(workload).chain(policies).collect();
    let built = start.elapsed();
    let start = Instant::now();
    for n in 0..1000u32 {
        let (from, to) = (End::Address(address(n * 29)), End::Address(address(n * 17)));
        let question = Question { from, to, protocol: Protocol::TCP, port: 1 };
        assert!(evaluate(&state, &context(), &question).unwrap().ingress.is_some());
    }
    let question = start.elapsed() / 1000;
    let start = Instant::now();
    for n in 0..1000 {
        let copy = state.clone();
        state.insert(workload(n + 40_000));
        assert_eq!(copy.len() + 1, state.len());
    }
    let change = start.elapsed() / 1000;
    println!("built in {built:?}; a question {question:?}; a clone and a change {change:?}");
    // Against building it, in the same run: what looks at everything costs about as much.
    assert!(question * 100 < built && change * 100 < built, "built in {built:?}; {question:?}, {change:?}");
}
