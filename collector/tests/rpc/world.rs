//! Lives: collector's tests.
//! Called by: the tests of this folder.
//! May touch: a temporary directory.
//! Never: outlives the test.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use weir_collector::archive::{Archive, Limits};
use weir_collector::otlp::OtlpConfig;
use weir_collector::rpc::otlp::Exporter;
use weir_collector::rpc::{self, Store};
use weir_collector::run::spawn_all;
use weir_collector::supervisor::Supervisor;
use weir_proto::v1::collector_status_response::Node;
use weir_proto::v1::flow_collector_client::FlowCollectorClient;
use weir_proto::v1::flow_query_client::FlowQueryClient;
use weir_proto::v1::{
    Ack, Batch, CollectorStatusRequest, CollectorStatusResponse, FlowRecord, ObserveRequest, ObserveResponse,
    RecordType, Verdict,
};
use weir_transport::{Endpoint, ListenConfig, Listeners, SocketConfig, connect};

/// Longest wait for something that should happen at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// A collector on a socket of its own.
pub struct World {
    pub supervisor: Supervisor,
    pub socket: PathBuf,
    pub channel: Channel,
    _directory: tempfile::TempDir,
}

impl World {
    pub fn new(history: usize) -> Self {
        Self::exporting(history, None)
    }

    /// A collector that exports by OTLP too.
    pub fn exporting(history: usize, otlp: Option<&OtlpConfig>) -> Self {
        Self::of(Store::new(history), otlp)
    }

    /// A collector that keeps what it has in a folder, and little of it in memory.
    pub fn keeping(history: usize, folder: &Path) -> Self {
        let limits = Limits { bytes: 1 << 30, age: Duration::from_secs(1 << 30) };
        Self::of(rpc::open(history, Archive::open(folder, limits).unwrap()).unwrap(), None)
    }

    fn of(store: Store, otlp: Option<&OtlpConfig>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("collector.sock");
        let config = SocketConfig { path: socket.clone(), allowed_uids: Vec::new() };
        let listeners = Listeners::open(&ListenConfig { socket: Some(config), tcp: None }).unwrap();
        let mut supervisor = Supervisor::default();
        let store = Arc::new(store);
        let exporter = otlp.map(|otlp| Exporter::prepare(otlp, Arc::clone(&store)).unwrap());
        spawn_all(&mut supervisor, listeners, store, exporter);
        let channel = connect(&Endpoint::Unix(socket.clone()), None, false).unwrap();
        Self { supervisor, socket, channel, _directory: directory }
    }

    pub async fn agent(&self) -> Agent {
        Agent::connect(self.channel.clone()).await.unwrap()
    }

    pub async fn observe(&self, request: ObserveRequest) -> Reader {
        let mut client = FlowQueryClient::new(self.channel.clone());
        Reader(client.observe(request).await.unwrap().into_inner())
    }

    /// All records a request that does not follow gives.
    pub async fn read(&self, request: ObserveRequest) -> Vec<u64> {
        let mut reader = self.observe(request).await;
        let mut cookies = Vec::new();
        while let Some(response) = reader.next().await {
            cookies.extend(response.record.map(|record| record.cookie));
        }
        cookies
    }

    pub async fn status(&self) -> CollectorStatusResponse {
        let mut client = FlowQueryClient::new(self.channel.clone());
        client.collector_status(CollectorStatusRequest {}).await.unwrap().into_inner()
    }

    pub async fn node(&self, node: &str, boot_id: &str) -> Node {
        let nodes = self.status().await.nodes;
        nodes.into_iter().find(|entry| entry.node == node && entry.boot_id == boot_id).unwrap()
    }
}

/// An agent's stream.
pub struct Agent {
    batches: mpsc::Sender<Batch>,
    acks: Streaming<Ack>,
}

impl Agent {
    pub async fn connect(channel: Channel) -> Result<Self, Status> {
        let (batches, receiver) = mpsc::channel(16);
        let mut client = FlowCollectorClient::new(channel);
        let acks = client.export(ReceiverStream::new(receiver)).await?.into_inner();
        Ok(Self { batches, acks })
    }

    /// Sends a batch and waits for what comes back.
    pub async fn send(&mut self, batch: Batch) -> Result<u64, Status> {
        self.batches.send(batch).await.unwrap();
        let ack = timeout(PATIENCE, self.acks.message()).await.unwrap()?;
        Ok(ack.map(|ack| ack.sequence).unwrap())
    }

    pub async fn ended(mut self) -> Result<Option<Ack>, Status> {
        timeout(PATIENCE, self.acks.message()).await.unwrap()
    }
}

pub struct Reader(Streaming<ObserveResponse>);

impl Reader {
    pub async fn next(&mut self) -> Option<ObserveResponse> {
        timeout(PATIENCE, self.0.message()).await.unwrap().unwrap()
    }
}

/// A batch of node "n", boot "b", whose records carry these cookies.
pub fn batch(sequence: u64, cookies: impl IntoIterator<Item = u64>) -> Batch {
    let records = cookies.into_iter().map(record).collect();
    Batch { node: "n".to_owned(), boot_id: "b".to_owned(), sequence, records, ..Batch::default() }
}

pub fn record(cookie: u64) -> FlowRecord {
    FlowRecord {
        r#type: RecordType::Verdict.into(),
        verdict: Verdict::Deny.into(),
        hook: "connect".to_owned(),
        reason: "default".to_owned(),
        time_ns: cookie * 1000,
        cookie,
        count: 2,
        ..FlowRecord::default()
    }
}
