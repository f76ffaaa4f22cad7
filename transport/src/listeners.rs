//! Lives: transport.
//! Called by: `main` of a service that listens where its configuration says.
//! May touch: what the single listeners touch.
//! Never: opens some of the listeners and leaves the others out.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio_stream::Stream;

use crate::{
    Connection, Incoming, ListenConfig, ServerTls, TransportError, plain_listener, tls_listener, unix_listener,
};

/// Every listener of a [`ListenConfig`] as one stream.
#[derive(Debug)]
pub struct Listeners {
    all: Vec<Incoming>,
}

impl Listeners {
    /// Opens all of them, or none. Needs a tokio runtime.
    ///
    /// # Errors
    /// A certificate file that cannot be used or an address that cannot be listened on.
    pub fn open(config: &ListenConfig) -> Result<Self, TransportError> {
        let mut all = Vec::new();
        if let Some(socket) = &config.socket {
            all.push(unix_listener(&socket.path, &socket.allowed_uids)?);
        }
        if let Some(tcp) = &config.tcp {
            all.push(match (&tcp.tls, tcp.insecure) {
                (Some(files), _) => tls_listener(tcp.listen, &ServerTls::from_files(files)?)?,
                (None, true) => plain_listener(tcp.listen)?,
                (None, false) => return Err(TransportError::NoTls { address: tcp.listen.to_string() }),
            });
        }
        Ok(Self { all })
    }

    /// TCP addresses in use.
    #[must_use]
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.all.iter().filter_map(Incoming::local_addr).collect()
    }
}

impl Stream for Listeners {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let ready = self.all.iter_mut().find_map(|incoming| match Pin::new(incoming).poll_next(cx) {
            Poll::Ready(item) => Some(item),
            Poll::Pending => None,
        });
        match ready {
            Some(item) => {
                // A busy listener must not starve the other.
                self.all.rotate_left(1);
                Poll::Ready(item)
            }
            None => Poll::Pending,
        }
    }
}

/// A tonic server with the limits every Weir service uses: dead peers are noticed within half a minute, and one
/// connection cannot open streams without end.
#[must_use]
pub fn server() -> tonic::transport::Server {
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(15)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .max_concurrent_streams(Some(128))
}
