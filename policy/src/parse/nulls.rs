//! Lives: host.
//! Called by: `kube`, before it reads a document.
//! May touch: the document's tree.
//! Never: hides a field it does not know; only of known ones null means "missing", as the API server reads it.

use super::yaml::{Node, Value};

/// Fields of Kubernetes for which null and missing are one.
const NULLABLE: [&str; 32] = [
    "podSelector",
    "namespaceSelector",
    "matchLabels",
    "matchExpressions",
    "values",
    "from",
    "to",
    "ports",
    "ingress",
    "egress",
    "policyTypes",
    "except",
    "labels",
    "annotations",
    "protocols",
    "namespaces",
    "pods",
    "nodes",
    "networks",
    "ipBlock",
    "protocol",
    "port",
    "endPort",
    "status",
    "creationTimestamp",
    "selector",
    "spec",
    "items",
    "metadata",
    "namespace",
    "action",
    "targetPort",
];

/// Maps whose keys are the user's own words.
const WORDS: [&str; 3] = ["matchLabels", "labels", "annotations"];

/// Drops fields that are null, and makes a null item of a list (a lone dash) an empty one.
pub fn drop_nulls(node: &mut Node) {
    match &mut node.value {
        Value::Scalar { .. } => {}
        Value::List(items) => {
            for item in items {
                if item.is_null() {
                    item.value = Value::Map(Vec::new());
                }
                drop_nulls(item);
            }
        }
        Value::Map(entries) => {
            entries.retain(|(key, value)| !(value.is_null() && NULLABLE.contains(&key.text.as_str())));
            for (key, value) in entries {
                if !WORDS.contains(&key.text.as_str()) {
                    drop_nulls(value);
                }
            }
        }
    }
}
