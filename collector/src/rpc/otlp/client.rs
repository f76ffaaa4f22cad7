//! Lives: collector, one conversation with the receiver.
//! Called by: `logs` and `metrics`, which have one each.
//! May touch: the network.
//! Never: waits for an answer without a bound; logs the same trouble at every try.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceRequest};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsPartialSuccess, ExportMetricsServiceRequest};
use tokio::time::timeout;
use tonic::metadata::{MetadataKey, MetadataMap, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;
use weir_transport::{ClientTls, TransportError, connect_foreign, why};

use crate::otlp::{Header, HeadersError, OtlpConfig, read};

/// Longest wait for an answer, connecting included.
pub const DEADLINE: Duration = Duration::from_secs(10);
/// Longest pause a receiver may ask for.
const MAX_PAUSE: Duration = Duration::from_secs(300);
/// Shortest time between two lines of the log about the same trouble.
const QUIET: Duration = Duration::from_secs(60);
/// Largest answer; there is next to nothing in one.
const MAX_ANSWER: usize = 64 << 10;

/// Why the export cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum OtlpError {
    /// Address or certificates.
    #[error("otlp: {0}")]
    Transport(#[from] TransportError),
    /// The file of headers.
    #[error(transparent)]
    Headers(#[from] HeadersError),
}

/// Why a request was not taken.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nobody answered, or the receiver says that it is not there for anyone: try until it is.
    Away {
        /// The receiver asks to be left alone for this long.
        pause: Option<Duration>,
    },
    /// The receiver did answer, and the same request may be tried again.
    Again {
        /// The receiver asks to be left alone for this long.
        pause: Option<Duration>,
    },
    /// The receiver will never take this request.
    Never,
}

/// How to reach the receiver.
#[derive(Clone, Debug)]
pub struct Reach {
    config: Arc<OtlpConfig>,
    tls: Option<ClientTls>,
    headers: MetadataMap,
}

impl Reach {
    /// Reads the files that the configuration names.
    ///
    /// # Errors
    /// One of them cannot be used.
    pub fn prepare(config: &OtlpConfig) -> Result<Self, OtlpError> {
        let tls = config.tls.as_ref().map(ClientTls::for_foreign).transpose()?;
        let headers = config.headers_file.as_deref().map(read).transpose()?.unwrap_or_default();
        let reach = Self { config: Arc::new(config.clone()), tls, headers: metadata(&headers) };
        reach.channel()?;
        Ok(reach)
    }

    fn channel(&self) -> Result<Channel, TransportError> {
        connect_foreign(&self.config.endpoint, self.tls.as_ref(), self.config.insecure)
    }
}

/// What reading has let through fits; should a name not, nothing is sent in its place.
fn metadata(headers: &[Header]) -> MetadataMap {
    let mut map = MetadataMap::new();
    for header in headers {
        let name = MetadataKey::from_bytes(header.name.as_bytes());
        if let (Ok(name), Ok(mut value)) = (name, MetadataValue::try_from(&header.value)) {
            value.set_sensitive(true);
            map.append(name, value);
        }
    }
    map
}

/// A conversation about one kind of thing.
pub struct Client {
    reach: Reach,
    channel: Option<Channel>,
    what: &'static str,
    /// Troubles that were logged.
    told: BTreeMap<Trouble, Told>,
}

/// Kinds of trouble, each told by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Trouble {
    Postponed,
    Refused,
    Part,
}

/// A trouble that was logged.
struct Told {
    at: Instant,
    /// Nothing was taken since.
    lasts: bool,
}

impl Client {
    /// One that has not begun. `what` is what it is about, for the log.
    pub const fn new(reach: Reach, what: &'static str) -> Self {
        Self { reach, channel: None, what, told: BTreeMap::new() }
    }

    /// Sends records, once.
    pub async fn logs(
        &mut self,
        request: ExportLogsServiceRequest,
    ) -> Result<Option<ExportLogsPartialSuccess>, Refusal> {
        let request = self.request(request);
        let answer = self.ask(|channel| async move {
            LogsServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER).export(request).await
        });
        Ok(answer.await?.partial_success)
    }

    /// Sends metrics, once.
    pub async fn metrics(
        &mut self,
        request: ExportMetricsServiceRequest,
    ) -> Result<Option<ExportMetricsPartialSuccess>, Refusal> {
        let request = self.request(request);
        let answer = self.ask(|channel| async move {
            MetricsServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER).export(request).await
        });
        Ok(answer.await?.partial_success)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        *request.metadata_mut() = self.reach.headers.clone();
        request.set_timeout(DEADLINE);
        request
    }

    async fn ask<T, F>(&mut self, call: impl FnOnce(Channel) -> F) -> Result<T, Refusal>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let channel = match self.channel.take().map_or_else(|| self.reach.channel(), Ok) {
            Ok(channel) => channel,
            Err(error) => return Err(self.refused(&Status::unavailable(error.to_string()))),
        };
        match timeout(DEADLINE, call(channel.clone())).await {
            Ok(Ok(response)) => {
                self.channel = Some(channel);
                self.taken();
                Ok(response.into_inner())
            }
            Ok(Err(status)) => {
                // A connection that failed is not used again; one on which an answer came is sound.
                let refusal = self.refused(&status);
                self.channel = (!matches!(refusal, Refusal::Away { .. })).then_some(channel);
                Err(refusal)
            }
            // The connection may lead nowhere, which nothing but silence tells.
            Err(_) => Err(self.refused(&Status::unavailable(format!("no answer within {DEADLINE:?}")))),
        }
    }

    /// The receiver has taken only a part, and why.
    pub fn partly(&mut self, refused: u64, reason: &str) {
        if self.is_news(Trouble::Part) {
            let what = self.what;
            tracing::warn!(what, refused, reason, "the OTLP receiver takes only a part; the rest is lost and counted");
        }
    }

    fn taken(&mut self) {
        if self.told.values().any(|told| told.lasts) {
            tracing::info!(what = self.what, "the OTLP receiver takes what is sent again");
        }
        self.told.values_mut().for_each(|told| told.lasts = false);
    }

    fn refused(&mut self, status: &Status) -> Refusal {
        let (refusal, reason) = (judge(status), why(status));
        let trouble = match refusal {
            Refusal::Never => Trouble::Refused,
            Refusal::Away { .. } | Refusal::Again { .. } => Trouble::Postponed,
        };
        let news = self.is_news(trouble);
        let (what, endpoint) = (self.what, &self.reach.config.endpoint);
        match (news, trouble) {
            (false, _) => {
                tracing::debug!(what, %endpoint, reason, "the OTLP receiver still does not take what is sent")
            }
            (true, Trouble::Refused | Trouble::Part) => {
                tracing::warn!(what, %endpoint, reason, "the OTLP receiver refuses what is sent; it is lost and counted");
            }
            (true, Trouble::Postponed) => {
                tracing::warn!(what, %endpoint, reason, "the OTLP receiver does not take what is sent; trying again");
            }
        }
        refusal
    }

    /// Whether a trouble should be logged: not while it lasts, and not every moment if it comes and goes.
    fn is_news(&mut self, trouble: Trouble) -> bool {
        let now = Instant::now();
        let told = self.told.get(&trouble);
        let news = told.is_none_or(|told| !told.lasts && now.duration_since(told.at) >= QUIET);
        if news {
            self.told.insert(trouble, Told { at: now, lasts: true });
        }
        news
    }
}

/// What a status means, as the protocol says. A status with a cause was made on this side: no answer came.
fn judge(status: &Status) -> Refusal {
    let delay = status.get_details_retry_info().and_then(|info| info.retry_delay);
    let pause = delay.map(|delay| delay.min(MAX_PAUSE));
    let unanswered = status.source().is_some() || status.message().starts_with("Service was not ready");
    match status.code() {
        Code::Unavailable => Refusal::Away { pause },
        Code::ResourceExhausted if pause.is_some() => Refusal::Away { pause },
        _ if unanswered => Refusal::Away { pause: None },
        Code::Cancelled | Code::DeadlineExceeded | Code::Aborted | Code::OutOfRange | Code::DataLoss => {
            Refusal::Again { pause }
        }
        Code::Ok
        | Code::Unknown
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Unimplemented
        | Code::Internal
        | Code::Unauthenticated => Refusal::Never,
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn a_status_means_what_the_protocol_says() {
        let pause = Some(Duration::from_secs(3));
        for (code, plain, asked) in [
            (Code::Unavailable, Refusal::Away { pause: None }, Refusal::Away { pause }),
            (Code::ResourceExhausted, Refusal::Never, Refusal::Away { pause }),
            (Code::Cancelled, Refusal::Again { pause: None }, Refusal::Again { pause }),
            (Code::DeadlineExceeded, Refusal::Again { pause: None }, Refusal::Again { pause }),
            (Code::Aborted, Refusal::Again { pause: None }, Refusal::Again { pause }),
            (Code::OutOfRange, Refusal::Again { pause: None }, Refusal::Again { pause }),
            (Code::DataLoss, Refusal::Again { pause: None }, Refusal::Again { pause }),
            (Code::InvalidArgument, Refusal::Never, Refusal::Never),
            (Code::Unauthenticated, Refusal::Never, Refusal::Never),
            (Code::PermissionDenied, Refusal::Never, Refusal::Never),
            (Code::Unimplemented, Refusal::Never, Refusal::Never),
            (Code::Internal, Refusal::Never, Refusal::Never),
        ] {
            assert_eq!(judge(&Status::new(code, "")), plain, "{code:?}");
            let details = |delay| ErrorDetails::with_retry_info(Some(delay));
            let status = Status::with_error_details(code, "", details(Duration::from_secs(3)));
            assert_eq!(judge(&status), asked, "{code:?} with a pause");
        }
        let endless = ErrorDetails::with_retry_info(Some(Duration::from_secs(1 << 30)));
        let status = Status::with_error_details(Code::Unavailable, "", endless);
        assert_eq!(judge(&status), Refusal::Away { pause: Some(MAX_PAUSE) });
        let broken = std::io::Error::other("the connection was reset");
        assert_eq!(judge(&Status::from_error(Box::new(broken))), Refusal::Away { pause: None });
    }
}
