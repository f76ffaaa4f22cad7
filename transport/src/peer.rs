//! Lives: transport.
//! Called by: listeners, which make one per connection, and `rpc` modules, which find it in a request's extensions.
//! May touch: nothing.
//! Never: trusts what the peer says about itself; everything here comes from the kernel or a verified certificate.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;

/// Begin of the URI that names a node in its certificate: `spiffe://weir/node/NAME`.
const NODE_URI: &str = "spiffe://weir/node/";

/// Who is at the other end of an accepted connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A process of this host, as the kernel names it.
    Unix {
        /// User id.
        uid: u32,
        /// Process id; it may have ended since.
        pid: i32,
    },
    /// A host with a certificate one of our authorities signed.
    Tls {
        /// Its address.
        address: SocketAddr,
        /// URI names of its certificate.
        uris: Arc<[String]>,
    },
    /// Anyone.
    Plain {
        /// Its address.
        address: SocketAddr,
    },
}

impl Peer {
    /// The node the peer's certificate names with `spiffe://weir/node/NAME`; `None` without TLS or without such a name.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        match self {
            Self::Tls { uris, .. } => uris.iter().find_map(|uri| uri.strip_prefix(NODE_URI)),
            Self::Unix { .. } | Self::Plain { .. } => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix { uid, pid } => write!(f, "uid {uid}, pid {pid}"),
            Self::Tls { address, uris } => write!(f, "{address} {}", uris.join(" ")),
            Self::Plain { address } => write!(f, "{address}, not authenticated"),
        }
    }
}

/// URI names of a certificate that has already been verified.
pub(crate) fn uri_names(certificate: &CertificateDer<'_>) -> Arc<[String]> {
    match webpki::EndEntityCert::try_from(certificate) {
        Ok(parsed) => parsed.valid_uri_names().map(str::to_owned).collect(),
        Err(_) => Arc::from([]),
    }
}
