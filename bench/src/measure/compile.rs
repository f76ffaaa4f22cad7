//! Lives: weir-bench.
//! Called by: the measurement of one size.
//! May touch: this process's CPU clock and memory figures.
//! Never: times the making of the cluster.

use std::time::Duration;

use anyhow::{Result, anyhow};
use serde::{Deserialize, Serialize};
use weir_policy::{Compiler, Fault, Resources, Sizes};

use super::{
    clock::{median, milliseconds, timed},
    memory::{forget_peak, memory},
};
use crate::here::context;

/// A full compile.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Full {
    /// CPU time, the median of the rounds.
    pub milliseconds: f64,
    /// Resident memory at most while compiling, less what the resources took before.
    pub peak_bytes: u64,
    /// Resident memory of the resources.
    pub resources_bytes: u64,
    /// What came out.
    pub tables: Sizes,
}

/// Compiles `rounds` times, and gives the last compiler back for edits.
///
/// # Errors
/// The cluster does not compile, or the system does not tell time or memory.
pub fn full(resources: &Resources, rounds: usize) -> Result<(Full, Compiler)> {
    forget_peak()?;
    let before = memory()?;
    let (time, compiler) = from_scratch(resources)?;
    let peak = memory()?.peak;
    let mut times = vec![time];
    for _ in 1..rounds {
        times.push(from_scratch(resources)?.0);
    }
    let full = Full {
        milliseconds: milliseconds(median(times)),
        peak_bytes: peak.saturating_sub(before.now),
        resources_bytes: before.now,
        tables: compiler.compiled().sizes,
    };
    Ok((full, compiler))
}

fn from_scratch(resources: &Resources) -> Result<(Duration, Compiler)> {
    let build = || Compiler::of(resources, context()).map(|compiler| (compiler.compiled(), compiler));
    let (time, built) = timed(build)?;
    let (_, compiler) = built.map_err(|faults| refused(&faults))?;
    Ok((time, compiler))
}

/// The faults of a cluster as one error.
#[must_use]
pub fn refused(faults: &[Fault]) -> anyhow::Error {
    let shown: Vec<_> = faults.iter().take(3).map(ToString::to_string).collect();
    anyhow!("the cluster is refused ({} faults): {}", faults.len(), shown.join("; "))
}
