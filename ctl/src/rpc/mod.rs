//! Lives: ctl.
//! Called by: verbs.
//! May touch: the agent's and the collector's API.
//! Never: lets a wire type out; answers are `view` types, errors are `Failure`s.

mod agent;
mod collector;
mod convert;
mod convert_status;
mod sets;

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::time::timeout;
use tonic::{Code, Response, Status};
use weir_transport::{Endpoint, why};

pub use agent::AgentClient;
pub use collector::{CollectorClient, ObserveQuery};
pub use sets::SetClient;

use crate::failure::Failure;

/// Longest wait for an answer.
const ANSWER: Duration = Duration::from_secs(30);

/// Waits for an answer.
async fn answer<T>(
    service: &'static str,
    endpoint: &Endpoint,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Failure> {
    answer_within(ANSWER, service, endpoint, call).await
}

/// Waits for an answer, not longer than `patience`.
async fn answer_within<T>(
    patience: Duration,
    service: &'static str,
    endpoint: &Endpoint,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Failure> {
    match timeout(patience, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(failure(service, endpoint, &status)),
        Err(_) => Err(Failure::Unreachable {
            service,
            endpoint: endpoint.to_string(),
            why: format!("no answer within {} seconds", patience.as_secs()),
        }),
    }
}

/// Tells a refusal from not getting through. A status made on this side, because the connection failed, has a source.
fn failure(service: &'static str, endpoint: &Endpoint, status: &Status) -> Failure {
    let ours = std::error::Error::source(status).is_some();
    if ours || matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled) {
        let hint = match (endpoint, hung_up(status)) {
            (Endpoint::Unix(_), true) => " (it hung up; is this user in its allowedUids?)",
            (Endpoint::Unix(_) | Endpoint::Tls { .. } | Endpoint::Plain { .. }, _) => "",
        };
        let why = format!("{}{hint}", reason(status));
        return Failure::Unreachable { service, endpoint: endpoint.to_string(), why };
    }
    let message = match status.message().is_empty() {
        true => status.code().description().to_owned(),
        false => status.message().to_owned(),
    };
    Failure::Refused(message)
}

/// The causes in words a person can act on.
fn reason(status: &Status) -> String {
    match std::error::Error::source(status) {
        // The outer layers only say that there was a transport error.
        Some(source) => why(source).trim_start_matches("transport error: ").to_owned(),
        None => status.message().to_owned(),
    }
}

/// Whether the connection was made and then closed on us, which is how a socket refuses a user.
fn hung_up(status: &Status) -> bool {
    let mut next = std::error::Error::source(status);
    while let Some(error) = next {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        if let Some(io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof) = kind {
            return true;
        }
        // Closed before our request was on its way: which of these it is depends on who was faster.
        let http = error.downcast_ref::<hyper::Error>();
        if http.is_some_and(|error| error.is_canceled() || error.is_closed() || error.is_incomplete_message()) {
            return true;
        }
        next = error.source();
    }
    false
}
