//! Lives: host tests and benchmarks.
//! Called by: the program `weir-bench` behind `cargo xtask bench`; tests that need a cluster of realistic shape.
//! May touch: nothing; the measuring modules read clocks and this process's own memory figures.
//! Never: knows how the compiler works; it makes clusters and counts what comes out.

pub mod cluster;
pub mod edits;
pub mod here;
pub mod measure;
pub mod report;
