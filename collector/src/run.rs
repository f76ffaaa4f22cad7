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
use crate::rpc::otlp::{Exporter, OtlpError};
use crate::rpc::{self, Store};
use crate::supervisor::{Ended, Signals, Supervisor};

/// Why the collector cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It cannot listen.
    #[error(transparent)]
    Listen(#[from] TransportError),
    /// What the export by OTLP needs is not there.
    #[error(transparent)]
    Otlp(#[from] OtlpError),
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
/// An address cannot be listened on, a file for the export cannot be used, or a task ended early.
pub async fn run(config: &Config) -> Result<(), RunError> {
    let signals = Signals::install()?;
    let listeners = Listeners::open(&config.listen)?;
    let addresses = listeners.local_addrs();
    let store = Arc::new(Store::new(config.history.records));
    let exporter = config.otlp.as_ref().map(|otlp| Exporter::prepare(otlp, Arc::clone(&store))).transpose()?;
    let mut supervisor = Supervisor::default();
    if let Some(at) = config.metrics.listen {
        let listener = metrics::listen(at).await.map_err(|source| RunError::Metrics { at, source })?;
        let (store, stop) = (Arc::clone(&store), supervisor.stop());
        supervisor.spawn("metrics", async move { Ok(metrics::serve(listener, store, stop).await?) });
    }
    spawn_all(&mut supervisor, listeners, store, exporter);
    let socket = config.listen.socket.as_ref().map(|socket| socket.path.display().to_string());
    let otlp = config.otlp.as_ref().map(|otlp| otlp.endpoint.to_string());
    tracing::info!(socket, tcp = ?addresses, otlp, records = config.history.records, "ready");
    supervisor.run(signals).await?;
    tracing::info!("stopped");
    Ok(())
}

/// Starts the server, and the export where there is one. The export ends after the server: what the last streams brought is
/// exported too.
pub fn spawn_all(supervisor: &mut Supervisor, listeners: Listeners, store: Arc<Store>, exporter: Option<Exporter>) {
    let queue = exporter.as_ref().map(Exporter::queue);
    if let Some(exporter) = exporter {
        let stop = supervisor.stop();
        supervisor.spawn("otlp", async move {
            exporter.run(stop).await;
            Ok(())
        });
    }
    let stop = supervisor.stop();
    supervisor.spawn("server", async move {
        let served = rpc::serve(listeners, store, queue.clone(), stop).await;
        queue.iter().for_each(|queue| queue.close());
        Ok(served?)
    });
}
