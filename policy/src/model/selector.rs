//! Lives: host.
//! Called by: the evaluator, to find what a selector selects; the compiler, for the label keys that matter.
//! May touch: nothing.
//! Never: gives a missing key a value; `NotIn` and `DoesNotExist` match objects without the key, as in Kubernetes.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

/// Label key and value pairs.
pub type Labels = BTreeMap<String, String>;

/// The one label every namespace has: its name.
pub const NAMESPACE_LABEL: &str = "kubernetes.io/metadata.name";

/// A label selector: all of its requirements must hold; without any it selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Selector {
    /// Labels that must be there with these values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: Labels,
    /// Further requirements.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<Requirement>,
}

/// One requirement of a selector.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Requirement {
    /// The label it is about.
    pub key: String,
    /// How it is compared.
    pub operator: Operator,
    /// With what; empty for `Exists` and `DoesNotExist`.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub values: BTreeSet<String>,
}

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Operator {
    /// The label is there and has one of the values.
    In,
    /// The label is missing or has none of the values.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is missing.
    DoesNotExist,
}

impl Selector {
    /// Whether an object with these labels is selected.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.holds(|key| labels.get(key).map(String::as_str))
    }

    /// Whether the namespace of this name is selected. Its name is always a label; others it has if it was described.
    #[must_use]
    pub fn matches_namespace(&self, name: &str, labels: Option<&Labels>) -> bool {
        self.holds(|key| match key {
            NAMESPACE_LABEL => Some(name),
            _ => labels.and_then(|labels| labels.get(key)).map(String::as_str),
        })
    }

    /// The label keys it looks at.
    pub fn keys(&self) -> impl Iterator<Item = &String> {
        self.match_labels.keys().chain(self.match_expressions.iter().map(|requirement| &requirement.key))
    }

    fn holds<'l>(&self, label: impl Fn(&str) -> Option<&'l str>) -> bool {
        self.match_labels.iter().all(|(key, value)| label(key) == Some(value.as_str()))
            && self.match_expressions.iter().all(|requirement| requirement.holds(label(&requirement.key)))
    }
}

impl Requirement {
    fn holds(&self, label: Option<&str>) -> bool {
        let among = label.is_some_and(|value| self.values.contains(value));
        match self.operator {
            Operator::In => among,
            Operator::NotIn => !among,
            Operator::Exists => label.is_some(),
            Operator::DoesNotExist => label.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_requirement_says_what_a_missing_label_means() {
        // (operator, no label, label "a" of values {a}, label "b" of values {a})
        let rows = [
            (Operator::In, false, true, false),
            (Operator::NotIn, true, false, true),
            (Operator::Exists, false, true, true),
            (Operator::DoesNotExist, true, false, false),
        ];
        for (operator, missing, listed, other) in rows {
            let requirement = Requirement { key: "k".into(), operator, values: BTreeSet::from(["a".into()]) };
            let answers = [None, Some("a"), Some("b")].map(|label| requirement.holds(label));
            assert_eq!(answers, [missing, listed, other], "{operator:?}");
        }
    }

    #[test]
    fn every_requirement_must_hold_and_none_selects_everything() {
        let labels = Labels::from([("app".into(), "web".into())]);
        assert!(Selector::default().matches(&labels));
        let selector = Selector {
            match_labels: labels.clone(),
            match_expressions: vec![Requirement {
                key: "tier".into(),
                operator: Operator::Exists,
                values: BTreeSet::new(),
            }],
        };
        assert!(!selector.matches(&labels));
    }
}
