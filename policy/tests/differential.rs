//! Lives: host tests.
//! Called by: cargo test; `WEIR_PROBES` sets how many questions are asked (2,000,000 unless given), `WEIR_SEED` which.
//! May touch: the public surface of the crate.
//! Never: asks only easy questions; addresses lie at the edges of prefixes, ports at the edges of ranges.
//!
//! The argument between the reference evaluator and the tables, over generated resources; and between tables that were
//! reached by changes and tables made from scratch.
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
    test_runner::{Config, RngAlgorithm, TestCaseResult, TestRng, TestRunner},
};
use support::{
    Said, ask, context,
    generate::{a_change, a_state, an_address},
    tables,
};
use weir_common::{
    addr::{Addr, Protocol},
    decide::{Image, Query},
    image::last_port,
    verdict::{Direction, Verdict},
};
use weir_policy::{Compiler, Context, Edit, End, Kind, Question, Resource, ResourceId, Resources, evaluate};

const QUESTIONS_PER_STATE: usize = 1_000;

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
    context: &Context,
    workload: &ResourceId,
    direction: Direction,
    remote: Addr,
    (protocol, port): (Protocol, u16),
) -> Said {
    let (own, other) = (End::Workload(workload.clone()), End::Address(remote));
    let (from, to) = if direction == Direction::Egress { (own, other) } else { (other, own) };
    let explanation = evaluate(state, context, &Question { from, to, protocol, port }).unwrap();
    let answer = if direction == Direction::Egress { explanation.egress } else { explanation.ingress }.unwrap();
    answer.into()
}

/// Runs an argument over as many states as there are questions to ask.
fn over<S: Strategy>(strategy: &S, share: u32, argue: impl Fn(S::Value) -> TestCaseResult) {
    let probes: u32 = std::env::var("WEIR_PROBES").map_or(2_000_000, |text| text.parse().unwrap());
    let cases = probes.div_ceil(QUESTIONS_PER_STATE as u32).div_ceil(share);
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 2000, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed()));
    runner.run(strategy, argue).unwrap_or_else(|error| panic!("{error}"));
}

/// The same seed every time unless one is given, so that a failure can be repeated.
fn seed() -> [u8; 32] {
    let number: u64 = std::env::var("WEIR_SEED").map_or(1, |text| text.parse().unwrap());
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&number.to_le_bytes());
    seed
}

#[test]
fn tables_and_evaluator_never_differ_and_order_never_matters() {
    let seen = std::cell::RefCell::new(BTreeSet::new());
    over(&(a_state(), questions()), 1, |(arrived, questions)| {
        let state: Resources = arrived.iter().cloned().collect();
        let compiled = tables(&state);
        let reversed: Resources = arrived.iter().rev().cloned().collect();
        prop_assert_eq!(&compiled, &tables(&reversed), "another order, other tables");
        seen.borrow_mut().extend(argue(&state, &context(), &compiled, &questions)?);
        Ok(())
    });
    let seen = seen.into_inner();
    let reached = |how: &str| seen.iter().filter(|said| said.ends_with(how)).count();
    let staged = seen.iter().filter(|seen| seen.contains("staged")).count();
    assert!(seen.len() - staged >= 13 && reached(" through a service") >= 6, "the generator reached only {seen:?}");
    assert!(reached(" through a service, to itself") >= 2, "the generator reached only {seen:?}");
    assert!(staged >= 2, "the generator reached only {seen:?}");
}

#[test]
fn tables_and_evaluator_agree_where_unselected_workloads_are_denied() {
    let context = Context { unselected: Verdict::Deny, ..context() };
    let denied = std::cell::Cell::new(false);
    over(&(a_state(), questions()), 4, |(arrived, questions)| {
        let state: Resources = arrived.into_iter().collect();
        let seen = argue(&state, &context, &weir_policy::compile(&state, &context).unwrap(), &questions)?;
        denied.set(denied.get() || seen.contains("Deny NoPolicy"));
        Ok(())
    });
    assert!(denied.get(), "no question was about a workload that nobody selects");
}

#[test]
fn a_state_reached_by_changes_equals_the_state_from_scratch() {
    let steps = prop::collection::vec(prop::collection::vec(a_change(), 1..4), 1..6);
    over(&(a_state(), steps, questions()), 4, |(arrived, steps, questions)| {
        let mut compiler = Compiler::new(context());
        compiler.apply(arrived.into_iter().map(Edit::Put)).unwrap();
        for (step, edits) in steps.into_iter().enumerate() {
            let before = compiler.resources().clone();
            if let Err(faults) = compiler.apply(edits) {
                // Two workloads with one address: nothing may have changed.
                prop_assert!(faults.iter().all(|fault| fault.problem.contains("already")), "{faults:?}");
                prop_assert!(*compiler.resources() == before);
            }
            if let Some(seconds) = [None, None, Some(1), Some(0), Some(3)][step] {
                compiler.advance(weir_policy::Timestamp(context().now.0 + seconds)).unwrap();
            }
            same_as_from_scratch(&compiler, &questions)?;
        }
        Ok(())
    });
}

#[test]
fn a_state_taken_down_to_nothing_leaves_nothing_behind() {
    over(&a_state(), 4, |arrived| {
        let mut compiler = Compiler::new(context());
        let empty = compiler.compiled().sizes;
        compiler.apply(arrived.iter().cloned().map(Edit::Put)).unwrap();
        for resource in &arrived {
            compiler.apply([Edit::Remove(resource.id().clone())]).unwrap();
        }
        let after = compiler.compiled().sizes;
        prop_assert_eq!(weir_policy::Sizes { pages: 0, ..after }, weir_policy::Sizes { pages: 0, ..empty });
        Ok(())
    });
}

/// The same sizes, and the same answers as both the tables from scratch and the evaluator.
fn same_as_from_scratch(compiler: &Compiler, questions: &[Asked]) -> TestCaseResult {
    let (changed, context) = (compiler.compiled(), compiler.context().clone());
    let scratch = weir_policy::compile(compiler.resources(), &context).unwrap();
    let sizes = |compiled: &weir_policy::Compiled| weir_policy::Sizes { pages: 0, cells: 0, ..compiled.sizes };
    prop_assert_eq!(sizes(&changed), sizes(&scratch));
    prop_assert_eq!(changed.endpoints.size(), scratch.endpoints.size());
    prop_assert_eq!(&changed.sets, &scratch.sets);
    prop_assert_eq!(changed.workloads.keys().collect::<Vec<_>>(), scratch.workloads.keys().collect::<Vec<_>>());
    argue(compiler.resources(), &context, &changed, questions)?;
    Ok(())
}

/// Asks both sides every question.
fn argue(
    state: &Resources,
    context: &Context,
    compiled: &weir_policy::Compiled,
    questions: &[Asked],
) -> Result<BTreeSet<String>, TestCaseError> {
    let local: Vec<_> =
        state.workloads().filter(|(_, workload)| workload.cgroup.is_some()).map(|(resource, _)| resource).collect();
    let mut seen = BTreeSet::new();
    let of_services = calls(state, &local);
    let drawn = questions.iter().map(|(who, egress, remote, port)| {
        let direction = if *egress { Direction::Egress } else { Direction::Ingress };
        (local[who.index(local.len())].id(), direction, *remote, *port)
    });
    for (workload, direction, remote, (protocol, port)) in drawn.chain(of_services) {
        if is_disputed(state, workload, remote) {
            continue;
        }
        let told = ask(compiled, workload, direction, remote, protocol, port);
        let meant = reference(state, context, workload, direction, remote, (protocol, port));
        let question = format!("{workload} {direction:?} {:?} {protocol:?} {port}", remote.0);
        prop_assert_eq!(&told, &meant, "{}", question);
        seen.insert(format!(
            "{:?} {:?}{}",
            told.verdict,
            told.reason,
            how(compiled, workload, direction, remote, (protocol, port))
        ));
        seen.extend(told.staged.map(|(staged, ..)| format!("{:?}, staged {staged:?}", told.verdict)));
    }
    Ok(seen)
}

/// Whether a pod's own address is somebody else's too. If it is a Service's, the tables have one entry for it, the Service's; if
/// another workload's, the one that runs here is taken for it, and by the evaluator the first by name.
fn is_disputed(state: &Resources, workload: &ResourceId, remote: Addr) -> bool {
    let claims = |addresses: &[Addr]| addresses.contains(&remote);
    let claiming = state.workloads().filter(|(_, workload)| claims(&workload.addresses));
    let claiming: Vec<_> = claiming.map(|(resource, _)| resource.id()).collect();
    let service = state.services().any(|(_, service)| claims(&service.addresses));
    workload.kind == Kind::Pod && claiming.contains(&workload) && (service || claiming.len() > 1)
}

/// Whether a service's address stood for what is behind it, and whether that is told to the workload otherwise than to all like it.
fn how(
    compiled: &weir_policy::Compiled,
    workload: &ResourceId,
    direction: Direction,
    remote: Addr,
    (protocol, port): (Protocol, u16),
) -> &'static str {
    let own = compiled.workloads.get(workload).unwrap();
    let query = Query { local: own.identity, direction, remote, protocol, port };
    let (all, own) = (
        Image::open(compiled).unwrap().decide(&query),
        compiled.seen_by(own).decide(direction, remote, protocol, port),
    );
    match (all.translated, own == Some(all)) {
        (false, _) => "",
        (true, true) => " through a service",
        (true, false) => " through a service, to itself",
    }
}

/// Every port of every service's address, called by and calling everybody here.
fn calls<'s>(state: &'s Resources, local: &[&'s Resource]) -> Vec<(&'s ResourceId, Direction, Addr, (Protocol, u16))> {
    let mut all = Vec::new();
    for (_, service) in state.services() {
        for (address, port) in
            service.addresses.iter().flat_map(|address| service.ports.iter().map(move |port| (address, port)))
        {
            for workload in local {
                for direction in [Direction::Egress, Direction::Ingress] {
                    all.push((workload.id(), direction, *address, (port.protocol, port.port)));
                }
            }
        }
    }
    all
}

/// A named case: what nobody has and only a slice lists is unknown or the world by the ranges of pods, which change.
#[test]
fn an_address_that_only_a_slice_lists_follows_the_ranges_of_pods() {
    let node =
        |ranges: &str| format!("{{apiVersion: v1, kind: Node, metadata: {{name: n}}, spec: {{podCIDRs: [{ranges}]}}}}");
    let documents = r#"
{apiVersion: weir.dev/v1alpha1, kind: Workload, metadata: {name: w, namespace: shop}, spec: {cgroup: w}}
---
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: p, namespace: shop}
spec:
  ingress:
  - {name: listed, from: [{service: {name: s}}], ports: [{port: 1}]}
  - {name: unknown, from: [{entity: unknown}], ports: [{port: 2}]}
---
{apiVersion: v1, kind: Service, metadata: {name: s, namespace: shop}, spec: {clusterIP: None, ports: [{port: 1}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: s, namespace: shop, labels: {kubernetes.io/service-name: s}}
addressType: IPv4
endpoints: [{addresses: [10.1.0.9]}]
ports: []
"#;
    let parse = |text: &str| weir_policy::parse("case", text).unwrap();
    let mut compiler = Compiler::new(context());
    compiler.apply(parse(documents).into_iter().map(Edit::Put)).unwrap();
    let workload = ResourceId::new(weir_policy::Kind::Workload, "shop", "w");
    for (ranges, verdict) in [("", "Deny"), ("10.1.0.0/16", "Allow"), ("10.2.0.0/16", "Deny"), ("10.1.0.0/24", "Allow")]
    {
        compiler.apply(parse(&node(ranges)).into_iter().map(Edit::Put)).unwrap();
        let compiled = compiler.compiled();
        for port in [1, 2] {
            let remote = Addr::v4([10, 1, 0, 9]);
            let told = ask(&compiled, &workload, Direction::Ingress, remote, Protocol::TCP, port);
            let asked = (Protocol::TCP, port);
            let meant =
                reference(compiler.resources(), compiler.context(), &workload, Direction::Ingress, remote, asked);
            assert_eq!(told, meant, "{ranges}: {port}");
            let expected = if port == 1 { "Allow" } else { verdict };
            assert_eq!(format!("{:?}", told.verdict), expected, "{ranges}: {port}");
        }
    }
}
