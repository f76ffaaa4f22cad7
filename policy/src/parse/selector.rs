//! Lives: host.
//! Called by: the parsers of the kinds.
//! May touch: the list of faults.
//! Never: reads a selector that could not match as one that matches everything.

use std::collections::BTreeSet;

use super::{
    faults::Faults,
    fields::Field,
    scalars::{LABEL_KEY_REMEDY, is_label_key, label_value},
    surprises::other_type,
};
use crate::model::{Labels, Operator, Requirement, Selector};

const OPERATORS: [(&str, Operator); 4] = [
    ("In", Operator::In),
    ("NotIn", Operator::NotIn),
    ("Exists", Operator::Exists),
    ("DoesNotExist", Operator::DoesNotExist),
];

/// A map of label keys to values; what is wrong is left out, with a fault.
pub fn labels(field: &Field<'_>, faults: &mut Faults) -> Labels {
    let mut labels = Labels::new();
    for (key, value) in field.entries(faults) {
        if key.plain && other_type(&key.text) {
            let remedy = format!("quote it: \"{}\"", key.text);
            faults.add(key.place, &value.path, &key.text, "YAML reads this key as a number or truth value", remedy);
        } else if !is_label_key(&key.text) {
            faults.add(key.place, &value.path, &key.text, "not a label key", LABEL_KEY_REMEDY);
        } else if let Some(value) = label_value(&value, faults) {
            labels.insert(key.text.clone(), value);
        }
    }
    labels
}

/// Annotations, which nothing here reads: keys like those of labels, and texts.
pub fn annotations(field: &Field<'_>, faults: &mut Faults) {
    for (key, value) in field.entries(faults) {
        if !is_label_key(&key.text.to_ascii_lowercase()) {
            faults.add(key.place, &value.path, &key.text, "not an annotation's key", LABEL_KEY_REMEDY);
        }
        value.text(faults);
    }
}

/// A label selector.
pub fn selector(field: &Field<'_>, faults: &mut Faults) -> Option<Selector> {
    let fields = field.fields(faults, &["matchLabels", "matchExpressions"])?;
    let match_labels = fields.get("matchLabels").map(|labels_field| labels(&labels_field, faults)).unwrap_or_default();
    let expressions = fields.get("matchExpressions").map(|list| list.list(faults)).unwrap_or_default();
    let match_expressions = expressions.iter().filter_map(|item| requirement(item, faults)).collect();
    Some(Selector { match_labels, match_expressions })
}

fn requirement(field: &Field<'_>, faults: &mut Faults) -> Option<Requirement> {
    let fields = field.fields(faults, &["key", "operator", "values"])?;
    let key = fields.require(faults, "key", "name the label").and_then(|key| label_key(&key, faults));
    let operator = fields
        .require(faults, "operator", "write In, NotIn, Exists or DoesNotExist")
        .and_then(|operator| operator.word(faults, &OPERATORS));
    let given = fields.get("values");
    let items = given.as_ref().map(|values| values.list(faults)).unwrap_or_default();
    let values: BTreeSet<_> = items.iter().filter_map(|value| label_value(value, faults)).collect();
    let operator = operator?;
    let wanted = matches!(operator, Operator::In | Operator::NotIn);
    match given {
        Some(given) if !wanted && !items.is_empty() => {
            given.fault(faults, "Exists and DoesNotExist take no values", "remove the values, or use In or NotIn");
        }
        Some(given) if wanted && items.is_empty() => {
            given.fault(faults, "In and NotIn need values", "list at least one value")
        }
        None if wanted => {
            fields.require(faults, "values", "list at least one value");
        }
        Some(_) | None => {}
    }
    Some(Requirement { key: key?, operator, values })
}

/// A label key.
pub fn label_key(field: &Field<'_>, faults: &mut Faults) -> Option<String> {
    let text = field.text(faults)?;
    if !is_label_key(text) {
        field.fault(faults, "not a label key", LABEL_KEY_REMEDY);
        return None;
    }
    Some(text.to_owned())
}
