//! Lives: weir-agent, its page for Prometheus and for probes.
//! Called by: `runtime`, when a port for it is configured.
//! May touch: a listener of its own, the control handle, what status shows; all of it read only.
//! Never: changes anything; shows a secret or an address of somebody's traffic; waits longer than [`PATIENCE`] for control.
//!
//! | path | answer |
//! |---|---|
//! | `/metrics` | every family of `families`, as `OpenMetrics` text |
//! | `/livez` | 200 while control answers |
//! | `/readyz` | 200 while the policy is in the kernel and everything that exists is attached, else 503 and why; `?verbose`: a line per workload and interface too |

#[cfg(test)]
mod deploy_tests;
mod families;
mod process;
#[cfg(test)]
mod tests;
mod text;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{RawQuery, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use families::Now;
use tokio::net::TcpListener;

use crate::{
    control::{actor::Handle, view::Status},
    rpc::{Info, ready},
    runtime::Stop,
};

/// Longest time control may take to answer: below the ten seconds that Prometheus waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a request needs.
#[derive(Clone)]
struct Source {
    control: Handle,
    info: Arc<Info>,
}

/// Opens the port. Needs the runtime it is to be served on.
///
/// # Errors
/// It is taken, or not an address of this host.
pub fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(at)?;
    listener.set_nonblocking(true)?;
    if !at.ip().is_loopback() {
        tracing::warn!(listen = %at, "metrics are served without TLS to whoever reaches the port");
    }
    TcpListener::from_std(listener)
}

/// Serves until stopped.
///
/// # Errors
/// The listener broke down.
pub async fn serve(listener: TcpListener, control: Handle, info: Arc<Info>, stop: Stop) -> io::Result<()> {
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .with_state(Source { control, info });
    // Nobody waits for a scrape under way: the next one tells the same.
    tokio::select! {
        served = axum::serve(listener, routes) => served,
        () = stop.wait() => Ok(()),
    }
}

async fn metrics(State(source): State<Source>) -> Response {
    let status = match source.status().await {
        Ok(status) => status,
        Err(why) => return unavailable(&why),
    };
    match text::page(&Now::of(&status, &source.info)) {
        Ok(page) => ([(CONTENT_TYPE, text::MEDIA_TYPE)], page).into_response(),
        Err(error) => unavailable(&error.to_string()),
    }
}

async fn live(State(source): State<Source>) -> Response {
    source.status().await.map_or_else(|why| unavailable(&why), |_| "ok\n".into_response())
}

async fn ready(State(source): State<Source>, RawQuery(query): RawQuery) -> Response {
    let status = match source.status().await {
        Ok(status) => status,
        Err(why) => return unavailable(&why),
    };
    let covered = match query.as_deref() {
        Some("verbose") => ready::covered(&status),
        _ => String::new(),
    };
    if status.observed.enforcing {
        format!("{covered}ok\n").into_response()
    } else {
        unavailable(&format!("{covered}{}", ready::missing(&status)))
    }
}

fn unavailable(why: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response()
}

impl Source {
    async fn status(&self) -> Result<Status, String> {
        match tokio::time::timeout(PATIENCE, self.control.status()).await {
            Ok(status) => status.map_err(|error| error.to_string()),
            Err(_) => Err(format!("control did not answer within {PATIENCE:?}")),
        }
    }
}
