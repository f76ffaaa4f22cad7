//! Lives: ctl's tests.
//! Called by: cargo test.
//! May touch: loopback, a world of its own.
//! Never: uses a certificate from anywhere else.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::task::JoinSet;
use weir_proto::v1::policy_service_server::PolicyServiceServer;
use weir_transport::{ServerTls, server, tls_listener};

use crate::agent::FakeAgent;
use crate::world::World;

/// `ca.pem`, and a certificate and key for each of two names; "stranger" is signed by itself.
fn write_certificates(directory: &Path) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    std::fs::write(directory.join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(params, key);
    for name in ["good", "stranger"] {
        let params = CertificateParams::new(vec!["agent.example".to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = match name {
            "good" => params.signed_by(&key, &issuer).unwrap(),
            _ => params.self_signed(&key).unwrap(),
        };
        std::fs::write(directory.join(format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(directory.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

#[tokio::test]
async fn a_certificate_opens_the_network_port_and_nothing_else_does() {
    let world = World::empty();
    let directory = world.directory.path();
    write_certificates(directory);
    let file = |name: &str| directory.join(name);
    let tls = ServerTls::load(&file("good.pem"), &file("good.key"), &file("ca.pem")).unwrap();
    let incoming = tls_listener("127.0.0.1:0".parse().unwrap(), &tls).unwrap();
    let port = incoming.local_addr().unwrap().port();
    let mut servers = JoinSet::new();
    let service = PolicyServiceServer::new(FakeAgent);
    servers.spawn(async move { server().add_service(service).serve_with_incoming(incoming).await.unwrap() });
    let shown = directory.display();
    for (certificate, name, code) in
        [("good", "agent.example", 0), ("stranger", "agent.example", 3), ("good", "other.example", 3)]
    {
        let line = format!(
            "--agent https://127.0.0.1:{port} --tls-certificate {shown}/{certificate}.pem --tls-key \
             {shown}/{certificate}.key --tls-ca {shown}/ca.pem --tls-server-name {name} get policies"
        );
        let seen = world.run(&line).await;
        assert_eq!(seen.code, Some(code), "{certificate} {name}: {seen:?}");
    }
}
