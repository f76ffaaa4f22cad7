//! Lives: transport's tests.
//! Called by: the tests of this folder.
//! May touch: a temporary directory, loopback.
//! Never: leaves a file behind.
#![allow(dead_code, missing_docs, reason = "each test file uses its own part")]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType, date_time_ymd};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio_stream::Stream;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::{Request, Response, Status};
use tower::util::MapRequestLayer;
use weir_proto::v1::flow_query_client::FlowQueryClient;
use weir_proto::v1::flow_query_server::{FlowQuery, FlowQueryServer};
use weir_proto::v1::{CollectorStatusRequest, CollectorStatusResponse, ObserveRequest, ObserveResponse};
use weir_transport::{Incoming, Peer};

/// Certificate authorities and the files they signed.
pub struct Pki {
    pub directory: tempfile::TempDir,
}

/// What a certificate should be like.
#[derive(Clone, Copy, Default)]
pub struct Wish<'a> {
    pub uri: Option<&'a str>,
    pub expired: bool,
    /// Signed by the authority that nobody trusts.
    pub stranger: bool,
    pub self_signed: bool,
}

pub struct Files {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    Authority { issuer: Issuer::new(params, key), pem }
}

impl Pki {
    /// Two authorities; `ca.pem` is the one that is trusted. `wishes` become `NAME.pem` and `NAME.key`.
    pub fn new(wishes: &[(&str, Wish<'_>)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (trusted, stranger) = (authority("weir"), authority("stranger"));
        std::fs::write(directory.path().join("ca.pem"), &trusted.pem).unwrap();
        let pki = Self { directory };
        for (name, wish) in wishes {
            pki.issue(name, wish, if wish.stranger { &stranger } else { &trusted });
        }
        pki
    }

    fn issue(&self, name: &str, wish: &Wish<'_>, signer: &Authority) {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        if let Some(uri) = wish.uri {
            params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        }
        if wish.expired {
            params.not_after = date_time_ymd(2020, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = match wish.self_signed {
            true => params.self_signed(&key).unwrap(),
            false => params.signed_by(&key, &signer.issuer).unwrap(),
        };
        let files = self.files(name);
        std::fs::write(files.certificate, certificate.pem()).unwrap();
        std::fs::write(files.key, key.serialize_pem()).unwrap();
    }

    pub fn files(&self, name: &str) -> Files {
        let path = |end: &str| self.directory.path().join(format!("{name}.{end}"));
        Files { certificate: path("pem"), key: path("key") }
    }

    pub fn ca(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// A rustls client without any of our rules.
    pub fn raw_client(&self, name: Option<&str>, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.ca()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        Arc::new(match name.map(|name| self.files(name)) {
            Some(files) => {
                let chain = vec![CertificateDer::from_pem_file(files.certificate).unwrap()];
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(files.key).unwrap()).unwrap()
            }
            None => builder.with_no_client_auth(),
        })
    }
}

impl Pki {
    /// A rustls server that asks nobody for a certificate.
    pub fn raw_server(&self, name: &str) -> Arc<ServerConfig> {
        let files = self.files(name);
        let chain = vec![CertificateDer::from_pem_file(files.certificate).unwrap()];
        let key = PrivateKeyDer::from_pem_file(files.key).unwrap();
        let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let mut config = builder.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config)
    }
}

/// Hosts that requests named.
#[derive(Clone, Default)]
pub struct Hosts(Arc<Mutex<Vec<String>>>);

impl Hosts {
    pub fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// Answers with who asked.
struct WhoAmI;

#[tonic::async_trait]
impl FlowQuery for WhoAmI {
    type ObserveStream = std::pin::Pin<Box<dyn Stream<Item = Result<ObserveResponse, Status>> + Send>>;

    async fn observe(&self, _: Request<ObserveRequest>) -> Result<Response<Self::ObserveStream>, Status> {
        Err(Status::unimplemented("not part of this test"))
    }

    async fn collector_status(
        &self,
        request: Request<CollectorStatusRequest>,
    ) -> Result<Response<CollectorStatusResponse>, Status> {
        let peer = request.extensions().get::<Peer>().ok_or_else(|| Status::internal("no peer"))?;
        let version = peer.node().map_or_else(|| peer.to_string(), str::to_owned);
        Ok(Response::new(CollectorStatusResponse { version, ..CollectorStatusResponse::default() }))
    }
}

/// A server that lives as long as the value.
pub struct Served(tokio::task::JoinSet<()>);

pub fn serve(incoming: Incoming) -> Served {
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        let server = weir_transport::server().add_service(FlowQueryServer::new(WhoAmI));
        server.serve_with_incoming(incoming).await.unwrap();
    });
    Served(tasks)
}

/// A server that notes the host each request names.
pub fn serve_noting(incoming: Incoming, hosts: &Hosts) -> Served {
    let mut tasks = tokio::task::JoinSet::new();
    let hosts = hosts.clone();
    tasks.spawn(async move {
        let note = MapRequestLayer::new(move |request: http::Request<Body>| {
            hosts.0.lock().unwrap().extend(request.uri().authority().map(ToString::to_string));
            request
        });
        let server = weir_transport::server().layer(note).add_service(FlowQueryServer::new(WhoAmI));
        server.serve_with_incoming(incoming).await.unwrap();
    });
    Served(tasks)
}

/// Asks the server who we are.
pub async fn ask(channel: tonic::transport::Channel) -> Result<String, String> {
    let answer = FlowQueryClient::new(channel).collector_status(CollectorStatusRequest {}).await;
    answer.map(|answer| answer.into_inner().version).map_err(|status| weir_transport::why(&status))
}

/// Lets other users reach into the directory.
pub fn open_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}
