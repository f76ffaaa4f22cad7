//! Lives: collector's tests.
//! Called by: cargo test.
//! May touch: a temporary directory, loopback.
//! Never: looks inside the collector; everything is seen through its sockets, as agents and weirctl see it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of a test fail by panicking")]

mod certified;
mod delivery;
mod otlp;
mod otlp_trouble;
mod process;
mod reading;
mod receiver;
mod world;
