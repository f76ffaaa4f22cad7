//! Lives: host tests.
//! Called by: cargo test.
//! May touch: the public surface of the crate.
//! Never: an answer that only one of evaluator and tables gives.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking"
)]

mod support;

use support::{Ends, context, resources, tables};
use weir_policy::cases::{CASES, WORLD};

#[test]
fn evaluator_and_tables_answer_every_case_alike() {
    for case in CASES {
        let state = resources(&[WORLD, case.documents]);
        let compiled = tables(&state);
        for probe in case.probes {
            let name = format!("{}: {probe:?}", case.name);
            let question = support::question(probe);
            let explanation = weir_policy::evaluate(&state, &context(), &question).unwrap();
            assert_eq!(explanation.verdict, probe.verdict, "{name}: {explanation}");
            let decided =
                explanation.deciding().map(|answer| (answer.reason, format!("{} {}", answer.policy, answer.rule)));
            let (reason, rule) = decided.unwrap_or((weir_common::verdict::Reason::NoPolicy, String::new()));
            assert_eq!((reason, rule.trim()), (probe.reason, probe.rule), "{name}: {explanation}");
            for side in Ends::of(&state, &question, &explanation) {
                assert_eq!(side.by_tables(&compiled), side.by_evaluator(), "{name}");
            }
        }
    }
}

/// Living connections that a policy forbids are cut unless it says otherwise, whichever kind of policy it is.
#[test]
fn a_policy_says_what_becomes_of_living_connections() {
    use weir_policy::{OnChange, Spec};
    let native =
        |spec: &str| format!("apiVersion: weir.dev/v1alpha1\nkind: Policy\nmetadata: {{name: p}}\nspec: {spec}\n");
    let kube = |metadata: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {metadata}\nspec: {{podSelector: {{}}}}\n"
        )
    };
    let rows = [
        (native("{}"), OnChange::Cut),
        (native("{onChange: cut}"), OnChange::Cut),
        (native("{onChange: drain}"), OnChange::Drain),
        (kube("{name: p}"), OnChange::Cut),
        (kube("{name: p, annotations: {weir.dev/on-change: drain}}"), OnChange::Drain),
    ];
    for (text, expected) in rows {
        let read = weir_policy::parse("t", &text).unwrap();
        let again = weir_policy::parse("again", &read[0].to_yaml()).unwrap();
        for resource in [&read[0], &again[0]] {
            let Spec::Policy(policy) = resource.spec() else { panic!("{text}") };
            assert_eq!(policy.on_change, expected, "{text}");
        }
    }
}

#[test]
fn documents_survive_being_written_and_read() {
    for case in CASES {
        let state = resources(&[WORLD, case.documents]);
        for resource in state.iter() {
            let again = weir_policy::parse("again", &resource.to_yaml()).unwrap_or_else(|faults| panic!("{faults:?}"));
            assert_eq!(again, std::slice::from_ref(resource), "{}", resource.to_yaml());
            assert_eq!(again[0].to_yaml(), resource.to_yaml());
        }
    }
}
