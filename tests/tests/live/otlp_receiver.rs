//! Lives: weir-tests, a receiver of OTLP in one of a world's namespaces.
//! Called by: `otlp`.
//! May touch: a socket of that namespace.
//! Never: knows anything of Weir; it keeps what any receiver would be given.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::metrics::v1::{metric::Data, number_data_point};
use tokio::runtime::Runtime;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};
use weir_tests::world::netns;

/// Attributes by name, numbers as text.
pub type Words = BTreeMap<String, String>;

/// A log record with what its resource says; the name of the event is under "event".
pub type Logged = Words;

/// A server that runs as long as the value.
pub struct Receiver {
    kept: Kept,
    _runtime: Runtime,
}

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Requests>>);

#[derive(Default)]
struct Requests {
    logs: Vec<ExportLogsServiceRequest>,
    metrics: Option<ExportMetricsServiceRequest>,
}

impl Receiver {
    /// Listens in a namespace.
    pub fn start(netns: &Path, address: SocketAddr) -> Result<Self> {
        let listener = netns::inside(netns, || Ok(TcpListener::bind(address)))??;
        listener.set_nonblocking(true)?;
        let kept = Kept::default();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let server = tonic::transport::Server::builder()
            .add_service(LogsServiceServer::new(kept.clone()))
            .add_service(MetricsServiceServer::new(kept.clone()));
        runtime.spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Ok(Self { kept, _runtime: runtime })
    }

    /// Every log record until now.
    pub fn logged(&self) -> Vec<Logged> {
        let kept = self.kept.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = Vec::new();
        for logs in kept.logs.iter().flat_map(|request| &request.resource_logs) {
            let resource = logs.resource.iter().flat_map(|resource| &resource.attributes);
            let resource: Words = resource.map(word).collect();
            for record in logs.scope_logs.iter().flat_map(|scope| &scope.log_records) {
                let mut words = resource.clone();
                words.extend(record.attributes.iter().map(word));
                words.insert("event".to_owned(), record.event_name.clone());
                all.push(words);
            }
        }
        all
    }

    /// The newest points of a metric, by their attributes and those of their resource.
    pub fn points(&self, metric: &str) -> Vec<(Words, i64)> {
        let kept = self.kept.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = Vec::new();
        for resource in kept.metrics.iter().flat_map(|request| &request.resource_metrics) {
            let of: Words = resource.resource.iter().flat_map(|resource| &resource.attributes).map(word).collect();
            let metrics = resource.scope_metrics.iter().flat_map(|scope| &scope.metrics);
            for found in metrics.filter(|found| found.name == metric) {
                let points = match &found.data {
                    Some(Data::Sum(sum)) => &sum.data_points[..],
                    Some(Data::Gauge(gauge)) => &gauge.data_points[..],
                    _ => &[],
                };
                for point in points {
                    let mut words = of.clone();
                    words.extend(point.attributes.iter().map(word));
                    if let Some(number_data_point::Value::AsInt(value)) = point.value {
                        all.push((words, value));
                    }
                }
            }
        }
        all
    }
}

fn word(attribute: &KeyValue) -> (String, String) {
    let value = attribute.value.as_ref().and_then(|value| value.value.as_ref());
    let text = match value {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    (attribute.key.clone(), text)
}

#[tonic::async_trait]
impl LogsService for Kept {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).logs.push(request.into_inner());
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Kept {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).metrics = Some(request.into_inner());
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}
