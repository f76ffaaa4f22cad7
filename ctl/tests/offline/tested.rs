//! Lives: ctl's tests of the verb policy.
//! Called by: cargo test.
//! May touch: folders of its own.
//! Never: takes a report that an XML reader would refuse.

use quick_xml::events::Event;

use crate::asked::{folder, run, shop};

fn expecting(tests: &str) -> String {
    format!("apiVersion: weir.dev/v1alpha1\nkind: PolicyTest\nmetadata: {{name: t}}\nspec:\n  tests:\n{tests}")
}

const WORLD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: x}\n---\n\
                     apiVersion: v1\nkind: Pod\nmetadata: {name: b, namespace: x}\n---\n\
                     apiVersion: v1\nkind: Namespace\nmetadata: {name: x}\n---\n\
                     apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: p}\n\
                     spec:\n  tier: Admin\n  priority: 1\n  subject: {namespaces: {}}\n  ingress:\n  \
                     - {name: \"odd <&\\\"> name\", action: Accept, from: [{namespaces: {}}], \
                     protocols: [{tcp: {destinationPort: {number: 80}}}]}\n  \
                     - {action: Deny, from: [{namespaces: {}}]}\n";

#[test]
fn a_test_that_fails_says_what_was_expected_and_why_it_is_not_so() {
    let tests = "  - {name: open, from: x/a, to: x/b, port: [80, 81], expect: allow}\n\
                 \x20 - {from: x/a, to: x/b, port: 80, expect: allow, by: Policy/x/q}\n\
                 \x20 - {from: x/a, to: x/c, port: 80, expect: allow}\n\
                 \x20 - {name: fine, from: [x/a], to: x/b, port: 80/tcp, expect: allow, by: ClusterNetworkPolicy/p}\n";
    let folder = folder(&[("w.yaml", WORLD), ("t.yaml", &expecting(tests))]);
    let seen = run(folder.path(), "test t.yaml -f w.yaml --junit report.xml");
    assert_eq!((seen.code, seen.err.as_str()), (Some(1), ""), "{seen:?}");
    for line in [
        "FAIL t: open (t.yaml:6:5)",
        "  x/a -> x/b 81/tcp: expected allow, got deny",
        "  ingress  deny   admin tier: ClusterNetworkPolicy/p ingress[1] (Pod/x/b)",
        "FAIL t: x/a -> x/b 80 (t.yaml:7:5)",
        "  x/a -> x/b 80/tcp: allow as expected, but by ClusterNetworkPolicy/p ingress[0] odd <&\"> name, not by Policy/x/q",
        "FAIL t: x/a -> x/c 80 (t.yaml:8:5)",
        "  x/a -> x/c 80/tcp: x/c: no pod or workload is called x/c; known in x: a, b",
        "1 passed, 3 failed",
    ] {
        assert!(seen.out.lines().any(|found| found == line), "{line}\n{}", seen.out);
    }
    let report = std::fs::read_to_string(folder.path().join("report.xml")).unwrap();
    let (mut cases, mut failures) = (0, 0);
    let mut reader = quick_xml::Reader::from_str(&report);
    loop {
        match reader.read_event().unwrap() {
            Event::Start(tag) | Event::Empty(tag) => {
                assert!(tag.attributes().all(|attribute| attribute.is_ok()));
                cases += usize::from(tag.name().as_ref() == "testcase");
                failures += usize::from(tag.name().as_ref() == "failure");
            }
            Event::Eof => break,
            _ => {}
        }
    }
    assert_eq!((cases, failures), (4, 3), "{report}");
    assert!(report.contains("<testsuites name=\"weirctl policy test\" tests=\"4\" failures=\"3\""), "{report}");
    assert!(report.contains("odd &lt;&amp;"), "{report}");
}

#[test]
fn a_test_is_read_strictly() {
    for (tests, fault) in [
        ("  - {from: x/a, to: x/b, port: 80, expected: allow}\n", "t.yaml:6:36: spec.tests[0].expected: unknown field"),
        (
            "  - {from: x/a, to: x/b, port: 80/quic, expect: deny}\n",
            "t.yaml:6:32: spec.tests[0].port: the protocol is not known (80/quic)",
        ),
        ("  - {from: x/a, to: x/b, port: 80, expect: alow}\n", "did you mean \"allow\"?"),
        ("  - {from: x/a, to: x/b, port: 80, expect: deny}\n  more: 1\n", "t.yaml:7:3: spec.more: unknown field"),
    ] {
        let folder = folder(&[("w.yaml", WORLD), ("t.yaml", &expecting(tests))]);
        let seen = run(folder.path(), "test t.yaml -f w.yaml");
        assert!(seen.code == Some(1) && seen.err.contains(fault) && seen.out.is_empty(), "{fault}: {seen:?}");
    }
}

#[test]
fn resources_stand_beside_the_file_that_names_them() {
    let text = expecting("  - {from: x/a, to: x/b, port: 80, expect: allow}\n")
        .replace("spec:\n", "spec:\n  resources: ../w.yaml\n");
    let folder = folder(&[("w.yaml", WORLD), ("deep/t.yaml", &text)]);
    let seen = run(folder.path(), "test deep");
    assert_eq!((seen.code, seen.out.as_str()), (Some(0), "1 passed, 0 failed\n"), "{seen:?}");
    // Named twice, read once.
    let seen = run(folder.path(), "test deep/t.yaml -f w.yaml");
    assert_eq!((seen.code, seen.out.as_str()), (Some(0), "1 passed, 0 failed\n"), "{seen:?}");
    assert_eq!(run(&shop(), "check expectations.yaml").code, Some(0), "check reads them, too");
}
