//! Lives: host.
//! Called by: `weirctl policy`, which reads folders as they are kept in a repository.
//! May touch: the text it is handed.
//! Never: passes over a document that may be a policy: what is skipped has a kind that is none of ours by a wide margin.

use super::{
    Faults, Field, documents_of,
    fields::Fields,
    scalars::subdomain,
    yaml::{Node, Value},
};
use crate::{
    fault::{Fault, Place},
    id::Kind,
    model::{API_VERSION, Origin, Resource},
};
use weir_common::verdict::Verdict;

/// The kind of documents that say what is expected of policies.
const POLICY_TEST: &str = "PolicyTest";

/// What files hold.
#[derive(Clone, Debug, Default)]
pub struct Documents {
    /// Resources, in the order in which they were read.
    pub resources: Vec<Resource>,
    /// Expectations.
    pub tests: Vec<PolicyTest>,
    /// Kinds of the documents that were passed over.
    pub skipped: Vec<String>,
}

/// What to do about documents of kinds that are neither policies nor anything policies speak about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtherKinds {
    /// They are faults.
    Refuse,
    /// They are passed over.
    Skip,
}

/// Expectations that are checked together. Texts stand as written, for whoever knows the resources to resolve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyTest {
    /// Its name.
    pub name: String,
    /// Where it was read.
    pub origin: Origin,
    /// Paths of what it is about, relative to its file.
    pub resources: Vec<Written>,
    /// What is expected.
    pub tests: Vec<Expectation>,
}

/// One expectation: that every connection from one of these ends to one of those at one of the ports is judged so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// Shown when it fails.
    pub name: Option<String>,
    /// Where it stands.
    pub place: Place,
    /// The ends that open.
    pub from: Vec<Written>,
    /// The ends that are called.
    pub to: Vec<Written>,
    /// Protocols and ports.
    pub ports: Vec<Written>,
    /// The verdict.
    pub expect: Verdict,
    /// The policy, or policy and rule, that must have decided.
    pub by: Option<Written>,
}

/// A text and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The text.
    pub text: String,
    /// Where.
    pub place: Place,
    /// The path of its field.
    pub field: String,
}

impl Written {
    /// What is wrong with it.
    #[must_use]
    pub fn fault(&self, source: &str, problem: impl Into<String>, remedy: impl Into<String>) -> Fault {
        let mut faults = Faults::new(source);
        faults.add(self.place, &self.field, &self.text, problem, remedy);
        faults.into_list().remove(0)
    }
}

/// Reads several texts that are looked at together; beside resources they may hold expectations.
///
/// # Errors
/// Every fault found, text by text.
pub fn parse_documents<'t>(
    texts: impl IntoIterator<Item = (&'t str, &'t str)>,
    others: OtherKinds,
) -> Result<Documents, Vec<Fault>> {
    let (mut tests, mut skipped) = (Vec::new(), Vec::new());
    let resources = documents_of(texts, &mut |source, node, faults| {
        if word(node, "kind") == Some(POLICY_TEST) {
            tests.extend(policy_test(source, node, faults));
            return true;
        }
        others == OtherKinds::Skip && skips(node, &mut skipped)
    })?;
    Ok(Documents { resources, tests, skipped })
}

/// Whether the document is passed over; of a list, only its members that are.
fn skips(node: &mut Node, skipped: &mut Vec<String>) -> bool {
    if let Some(kind) = other_kind(node) {
        skipped.push(kind.to_owned());
        return true;
    }
    let list = word(node, "kind") == Some("List");
    if let (true, Value::Map(entries)) = (list, &mut node.value) {
        for (_, items) in entries.iter_mut().filter(|(key, _)| key.text == "items") {
            if let Value::List(items) = &mut items.value {
                let kept = |item: &Node| other_kind(item).map(|kind| skipped.push(kind.to_owned())).is_none();
                items.retain(kept);
            }
        }
    }
    false
}

/// The kind of a document that is surely none of ours, and not a slip of the pen either.
fn other_kind(node: &Node) -> Option<&str> {
    let (version, kind) = (word(node, "apiVersion")?, word(node, "kind")?);
    let ours = version.starts_with("weir.dev/") || version.starts_with("policy.networking.k8s.io/");
    let lower = kind.to_ascii_lowercase();
    let near = |known: &str| {
        let known = known.to_ascii_lowercase();
        strsim::damerau_levenshtein(&lower, &known) <= 1 + known.len() / 8
    };
    let known = Kind::ALL.iter().any(|kind| near(kind.name())) || lower.ends_with("list") || near(POLICY_TEST);
    (!ours && !known).then_some(kind)
}

fn word<'n>(node: &'n Node, name: &str) -> Option<&'n str> {
    let Value::Map(entries) = &node.value else { return None };
    match entries.iter().find(|(key, _)| key.text == name).map(|(_, node)| &node.value) {
        Some(Value::Scalar { text, .. }) => Some(text),
        Some(Value::List(_) | Value::Map(_)) | None => None,
    }
}

fn policy_test(source: &str, node: &Node, faults: &mut Faults) -> Option<PolicyTest> {
    let document = Field { node, path: String::new() };
    let top = document.fields(faults, &["apiVersion", "kind", "metadata", "spec"])?;
    if let Some(version) = top.require(faults, "apiVersion", "write apiVersion: weir.dev/v1alpha1") {
        version.word(faults, &[(API_VERSION, ())]);
    }
    let name = top.require(faults, "metadata", "write metadata: {name: ...}").and_then(|metadata| {
        let fields = metadata.fields(faults, &["name", "labels"])?;
        fields.require(faults, "name", "give it a name").and_then(|name| subdomain(&name, faults))
    });
    let spec = top.require(faults, "spec", "write what is expected under spec: {tests: [...]}")?;
    let spec = spec.fields(faults, &["resources", "tests"])?;
    let resources = spec.get("resources").map(|paths| one_or_more(&paths, faults)).unwrap_or_default();
    let tests = spec.require(faults, "tests", "write a list of expectations").map(|tests| tests.list(faults));
    let tests = tests.unwrap_or_default().iter().filter_map(|test| expectation(test, faults)).collect();
    let origin = Origin { source: source.to_owned(), place: node.place };
    Some(PolicyTest { name: name?, origin, resources, tests })
}

fn expectation(test: &Field<'_>, faults: &mut Faults) -> Option<Expectation> {
    let fields = test.fields(faults, &["name", "from", "to", "port", "expect", "by"])?;
    let end = "name an end: NAMESPACE/NAME of a workload or pod, an address, svc:NAMESPACE/NAME or node:NAME";
    let from = some(&fields, "from", end, faults);
    let to = some(&fields, "to", end, faults);
    let ports = some(&fields, "port", "write PORT/PROTOCOL such as 443/tcp, or a list of those", faults);
    let words = Verdict::ALL.iter().map(|verdict| (verdict.name(), *verdict)).collect::<Vec<_>>();
    let expect = fields.require(faults, "expect", "write allow, deny or audit").and_then(|it| it.word(faults, &words));
    let name = fields.get("name").map(|name| name.text(faults).map(str::to_owned));
    let by = fields.get("by").map(|by| written(&by, faults));
    // Optional, but not wrong: an inner `None` was noted as a fault.
    let (name, by) = (name.map_or(Some(None), |name| name.map(Some))?, by.map_or(Some(None), |by| by.map(Some))?);
    Some(Expectation { name, place: test.node.place, from: from?, to: to?, ports: ports?, expect: expect?, by })
}

fn some(fields: &Fields<'_>, name: &str, remedy: &str, faults: &mut Faults) -> Option<Vec<Written>> {
    let field = fields.require(faults, name, remedy)?;
    let found = one_or_more(&field, faults);
    if let (true, Value::List(items)) = (found.is_empty(), &field.node.value)
        && items.is_empty()
    {
        field.fault(faults, "an empty list, so nothing is asked", remedy);
    }
    (!found.is_empty()).then_some(found)
}

/// A text, or a list of texts.
fn one_or_more(field: &Field<'_>, faults: &mut Faults) -> Vec<Written> {
    match &field.node.value {
        Value::List(_) => field.list(faults).iter().filter_map(|item| written(item, faults)).collect(),
        Value::Scalar { .. } | Value::Map(_) => written(field, faults).into_iter().collect(),
    }
}

/// A text; a number stands for itself, as in `port: 443`.
fn written(field: &Field<'_>, faults: &mut Faults) -> Option<Written> {
    let of = |text: &str| Written { text: text.to_owned(), place: field.node.place, field: field.path.clone() };
    match &field.node.value {
        Value::Scalar { text, plain: true } if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() => {
            Some(of(text))
        }
        Value::Scalar { .. } | Value::List(_) | Value::Map(_) => field.text(faults).map(of),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, others: OtherKinds) -> Result<Documents, Vec<String>> {
        parse_documents([("t.yaml", text)], others).map_err(|faults| faults.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_policy_test_is_read_whole() {
        let text = "apiVersion: weir.dev/v1alpha1\nkind: PolicyTest\nmetadata: {name: t}\nspec:\n  resources: a.yaml\n  \
                    tests:\n  - {from: [shop/web, 10.0.0.1], to: shop/db, port: [443, 53/udp], expect: deny, by: Policy/a/b}\n";
        let read = read(text, OtherKinds::Refuse).unwrap();
        let [test] = read.tests.as_slice() else { panic!("{read:?}") };
        let texts = |written: &[Written]| written.iter().map(|it| it.text.clone()).collect::<Vec<_>>();
        assert_eq!((test.name.as_str(), texts(&test.resources)), ("t", vec!["a.yaml".to_owned()]));
        let expectation = &test.tests[0];
        assert_eq!(texts(&expectation.from), ["shop/web", "10.0.0.1"]);
        assert_eq!(texts(&expectation.ports), ["443", "53/udp"]);
        assert_eq!((expectation.expect, expectation.from[1].field.as_str()), (Verdict::Deny, "spec.tests[0].from[1]"));
        let by = expectation.by.as_ref().map(|by| (by.text.as_str(), by.place.line));
        assert_eq!(by, Some(("Policy/a/b", 7)));
    }

    #[test]
    fn a_policy_test_with_faults_names_each() {
        let head = "apiVersion: weir.dev/v1alpha1\nkind: PolicyTest\nmetadata: {name: t}\nspec:\n";
        for (spec, fault) in [
            ("  {}", "t.yaml:5:3: spec.tests: missing; write a list of expectations"),
            ("  {test: []}", "t.yaml:5:4: spec.test: unknown field; did you mean \"tests\"?"),
            (
                "  tests: [{from: a, to: b, port: 1, expect: maybe}]",
                "spec.tests[0].expect: not a word that is known here (maybe); known here: allow, deny, audit",
            ),
            ("  tests: [{from: a, to: b, port: 1}]", "spec.tests[0].expect: missing"),
            ("  tests: [{from: [], to: b, port: 1, expect: deny}]", "spec.tests[0].from: an empty list"),
            ("  tests: [{from: a, to: {x: y}, port: 1, expect: deny}]", "a map where a text belongs"),
            ("  tests: [{from: a, to: b, ports: 1, expect: deny}]", "did you mean \"port\"?"),
        ] {
            let faults = read(&format!("{head}{spec}\n"), OtherKinds::Refuse).unwrap_err();
            assert!(faults.iter().any(|found| found.contains(fault)), "{spec}: {faults:?}");
        }
    }

    #[test]
    fn other_kinds_are_skipped_on_demand_and_slips_never() {
        let document =
            |version: &str, kind: &str| format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: x}}\n");
        for (version, kind) in
            [("apps/v1", "Deployment"), ("v1", "ConfigMap"), ("rbac.authorization.k8s.io/v1", "Role")]
        {
            let text = document(version, kind);
            assert_eq!(read(&text, OtherKinds::Skip).unwrap().skipped, [kind]);
            assert!(read(&text, OtherKinds::Refuse).is_err(), "{kind}");
        }
        for (version, kind) in [
            ("networking.k8s.io/v1", "NetworkPolcy"),
            ("networking.k8s.io/v1beta1", "NetworkPolicy"),
            ("weir.dev/v1alpha1", "Polcy"),
            ("weir.dev/v1alpha1", "PolicyTests"),
            ("policy.networking.k8s.io/v1alpha2", "ClusterPolicy"),
        ] {
            assert!(read(&document(version, kind), OtherKinds::Skip).is_err(), "{version} {kind}");
        }
        let list = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: apps/v1, kind: Deployment, metadata: {name: x}}\n\
                    - {apiVersion: v1, kind: Namespace, metadata: {name: x}}\n";
        let read = read(list, OtherKinds::Skip).unwrap();
        assert_eq!((read.resources.len(), read.skipped.as_slice()), (1, ["Deployment".to_owned()].as_slice()));
    }
}
