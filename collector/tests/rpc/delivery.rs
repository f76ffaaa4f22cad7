//! Lives: collector's tests.
//! Called by: cargo test.
//! May touch: a collector of its own.
//! Never: takes an acknowledgement for proof; what was acknowledged is read back.

use prost::Message;
use tonic::Code;
use weir_proto::packed::present;
use weir_proto::v1::{Batch, FlowRecord, ObserveRequest, PackedRecords, RecordType};

use crate::world::{Agent, World, batch, record};

#[tokio::test]
async fn what_is_acknowledged_can_be_read_and_names_its_node() {
    let world = World::new(100);
    let mut agent = world.agent().await;
    let mut lying = batch(1, [7]);
    lying.records[0].node = "another".to_owned();
    assert_eq!(agent.send(lying).await.unwrap(), 1);
    let mut reader = world.observe(ObserveRequest::default()).await;
    let got = reader.next().await.unwrap().record.unwrap();
    assert_eq!((got.cookie, got.node.as_str()), (7, "n"));
    assert_eq!(reader.next().await, None);
}

#[tokio::test]
async fn resent_batches_are_acknowledged_counted_and_kept_once() {
    let world = World::new(100);
    let mut agent = world.agent().await;
    assert_eq!(agent.send(batch(1, [1, 2])).await.unwrap(), 1);
    assert_eq!(agent.send(batch(2, [3])).await.unwrap(), 2);
    assert_eq!(agent.send(batch(2, [3])).await.unwrap(), 2);
    drop(agent);
    let mut again = world.agent().await;
    assert_eq!(again.send(batch(1, [1, 2])).await.unwrap(), 1, "its sender may not know of the second");
    assert_eq!(again.send(batch(3, [4])).await.unwrap(), 3);
    assert_eq!(world.read(ObserveRequest::default()).await, [1, 2, 3, 4]);
    let node = world.node("n", "b").await;
    assert_eq!((node.records, node.duplicates, node.last_sequence, node.missing_batches), (4, 2, 3, 0));
    assert_eq!(node.decisions["connect/deny/default"], 8);
    assert!(node.connected && node.last_seen_ns > 0);
}

#[tokio::test]
async fn a_gap_is_counted_and_a_new_boot_begins_anew() {
    let world = World::new(100);
    let mut agent = world.agent().await;
    agent.send(batch(1, [1])).await.unwrap();
    assert_eq!(agent.send(batch(5, [5])).await.unwrap(), 5);
    let node = world.node("n", "b").await;
    assert_eq!((node.first_sequence, node.missing_batches, node.duplicates), (1, 3, 0));
    drop(agent);

    let mut rebooted = world.agent().await;
    let boot = |sequence| Batch { boot_id: "c".to_owned(), ..batch(sequence, [9]) };
    assert_eq!(rebooted.send(boot(1)).await.unwrap(), 1);
    let node = world.node("n", "c").await;
    assert_eq!((node.records, node.missing_batches, node.decisions["connect/deny/default"]), (1, 0, 2));

    let mut late = world.agent().await;
    let elder = |sequence| Batch { node: "elder".to_owned(), ..batch(sequence, [9]) };
    assert_eq!(late.send(elder(40)).await.unwrap(), 40);
    let node = world.node("elder", "b").await;
    assert_eq!((node.first_sequence, node.missing_batches), (40, 0), "a collector that joins late has lost nothing");
}

/// An agent that was started again sends what its last run left, then its own.
#[tokio::test]
async fn a_stream_may_go_on_with_another_boot_of_its_node_and_batches_given_up_are_not_missing() {
    let world = World::new(100);
    let mut agent = world.agent().await;
    let boot = |boot_id: &str, batch| Batch { boot_id: boot_id.to_owned(), ..batch };
    agent.send(boot("a", batch(7, [1]))).await.unwrap();
    agent.send(boot("a", Batch { dropped_before: 10, ..batch(18, [2]) })).await.unwrap();
    agent.send(boot("b", batch(1, [3]))).await.unwrap();
    agent.send(boot("b", Batch { dropped_before: 1, ..batch(5, [4]) })).await.unwrap();
    assert_eq!(world.read(ObserveRequest::default()).await, [1, 2, 3, 4]);
    assert_eq!((world.node("n", "a").await.missing_batches, world.node("n", "b").await.missing_batches), (0, 2));
    assert!(world.node("n", "b").await.connected);
}

#[tokio::test]
async fn packed_records_are_read_as_if_they_came_one_by_one() {
    let world = World::new(100);
    let mut agent = world.agent().await;
    let judgement = FlowRecord { cookie: 0, time_ns: 0, local: None, remote: None, process: None, ..record(0) };
    let packed = PackedRecords {
        time_ns: 1000,
        judgements: vec![FlowRecord { count: 1, ..judgement }],
        present: vec![present::COOKIE, present::COOKIE | present::COUNT],
        judgement: vec![1, 1],
        time: vec![0, 5],
        local: vec![0, 0],
        local_address: vec![0, 0],
        local_port: vec![0, 0],
        remote: vec![0, 0],
        remote_address: vec![0, 0],
        remote_port: vec![0, 0],
        cookie: vec![40, 2],
        count: vec![9],
        ..PackedRecords::default()
    };
    let of = |packed: &PackedRecords| Batch { packed: packed.encode_to_vec(), ..batch(1, []) };
    agent.send(of(&packed)).await.unwrap();
    assert_eq!(world.read(ObserveRequest::default()).await, [40, 42]);
    assert_eq!(world.node("n", "b").await.decisions["connect/deny/default"], 10);

    let short = PackedRecords { cookie: vec![40], ..packed.clone() };
    let long = PackedRecords { count: vec![9, 9], ..packed.clone() };
    let beyond = PackedRecords { judgement: vec![1, 2], ..packed.clone() };
    let newer = PackedRecords { present: vec![present::COOKIE, 1 << 20], ..packed.clone() };
    // A few hundred kilobytes that would be gigabytes.
    let judgements = vec![FlowRecord { policy: "x".repeat(100_000), ..FlowRecord::default() }];
    let many = || vec![1; 65_536];
    let (none, present) = (|| vec![0; 65_536], vec![0; 65_536]);
    let bomb = PackedRecords {
        judgements,
        judgement: many(),
        present,
        time: vec![0; 65_536],
        local: none(),
        local_address: none(),
        local_port: none(),
        remote: none(),
        remote_address: none(),
        remote_port: none(),
        ..PackedRecords::default()
    };
    let both = Batch { records: vec![record(1)], ..of(&packed) };
    let nonsense = Batch { packed: b"nonsense".to_vec(), ..batch(1, []) };
    for (bad, word) in [
        (of(&short), "`cookie`"),
        (of(&long), "`count`"),
        (of(&beyond), "`judgements`"),
        (of(&newer), "`present`"),
        (both, "both"),
        (nonsense, "no PackedRecords"),
        (of(&bomb), "come to more than"),
    ] {
        let refused = world.agent().await.send(Batch { sequence: 2, ..bad }).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(word), "{refused}");
    }
    assert_eq!(world.node("n", "b").await.records, 2, "nothing of them was taken");
}

#[tokio::test]
async fn losses_and_closes_are_not_decisions() {
    let world = World::new(100);
    let mut agent = world.agent().await;
    let loss = |cause: &str, count| FlowRecord {
        r#type: RecordType::Loss.into(),
        loss_cause: cause.to_owned(),
        count,
        ..FlowRecord::default()
    };
    let close = FlowRecord { r#type: RecordType::Close.into(), ..record(1) };
    let records = vec![loss("ring_full", 4), loss("ring_full", 3), loss("queue_full", 2), close, record(1)];
    agent.send(Batch { records, ..batch(1, []) }).await.unwrap();
    let node = world.node("n", "b").await;
    assert_eq!((node.losses["ring_full"], node.losses["queue_full"]), (7, 2));
    assert_eq!(node.decisions.into_iter().collect::<Vec<_>>(), [("connect/deny/default".to_owned(), 2)]);
}

#[tokio::test]
async fn the_history_is_bounded_and_counts_what_it_lets_go() {
    let world = World::new(5);
    let mut agent = world.agent().await;
    agent.send(batch(1, 1..=4)).await.unwrap();
    agent.send(batch(2, 5..=8)).await.unwrap();
    assert_eq!(world.read(ObserveRequest::default()).await, [4, 5, 6, 7, 8]);
    let status = world.status().await;
    assert_eq!((status.history_records, status.history_capacity, status.evicted), (5, 5, 3));
    assert_eq!(status.nodes[0].decisions["connect/deny/default"], 16, "sums outlive the records");
}

#[tokio::test]
async fn a_node_is_connected_for_as_long_as_its_stream() {
    let world = World::new(5);
    let mut agent = world.agent().await;
    agent.send(batch(1, [1])).await.unwrap();
    assert!(world.node("n", "b").await.connected);
    drop(agent);
    while world.node("n", "b").await.connected {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn batches_that_make_no_sense_end_the_stream_and_nothing_else() {
    let world = World::new(5);
    let bad = [
        ("no node", Batch { node: String::new(), ..batch(1, []) }),
        ("a node with a space", Batch { node: "a b".to_owned(), ..batch(1, []) }),
        ("a very long node", Batch { node: "a".repeat(254), ..batch(1, []) }),
        ("no boot", Batch { boot_id: String::new(), ..batch(1, []) }),
        ("no number", batch(0, [])),
    ];
    for (name, batch) in bad {
        let refused = world.agent().await.send(batch).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{name}: {refused}");
    }
    let mut agent = world.agent().await;
    agent.send(batch(1, [1])).await.unwrap();
    let refused = agent.send(Batch { node: "m".to_owned(), ..batch(2, [2]) }).await.unwrap_err();
    assert!(refused.message().contains("speaks for node n"), "{refused}");
    assert_eq!(world.agent().await.send(batch(2, [2])).await.unwrap(), 2);
    assert_eq!(world.read(ObserveRequest::default()).await, [1, 2]);
}

#[tokio::test]
async fn stopping_ends_open_streams_at_once() {
    let mut world = World::new(5);
    let mut agent: Agent = world.agent().await;
    agent.send(batch(1, [1])).await.unwrap();
    let mut reader = world.observe(ObserveRequest { follow: true, ..ObserveRequest::default() }).await;
    let begin = std::time::Instant::now();
    world.supervisor.drain().await;
    assert!(begin.elapsed() < weir_collector::supervisor::DRAIN, "streams did not end by themselves");
    assert_eq!(reader.next().await, None);
    assert!(matches!(agent.ended().await, Ok(None)));
    assert!(!world.socket.exists(), "the socket file is gone");
}
