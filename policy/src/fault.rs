//! Lives: host.
//! Called by: `parse` and `compile`, which collect faults; the agent and `weirctl`, which show them.
//! May touch: nothing.
//! Never: says what is wrong without saying what to do about it.

use std::fmt;

/// One thing wrong with a document (or the agent's configuration), as its author needs to hear it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// File name, or "-" for standard input.
    pub source: String,
    /// Line, from 1; 0 when not known.
    pub line: u32,
    /// Column, from 1; 0 when not known.
    pub column: u32,
    /// Path such as `spec.ingress[0].ports[1].port`; empty for the document as a whole.
    pub field: String,
    /// The value as written, shortened when long; empty where there is none.
    pub value: String,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub remedy: String,
}

// By hand: to thiserror a field called `source` is an error underneath.
impl std::error::Error for Fault {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.source)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": ")?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        write!(f, "{}", self.problem)?;
        if !self.value.is_empty() {
            write!(f, " ({})", self.value)?;
        }
        write!(f, "; {}", self.remedy)
    }
}

/// Where in a text something stands; both from 1, 0 when not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line.
    pub line: u32,
    /// Column.
    pub column: u32,
}

/// Longest value that a fault repeats, in characters.
const VALUE_LENGTH: usize = 80;

/// A value as a fault shows it: one line, not too long.
pub(crate) fn shown(value: &str) -> String {
    let mut text: String = value.chars().take(VALUE_LENGTH).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if value.chars().nth(VALUE_LENGTH).is_some() {
        text.push_str("...");
    }
    text
}
