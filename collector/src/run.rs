//! Lives: collector.
//! Called by: `main`.
//! May touch: what the configuration names.
//! Never: says it is ready before it listens.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::interval;
use weir_transport::{Listeners, TransportError};

use crate::archive::{Archive, OpenError};
use crate::config::{Config, HistoryConfig};
use crate::metrics;
use crate::rpc::otlp::{Exporter, OtlpError};
use crate::rpc::{self, Store};
use crate::supervisor::{Ended, Signals, Stop, Supervisor, TaskError};

/// Time between two looks for what is too old on disk.
const GIVE_UP_EVERY: Duration = Duration::from_secs(60);

/// Why the collector cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It cannot listen.
    #[error(transparent)]
    Listen(#[from] TransportError),
    /// What the export by OTLP needs is not there.
    #[error(transparent)]
    Otlp(#[from] OtlpError),
    /// What is on disk cannot be used.
    #[error(transparent)]
    History(#[from] OpenError),
    /// What is on disk cannot be read.
    #[error("history.directory {path}: {source}; name another (--history-directory), or mend the disk")]
    Read {
        /// Where.
        path: PathBuf,
        /// The error underneath.
        source: io::Error,
    },
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
    let store = Arc::new(open(&config.history)?);
    let exporter = config.otlp.as_ref().map(|otlp| Exporter::prepare(otlp, Arc::clone(&store))).transpose()?;
    let mut supervisor = Supervisor::default();
    if let Some(at) = config.metrics.listen {
        let listener = metrics::listen(at).await.map_err(|source| RunError::Metrics { at, source })?;
        let (store, stop) = (Arc::clone(&store), supervisor.stop());
        supervisor.spawn("metrics", async move { Ok(metrics::serve(listener, store, stop).await?) });
    }
    let disk = store.summary().disk.map(|disk| disk.records);
    supervisor.spawn("history", look_after(Arc::clone(&store), supervisor.stop()));
    spawn_all(&mut supervisor, listeners, store, exporter);
    let socket = config.listen.socket.as_ref().map(|socket| socket.path.display().to_string());
    let otlp = config.otlp.as_ref().map(|otlp| otlp.endpoint.to_string());
    tracing::info!(socket, tcp = ?addresses, otlp, records = config.history.records, on_disk = disk, "ready");
    supervisor.run(signals).await?;
    tracing::info!("stopped");
    Ok(())
}

/// The store, with what earlier collectors have kept.
fn open(history: &HistoryConfig) -> Result<Store, RunError> {
    let Some(directory) = &history.directory else {
        tracing::warn!(
            "records are kept in memory only, and end with this process: history.directory says where to keep them"
        );
        return Ok(Store::new(history.records));
    };
    let archive = Archive::open(directory, history.limits())?;
    rpc::open(history.records, archive).map_err(|source| RunError::Read { path: directory.clone(), source })
}

/// Removes from disk what is too old, and ends where nothing more can be kept there: the next start reads what the disk really has, and
/// agents send again what was not acknowledged.
async fn look_after(store: Arc<Store>, mut stop: Stop) -> Result<(), TaskError> {
    let (mut broken, mut again) = (store.broken(), interval(GIVE_UP_EVERY));
    loop {
        let said = tokio::select! {
            () = stop.stopped() => return Ok(()),
            said = broken.wait_for(Option::is_some) => said.ok().and_then(|said| said.clone()),
            _ = again.tick() => {
                store.give_up();
                continue;
            }
        };
        return Err(said.unwrap_or_default().into());
    }
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
