//! Lives: host.
//! Called by: `parse`, once per document.
//! May touch: the list of faults.
//! Never: writes a path out that no fault needs.

use super::{
    faults::{Faults, join},
    yaml::{Node, Value},
};

/// Notes every key that stands twice in one map, and every merge key, wherever in the tree.
pub fn check_keys(node: &Node, faults: &mut Faults) {
    keys_below(node, &Step::Start, faults);
}

/// The way to a node; written out only for a fault, as there are many nodes and few faults.
enum Step<'s> {
    Start,
    Item(&'s Step<'s>, usize),
    Entry(&'s Step<'s>, &'s str),
}

impl Step<'_> {
    fn path(&self) -> String {
        match self {
            Self::Start => String::new(),
            Self::Item(before, index) => format!("{}[{index}]", before.path()),
            Self::Entry(before, key) => join(&before.path(), key),
        }
    }
}

fn keys_below(node: &Node, way: &Step<'_>, faults: &mut Faults) {
    match &node.value {
        Value::Scalar { .. } => {}
        Value::List(items) => {
            for (index, item) in items.iter().enumerate() {
                keys_below(item, &Step::Item(way, index), faults);
            }
        }
        Value::Map(entries) => {
            let mut seen = std::collections::HashSet::with_capacity(entries.len());
            for (key, item) in entries {
                let way = Step::Entry(way, &key.text);
                if key.text == "<<" {
                    faults.add(key.place, &way.path(), "", "merge keys are not read", "write the entries out here");
                } else if !seen.insert(key.text.as_str()) {
                    faults.add(key.place, &way.path(), "", "written twice in the same map", "keep one of the two");
                }
                keys_below(item, &way, faults);
            }
        }
    }
}
