//! Lives: ctl's tests.
//! Called by: `world`, which serves it.
//! May touch: nothing.
//! Never: a real collector; it tells back what it was asked, as records.

use std::pin::Pin;

use tokio_stream::{Stream, StreamExt, iter};
use tonic::{Request, Response, Status};
use weir_proto::v1::collector_status_response::{Disk, Node, Otlp};
use weir_proto::v1::flow_query_server::FlowQuery;
use weir_proto::v1::{
    CollectorStatusRequest, CollectorStatusResponse, Direction, Endpoint, FlowRecord, ObserveRequest, ObserveResponse,
    Process, RecordType, Verdict,
};

/// The `cgroup` of its first record is the request it got.
#[derive(Debug)]
pub struct FakeCollector;

fn denied(request: &ObserveRequest) -> FlowRecord {
    let end = |workload: &str, address: &[u8], port| {
        Some(Endpoint { workload: workload.to_owned(), address: address.to_vec(), port, ..Endpoint::default() })
    };
    FlowRecord {
        r#type: RecordType::Verdict.into(),
        time_ns: 1_795_302_245_123_000_000,
        verdict: Verdict::Deny.into(),
        reason: "default".to_owned(),
        hook: "connect".to_owned(),
        direction: Direction::Egress.into(),
        policy: "Policy/shop/db".to_owned(),
        rule: "default ingress".to_owned(),
        generation: 7,
        local: end("shop/web", &[10, 0, 0, 2], 0),
        remote: end("shop/db", &[10, 0, 0, 4], 5432),
        protocol: 6,
        process: Some(Process { pid: 123, command: "curl".to_owned(), ..Process::default() }),
        cgroup: format!("{request:?}"),
        count: 3,
        node: "node-1".to_owned(),
        ..FlowRecord::default()
    }
}

#[tonic::async_trait]
impl FlowQuery for FakeCollector {
    type ObserveStream = Pin<Box<dyn Stream<Item = Result<ObserveResponse, Status>> + Send>>;

    async fn observe(&self, request: Request<ObserveRequest>) -> Result<Response<Self::ObserveStream>, Status> {
        let request = request.into_inner();
        let filter = request.filter.clone().unwrap_or_default();
        if filter.address.iter().any(|address| address == "nowhere") {
            return Err(Status::invalid_argument("address \"nowhere\" is neither an IP address nor a CIDR block"));
        }
        let first = ObserveResponse { record: Some(denied(&request)), skipped: 0 };
        let second = ObserveResponse { record: Some(denied(&request)), skipped: 5 };
        match request.last {
            // Enough to fill any pipe.
            1_000_000 => Ok(Response::new(Box::pin(iter((0..1_000_000).map(move |_| Ok(first.clone())))))),
            _ => Ok(Response::new(Box::pin(iter([first, second]).map(Ok)))),
        }
    }

    async fn collector_status(
        &self,
        _: Request<CollectorStatusRequest>,
    ) -> Result<Response<CollectorStatusResponse>, Status> {
        let node = Node {
            node: "node-1".to_owned(),
            boot_id: "boot".to_owned(),
            first_sequence: 1,
            last_sequence: 4,
            records: 98,
            connected: true,
            decisions: [("connect/deny/default".to_owned(), 8), ("connect/allow/default".to_owned(), 90)].into(),
            ..Node::default()
        };
        Ok(Response::new(CollectorStatusResponse {
            nodes: vec![node],
            history_records: 98,
            history_capacity: 65536,
            version: "0.1.0".to_owned(),
            disk: Some(Disk { records: 120, bytes: 3 << 19, capacity: 1 << 30, oldest_ns: 1_800_000_000_000_000_000 }),
            otlp: Some(Otlp {
                sent: 90,
                retried: 2,
                queued: 5,
                capacity: 64,
                dropped: [("otlp_queue_full".to_owned(), 3)].into(),
            }),
            ..CollectorStatusResponse::default()
        }))
    }
}
