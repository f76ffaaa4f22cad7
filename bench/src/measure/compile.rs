//! Lives: weir-bench.
//! Called by: the measurement of one size.
//! May touch: this process's CPU clock and memory figures.
//! Never: times the making of the cluster.

use std::collections::BTreeSet;

use anyhow::{Result, anyhow};
use serde::{Deserialize, Serialize};
use weir_common::image::{Section, header};
use weir_policy::{Compiled, Fault, Resources, compile};

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
    pub tables: Tables,
}

/// Sizes of the tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tables {
    /// Identities, reserved ones included.
    pub identities: u64,
    /// Peer classes that identities are in.
    pub classes: u64,
    /// Policy sets, the empty one included.
    pub sets: u64,
    /// Cells.
    pub cells: u64,
    /// Pages of the image.
    pub pages: u64,
    /// Exact addresses.
    pub endpoints: u64,
    /// Prefixes.
    pub prefixes: u64,
    /// Rules with a number.
    pub rules: u64,
}

/// Compiles `rounds` times.
///
/// # Errors
/// The cluster does not compile, or the system does not tell time or memory.
pub fn full(resources: &Resources, rounds: usize) -> Result<(Full, Compiled)> {
    forget_peak()?;
    let before = memory()?;
    let mut times = Vec::new();
    let (time, compiled) = timed(|| compile(resources, &context()))?;
    let compiled = compiled.map_err(|faults| refused(&faults))?;
    times.push(time);
    let peak = memory()?.peak;
    for _ in 1..rounds {
        let (time, again) = timed(|| compile(resources, &context()))?;
        times.push(time);
        drop(again);
    }
    let full = Full {
        milliseconds: milliseconds(median(times)),
        peak_bytes: peak.saturating_sub(before.now),
        resources_bytes: before.now,
        tables: Tables::of(&compiled),
    };
    Ok((full, compiled))
}

/// The faults of a cluster as one error.
#[must_use]
pub fn refused(faults: &[Fault]) -> anyhow::Error {
    let shown: Vec<_> = faults.iter().take(3).map(ToString::to_string).collect();
    anyhow!("the cluster is refused ({} faults): {}", faults.len(), shown.join("; "))
}

impl Tables {
    /// Counts.
    #[must_use]
    pub fn of(compiled: &Compiled) -> Self {
        let entries = |section: Section| {
            let place = compiled.pages.first().map_or(0, |page| page.word(header::SECTIONS + section as u32));
            place >> 32
        };
        let identities = entries(Section::Identities);
        Self {
            identities,
            classes: classes(compiled),
            // Two entries for each: one per direction.
            sets: entries(Section::Sets) / 2,
            cells: entries(Section::Cells),
            pages: compiled.pages.len() as u64,
            endpoints: compiled.endpoints.size() as u64,
            prefixes: compiled.cidrs.len() as u64,
            rules: compiled.rules.len() as u64,
        }
    }
}

/// How many peer classes identities are in: of those that some address leads to.
fn classes(compiled: &Compiled) -> u64 {
    let Some(image) = weir_common::decide::Image::open(compiled) else { return 0 };
    let numbers = compiled.endpoints.values().chain(compiled.cidrs.iter().map(|(_, identity)| identity));
    let classes: BTreeSet<u16> = numbers.map(|identity| image.identity(*identity).peer_class).collect();
    classes.len() as u64
}
