//! Lives: collector.
//! Called by: the binary, and tests that want a collector of their own.
//! May touch: what its modules say.
//! Never: knows anything of the kernel or of policy.
//!
//! Batches come in through `rpc::export`, are judged by [`nodes`] (new, seen before, something missing), kept in
//! [`history`] and, where a folder for it is configured, in [`archive`], and go out through `rpc::observe`. [`store`] is where the two
//! meet, behind one short lock. Where [`otlp`] is configured, `rpc::otlp` sends each new record on, from a queue of its own.

#![forbid(unsafe_code)]

pub mod archive;
pub mod config;
pub mod flags;
pub mod history;
pub mod logging;
pub mod metrics;
pub mod nodes;
pub mod otlp;
pub mod rpc;
pub mod run;
pub mod store;
pub mod supervisor;
