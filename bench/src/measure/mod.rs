//! Lives: weir-bench. What the policy engine takes for a cluster.
//! Called by: the program, once per size in a process of its own.
//! May touch: this process's CPU clock and memory figures.
//! Never: judges what it measures; goals stand in the report.

pub mod clock;
pub mod compile;
pub mod edits;
pub mod memory;
pub mod one;
pub mod speed;
