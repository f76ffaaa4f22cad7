//! Lives: agent, collector and ctl.
//! Called by: their `main` (configuration, listeners) and `rpc` modules (channels, the peer of a request).
//! May touch: sockets, certificate files.
//! Never: knows a message of `weir.v1`; lets a bad client stop a listener.
//!
//! A listener is an [`Incoming`] stream for `tonic::transport::Server::serve_with_incoming_shutdown`; the [`Peer`] of
//! each request is found in its extensions. A client channel comes from [`connect`].

#![forbid(unsafe_code)]

mod config;
mod connection;
mod dial;
mod endpoint;
mod error;
mod incoming;
mod listeners;
mod peer;
mod tls;
mod unix;
mod validity;

pub use config::{
    ClientTlsFiles, ConnectConfig, ForeignTlsFiles, ListenConfig, Security, SocketConfig, TcpConfig, TlsFiles,
};
pub use connection::Connection;
pub use dial::{connect, connect_foreign, why};
pub use endpoint::Endpoint;
pub use error::TransportError;
pub use incoming::{HANDSHAKE_TIMEOUT, Incoming, plain_listener, tls_listener, unix_listener};
pub use listeners::{Listeners, server};
pub use peer::Peer;
pub use tls::{ClientTls, ServerTls};
pub use unix::is_allowed;
pub use validity::{Validity, validities};
