//! Lives: weir-tests, figures of benchmarks.
//! Called by: the benchmarks in tests/benches.
//! May touch: standard output.
//! Never: measures anything itself.

mod report;
mod samples;

pub use report::{Report, Row, Time};
pub use samples::{Figure, Samples};
