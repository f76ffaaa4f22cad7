//! Lives: weir-tests, figures of benchmarks.
//! Called by: the benchmarks in tests/benches.
//! May touch: standard output, the file it is given.
//! Never: measures anything itself.

mod report;
mod samples;

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

pub use report::{Report, Row, Time};
pub use samples::{Figure, Samples};

/// Writes figures as JSON, where that was asked for.
///
/// # Errors
/// The file cannot be written.
pub fn save(report: &impl Serialize, file: Option<&Path>) -> Result<()> {
    let Some(file) = file else { return Ok(()) };
    let json = serde_json::to_string_pretty(report)?;
    std::fs::write(file, json + "\n").with_context(|| format!("writing {}", file.display()))
}
