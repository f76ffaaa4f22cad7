//! Lives: weir-bench. One object of the cluster, as its API has it.
//! Called by: everything that makes one; the measurements of the parser; tests that need text.
//! May touch: nothing.
//! Never: holds an object that has no name.

use serde_json::Value;
use weir_policy::{Fault, Resource};

/// One object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document(pub Value);

impl Document {
    /// As JSON, on one line: what the API server sends.
    #[must_use]
    pub fn json(&self) -> String {
        self.0.to_string()
    }

    /// As YAML: what people write.
    #[must_use]
    pub fn yaml(&self) -> String {
        // Writing into a string fails only for types YAML has no form for, and JSON has none of those.
        serde_saphyr::to_string(&self.0).unwrap_or_default()
    }

    /// The resources it describes: one.
    ///
    /// # Errors
    /// The parser refuses it.
    pub fn parse(&self) -> Result<Vec<Resource>, Vec<Fault>> {
        weir_policy::parse("cluster", &self.json())
    }

    /// Puts a value in place of the one at a JSON pointer; `false`: there is none.
    pub fn set(&mut self, pointer: &str, value: Value) -> bool {
        let found = self.0.pointer_mut(pointer);
        let there = found.is_some();
        if let Some(place) = found {
            *place = value;
        }
        there
    }

    /// Adds to the list at a JSON pointer; `false`: there is none.
    pub fn push(&mut self, pointer: &str, value: Value) -> bool {
        let list = self.0.pointer_mut(pointer).and_then(Value::as_array_mut);
        let there = list.is_some();
        if let Some(list) = list {
            list.push(value);
        }
        there
    }
}
