//! Lives: the node agent.
//! Called by: `main.rs`, and by the tests of the whole.
//! May touch: what its modules may.
//! Never: unsafe outside `kernel`.
//!
//! ```text
//!            rpc ──► control ──► datapath ── wire ──► kernel        policy comes in, tables and attachments go down
//!             ▲         │ names                         │
//!             │         ▼                               ▼ events
//!  collector ◄── rpc::export ◄── spool ◄── exporter ◄── telemetry ◄┘          decisions come up, records go out
//! ```
//! `metrics` shows Prometheus and probes what status shows people. `runtime` starts and stops all of it; begin reading there. `config`, `bounds`, `lock` and `logs` come before it;
//! `doctor` is asked in its place.

pub mod bounds;
pub mod config;
pub mod control;
pub mod datapath;
pub mod doctor;
pub mod exporter;
pub mod faults;
pub mod kernel;
pub mod lock;
pub mod logs;
pub mod metrics;
pub mod revoke;
pub mod rpc;
pub mod runtime;
pub mod spool;
pub mod telemetry;
#[cfg(test)]
mod testing;
mod wire;

/// What this agent says it is.
#[cfg(not(feature = "next_layout"))]
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The same of one with other layouts: images are searched for it (`xtask/src/image`).
#[cfg(feature = "next_layout")]
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "-weir-next-layout");
