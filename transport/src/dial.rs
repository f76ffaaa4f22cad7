//! Lives: transport.
//! Called by: `rpc` modules that speak to another service.
//! May touch: the network, when the channel is first used.
//! Never: falls back to something less safe than was asked for.

use std::error::Error;
use std::io;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint as TonicEndpoint, Uri};
use tower::service_fn;

use crate::{ClientTls, Endpoint, TransportError, tls};

/// Longest time for TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A byte stream of whatever kind.
trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// A channel to a service. It is lazy and reconnects: nothing is opened until the first call, a call made while the
/// service is away fails with `Unavailable` (see [`why`] for the cause), and the next call tries again. Needs a tokio
/// runtime. `tls` is used for `https` only.
///
/// # Errors
/// `https` without `tls`, `http` without `insecure`, or a host no certificate could name.
pub fn connect(endpoint: &Endpoint, tls: Option<&ClientTls>, insecure: bool) -> Result<Channel, TransportError> {
    let pings = ours()
        .http2_keep_alive_interval(Duration::from_secs(15))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true);
    Ok(lazily(&pings, Dial::new(endpoint, tls, insecure)?))
}

/// [`connect`] to a service that is not Weir's. Requests name its host, which proxies go by. Nothing is sent while nothing
/// is asked, because common servers end connections that ping them: a peer that vanished shows only by a call that is not
/// answered, and the caller should make a new channel then.
///
/// # Errors
/// As [`connect`].
pub fn connect_foreign(
    endpoint: &Endpoint,
    tls: Option<&ClientTls>,
    insecure: bool,
) -> Result<Channel, TransportError> {
    let dial = Dial::new(endpoint, tls, insecure)?;
    let origin = match endpoint {
        Endpoint::Unix(_) => None,
        Endpoint::Tls { .. } | Endpoint::Plain { .. } => endpoint.to_string().parse::<Uri>().ok(),
    };
    let named = origin.into_iter().fold(ours(), TonicEndpoint::origin);
    Ok(lazily(&named, dial))
}

/// The address in the URI is never dialled: the connector knows where to go.
fn ours() -> TonicEndpoint {
    TonicEndpoint::from_static("http://weir.invalid")
        .user_agent(concat!("weir/", env!("CARGO_PKG_VERSION")))
        .unwrap_or_else(|_| TonicEndpoint::from_static("http://weir.invalid"))
}

fn lazily(endpoint: &TonicEndpoint, dial: Dial) -> Channel {
    endpoint.connect_with_connector_lazy(service_fn(move |_| {
        let dial = dial.clone();
        async move { dial.open().await.map(TokioIo::new) }
    }))
}

/// The causes of an error, outermost first, without repetitions: "transport error" alone helps nobody.
#[must_use]
pub fn why(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        next = cause.source();
    }
    text
}

type Security = Option<(TlsConnector, rustls::pki_types::ServerName<'static>)>;

fn security(endpoint: &Endpoint, tls: Option<&ClientTls>) -> Result<Security, TransportError> {
    match (endpoint, tls) {
        (Endpoint::Tls { host, .. }, Some(tls)) => {
            let name = tls.server_name.clone().map_or_else(|| tls::parse_name(host), Ok)?;
            Ok(Some((TlsConnector::from(tls.config.clone()), name)))
        }
        (Endpoint::Unix(_) | Endpoint::Plain { .. } | Endpoint::Tls { .. }, _) => Ok(None),
    }
}

#[derive(Clone)]
struct Dial {
    endpoint: Endpoint,
    security: Security,
}

impl Dial {
    fn new(endpoint: &Endpoint, tls: Option<&ClientTls>, insecure: bool) -> Result<Self, TransportError> {
        match (endpoint, tls) {
            (Endpoint::Tls { .. }, None) => return Err(TransportError::NoTls { address: endpoint.to_string() }),
            (Endpoint::Plain { .. }, _) if !insecure => {
                return Err(TransportError::Insecure { address: endpoint.to_string() });
            }
            (Endpoint::Unix(_) | Endpoint::Tls { .. } | Endpoint::Plain { .. }, _) => {}
        }
        Ok(Self { endpoint: endpoint.clone(), security: security(endpoint, tls)? })
    }

    async fn open(&self) -> io::Result<Box<dyn Wire>> {
        let timed_out = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {CONNECT_TIMEOUT:?}"));
        timeout(CONNECT_TIMEOUT, self.open_patiently()).await.map_err(timed_out)?
    }

    async fn open_patiently(&self) -> io::Result<Box<dyn Wire>> {
        let (host, port) = match &self.endpoint {
            Endpoint::Unix(path) => return Ok(Box::new(UnixStream::connect(path).await?)),
            Endpoint::Tls { host, port } | Endpoint::Plain { host, port } => (host.as_str(), *port),
        };
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        match &self.security {
            Some((connector, name)) => Ok(Box::new(connector.connect(name.clone(), stream).await?)),
            None => Ok(Box::new(stream)),
        }
    }
}
