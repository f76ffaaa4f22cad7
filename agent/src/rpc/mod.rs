//! Lives: weir-agent, at its gRPC edge.
//! Called by: `runtime`.
//! May touch: listeners, the control handle, the exporter's queue.
//! Never: decides anything; names generated types outside this folder.

mod convert;
pub mod export;
mod health;
mod link;
pub mod pack;
pub mod ready;
mod records;
mod service;
mod sets;
mod status;
#[cfg(test)]
mod whole_tests;

use std::{path::PathBuf, sync::Arc};

use health::Health;
pub use link::{Link, LinkState};
pub use service::Service;
use tonic_health::pb::health_server::HealthServer;
use weir_proto::v1::{policy_service_server::PolicyServiceServer, set_service_server::SetServiceServer};
use weir_transport::{
    ClientTlsFiles, ConnectConfig, ListenConfig, Listeners, SocketConfig, TcpConfig, TlsFiles, TransportError,
};

use crate::{
    config::{Collector, Grpc},
    control::actor::Handle,
    exporter::Queue,
    revoke::Revoker,
    runtime::Stop,
    telemetry::tally::Tally,
};

/// Longest request: a policy of many thousand documents.
const MAX_REQUEST: usize = 16 * 1024 * 1024;

/// What the service shows beside the policy.
pub struct Info {
    /// Name of this node.
    pub node: String,
    /// Word for what applies to processes of no known workload.
    pub unknown: &'static str,
    /// What applies to workloads that no policy selects.
    pub unselected: &'static str,
    /// The process can load or execute programs no more.
    pub sealed: bool,
    /// What Landlock holds: full, partial, none or off.
    pub landlock: &'static str,
    /// The managed tree.
    pub cgroup_root: PathBuf,
    /// Decisions recorded.
    pub tally: Arc<Tally>,
    /// Records kept.
    pub queue: Arc<Queue>,
    /// What became of living connections.
    pub revoker: Arc<Revoker>,
    /// The stream to the collector.
    pub link: Arc<Link>,
}

/// Opens the listeners. Needs the runtime they are to be served on.
///
/// # Errors
/// A socket or certificate cannot be used.
pub fn listen(grpc: &Grpc) -> Result<Listeners, TransportError> {
    Listeners::open(&listen_config(grpc))
}

/// Serves the API until stopped, then finishes the requests under way.
///
/// # Errors
/// The transport broke down.
pub async fn serve(
    listeners: Listeners,
    control: Handle,
    info: Arc<Info>,
    stop: Stop,
) -> Result<(), tonic::transport::Error> {
    let sets = SetServiceServer::new(sets::Sets::new(control.clone())).max_decoding_message_size(MAX_REQUEST);
    let health = HealthServer::new(Health::new(control.clone(), stop.clone()));
    let service = PolicyServiceServer::new(Service::new(control, info, stop.clone()))
        .max_decoding_message_size(MAX_REQUEST)
        .max_encoding_message_size(usize::MAX);
    weir_transport::server()
        .add_service(service)
        .add_service(sets)
        .add_service(health)
        .serve_with_incoming_shutdown(listeners, async move { stop.wait().await })
        .await
}

fn listen_config(grpc: &Grpc) -> ListenConfig {
    let tcp = grpc.tcp.as_ref().map(|tcp| TcpConfig {
        listen: tcp.listen,
        insecure: tcp.tls.is_none(),
        tls: tcp.tls.as_ref().map(|tls| TlsFiles {
            certificate: tls.certificate.clone(),
            key: tls.key.clone(),
            client_ca: tls.ca.clone(),
        }),
    });
    let socket = SocketConfig { path: grpc.socket.clone(), allowed_uids: grpc.allowed_uids.clone() };
    ListenConfig { socket: Some(socket), tcp }
}

/// How the collector is reached.
///
/// # Errors
/// Its address cannot be understood.
pub fn collector_config(collector: &Collector) -> Result<ConnectConfig, TransportError> {
    Ok(ConnectConfig {
        address: collector.address.parse()?,
        tls: collector.tls.as_ref().map(|tls| ClientTlsFiles {
            certificate: tls.certificate.clone(),
            key: tls.key.clone(),
            ca: tls.ca.clone(),
            server_name: collector.server_name.clone(),
        }),
        insecure: collector.insecure,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_configured_is_what_is_opened() {
        let text = "cgroupRoot: /w\n\
                    grpc:\n  socket: {path: /s, allowedUids: [5]}\n  tcp: {listen: '[::1]:7', tls: {certificate: /c, key: /k, clientCa: /a}}\n\
                    collector: {address: 'https://c:1', tls: {certificate: /d, key: /l, ca: /b, serverName: n}}\n";
        let config = crate::config::read("t.yaml", text).unwrap();
        let listen = listen_config(&config.grpc);
        let socket = SocketConfig { path: "/s".into(), allowed_uids: vec![5] };
        let tls = TlsFiles { certificate: "/c".into(), key: "/k".into(), client_ca: "/a".into() };
        let tcp = TcpConfig { listen: "[::1]:7".parse().unwrap(), tls: Some(tls), insecure: false };
        assert_eq!(listen, ListenConfig { socket: Some(socket), tcp: Some(tcp) });
        let connect = collector_config(config.collector.as_ref().unwrap()).unwrap();
        let tls = ClientTlsFiles {
            certificate: "/d".into(),
            key: "/l".into(),
            ca: "/b".into(),
            server_name: Some("n".to_owned()),
        };
        let address = "https://c:1".parse().unwrap();
        assert_eq!(connect, ConnectConfig { address, tls: Some(tls), insecure: false });

        let text = "cgroupRoot: /w\ngrpc: {tcp: {listen: '[::1]:7', insecure: true}}\n";
        let listen = listen_config(&crate::config::read("t.yaml", text).unwrap().grpc);
        assert!(listen.tcp.is_some_and(|tcp| tcp.insecure && tcp.tls.is_none()));
    }
}
