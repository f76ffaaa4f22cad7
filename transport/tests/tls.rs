//! Lives: transport's tests.
//! Called by: cargo test.
//! May touch: loopback, a temporary directory.
//! Never: counts a refusal as proven unless the same listener serves a good client afterwards.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of a test fail by panicking")]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use support::{Hosts, Pki, Served, Wish, ask, serve, serve_noting};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use weir_transport::{
    ClientTls, Endpoint, ForeignTlsFiles, ServerTls, connect, connect_foreign, plain_listener, tls_listener,
};

const NODE: &str = "spiffe://weir/node/node-1";

fn pki() -> Pki {
    let node = Wish { uri: Some(NODE), ..Wish::default() };
    Pki::new(&[
        ("server", Wish::default()),
        ("expired-server", Wish { expired: true, ..Wish::default() }),
        ("strange-server", Wish { stranger: true, ..Wish::default() }),
        ("node", node),
        ("nameless", Wish::default()),
        ("expired", Wish { expired: true, ..node }),
        ("strange", Wish { stranger: true, ..node }),
        ("self-signed", Wish { self_signed: true, ..node }),
    ])
}

fn start(pki: &Pki, server: &str) -> (SocketAddr, Served) {
    let files = pki.files(server);
    let tls = ServerTls::load(&files.certificate, &files.key, &pki.ca()).unwrap();
    let incoming = tls_listener("127.0.0.1:0".parse().unwrap(), &tls).unwrap();
    (incoming.local_addr().unwrap(), serve(incoming))
}

async fn ask_as(pki: &Pki, name: &str, address: SocketAddr) -> Result<String, String> {
    let files = pki.files(name);
    let tls = ClientTls::load(&files.certificate, &files.key, &pki.ca(), None).unwrap();
    let endpoint = Endpoint::Tls { host: address.ip().to_string(), port: address.port() };
    ask(connect(&endpoint, Some(&tls), false).unwrap()).await
}

/// The error a raw client meets in the handshake or, as TLS 1.3 has it, when it first reads.
async fn refusal(config: Arc<ClientConfig>, address: SocketAddr) -> Option<String> {
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = match TlsConnector::from(config).connect(name, stream).await {
        Ok(stream) => stream,
        Err(error) => return Some(error.to_string()),
    };
    stream.read_u8().await.err().map(|error| error.to_string())
}

#[tokio::test]
async fn a_right_certificate_is_served_and_names_its_node() {
    let pki = pki();
    let (address, _served) = start(&pki, "server");
    assert_eq!(ask_as(&pki, "node", address).await.unwrap(), "node-1");
    assert!(ask_as(&pki, "nameless", address).await.unwrap().starts_with("127.0.0.1:"));
}

#[tokio::test]
async fn clients_that_cannot_prove_themselves_are_refused_and_the_listener_goes_on() {
    let pki = pki();
    let (address, _served) = start(&pki, "server");
    for (client, versions, alert) in [
        (Some("strange"), &TLS13, "unknown"),
        (Some("self-signed"), &TLS13, "unknown"),
        (Some("expired"), &TLS13, "xpired"),
        (None, &TLS13, "CertificateRequired"),
        (Some("node"), &TLS12, "ProtocolVersion"),
    ] {
        let mut config = pki.raw_client(client, &[versions]);
        Arc::get_mut(&mut config).unwrap().alpn_protocols = vec![b"h2".to_vec()];
        let refused = refusal(config, address).await.unwrap_or_else(|| panic!("{client:?} was served"));
        assert!(refused.to_lowercase().contains(&alert.to_lowercase()), "{client:?} {versions:?}: {refused}");
        assert_eq!(ask_as(&pki, "node", address).await.unwrap(), "node-1", "after {client:?}");
    }
}

#[tokio::test]
async fn a_client_refuses_a_server_it_has_no_reason_to_trust() {
    let pki = pki();
    for (server, cause) in [("expired-server", "expired"), ("strange-server", "UnknownIssuer")] {
        let (address, _served) = start(&pki, server);
        let refused = ask_as(&pki, "node", address).await.unwrap_err();
        assert!(refused.contains(cause), "{server}: {refused}");
    }
    let (address, _served) = start(&pki, "server");
    let files = pki.files("node");
    let tls = ClientTls::load(&files.certificate, &files.key, &pki.ca(), Some("other.example")).unwrap();
    let endpoint = Endpoint::Tls { host: "127.0.0.1".to_owned(), port: address.port() };
    let refused = ask(connect(&endpoint, Some(&tls), false).unwrap()).await.unwrap_err();
    assert!(refused.contains("not valid for name"), "{refused}");
}

#[tokio::test]
async fn noise_and_silence_hold_up_nobody() {
    let pki = pki();
    let (address, _served) = start(&pki, "server");
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let mut noise = TcpStream::connect(address).await.unwrap();
    noise.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert_eq!(ask_as(&pki, "node", address).await.unwrap(), "node-1");
}

/// What a service that is not Weir's sees of a channel to it: who it is called, and the first bytes.
#[tokio::test]
async fn a_foreign_service_is_trusted_by_its_authority_alone_and_called_by_its_name() {
    let pki = pki();
    let (incoming, mut hosts) = (plain_listener("127.0.0.1:0".parse().unwrap()).unwrap(), Hosts::default());
    let port = incoming.local_addr().unwrap().port();
    let _served = serve_noting(incoming, &hosts);
    let endpoint = Endpoint::Plain { host: "localhost".to_owned(), port };
    ask(connect_foreign(&endpoint, None, true).unwrap()).await.unwrap();
    assert_eq!(hosts.take(), [format!("localhost:{port}")]);
    assert!(connect_foreign(&endpoint, None, false).unwrap_err().to_string().contains("not encrypted"));

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let acceptor = TlsAcceptor::from(pki.raw_server("server"));
    let endpoint = Endpoint::Tls { host: "127.0.0.1".to_owned(), port: listener.local_addr().unwrap().port() };
    let files = |ca| ForeignTlsFiles { ca, certificate: None, key: None, server_name: Some("127.0.0.1".to_owned()) };
    for (ca, trusted) in [(pki.ca(), true), (pki.files("strange-server").certificate, false)] {
        let tls = ClientTls::for_foreign(&files(ca)).unwrap();
        let asking = tokio::spawn(ask(connect_foreign(&endpoint, Some(&tls), false).unwrap()));
        let (stream, _) = listener.accept().await.unwrap();
        let accepted = acceptor.accept(stream).await;
        assert_eq!(accepted.is_ok(), trusted, "{accepted:?}");
        if let Ok(mut stream) = accepted {
            let mut opening = [0; 14];
            stream.read_exact(&mut opening).await.unwrap();
            assert_eq!(&opening, b"PRI * HTTP/2.0");
        }
        asking.abort();
    }
}

#[tokio::test]
async fn plain_tcp_works_only_when_both_ends_say_so() {
    let incoming = plain_listener("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = incoming.local_addr().unwrap();
    let _served = serve(incoming);
    let endpoint = Endpoint::Plain { host: "127.0.0.1".to_owned(), port: address.port() };
    assert!(connect(&endpoint, None, false).unwrap_err().to_string().contains("not encrypted"));
    assert!(ask(connect(&endpoint, None, true).unwrap()).await.unwrap().contains("not authenticated"));
}

#[test]
fn a_file_that_cannot_be_used_is_named() {
    let pki = pki();
    let (node, ca) = (pki.files("node"), pki.ca());
    let other = pki.files("server").key;
    let missing = pki.directory.path().join("missing.pem");
    for (certificate, key, authority, part) in [
        (&missing, &node.key, &ca, "missing.pem"),
        (&node.certificate, &missing, &ca, "missing.pem"),
        (&node.certificate, &node.key, &missing, "missing.pem"),
        (&node.certificate, &node.certificate, &ca, "key file"),
        (&node.key, &node.key, &ca, "holds no certificate"),
        (&node.certificate, &other, &ca, "node.pem"),
    ] {
        let server = ServerTls::load(certificate, key, authority).unwrap_err().to_string();
        let client = ClientTls::load(certificate, key, authority, None).unwrap_err().to_string();
        assert!(server.contains(part), "{server}");
        assert!(client.contains(part), "{client}");
    }
}
