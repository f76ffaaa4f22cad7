//! Lives: collector's tests.
//! Called by: tests of the export.
//! May touch: loopback.
//! Never: forgives; what a receiver of OTLP would see is kept as it came.
//!
//! A receiver of OTLP that is told how to answer. What it has not been told it takes.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::{NumberDataPoint, metric::Data, number_data_point};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tonic::{Request, Response, Status};
use weir_collector::otlp::OtlpConfig;
use weir_transport::{Endpoint, ListenConfig, Listeners, TcpConfig, TlsFiles};

/// Longest wait for what should happen soon: a batch's delay, some tries.
const PATIENCE: Duration = Duration::from_secs(30);

/// How to answer a request.
pub enum Answer {
    /// Refuse it.
    Refuse(Status),
    /// Take it but for so many records.
    Part(i64),
    /// Never.
    Silence,
}

#[derive(Default)]
struct Seen {
    answers: VecDeque<Answer>,
    /// Requests with records, those that were refused included.
    tries: usize,
    taken: Vec<ExportLogsServiceRequest>,
    metrics: Vec<ExportMetricsServiceRequest>,
    headers: Vec<tonic::metadata::MetadataMap>,
}

#[derive(Clone, Default)]
struct Service(Arc<Mutex<Seen>>);

/// A receiver that listens.
pub struct Receiver {
    pub address: SocketAddr,
    service: Service,
    /// Dropping it stops the server.
    _stop: watch::Sender<()>,
    server: JoinHandle<()>,
}

/// A record as it came, with what its resource says.
#[derive(Clone, Debug)]
pub struct Arrived {
    pub resource: BTreeMap<String, String>,
    pub said: BTreeMap<String, String>,
    pub record: LogRecord,
}

impl Receiver {
    pub fn start() -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), None, Vec::new())
    }

    pub fn answering(answers: Vec<Answer>) -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), None, answers)
    }

    /// One on this address.
    pub fn at(listen: SocketAddr, tls: Option<TlsFiles>, answers: Vec<Answer>) -> Self {
        let tcp = Some(TcpConfig { listen, insecure: tls.is_none(), tls });
        let listeners = Listeners::open(&ListenConfig { socket: None, tcp }).unwrap();
        let address = listeners.local_addrs()[0];
        let service = Service(Arc::new(Mutex::new(Seen { answers: answers.into(), ..Seen::default() })));
        let (stop, mut stopped) = watch::channel(());
        let server = tonic::transport::Server::builder()
            .add_service(LogsServiceServer::new(service.clone()))
            .add_service(MetricsServiceServer::new(service.clone()))
            .serve_with_incoming_shutdown(listeners, async move { while stopped.changed().await.is_ok() {} });
        let server = tokio::spawn(async move { server.await.unwrap() });
        Self { address, service, _stop: stop, server }
    }

    /// An export to it, without TLS.
    pub fn config(&self) -> OtlpConfig {
        config(self.address)
    }

    /// Ends it and every connection to it.
    pub async fn end(self) -> SocketAddr {
        self.server.abort();
        let _aborted = self.server.await;
        self.address
    }

    pub fn tries(&self) -> usize {
        self.service.0.lock().unwrap().tries
    }

    pub fn headers(&self, name: &str) -> Vec<Option<String>> {
        let seen = self.service.0.lock().unwrap();
        let value = |map: &tonic::metadata::MetadataMap| map.get(name).map(|value| value.to_str().unwrap().to_owned());
        seen.headers.iter().map(value).collect()
    }

    pub fn arrived(&self) -> Vec<Arrived> {
        let seen = self.service.0.lock().unwrap();
        let logs = seen.taken.iter().flat_map(|request| &request.resource_logs);
        let of_resource = |(resource, record): (&[KeyValue], &LogRecord)| Arrived {
            resource: words(resource),
            said: words(&record.attributes),
            record: record.clone(),
        };
        logs.flat_map(|logs| {
            let resource = logs.resource.as_ref().unwrap().attributes.as_slice();
            logs.scope_logs.iter().flat_map(|scope| &scope.log_records).map(move |record| (resource, record))
        })
        .map(of_resource)
        .collect()
    }

    /// The newest points: resource's host, metric, point.
    pub fn points(&self) -> Vec<(String, String, NumberDataPoint)> {
        let seen = self.service.0.lock().unwrap();
        let mut points = Vec::new();
        for resource in seen.metrics.last().iter().flat_map(|request| &request.resource_metrics) {
            let host = words(&resource.resource.as_ref().unwrap().attributes)["service.name"].clone();
            for metric in resource.scope_metrics.iter().flat_map(|scope| &scope.metrics) {
                let of_metric = match metric.data.as_ref().unwrap() {
                    Data::Sum(sum) => {
                        assert!(sum.is_monotonic && sum.aggregation_temporality == 2, "{metric:?}");
                        assert!(sum.data_points.iter().all(|point| point.start_time_unix_nano > 0), "{metric:?}");
                        &sum.data_points
                    }
                    Data::Gauge(gauge) => &gauge.data_points,
                    other @ (Data::Histogram(_) | Data::ExponentialHistogram(_) | Data::Summary(_)) => {
                        panic!("{other:?}")
                    }
                };
                points.extend(of_metric.iter().map(|point| (host.clone(), metric.name.clone(), point.clone())));
            }
        }
        points
    }

    /// The newest value of a metric whose points have these labels.
    pub fn value(&self, metric: &str, labels: &[(&str, &str)]) -> Option<i64> {
        let wanted = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let point =
            self.points().into_iter().find(|(_, name, point)| name == metric && words(&point.attributes) == wanted);
        point.map(|(_, _, point)| match point.value {
            Some(number_data_point::Value::AsInt(value)) => value,
            other => panic!("{other:?}"),
        })
    }

    /// Waits until it has seen what is looked for.
    pub async fn until(&self, what: &str, look: impl Fn(&Self) -> bool) {
        let begin = Instant::now();
        while !look(self) {
            let seen: Vec<_> = self.arrived().into_iter().map(|arrived| arrived.said).collect();
            assert!(begin.elapsed() < PATIENCE, "{what}: not after {} tries; arrived: {seen:#?}", self.tries());
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// An export to an address, without TLS.
pub fn config(address: SocketAddr) -> OtlpConfig {
    let endpoint = Endpoint::Plain { host: address.ip().to_string(), port: address.port() };
    OtlpConfig { insecure: true, ..OtlpConfig::to(endpoint) }
}

/// Attributes by name; numbers as text.
pub fn words(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |attribute: &KeyValue| {
        let value = attribute.value.as_ref().unwrap().value.as_ref().unwrap();
        if let Value::StringValue(text) = value {
            return text.clone();
        }
        if let Value::IntValue(number) = value { number.to_string() } else { format!("{value:?}") }
    };
    attributes.iter().map(|attribute| (attribute.key.clone(), text(attribute))).collect()
}

#[tonic::async_trait]
impl LogsService for Service {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        let answer = {
            let mut seen = self.0.lock().unwrap();
            seen.tries += 1;
            seen.headers.push(request.metadata().clone());
            seen.answers.pop_front()
        };
        let partial_success = match answer {
            Some(Answer::Silence) => std::future::pending().await,
            Some(Answer::Refuse(status)) => return Err(status),
            Some(Answer::Part(rejected_log_records)) => {
                Some(ExportLogsPartialSuccess { rejected_log_records, error_message: "too old".to_owned() })
            }
            None => None,
        };
        self.0.lock().unwrap().taken.push(request.into_inner());
        Ok(Response::new(ExportLogsServiceResponse { partial_success }))
    }
}

#[tonic::async_trait]
impl MetricsService for Service {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.0.lock().unwrap().metrics.push(request.into_inner());
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}
