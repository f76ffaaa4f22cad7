//! Lives: host tests.
//! Called by: cargo test; `WEIR_BLESS=1` writes what is expected anew, for a person to read the difference.
//! May touch: a temporary directory, child processes that run weirctl.
//! Never: looks inside weirctl; what counts is what a script sees: output, error, exit code.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of a test fail by panicking"
)]

mod asked;
mod conformance;
mod golden;
mod hostile;
mod picture;
mod refused;
mod tested;
