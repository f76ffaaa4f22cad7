//! Lives: collector, the export of metrics.
//! Called by: `rpc::otlp`, at each interval and once at the end.
//! May touch: the store's summary and the queue's numbers, read-only.
//! Never: sends one point twice: sums go on from their start, so what one export missed the next one says.

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, metric::Data,
    number_data_point::Value,
};

use prost::Message as _;

use super::attributes::{Attributes, resource, scope};
use super::queue::Numbers;
use super::requests::MAX_BYTES;
use crate::nodes::Boot;
use crate::otlp::names::{self as n, Shape};
use crate::store::Summary;

/// The collector itself, as a resource.
pub struct Own {
    /// Its host.
    pub host: String,
    /// Random for each start.
    pub instance: String,
}

/// Everything that is known now, in as few requests as their size allows.
pub fn requests(summary: &Summary, numbers: &Numbers, own: &Own, now_ns: u64) -> Vec<ExportMetricsServiceRequest> {
    let boots = summary.boots.iter().map(|(node, boot)| of_boot(node, boot, now_ns));
    let own = std::iter::once(of_collector(summary, numbers, own, now_ns));
    let (mut requests, mut request, mut bytes) = (Vec::new(), ExportMetricsServiceRequest::default(), 0);
    for metrics in own.chain(boots) {
        let size = metrics.encoded_len();
        if bytes + size > MAX_BYTES && !request.resource_metrics.is_empty() {
            requests.push(std::mem::take(&mut request));
            bytes = 0;
        }
        bytes += size;
        request.resource_metrics.push(metrics);
    }
    requests.push(request);
    requests
}

fn of_boot(node: &str, boot: &Boot, now_ns: u64) -> ResourceMetrics {
    let mut page = Page { metrics: Vec::new(), start_ns: boot.first_seen_ns, now_ns };
    page.add(&n::DECISIONS, boot.decisions.iter().map(|(what, count)| (words(what), *count)));
    page.add(&n::DECISIONS_LOST, boot.losses.iter().map(|(cause, count)| (vec![cause.as_str()], *count)));
    page.one(&n::RECORDS, boot.records);
    page.one(&n::BATCHES_MISSING, boot.missing_batches);
    page.one(&n::BATCHES_DUPLICATE, boot.duplicates);
    page.one(&n::NODE_CONNECTED, u64::from(boot.streams > 0));
    page.one(&n::NODE_LAST_SEEN, boot.last_seen_ns / 1_000_000_000);
    page.of(resource("weir", node, &boot.boot_id))
}

fn of_collector(summary: &Summary, numbers: &Numbers, own: &Own, now_ns: u64) -> ResourceMetrics {
    let mut page = Page { metrics: Vec::new(), start_ns: summary.start_ns, now_ns };
    page.one(&n::HISTORY_RECORDS, summary.kept);
    page.one(&n::HISTORY_CAPACITY, summary.capacity);
    page.one(&n::HISTORY_EVICTED, summary.evicted);
    page.one(&n::OTLP_SENT, numbers.sent);
    page.one(&n::OTLP_RETRIED, numbers.retried);
    page.add(&n::OTLP_DROPPED, numbers.dropped.iter().map(|(cause, count)| (vec![cause.name()], *count)));
    page.one(&n::OTLP_QUEUE_RECORDS, numbers.queued);
    page.one(&n::OTLP_QUEUE_CAPACITY, numbers.capacity);
    page.of(resource("weir-collector", &own.host, &own.instance))
}

/// "hook/verdict/reason", and where words are too many "other" alone.
fn words(what: &str) -> Vec<&str> {
    what.splitn(3, '/').collect()
}

/// Metrics of one resource, being put together.
struct Page {
    metrics: Vec<Metric>,
    start_ns: u64,
    now_ns: u64,
}

impl Page {
    fn one(&mut self, metric: &n::Metric, value: u64) {
        self.add(metric, [(Vec::new(), value)].into_iter());
    }

    /// Adds a metric with a point for each combination of attributes; one without points is left out.
    fn add<'a>(&mut self, metric: &n::Metric, points: impl Iterator<Item = (Vec<&'a str>, u64)>) {
        let data_points: Vec<_> = points.map(|(labels, value)| self.point(metric, &labels, value)).collect();
        if data_points.is_empty() {
            return;
        }
        let data = match metric.shape {
            Shape::Gauge => Data::Gauge(Gauge { data_points }),
            Shape::Sum => Data::Sum(Sum {
                data_points,
                aggregation_temporality: AggregationTemporality::Cumulative.into(),
                is_monotonic: true,
            }),
        };
        self.metrics.push(Metric {
            name: metric.name.to_owned(),
            description: metric.meaning.to_owned(),
            unit: metric.unit.to_owned(),
            data: Some(data),
            ..Metric::default()
        });
    }

    fn point(&self, metric: &n::Metric, labels: &[&str], value: u64) -> NumberDataPoint {
        let mut attributes = Attributes::default();
        metric.attributes.iter().zip(labels).for_each(|(attribute, label)| attributes.text(attribute, label));
        NumberDataPoint {
            attributes: attributes.done(),
            start_time_unix_nano: if metric.shape == Shape::Sum { self.start_ns } else { 0 },
            time_unix_nano: self.now_ns,
            value: Some(Value::AsInt(i64::try_from(value).unwrap_or(i64::MAX))),
            ..NumberDataPoint::default()
        }
    }

    fn of(self, resource: opentelemetry_proto::tonic::resource::v1::Resource) -> ResourceMetrics {
        ResourceMetrics {
            resource: Some(resource),
            scope_metrics: vec![ScopeMetrics {
                scope: Some(scope()),
                metrics: self.metrics,
                ..ScopeMetrics::default()
            }],
            ..ResourceMetrics::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Receivers refuse what is larger than 4 MiB, at each interval again.
    #[test]
    fn many_boots_are_told_in_several_requests_and_each_once() {
        let decisions = |node: usize| (0..80).map(move |n| (format!("hook/deny/reason-{n}"), node as u64)).collect();
        let boot = |node: usize| Boot { decisions: decisions(node), ..Boot::default() };
        let boots = (0..600).map(|node| (format!("node-{node}"), boot(node))).collect();
        let summary = Summary { boots, kept: 1, capacity: 2, evicted: 3, disk: None, start_ns: 4, nodes: Vec::new() };
        let own = Own { host: "here".to_owned(), instance: "i".to_owned() };
        let requests = requests(&summary, &Numbers::default(), &own, 5);
        assert!(requests.len() > 1 && requests.iter().all(|request| request.encoded_len() < 4 << 20));
        let resources: usize = requests.iter().map(|request| request.resource_metrics.len()).sum();
        assert_eq!(resources, 601);
    }
}
