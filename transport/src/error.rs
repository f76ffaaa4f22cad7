//! Lives: transport.
//! Called by: everything in this crate that can fail.
//! May touch: nothing.
//! Never: holds a message alone; each variant names the object and what to look at.

use std::io;
use std::path::PathBuf;

/// Why a listener could not be opened or a connection not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The address of a service cannot be read.
    #[error("address \"{text}\": {problem}; write unix:/PATH, https://HOST:PORT or http://HOST:PORT")]
    Endpoint {
        /// The address as written.
        text: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A certificate or key file cannot be read, or is not PEM.
    #[error("{what} file {}: {source}", path.display())]
    Pem {
        /// What the file should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The error underneath.
        source: rustls::pki_types::pem::Error,
    },
    /// A file of certificates holds none.
    #[error("{what} file {} holds no certificate", path.display())]
    NoCertificate {
        /// What the file should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// A certificate or key is not usable.
    #[error("{what} file {}: {source}", path.display())]
    Tls {
        /// What the file holds.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The error underneath.
        source: rustls::Error,
    },
    /// The certificate authorities for clients cannot be used.
    #[error("client CA file {}: {source}", path.display())]
    Verifier {
        /// The file.
        path: PathBuf,
        /// The error underneath.
        source: rustls::server::VerifierBuilderError,
    },
    /// The name expected in the server's certificate is neither a DNS name nor an IP address.
    #[error("server name \"{name}\" is neither a DNS name nor an IP address")]
    ServerName {
        /// The name.
        name: String,
    },
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address or path.
        address: String,
        /// The error underneath.
        source: io::Error,
    },
    /// Another process answers on the socket.
    #[error("cannot listen on {}: another process is listening there; stop it or choose another socket", path.display())]
    Live {
        /// The socket.
        path: PathBuf,
    },
    /// The path of the socket is taken by something else.
    #[error("cannot listen on {}: the path exists and is not a socket; it is left alone", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// TLS is needed and no certificates were given.
    #[error("{address} needs tls (certificate, key and CA files)")]
    NoTls {
        /// The address.
        address: String,
    },
    /// Plain TCP without the word that says so.
    #[error("{address} is not encrypted; use https:// with tls, or say insecure if that is truly meant")]
    Insecure {
        /// The address.
        address: String,
    },
}
