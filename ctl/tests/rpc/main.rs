//! Lives: ctl's tests.
//! Called by: cargo test.
//! May touch: a temporary directory, child processes that run weirctl.
//! Never: looks inside weirctl; what counts is what a script sees: output, error, exit code.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of a test fail by panicking")]

mod agent;
mod collector;
mod commands;
mod encrypted;
mod flows;
mod sets;
mod world;
