//! Lives: collector, its page for Prometheus.
//! Called by: `run`, when a port for it is configured.
//! May touch: a listener of its own; the store's numbers, read only.
//! Never: shows an address, a workload or a process; has a label with more values than there are nodes or causes of loss.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header::CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::archive::Disk;
use crate::nodes::Totals;
use crate::rpc::Store;
use crate::store::Summary;
use crate::supervisor::Stop;

/// The media type of the page.
const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The values of a family's labels, and one of its own.
type Sample = (Vec<String>, f64);

/// One metric: its name without the `_total` of a counter, its kind, its labels, what it says, and its values.
struct Family {
    name: &'static str,
    kind: MetricType,
    labels: &'static [&'static str],
    help: &'static str,
    read: fn(&Summary) -> Vec<Sample>,
}

const NODE: &[&str] = &["node"];

/// Every metric of the collector, in the order of the page. `docs/metrics.md` has this table too.
const FAMILIES: &[Family] = &[
    Family {
        name: "weir_collector_build_info",
        kind: MetricType::Gauge,
        labels: &["version"],
        help: "Always 1; which collector this is",
        read: |_| vec![(vec![env!("CARGO_PKG_VERSION").to_owned()], 1.0)],
    },
    Family {
        name: "weir_collector_start_time_seconds",
        kind: MetricType::Gauge,
        labels: &[],
        help: "When the collector started, Unix time",
        read: |all| one(seconds(all.start_ns)),
    },
    Family {
        name: "weir_collector_history_records",
        kind: MetricType::Gauge,
        labels: &[],
        help: "Records kept in memory",
        read: |all| one(number(all.kept)),
    },
    Family {
        name: "weir_collector_history_capacity",
        kind: MetricType::Gauge,
        labels: &[],
        help: "Records that can be kept in memory; beyond it the oldest go from there",
        read: |all| one(number(all.capacity)),
    },
    Family {
        name: "weir_collector_history_evicted",
        kind: MetricType::Counter,
        labels: &[],
        help: "Records that had to go, from disk too where they are kept there",
        read: |all| one(number(all.evicted)),
    },
    Family {
        name: "weir_collector_disk_records",
        kind: MetricType::Gauge,
        labels: &[],
        help: "Records kept on disk, those in memory among them; absent where none are",
        read: |all| disk(all, |disk| number(disk.records)),
    },
    Family {
        name: "weir_collector_disk_bytes",
        kind: MetricType::Gauge,
        labels: &[],
        help: "Bytes they take",
        read: |all| disk(all, |disk| number(disk.bytes)),
    },
    Family {
        name: "weir_collector_disk_capacity_bytes",
        kind: MetricType::Gauge,
        labels: &[],
        help: "Bytes they may take; beyond it the oldest go",
        read: |all| disk(all, |disk| number(disk.capacity)),
    },
    Family {
        name: "weir_collector_disk_oldest_time_seconds",
        kind: MetricType::Gauge,
        labels: &[],
        help: "Time of about the oldest record on disk, Unix time; 0 while there is none",
        read: |all| disk(all, |disk| seconds(disk.oldest_ns)),
    },
    Family {
        name: "weir_collector_streams",
        kind: MetricType::Gauge,
        labels: NODE,
        help: "Streams that a node's agent has open",
        read: |all| nodes(all, |node| node.streams.into()),
    },
    Family {
        name: "weir_collector_last_seen_time_seconds",
        kind: MetricType::Gauge,
        labels: NODE,
        help: "When a node was last heard, Unix time",
        read: |all| nodes(all, |node| seconds(node.last_seen_ns)),
    },
    Family {
        name: "weir_collector_records",
        kind: MetricType::Counter,
        labels: NODE,
        help: "Records taken over from a node",
        read: |all| nodes(all, |node| number(node.records)),
    },
    Family {
        name: "weir_collector_duplicate_batches",
        kind: MetricType::Counter,
        labels: NODE,
        help: "Batches that came again and were not taken twice",
        read: |all| nodes(all, |node| number(node.duplicates)),
    },
    Family {
        name: "weir_collector_missing_batches",
        kind: MetricType::Counter,
        labels: NODE,
        help: "Batches that never came: records are missing, and nobody has said so",
        read: |all| nodes(all, |node| number(node.missing_batches)),
    },
    Family {
        name: "weir_collector_lost_decisions",
        kind: MetricType::Counter,
        labels: &["node", "cause"],
        help: "Decisions, and with causes that end in _close other records, that a node's agent says are lost",
        read: |all| {
            let losses = |(node, totals): &(String, Totals)| {
                let labelled = |(cause, count): (&String, &u64)| (vec![node.clone(), cause.clone()], number(*count));
                totals.losses.iter().map(labelled).collect::<Vec<_>>()
            };
            all.nodes.iter().flat_map(losses).collect()
        },
    },
];

fn one(value: f64) -> Vec<Sample> {
    vec![(Vec::new(), value)]
}

fn disk(all: &Summary, value: impl Fn(&Disk) -> f64) -> Vec<Sample> {
    all.disk.iter().map(|disk| (Vec::new(), value(disk))).collect()
}

fn nodes(all: &Summary, value: impl Fn(&Totals) -> f64) -> Vec<Sample> {
    all.nodes.iter().map(|(node, totals)| (vec![node.clone()], value(totals))).collect()
}

#[expect(clippy::cast_precision_loss, reason = "the format's numbers are floats")]
const fn number(count: u64) -> f64 {
    count as f64
}

fn seconds(ns: u64) -> f64 {
    number(ns) / 1e9
}

/// Opens the port.
///
/// # Errors
/// It is taken, or not an address of this host.
pub async fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(at).await?;
    if !at.ip().is_loopback() {
        tracing::warn!(listen = %at, "metrics are served without TLS to whoever reaches the port");
    }
    Ok(listener)
}

/// Serves until the stop signal. Nobody waits for a scrape under way: the next one tells the same.
///
/// # Errors
/// The listener broke down.
pub async fn serve(listener: TcpListener, store: Arc<Store>, mut stop: Stop) -> io::Result<()> {
    let routes = Router::new().route("/metrics", get(page)).with_state(store);
    tokio::select! {
        served = axum::serve(listener, routes) => served,
        () = stop.stopped() => Ok(()),
    }
}

async fn page(State(store): State<Arc<Store>>) -> Response {
    match text(store.summary()) {
        Ok(page) => ([(CONTENT_TYPE, MEDIA_TYPE)], page).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

fn text(summary: Summary) -> Result<String, fmt::Error> {
    let (mut registry, mut text) = (Registry::default(), String::new());
    registry.register_collector(Box::new(Scrape(summary)));
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

/// The numbers of one scrape.
#[derive(Debug)]
struct Scrape(Summary);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for Family { name, kind, labels, help, read } in FAMILIES {
            let mut metric = encoder.encode_descriptor(name, help, None, *kind)?;
            for (values, value) in read(&self.0) {
                // One without labels would be written as one with an empty set of them.
                if labels.is_empty() {
                    encode(metric, *kind, value)?;
                    break;
                }
                let values: Vec<String> = values.iter().map(|value| escaped(value)).collect();
                let labels: Vec<(&str, &str)> = labels.iter().copied().zip(values.iter().map(String::as_str)).collect();
                encode(metric.encode_family(&labels)?, *kind, value)?;
            }
        }
        Ok(())
    }
}

fn encode(mut metric: MetricEncoder<'_>, kind: MetricType, value: f64) -> fmt::Result {
    match kind {
        MetricType::Counter => metric.encode_counter::<NoLabelSet, f64, u64>(&value, None),
        MetricType::Gauge => metric.encode_gauge(&value),
        MetricType::Histogram | MetricType::Info | MetricType::Unknown => Err(fmt::Error),
    }
}

/// A label's value as the format wants it, which the library does not see to: senders choose the names of nodes.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::Tally;
    use crate::store::{self, Batch};

    #[test]
    fn the_page_counts_by_node_whatever_a_node_calls_itself() {
        let store = store::Store::<u32>::new(3);
        let loss = || Tally::Loss { cause: "ring_full".to_owned(), what: None, count: 5 };
        let batch = |sequence| Batch {
            sequence,
            dropped_before: 0,
            newest_ns: 0,
            bytes: Vec::new(),
            records: vec![(1.into(), loss()), (2.into(), Tally::Nothing)],
        };
        for (boot, sequence) in [("a", 1), ("a", 1), ("a", 4), ("b", 1)] {
            let _ = store.take("n\"1\\\n", boot, batch(sequence));
        }
        let page = text(store.summary()).unwrap();
        for line in [
            "weir_collector_history_records 3.0",
            "weir_collector_history_evicted_total 3.0",
            "weir_collector_records_total{node=\"n\\\"1\\\\\\n\"} 6.0",
            "weir_collector_duplicate_batches_total{node=\"n\\\"1\\\\\\n\"} 1.0",
            "weir_collector_missing_batches_total{node=\"n\\\"1\\\\\\n\"} 2.0",
            "weir_collector_lost_decisions_total{node=\"n\\\"1\\\\\\n\",cause=\"ring_full\"} 15.0",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is not on the page:\n{page}");
        }
    }

    #[test]
    fn the_table_of_the_documentation_is_that_of_the_code() {
        let text = include_str!("../../docs/metrics.md");
        let documented: Vec<&str> = text.lines().filter(|line| line.starts_with("| `weir_collector_")).collect();
        let documented: Vec<&str> =
            documented.into_iter().filter(|line| !line.starts_with("| `weir_collector_state")).collect();
        let total = |family: &Family| if family.kind.as_str() == "counter" { "_total" } else { "" };
        let row = |family: &Family| {
            format!("| `{}{}` | {} | {} |", family.name, total(family), family.labels.join(", "), family.help)
        };
        assert_eq!(documented, FAMILIES.iter().map(row).collect::<Vec<_>>());
    }
}
