//! Lives: weir-agent, runtime.
//! Called by: `runtime`; `main` shows it.
//! May touch: nothing.
//! Never: stands for something the agent could have gone on without.

use crate::{
    bounds::{BoundsError, GRANT},
    control::ControlError,
    kernel::KernelError,
    lock::LockError,
};

/// Why the agent could not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Too little memory, or too few descriptors.
    #[error(transparent)]
    Bounds(#[from] BoundsError),
    /// Another agent runs.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The kernel refused the programs.
    #[error(transparent)]
    Kernel(Box<KernelError>),
    /// The kernel refused the programs, and a capability is missing.
    #[error("{} missing: {GRANT}. The kernel says", missing.join(", "))]
    Privileges {
        /// Which.
        missing: Vec<&'static str>,
        /// Its word.
        source: Box<KernelError>,
    },
    /// The policy could not be put in force.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A listener or the way to the collector.
    #[error(transparent)]
    Transport(#[from] weir_transport::TransportError),
    /// The port of the metrics.
    #[error("metrics.listen: {at} cannot be listened on; write another address and port, or leave it out")]
    Metrics {
        /// Where.
        at: std::net::SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The system gave no thread, runtime, signal or random number.
    #[error("{what} could not be set up")]
    System {
        /// Which.
        what: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A subsystem ended before it was told to.
    #[error("subsystem {name} ended early: {reason}")]
    Ended {
        /// Which.
        name: &'static str,
        /// Why.
        reason: String,
    },
}
