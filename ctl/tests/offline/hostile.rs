//! Lives: ctl's tests of the verb policy.
//! Called by: cargo test.
//! May touch: folders of its own.
//! Never: lets a document steer a terminal, a browser or a spreadsheet.

use crate::asked::{folder, run};

/// A rule may be called anything.
const ODD: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: x}\n---\n\
                   apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: x}\n---\n\
                   apiVersion: v1\nkind: Pod\nmetadata: {name: b, namespace: x}\n---\n\
                   apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: p}\n\
                   spec:\n  tier: Admin\n  priority: 1\n  subject: {namespaces: {}}\n  ingress:\n  \
                   - {name: \"<script>\\e[31m\", action: Deny, from: [{namespaces: {}}]}\n---\n\
                   apiVersion: weir.dev/v1alpha1\nkind: PolicyTest\nmetadata: {name: t}\nspec:\n  tests:\n  \
                   - {name: \"<b>\\e[31m\", from: x/a, to: x/b, port: 80, expect: allow}\n";

#[test]
fn names_are_shown_and_never_obeyed() {
    let folder = folder(&[("w.yaml", ODD)]);
    for line in [
        "eval -f w.yaml --from x/a --to x/b --port 80",
        "eval -f w.yaml --from x/a --to x/b --port 80 -o json",
        "matrix -f w.yaml -o svg",
        "check w.yaml",
        "test w.yaml --junit report.xml",
    ] {
        let seen = run(folder.path(), line);
        assert!(!seen.out.contains('\u{1b}') && !seen.err.contains('\u{1b}'), "{line}: {seen:?}");
        assert!(!seen.out.is_empty(), "{line}: {seen:?}");
        assert!(!line.ends_with("svg") || !seen.out.contains("<script"), "{line}: {}", seen.out);
    }
    let report = std::fs::read_to_string(folder.path().join("report.xml")).unwrap();
    assert!(!report.contains('\u{1b}') && !report.contains("<b>") && report.contains("&lt;script&gt;"), "{report}");
}

#[test]
fn hostile_documents_are_faults_not_crashes() {
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    let bomb = format!(
        "a: &a [x,x,x,x,x,x,x,x,x,x]\n{}",
        (0..9)
            .map(|n| format!(
                "{c}: &{c} [{p}]\n",
                c = (b'b' + n) as char,
                p = vec![format!("*{}", (b'a' + n) as char); 10].join(",")
            ))
            .collect::<String>()
    );
    for text in [
        deep.as_str(),
        bomb.as_str(),
        "\u{feff}\u{0}",
        "kind: PolicyTest\nspec: {tests: 7}",
        "%YAML 9.9\n--- !!x y",
        "- - - :",
    ] {
        let folder = folder(&[("a.yaml", text)]);
        for line in ["check a.yaml", "check a.yaml --skip-other-kinds", "test a.yaml", "matrix -f a.yaml"] {
            let seen = run(folder.path(), line);
            assert!(matches!(seen.code, Some(1)), "{line} of {:.40}: {seen:?}", text);
            assert!(!seen.err.contains("panicked"), "{seen:?}");
        }
    }
}
