//! Lives: ctl's tests of the verb policy.
//! Called by: cargo test.
//! May touch: folders of its own.
//! Never: takes a refusal without its place, its remedy and its exit code.

use crate::asked::{folder, run, run_with_input, shop};

const POLICY: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a, namespace: x}\n\
                      spec: {podSelector: {}}\n";
const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: x}\n";

#[test]
fn check_names_every_fault_of_every_file_by_its_place() {
    let bad = POLICY.replace("podSelector", "podSelektor");
    let folder = folder(&[
        ("a/one.yaml", &bad),
        ("a/b/two.json", "{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {\"name\": 7}}"),
        ("a/three.yml", &format!("{POLICY}---\n{POLICY}")),
        ("a/ignored.txt", "kind: ["),
    ]);
    let seen = run(folder.path(), "check a");
    assert_eq!((seen.code, seen.err.as_str()), (Some(1), ""), "{seen:?}");
    let lines: Vec<_> = seen.out.lines().collect();
    for start in [
        "a/b/two.json:1:58: metadata.name: YAML reads this as a number or truth value, not as a text (7); quote it",
        "a/one.yaml:4:8: spec.podSelektor: unknown field; did you mean \"podSelector\"?",
        "a/three.yml:6:1: metadata.name: NetworkPolicy/x/a is already described at a/three.yml:1 (a); keep one",
    ] {
        assert!(lines.iter().any(|line| line.starts_with(start)), "{start}\n{}", seen.out);
    }
    assert!(lines.last().unwrap().ends_with("faults in 3 files"), "{}", seen.out);
}

#[test]
fn check_takes_standard_input_and_counts() {
    let seen = run_with_input(&shop(), "check -", &format!("{POLICY}---\n{POD}"));
    assert_eq!((seen.code, seen.out.as_str()), (Some(0), "2 documents, 1 policy, 0 warnings, no faults\n"), "{seen:?}");
}

#[test]
fn a_warning_is_an_error_on_demand_only() {
    let folder = folder(&[("a.yaml", &POLICY.replace("namespace: x", "namespace: other")), ("p.yaml", POD)]);
    let seen = run(folder.path(), "check .");
    assert!(seen.code == Some(0) && seen.out.contains("warning: "), "{seen:?}");
    assert!(seen.out.ends_with("2 documents, 1 policy, 1 warning, no faults\n"), "{seen:?}");
    assert_eq!(run(folder.path(), "check . --warnings-as-errors").code, Some(1));
}

#[test]
fn other_kinds_are_refused_unless_they_are_to_be_skipped() {
    let deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {replicas: 1}\n";
    let folder = folder(&[("d.yaml", deployment), ("p.yaml", POLICY), ("pod.yaml", POD)]);
    assert_eq!(run(folder.path(), "check .").code, Some(1));
    let seen = run(folder.path(), "check . --skip-other-kinds");
    assert_eq!((seen.code, seen.err.as_str()), (Some(0), "skipped 1 document: 1 Deployment\n"), "{seen:?}");
    assert!(seen.out.starts_with("2 documents, 1 policy"), "{seen:?}");
}

#[test]
fn questions_that_make_no_sense_are_refused_with_a_remedy() {
    let given = "-f policies -f cluster.yaml";
    for (line, code, message) in [
        (
            format!("eval {given} --from shop/wbe --to data/app=db --port 1"),
            1,
            "no pod or workload is called shop/wbe; known in shop: ",
        ),
        (
            format!("eval {given} --from shop/app=x --to data/app=db --port 1"),
            1,
            "no pod or workload of shop has the label app=x",
        ),
        (format!("eval {given} --from svc:data/db --to shop/app=web --port 1"), 1, "a Service opens no connections"),
        (
            format!("eval {given} --from shop/app=api --to svc:data/db --port 9"),
            1,
            "nothing is behind Service/data/db at its port 9/tcp",
        ),
        (format!("eval {given} --from data/app=db --to data/app=db --port 9"), 0, ""),
        (
            format!("eval {given} --from shop/app=api --to 10.0.0.1 --port tcp"),
            2,
            "the port is missing; write PORT/PROTOCOL",
        ),
        (format!("eval {given} --from shop/app=api --to 10.0.0.1 --port 1 --at monday"), 2, "write a time such as"),
        ("eval -f missing.yaml --from a --to b --port 1".to_owned(), 2, "missing.yaml: No such file"),
        (
            format!("matrix {given} --group-by teams"),
            2,
            "--group-by teams: not known; write workload, namespace, or labels KEY",
        ),
        (format!("matrix {given} --group-by labels"), 2, "needs a KEY"),
        ("diff policies policies".to_owned(), 1, "neither side describes a pod or workload"),
        ("diff - - -f cluster.yaml".to_owned(), 2, "standard input can be read once only"),
        ("test policies".to_owned(), 1, "no PolicyTest document"),
    ] {
        let seen = run(&shop(), &line);
        assert!(seen.code == Some(code) && seen.err.contains(message), "{line}: {seen:?}");
    }
}

#[test]
fn what_expires_is_judged_at_the_time_that_is_asked_about() {
    let policy = "apiVersion: weir.dev/v1alpha1\nkind: Policy\nmetadata: {name: a, namespace: x}\n\
                  spec: {expiresAt: \"2026-06-01T00:00:00Z\", ingress: []}\n";
    let pods = format!("{POD}---\n{}", POD.replace("name: p", "name: q"));
    let folder = folder(&[("a.yaml", policy), ("p.yaml", &pods)]);
    for (at, code) in [("2026-05-31T23:59:59Z", 4), ("2026-06-01T00:00:00Z", 0), ("2030-01-01T00:00:00+01:00", 0)] {
        let seen = run(folder.path(), &format!("eval -f . --from x/p --to x/q --port 1 --at {at}"));
        assert_eq!(seen.code, Some(code), "{at}: {seen:?}");
    }
}

#[test]
fn the_help_of_every_verb_shows_examples_and_exit_codes() {
    for verb in ["", "check", "eval", "matrix", "diff", "test"] {
        let seen = run(&shop(), &format!("{verb} --help"));
        assert!(seen.code == Some(0) && seen.out.contains("Examples:"), "{verb}: {seen:?}");
    }
}
