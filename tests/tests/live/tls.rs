//! Lives: weir-tests, live tests of the agent's network listener.
//! Called by: main.
//! May touch: a world of its own, certificates in its folder.
//! Never: uses a key outside that folder.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use weir_tests::documents::document;
use weir_tests::harness::ctl::{Said, call};
use weir_tests::harness::{Harness, Options, Tls};
use weir_tests::process::{SOON, program};
use weir_tests::world::{Who, World, netns};

use crate::test;

pub fn trials() -> Vec<Trial> {
    vec![
        test("over_the_network_only_a_client_with_the_right_certificate_is_served", only_ours),
        test("adversarial 63: an_agent_inside_the_tree_that_it_manages_is_never_cut_off", inside),
    ]
}

/// Files of one party.
pub struct Party {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// An authority: its certificate's file and what signs.
pub struct Authority {
    pub file: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

pub fn authority(folder: &Path, name: &str) -> Result<Authority> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let key = KeyPair::generate()?;
    let file = folder.join(format!("{name}.pem"));
    std::fs::write(&file, params.self_signed(&key)?.pem())?;
    Ok(Authority { file, issuer: Issuer::new(params, key) })
}

fn party(folder: &Path, name: &str, by: &Authority, address: &str, use_as: ExtendedKeyUsagePurpose) -> Result<Party> {
    let mut params = CertificateParams::new(vec![address.to_owned()])?;
    params.extended_key_usages = vec![use_as];
    signed(folder, name, by, &params)
}

/// The files of whom an authority vouches for in this way.
pub fn signed(folder: &Path, name: &str, by: &Authority, params: &CertificateParams) -> Result<Party> {
    let key = KeyPair::generate()?;
    let files = Party { certificate: folder.join(format!("{name}.pem")), key: folder.join(format!("{name}.key")) };
    std::fs::write(&files.certificate, params.signed_by(&key, &by.issuer)?.pem())?;
    std::fs::write(&files.key, key.serialize_pem())?;
    Ok(files)
}

/// A world with a listener, who may use it, and who signed both.
pub struct Network {
    pub world: World,
    pub tls: Tls,
    client: Party,
    ours: Authority,
}

pub fn network(name: &str) -> Result<Network> {
    use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    let world = World::new(name)?;
    let folder = world.folder().to_path_buf();
    let ours = authority(&folder, "ours")?;
    let server = party(&folder, "server", &ours, &Who::Node.v4().to_string(), ServerAuth)?;
    let client = party(&folder, "client", &ours, "client.example", ClientAuth)?;
    let tls = Tls {
        listen: SocketAddr::new(Who::Node.v4(), 7443),
        certificate: server.certificate,
        key: server.key,
        client_ca: ours.file.clone(),
    };
    Ok(Network { world, tls, client, ours })
}

/// In the agent's own cgroup nothing is judged, though strangers are refused there and everywhere; and no workload can claim it.
fn inside() -> Result<()> {
    let Network { world, tls, client, ours } = network("inside")?;
    let cgroups = ["weir-agent", "stranger"].map(|name| world.managed().join(name));
    for cgroup in &cgroups {
        weir_tests::world::cgroup::create(cgroup)?;
    }
    let options = Options { tls: Some(tls), unknown: "deny", agent_cgroup: Some("weir-agent"), ..Options::default() };
    let mut harness = Harness::start(world, options)?;
    let _server = harness.world().serve(Who::Client, "tcp-serve --listen [::]:80")?;
    not_cut_off(&harness, &cgroups, &client, &ours)?;
    let claim = document("Workload", "claim", "{cgroup: weir-agent}");
    harness.apply(&format!("{claim}{}", document("Policy", "none", "{workloadSelector: {}, defaultAction: deny}")))?;
    harness.wait("the claim to fail, with a reason", |harness| {
        harness.status().is_ok_and(|status| {
            let claimed = status.agent.workloads.iter().find(|workload| workload.workload.ends_with("claim"));
            claimed.is_some_and(|w| w.state == "failed" && w.detail.contains("start it in a cgroup of its own"))
        })
    })?;
    not_cut_off(&harness, &cgroups, &client, &ours)
}

fn not_cut_off(harness: &Harness, cgroups: &[PathBuf; 2], client: &Party, ours: &Authority) -> Result<()> {
    let said = list(harness, client, ours)?;
    ensure!(said.status.success(), "the agent does not hear us: {said:?}");
    for (cgroup, result) in cgroups.iter().zip(["ok", "EPERM"]) {
        let mut command = harness.world().probe(Who::Node);
        command.args(["exec", "--"]).arg(program("weir-probe")).arg("--cgroup").arg(cgroup);
        command.args(["tcp-connect", "--to", &format!("{}:80", Who::Client.v4())]);
        let attempt = harness.world().start("beside", command)?.attempt()?;
        ensure!(attempt.result == result, "from {}: {attempt:?}", cgroup.display());
    }
    Ok(())
}

fn only_ours() -> Result<()> {
    let Network { world, tls, client, ours } = network("tls")?;
    let theirs = authority(world.folder(), "theirs")?;
    let stranger = party(world.folder(), "stranger", &theirs, "client.example", ExtendedKeyUsagePurpose::ClientAuth)?;
    let harness = Harness::start(world, Options { tls: Some(tls), ..Options::default() })?;
    let said = list(&harness, &client, &ours)?;
    ensure!(said.status.success(), "the right client is refused: {said:?}");
    let said = list(&harness, &stranger, &ours)?;
    ensure!(!said.status.success(), "a client of another authority is served: {said:?}");
    ensure!(!anonymous_is_served(&harness, &ours)?, "a client without a certificate is served");
    let said = list(&harness, &client, &theirs)?;
    ensure!(!said.status.success(), "weirctl trusted a server of another authority: {said:?}");
    // Bad clients stop nobody.
    let said = list(&harness, &client, &ours)?;
    ensure!(said.status.success(), "the right client is refused afterwards: {said:?}");
    Ok(())
}

/// weirctl in the client's namespace, over the network.
fn list(harness: &Harness, party: &Party, trusted: &Authority) -> Result<Said> {
    let mut command = harness.world().probe(Who::Client);
    command.args(["exec", "--"]).arg(program("weirctl"));
    command.args(["--agent", "https://10.77.0.1:7443"]).arg("--tls-ca").arg(&trusted.file);
    command.arg("--tls-certificate").arg(&party.certificate).arg("--tls-key").arg(&party.key);
    command.args(["get", "workloads"]);
    Ok(call(command, &["get", "workloads", "over the network"], "")?)
}

/// weirctl always shows a certificate, so this speaks TLS itself. In TLS 1.3 a client may send before the server has
/// looked at it: only an answer says that it was accepted.
fn anonymous_is_served(harness: &Harness, trusted: &Authority) -> Result<bool> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&trusted.file)?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
    let answered = netns::inside(&harness.world().netns(Who::Client), move || Ok(speak(config)))?;
    let refused = [ErrorKind::InvalidData, ErrorKind::ConnectionReset, ErrorKind::UnexpectedEof];
    match answered {
        Ok(bytes) => Ok(bytes > 0),
        Err(error) if refused.contains(&error.kind()) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The opening of HTTP/2, to which any server of it answers with its settings; how many bytes came back.
fn speak(config: Arc<ClientConfig>) -> io::Result<usize> {
    let tcp = TcpStream::connect_timeout(&SocketAddr::new(Who::Node.v4(), 7443), SOON)?;
    tcp.set_read_timeout(Some(SOON))?;
    let name = ServerName::IpAddress(Who::Node.v4().into());
    let connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection, tcp);
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")?;
    stream.read(&mut [0; 64])
}
