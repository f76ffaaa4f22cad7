//! Lives: collector.
//! Called by: `main`.
//! May touch: what the configuration names.
//! Never: says it is ready before it listens.

use std::sync::Arc;

use weir_transport::{Listeners, TransportError};

use crate::config::Config;
use crate::rpc::{self, Store};
use crate::supervisor::{Ended, Signals, Supervisor};

/// Why the collector cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It cannot listen.
    #[error(transparent)]
    Listen(#[from] TransportError),
    /// It cannot go on.
    #[error(transparent)]
    Ended(#[from] Ended),
}

/// Listens and serves until SIGTERM or SIGINT.
///
/// # Errors
/// An address cannot be listened on, or the server ended early.
pub async fn run(config: &Config) -> Result<(), RunError> {
    let signals = Signals::install()?;
    let listeners = Listeners::open(&config.listen)?;
    let addresses = listeners.local_addrs();
    let store = Arc::new(Store::new(config.history.records));
    let mut supervisor = Supervisor::default();
    let stop = supervisor.stop();
    supervisor.spawn("server", async move { Ok(rpc::serve(listeners, store, stop).await?) });
    let socket = config.listen.socket.as_ref().map(|socket| socket.path.display().to_string());
    tracing::info!(socket, tcp = ?addresses, records = config.history.records, "ready");
    supervisor.run(signals).await?;
    tracing::info!("stopped");
    Ok(())
}
