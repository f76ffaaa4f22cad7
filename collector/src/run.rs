//! Lives: collector.
//! Called by: `main`.
//! May touch: what the configuration names.
//! Never: says it is ready before it listens.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use weir_transport::{Listeners, TransportError};

use crate::config::Config;
use crate::metrics;
use crate::rpc::{self, Store};
use crate::supervisor::{Ended, Signals, Supervisor};

/// Why the collector cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It cannot listen.
    #[error(transparent)]
    Listen(#[from] TransportError),
    /// It cannot serve its metrics.
    #[error("metrics.listen {at}: {source}; name another address and port, or leave it out")]
    Metrics {
        /// Where.
        at: SocketAddr,
        /// The error underneath.
        source: io::Error,
    },
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
    if let Some(at) = config.metrics.listen {
        let listener = metrics::listen(at).await.map_err(|source| RunError::Metrics { at, source })?;
        let (store, stop) = (Arc::clone(&store), supervisor.stop());
        supervisor.spawn("metrics", async move { Ok(metrics::serve(listener, store, stop).await?) });
    }
    supervisor.spawn("server", async move { Ok(rpc::serve(listeners, store, stop).await?) });
    let socket = config.listen.socket.as_ref().map(|socket| socket.path.display().to_string());
    tracing::info!(socket, tcp = ?addresses, records = config.history.records, "ready");
    supervisor.run(signals).await?;
    tracing::info!("stopped");
    Ok(())
}
