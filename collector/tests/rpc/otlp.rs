//! Lives: collector's tests.
//! Called by: cargo test.
//! May touch: a collector and receivers of its own.
//! Never: asks the collector what it has sent; the receiver says.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::time::sleep;
use weir_collector::otlp::OtlpConfig;
use weir_proto::v1::{Batch, FlowRecord, RecordType};
use weir_transport::{Endpoint, ForeignTlsFiles, TlsFiles};

use crate::receiver::{Receiver, config};
use crate::world::{World, batch, record};

#[tokio::test]
async fn every_record_arrives_once_below_its_node_with_the_headers() {
    let directory = tempfile::tempdir().unwrap();
    let headers = directory.path().join("headers");
    fs::write(&headers, "authorization: Bearer secret\n").unwrap();
    let receiver = Receiver::start();
    let world = World::exporting(100, Some(&OtlpConfig { headers_file: Some(headers), ..receiver.config() }));
    let mut agent = world.agent().await;
    agent.send(batch(1, 1..=3)).await.unwrap();
    agent.send(batch(1, 1..=3)).await.unwrap();
    let mut other = world.agent().await;
    let close = FlowRecord { r#type: RecordType::Close.into(), count: 0, ..record(9) };
    other.send(Batch { node: "m".to_owned(), records: vec![close], ..batch(1, []) }).await.unwrap();

    receiver.until("four records", |receiver| receiver.arrived().len() >= 4).await;
    let mut by_node: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for arrived in receiver.arrived() {
        assert_eq!(arrived.resource["service.name"], "weir");
        assert!(arrived.record.observed_time_unix_nano > arrived.record.time_unix_nano);
        let event = format!("{} {}", arrived.record.event_name, arrived.said["weir.socket.cookie"]);
        by_node.entry(arrived.resource["host.name"].clone()).or_default().push(event);
    }
    let verdicts = ["weir.flow.verdict 1", "weir.flow.verdict 2", "weir.flow.verdict 3"];
    assert_eq!(by_node["n"], verdicts, "a batch that came twice is exported once, in order");
    assert_eq!(by_node["m"], ["weir.flow.close 9"]);
    assert!(receiver.headers("authorization").iter().all(|value| value.as_deref() == Some("Bearer secret")));
    assert!(receiver.headers("user-agent")[0].as_ref().unwrap().starts_with("weir/"));
}

#[tokio::test]
async fn metrics_say_what_status_says_from_a_start_time_on() {
    let receiver = Receiver::start();
    let world = World::exporting(2, Some(&OtlpConfig { metrics_interval_seconds: 1, ..receiver.config() }));
    let mut agent = world.agent().await;
    let loss =
        FlowRecord { r#type: RecordType::Loss.into(), loss_cause: "ring_full".to_owned(), count: 4, ..record(5) };
    agent.send(batch(1, 1..=3)).await.unwrap();
    agent.send(Batch { records: vec![loss], ..batch(5, []) }).await.unwrap();
    agent.send(batch(5, [])).await.unwrap();
    let decision = [("weir.hook", "connect"), ("weir.verdict", "deny"), ("weir.reason", "default")];
    let all = |receiver: &Receiver| {
        receiver.value("weir.otlp.records.sent", &[]) == Some(4) && receiver.value("weir.records", &[]) == Some(4)
    };
    receiver.until("metrics of four records", all).await;
    for (metric, labels, expected) in [
        ("weir.decisions", &decision[..], 6),
        ("weir.decisions.lost", &[("weir.loss_cause", "ring_full")], 4),
        ("weir.batches.missing", &[], 3),
        ("weir.batches.duplicate", &[], 1),
        ("weir.node.connected", &[], 1),
        ("weir.history.records", &[], 2),
        ("weir.history.capacity", &[], 2),
        ("weir.history.evicted", &[], 2),
        ("weir.otlp.records.retried", &[], 0),
        ("weir.otlp.queue.records", &[], 0),
        ("weir.otlp.queue.capacity", &[], 65536),
    ] {
        assert_eq!(receiver.value(metric, labels), Some(expected), "{metric}");
    }
    let first = receiver.points();
    let node = world.node("n", "b").await;
    let seen = i64::try_from(node.last_seen_ns / 1_000_000_000).unwrap();
    assert_eq!(receiver.value("weir.node.last_seen", &[]), Some(seen));
    drop(agent);
    receiver.until("the end of the stream", |receiver| receiver.value("weir.node.connected", &[]) == Some(0)).await;
    for ((_, name, old), (_, same, new)) in first.iter().zip(&receiver.points()) {
        assert_eq!(name, same);
        assert!(old.start_time_unix_nano == new.start_time_unix_nano && old.time_unix_nano < new.time_unix_nano);
        assert!(new.start_time_unix_nano <= new.time_unix_nano, "{name}");
    }
}

#[tokio::test]
async fn stopping_sends_what_waits_and_the_last_metrics() {
    let receiver = Receiver::start();
    let mut world = World::exporting(100, Some(&OtlpConfig { metrics_interval_seconds: 3600, ..receiver.config() }));
    let mut agent = world.agent().await;
    agent.send(batch(1, 1..=3)).await.unwrap();
    world.supervisor.drain().await;
    assert_eq!(receiver.arrived().len(), 3);
    assert_eq!(receiver.value("weir.otlp.records.sent", &[]), Some(3));
}

struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let files = Self { directory: tempfile::tempdir().unwrap() };
        for ca in ["ours", "theirs"] {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let key = KeyPair::generate().unwrap();
            fs::write(files.path(&format!("{ca}.pem")), params.self_signed(&key).unwrap().pem()).unwrap();
            let issuer = Issuer::new(params, key);
            for party in ["server", "client"] {
                let params = CertificateParams::new(vec!["otel.example".to_owned()]).unwrap();
                let key = KeyPair::generate().unwrap();
                fs::write(files.path(&format!("{ca}-{party}.pem")), params.signed_by(&key, &issuer).unwrap().pem())
                    .unwrap();
                fs::write(files.path(&format!("{ca}-{party}.key")), key.serialize_pem()).unwrap();
            }
        }
        files
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }
}

#[tokio::test]
async fn over_tls_both_ends_are_known_or_nothing_is_sent() {
    let files = Files::new();
    let tls = TlsFiles {
        certificate: files.path("ours-server.pem"),
        key: files.path("ours-server.key"),
        client_ca: files.path("ours.pem"),
    };
    let receiver = Receiver::at("127.0.0.1:0".parse().unwrap(), Some(tls), Vec::new());
    let good = ForeignTlsFiles {
        ca: files.path("ours.pem"),
        certificate: Some(files.path("ours-client.pem")),
        key: Some(files.path("ours-client.key")),
        server_name: Some("otel.example".to_owned()),
    };
    let to = |tls: ForeignTlsFiles| {
        let endpoint = Endpoint::Tls { host: "127.0.0.1".to_owned(), port: receiver.address.port() };
        OtlpConfig { tls: Some(tls), ..OtlpConfig::to(endpoint) }
    };
    let bad = [
        ForeignTlsFiles { ca: files.path("theirs.pem"), ..good.clone() },
        ForeignTlsFiles { certificate: None, key: None, ..good.clone() },
        ForeignTlsFiles { server_name: None, ..good.clone() },
        ForeignTlsFiles {
            certificate: Some(files.path("theirs-client.pem")),
            key: Some(files.path("theirs-client.key")),
            ..good.clone()
        },
    ];
    let mut worlds = Vec::new();
    for tls in bad {
        let world = World::exporting(10, Some(&to(tls)));
        world.agent().await.send(batch(1, [7])).await.unwrap();
        worlds.push(world);
    }
    let world = World::exporting(10, Some(&to(good)));
    world.agent().await.send(batch(1, [1])).await.unwrap();
    receiver.until("a record", |receiver| !receiver.arrived().is_empty()).await;
    // The others have tried, and were refused.
    for bad in &worlds {
        while bad.status().await.otlp.is_none_or(|otlp| otlp.retried == 0) {
            sleep(Duration::from_millis(10)).await;
        }
    }
    let cookies: Vec<_> =
        receiver.arrived().into_iter().map(|arrived| arrived.said["weir.socket.cookie"].clone()).collect();
    assert_eq!((cookies, receiver.tries()), (vec!["1".to_owned()], 1));
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_named_before_anything_is_sent() {
    use std::sync::Arc;
    use weir_collector::rpc::{Store, otlp::Exporter};
    let to = config("127.0.0.1:1".parse().unwrap());
    let headers = OtlpConfig { headers_file: Some("/no/such/headers".into()), ..to.clone() };
    let ca = ForeignTlsFiles { ca: "/no/such/ca".into(), certificate: None, key: None, server_name: None };
    let endpoint = Endpoint::Tls { host: "a".to_owned(), port: 1 };
    let ca = OtlpConfig { endpoint, insecure: false, tls: Some(ca), ..to };
    for (config, name) in [(headers, "/no/such/headers"), (ca, "/no/such/ca")] {
        let fault = Exporter::prepare(&config, Arc::new(Store::new(1))).err().unwrap().to_string();
        assert!(fault.contains(name) && fault.contains("otlp"), "{fault}");
    }
}
