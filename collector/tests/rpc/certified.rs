//! Lives: collector's tests.
//! Called by: cargo test.
//! May touch: loopback, a temporary directory.
//! Never: uses a certificate from anywhere else.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use tonic::Code;
use weir_collector::rpc::{Store, serve};
use weir_collector::supervisor::Supervisor;
use weir_proto::v1::Batch;
use weir_transport::{ClientTls, Endpoint, ListenConfig, Listeners, TcpConfig, TlsFiles, connect};

use crate::world::{Agent, batch};

fn write_certificates(directory: &Path) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    std::fs::write(directory.join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(params, key);
    for (name, uri) in [
        ("server", None),
        ("node-1", Some("spiffe://weir/node/node-1")),
        ("other", Some("spiffe://weir/tool/backup")),
        ("nameless", None),
    ] {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.subject_alt_names.extend(uri.map(|uri| SanType::URI(uri.try_into().unwrap())));
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        std::fs::write(directory.join(format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(directory.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

fn start(directory: &Path) -> (Supervisor, SocketAddr) {
    let file = |name: &str| directory.join(name);
    let tls = Some(TlsFiles { certificate: file("server.pem"), key: file("server.key"), client_ca: file("ca.pem") });
    let tcp = Some(TcpConfig { listen: "127.0.0.1:0".parse().unwrap(), tls, insecure: false });
    let listeners = Listeners::open(&ListenConfig { socket: None, tcp }).unwrap();
    let address = listeners.local_addrs()[0];
    let mut supervisor = Supervisor::default();
    let stop = supervisor.stop();
    supervisor.spawn("server", async move { Ok(serve(listeners, Arc::new(Store::new(10)), None, stop).await?) });
    (supervisor, address)
}

#[tokio::test]
async fn a_certificate_that_names_a_node_speaks_for_no_other() {
    let directory = tempfile::tempdir().unwrap();
    write_certificates(directory.path());
    let (_supervisor, address) = start(directory.path());
    for (certificate, node, served) in [
        ("node-1", "node-1", true),
        ("node-1", "node-2", false),
        ("node-1", "node-10", false),
        ("other", "node-2", true),
        ("nameless", "node-2", true),
    ] {
        let file = |end: &str| directory.path().join(format!("{certificate}.{end}"));
        let ca = directory.path().join("ca.pem");
        let tls = ClientTls::load(&file("pem"), &file("key"), &ca, None).unwrap();
        let endpoint = Endpoint::Tls { host: "127.0.0.1".to_owned(), port: address.port() };
        let mut agent = Agent::connect(connect(&endpoint, Some(&tls), false).unwrap()).await.unwrap();
        let boot_id = format!("{certificate}-{node}");
        let outcome = agent.send(Batch { node: node.to_owned(), boot_id, ..batch(1, [1]) }).await;
        assert_eq!(outcome.is_ok(), served, "{certificate} for {node}: {outcome:?}");
        if let Err(refused) = outcome {
            assert_eq!(refused.code(), Code::PermissionDenied);
        }
    }
}
