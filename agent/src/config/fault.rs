//! Lives: weir-agent, configuration.
//! Called by: every part of `config` that finds something wrong.
//! May touch: nothing.
//! Never: says what is wrong without saying what to do.

use std::fmt;

/// One thing wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// File, or the flag as typed.
    pub source: String,
    /// 1-based; 0 when there is no place (a flag, a missing key).
    pub line: u32,
    /// 1-based; 0 when there is no place.
    pub column: u32,
    /// Path of the key, such as `grpc.tcp.listen`.
    pub field: String,
    /// The value as written; empty when there is none.
    pub value: String,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

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
