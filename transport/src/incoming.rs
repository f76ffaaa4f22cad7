//! Lives: transport.
//! Called by: `main` of a service, which hands the stream to tonic's server.
//! May touch: listening sockets.
//! Never: ends or fails because of a client; a handshake that stalls holds up nobody and is cut after a timeout.
//!
//! The tasks here are handshakes only. They belong to the stream, are at most [`MAX_HANDSHAKES`], and end with it.

use std::future::Future as _;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_stream::Stream as TokioStream;

use crate::connection::Stream;
use crate::unix::{self, SocketFile};
use crate::{Connection, Peer, ServerTls, TransportError, peer};

/// Longest time a client may take to prove who it is.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Clients that may be proving who they are at one time; more wait in the kernel's queue.
const MAX_HANDSHAKES: usize = 256;

/// Rest after `accept` failed (out of descriptors, most likely), so that it is not tried in a hot loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listener: yields connections whose peers are known and allowed. Never ends, never yields an error.
#[derive(Debug)]
pub struct Incoming {
    listener: Listener,
    pause: Option<Pin<Box<Sleep>>>,
    handshakes: JoinSet<Option<Connection>>,
}

enum Listener {
    Unix { listener: UnixListener, allowed_uids: Vec<u32>, _file: SocketFile },
    Tls { listener: TcpListener, acceptor: TlsAcceptor },
    Plain { listener: TcpListener },
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix { listener, .. } => listener.fmt(f),
            Self::Tls { listener, .. } | Self::Plain { listener } => listener.fmt(f),
        }
    }
}

/// Listens on a Unix socket for root, the own user, and `allowed_uids`; others are refused and logged. A stale socket
/// file is replaced, and the file goes when the stream is dropped. Needs a tokio runtime.
///
/// # Errors
/// The path is taken by a live listener or by something that is no socket, or cannot be used.
pub fn unix_listener(path: &Path, allowed_uids: &[u32]) -> Result<Incoming, TransportError> {
    let (listener, file) = unix::bind(path, allowed_uids)?;
    Ok(Incoming::new(Listener::Unix { listener, allowed_uids: allowed_uids.to_vec(), _file: file }))
}

/// Listens on a TCP port with mutual TLS 1.3. Needs a tokio runtime.
///
/// # Errors
/// The address cannot be listened on.
pub fn tls_listener(address: SocketAddr, tls: &ServerTls) -> Result<Incoming, TransportError> {
    let listener = bind_tcp(address)?;
    Ok(Incoming::new(Listener::Tls { listener, acceptor: TlsAcceptor::from(tls.config.clone()) }))
}

/// Listens on a TCP port without any protection, and warns about it. Needs a tokio runtime.
///
/// # Errors
/// The address cannot be listened on.
pub fn plain_listener(address: SocketAddr) -> Result<Incoming, TransportError> {
    let listener = bind_tcp(address)?;
    tracing::warn!(%address, "insecure: listening without TLS, anyone who reaches this port may do anything");
    Ok(Incoming::new(Listener::Plain { listener }))
}

fn bind_tcp(address: SocketAddr) -> Result<TcpListener, TransportError> {
    let open = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    open().map_err(|source| TransportError::Listen { address: address.to_string(), source })
}

impl Incoming {
    fn new(listener: Listener) -> Self {
        Self { listener, pause: None, handshakes: JoinSet::new() }
    }

    /// The TCP address in use (with the port the kernel chose, if 0 was asked for); `None` for a Unix socket.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.listener {
            Listener::Unix { .. } => None,
            Listener::Tls { listener, .. } | Listener::Plain { listener } => listener.local_addr().ok(),
        }
    }

    /// Takes one client from the kernel: ready at once, or on its way through a handshake, or refused.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Connection>>> {
        match &self.listener {
            Listener::Unix { listener, allowed_uids, .. } => {
                let (stream, _) = ready!(listener.poll_accept(cx))?;
                Poll::Ready(Ok(admit(stream, allowed_uids)))
            }
            Listener::Tls { listener, acceptor } => {
                let (stream, address) = ready!(listener.poll_accept(cx))?;
                self.handshakes.spawn(handshake(acceptor.clone(), stream, address));
                Poll::Ready(Ok(None))
            }
            Listener::Plain { listener } => {
                let (stream, address) = ready!(listener.poll_accept(cx))?;
                stream.set_nodelay(true)?;
                Poll::Ready(Ok(Some(Connection::new(Peer::Plain { address }, Stream::Plain(stream)))))
            }
        }
    }

    /// Pending while resting after a failed accept.
    fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(pause) = self.pause.as_mut() {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        Poll::Ready(())
    }
}

impl TokioStream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            while let Poll::Ready(Some(done)) = self.handshakes.poll_join_next(cx) {
                if let Ok(Some(connection)) = done {
                    return Poll::Ready(Some(Ok(connection)));
                }
            }
            if self.handshakes.len() >= MAX_HANDSHAKES {
                return Poll::Pending;
            }
            ready!(self.poll_pause(cx));
            match ready!(self.poll_accept(cx)) {
                Ok(Some(connection)) => return Poll::Ready(Some(Ok(connection))),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    self.pause = Some(Box::pin(sleep(ACCEPT_PAUSE)));
                }
            }
        }
    }
}

fn admit(stream: UnixStream, allowed_uids: &[u32]) -> Option<Connection> {
    let credentials = match stream.peer_cred() {
        Ok(credentials) => credentials,
        Err(error) => {
            tracing::warn!(%error, "refused a local connection: the kernel does not say who it is");
            return None;
        }
    };
    let (uid, pid) = (credentials.uid(), credentials.pid().unwrap_or(0));
    if !unix::is_allowed(uid, allowed_uids) {
        tracing::warn!(uid, pid, "refused a local connection: this user is not in allowedUids");
        return None;
    }
    Some(Connection::new(Peer::Unix { uid, pid }, Stream::Unix(stream)))
}

async fn handshake(acceptor: TlsAcceptor, stream: TcpStream, address: SocketAddr) -> Option<Connection> {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%address, %error, "TCP_NODELAY not set");
    }
    match timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
            let uris = certificates.first().map(peer::uri_names).unwrap_or_default();
            Some(Connection::new(Peer::Tls { address, uris }, Stream::Tls(Box::new(stream))))
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "refused a network client: TLS handshake failed");
            tracing::debug!(%address, "address of the refused client");
            None
        }
        Err(_) => {
            tracing::warn!("refused a network client: TLS handshake took too long");
            tracing::debug!(%address, "address of the refused client");
            None
        }
    }
}
