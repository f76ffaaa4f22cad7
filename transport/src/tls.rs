//! Lives: transport.
//! Called by: listeners and `connect`, once, with file names from configuration.
//! May touch: certificate and key files.
//! Never: accepts TLS 1.2, a peer without a certificate, or a resumed session (a certificate is checked every time).

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::{ClientTlsFiles, ForeignTlsFiles, TlsFiles, TransportError};

/// HTTP/2, which is all gRPC speaks.
const ALPN: &[u8] = b"h2";

/// What a server needs to accept connections. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ServerTls {
    pub(crate) config: Arc<ServerConfig>,
}

/// What a client needs to open connections. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ClientTls {
    pub(crate) config: Arc<ClientConfig>,
    pub(crate) server_name: Option<ServerName<'static>>,
}

impl ServerTls {
    /// Reads PEM files: the server's certificate chain, its key, and the authorities of its clients.
    ///
    /// # Errors
    /// A file that is missing, not PEM, or not usable; the error names it.
    pub fn load(certificate: &Path, key: &Path, client_ca: &Path) -> Result<Self, TransportError> {
        let chain = certificates(certificate, "certificate")?;
        let private = private_key(key)?;
        let roots = roots(client_ca, "client CA")?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|source| TransportError::Verifier { path: client_ca.to_owned(), source })?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .and_then(|builder| builder.with_client_cert_verifier(verifier).with_single_cert(chain, private))
            .map_err(|source| TransportError::Tls { what: "certificate", path: certificate.to_owned(), source })?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self { config: Arc::new(config) })
    }

    /// [`ServerTls::load`] with the names from a configuration section.
    ///
    /// # Errors
    /// As [`ServerTls::load`].
    pub fn from_files(files: &TlsFiles) -> Result<Self, TransportError> {
        Self::load(&files.certificate, &files.key, &files.client_ca)
    }
}

impl ClientTls {
    /// Reads PEM files: the client's certificate chain, its key, and the authorities of the server. `server_name` is the
    /// name expected in the server's certificate; `None` means the host of the address.
    ///
    /// # Errors
    /// A file that is missing, not PEM, or not usable; the error names it.
    pub fn load(certificate: &Path, key: &Path, ca: &Path, server_name: Option<&str>) -> Result<Self, TransportError> {
        Self::new(Some((certificate, key)), ca, server_name)
    }

    fn new(own: Option<(&Path, &Path)>, ca: &Path, server_name: Option<&str>) -> Result<Self, TransportError> {
        let roots = roots(ca, "CA")?;
        let path = own.map_or(ca, |(certificate, _)| certificate);
        let fault = |source| TransportError::Tls { what: "certificate", path: path.to_owned(), source };
        let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]);
        let builder = builder.map_err(fault)?.with_root_certificates(roots);
        let mut config = match own {
            Some((certificate, key)) => {
                let (chain, private) = (certificates(certificate, "certificate")?, private_key(key)?);
                builder.with_client_auth_cert(chain, private).map_err(fault)?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        let server_name = server_name.map(parse_name).transpose()?;
        Ok(Self { config: Arc::new(config), server_name })
    }

    /// [`ClientTls::load`] with the names from a configuration section.
    ///
    /// # Errors
    /// As [`ClientTls::load`].
    pub fn from_files(files: &ClientTlsFiles) -> Result<Self, TransportError> {
        Self::load(&files.certificate, &files.key, &files.ca, files.server_name.as_deref())
    }

    /// For a service that is not Weir's: shows a certificate only where one is named.
    ///
    /// # Errors
    /// As [`ClientTls::load`].
    pub fn for_foreign(files: &ForeignTlsFiles) -> Result<Self, TransportError> {
        let own = files.certificate.as_deref().zip(files.key.as_deref());
        Self::new(own, &files.ca, files.server_name.as_deref())
    }
}

/// A DNS name or an IP address as certificates have them.
pub(crate) fn parse_name(name: &str) -> Result<ServerName<'static>, TransportError> {
    ServerName::try_from(name.to_owned()).map_err(|_| TransportError::ServerName { name: name.to_owned() })
}

/// Named rather than taken from the process-wide default, which another library could have set.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

pub(crate) fn certificates(path: &Path, what: &'static str) -> Result<Vec<CertificateDer<'static>>, TransportError> {
    let pem = |source: PemError| TransportError::Pem { what, path: path.to_owned(), source };
    let chain: Vec<_> = CertificateDer::pem_file_iter(path).map_err(pem)?.collect::<Result<_, _>>().map_err(pem)?;
    match chain.is_empty() {
        true => Err(TransportError::NoCertificate { what, path: path.to_owned() }),
        false => Ok(chain),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TransportError> {
    PrivateKeyDer::from_pem_file(path).map_err(|source| TransportError::Pem {
        what: "key",
        path: path.to_owned(),
        source,
    })
}

fn roots(path: &Path, what: &'static str) -> Result<RootCertStore, TransportError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path, what)? {
        store.add(certificate).map_err(|source| TransportError::Tls { what, path: path.to_owned(), source })?;
    }
    Ok(store)
}
