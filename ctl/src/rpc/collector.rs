//! Lives: ctl.
//! Called by: `observe`, `status` and `version`.
//! May touch: the collector's API.
//! Never: filters on this side; the collector does, so that `--last` counts what is shown.

use std::time::Duration;

use jiff::Timestamp;
use tonic::Streaming;
use tonic::transport::Channel;
use weir_proto::v1;
use weir_proto::v1::flow_query_client::FlowQueryClient;
use weir_transport::Endpoint;

use super::{answer, answer_within, convert, convert_status, failure};
use crate::failure::Failure;
use crate::view::{Collector, Kind, Record, Verdict};

/// Longest wait for its state, which it has at hand. Who asks wants to know of the agent first, and may be in a hurry.
const STATUS: Duration = Duration::from_secs(5);
const SERVICE: &str = "the collector";

/// A connection to a collector.
pub struct CollectorClient {
    client: FlowQueryClient<Channel>,
    endpoint: Endpoint,
}

/// Which records are wanted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObserveQuery {
    pub follow: bool,
    pub last: u64,
    pub since: Option<Timestamp>,
    pub workload: Vec<String>,
    pub address: Vec<String>,
    pub port: Vec<u16>,
    pub verdict: Vec<Verdict>,
    pub reason: Vec<String>,
    pub kind: Vec<Kind>,
    pub node: Vec<String>,
}

/// One message of an observation.
pub struct Observed {
    /// Records left out before this one, because we were slow.
    pub skipped: u64,
    pub record: Option<Record>,
}

/// An open observation.
pub struct Observation {
    stream: Streaming<v1::ObserveResponse>,
    endpoint: Endpoint,
}

impl CollectorClient {
    /// Through a channel that has not been used yet.
    pub fn new(channel: Channel, endpoint: Endpoint) -> Self {
        Self { client: FlowQueryClient::new(channel), endpoint }
    }

    /// The collector's state.
    pub async fn status(&mut self) -> Result<Collector, Failure> {
        let call = self.client.collector_status(v1::CollectorStatusRequest {});
        answer_within(STATUS, SERVICE, &self.endpoint, call).await.map(convert_status::collector)
    }

    /// Asks for records.
    pub async fn observe(&mut self, query: ObserveQuery) -> Result<Observation, Failure> {
        let call = self.client.observe(request(query));
        let stream = answer(SERVICE, &self.endpoint, call).await?;
        Ok(Observation { stream, endpoint: self.endpoint.clone() })
    }
}

impl Observation {
    /// The next message; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Observed>, Failure> {
        let message = self.stream.message().await.map_err(|status| failure(SERVICE, &self.endpoint, &status))?;
        Ok(message.map(|message| Observed { skipped: message.skipped, record: message.record.map(convert::record) }))
    }
}

fn request(query: ObserveQuery) -> v1::ObserveRequest {
    let since = query.since.map_or(0, |time| u64::try_from(time.as_nanosecond()).unwrap_or(0));
    v1::ObserveRequest {
        follow: query.follow,
        last: query.last,
        since_ns: since,
        filter: Some(v1::Filter {
            workload: query.workload,
            address: query.address,
            port: query.port.into_iter().map(u32::from).collect(),
            verdict: query.verdict.into_iter().map(|verdict| convert::wire_verdict(verdict).into()).collect(),
            reason: query.reason,
            r#type: query.kind.into_iter().map(|kind| convert::wire_kind(kind).into()).collect(),
            node: query.node,
        }),
    }
}
