//! Lives: collector's tests.
//! Called by: cargo test.
//! May touch: a collector of its own.
//! Never: sleeps; what is waited for is a record or an acknowledgement.

use weir_proto::v1::{Batch, Endpoint, Filter, FlowRecord, ObserveRequest, RecordType, Verdict};

use crate::world::{World, batch, record};

fn request(follow: bool, last: u64, since_ns: u64) -> ObserveRequest {
    ObserveRequest { follow, last, since_ns, filter: None }
}

#[tokio::test]
async fn a_request_begins_where_it_says() {
    let world = World::new(100);
    let mut agent = world.agent().await;
    agent.send(batch(1, 1..=6)).await.unwrap();
    for (last, since_ns, expected) in [
        (0, 0, vec![1, 2, 3, 4, 5, 6]),
        (2, 0, vec![5, 6]),
        (99, 0, vec![1, 2, 3, 4, 5, 6]),
        (0, 4000, vec![4, 5, 6]),
        (1, 4000, vec![6]),
        (9, 5500, vec![6]),
        (0, 7000, vec![]),
    ] {
        assert_eq!(world.read(request(false, last, since_ns)).await, expected, "last {last} since {since_ns}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_left_the_memory_is_read_from_disk_as_if_it_had_not() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::keeping(10, folder.path());
    let mut agent = world.agent().await;
    for n in 0..40 {
        agent.send(batch(n + 1, n * 500 + 1..=n * 500 + 500)).await.unwrap();
    }
    let all: Vec<u64> = (1..=20_000).collect();
    for (last, since_ns, from) in
        [(0, 0, 0), (3, 0, 19_997), (10_000, 0, 10_000), (50_000, 0, 0), (0, 15_001_000, 15_000), (2, 9_000, 19_998)]
    {
        assert_eq!(world.read(request(false, last, since_ns)).await, all[from..], "last {last} since {since_ns}");
    }
    let status = world.status().await;
    assert_eq!((status.history_records, status.evicted, status.disk.unwrap().records), (10, 0, 20_000));
    // A reader that follows comes from the disk into the memory.
    let mut reader = world.observe(request(true, 0, 1)).await;
    for cookie in 1..=20_000 {
        let response = reader.next().await.unwrap();
        assert_eq!((response.record.unwrap().cookie, response.skipped), (cookie, 0));
    }
    agent.send(batch(41, [20_001])).await.unwrap();
    assert_eq!(reader.next().await.unwrap().record.unwrap().cookie, 20_001);
}

#[tokio::test]
async fn last_counts_records_that_match() {
    let world = World::new(5000);
    let mut agent = world.agent().await;
    let mut records: Vec<_> = (1..=2000).map(record).collect();
    records[10].reason = "rule".to_owned();
    records[20].reason = "rule".to_owned();
    records[1500].reason = "rule".to_owned();
    agent.send(Batch { records, ..batch(1, []) }).await.unwrap();
    let filter = Some(Filter { reason: vec!["rule".to_owned()], ..Filter::default() });
    assert_eq!(world.read(ObserveRequest { filter, ..request(false, 2, 0) }).await, [21, 1501]);
}

#[tokio::test]
async fn a_follower_gets_new_records_as_they_come() {
    let world = World::new(100);
    let mut agent = world.agent().await;
    agent.send(batch(1, 1..=3)).await.unwrap();
    let mut only_new = world.observe(request(true, 0, 0)).await;
    let mut last_too = world.observe(request(true, 1, 0)).await;
    let mut since_too = world.observe(request(true, 0, 2000)).await;
    agent.send(batch(2, 4..=5)).await.unwrap();
    for (reader, expected) in
        [(&mut only_new, vec![4, 5]), (&mut last_too, vec![3, 4, 5]), (&mut since_too, vec![2, 3, 4, 5])]
    {
        for cookie in expected {
            let response = reader.next().await.unwrap();
            assert_eq!((response.record.unwrap().cookie, response.skipped), (cookie, 0));
        }
    }
}

#[tokio::test]
async fn a_slow_follower_holds_up_nobody_and_is_told_what_it_missed() {
    let world = World::new(64);
    let mut agent = world.agent().await;
    let mut slow = world.observe(request(true, 0, 0)).await;
    // Far more than the connection's windows hold, so that the follower's side must stall.
    let total = 40_000;
    for sequence in 1..=400 {
        let first = (sequence - 1) * 100 + 1;
        assert_eq!(agent.send(batch(sequence, first..first + 100)).await.unwrap(), sequence);
    }
    let (mut received, mut skipped, mut newest) = (0, 0, 0);
    while newest < total {
        let response = slow.next().await.unwrap();
        let cookie = response.record.unwrap().cookie;
        assert_eq!(cookie, newest + 1 + response.skipped, "a hole is exactly as large as it is said to be");
        (received, skipped, newest) = (received + 1, skipped + response.skipped, cookie);
    }
    assert!(skipped > 0, "the follower was not slow enough for this test");
    assert_eq!(received + skipped, total);
}

#[tokio::test]
async fn filters_are_obeyed_over_the_wire() {
    let world = World::new(100);
    let mut agent = world.agent().await;
    let end = |workload: &str, address: [u8; 4], port| {
        Some(Endpoint { workload: workload.to_owned(), address: address.to_vec(), port, ..Endpoint::default() })
    };
    let web_to_db = FlowRecord {
        local: end("shop/web", [10, 0, 0, 2], 40000),
        remote: end("shop/db", [10, 0, 0, 4], 5432),
        ..record(1)
    };
    let world_to_web = FlowRecord {
        verdict: Verdict::Allow.into(),
        reason: "rule".to_owned(),
        local: end("shop/web", [10, 0, 0, 2], 80),
        remote: end("", [203, 0, 113, 9], 1234),
        ..record(2)
    };
    let close = FlowRecord { r#type: RecordType::Close.into(), ..record(3) };
    agent.send(Batch { records: vec![web_to_db, world_to_web, close], ..batch(1, []) }).await.unwrap();
    let words = |word: &str| vec![word.to_owned()];
    let none = Filter::default;
    for (filter, expected) in [
        (none(), vec![1, 2, 3]),
        (Filter { workload: words("db"), ..none() }, vec![1]),
        (Filter { workload: words("shop/web"), ..none() }, vec![1, 2]),
        (Filter { address: words("203.0.113.0/24"), ..none() }, vec![2]),
        (Filter { address: words("10.0.0.2"), ..none() }, vec![1, 2]),
        (Filter { port: vec![80, 5432], ..none() }, vec![1, 2]),
        (Filter { verdict: vec![Verdict::Allow.into()], ..none() }, vec![2]),
        (Filter { reason: words("default"), ..none() }, vec![1, 3]),
        (Filter { r#type: vec![RecordType::Close.into()], ..none() }, vec![3]),
        (Filter { node: words("n"), ..none() }, vec![1, 2, 3]),
        (Filter { node: words("m"), ..none() }, vec![]),
        (Filter { workload: words("web"), port: vec![5432], ..none() }, vec![1]),
    ] {
        let read = world.read(ObserveRequest { filter: Some(filter.clone()), ..ObserveRequest::default() }).await;
        assert_eq!(read, expected, "{filter:?}");
    }
}

#[tokio::test]
async fn a_filter_that_makes_no_sense_is_refused() {
    let world = World::new(1);
    let mut client = weir_proto::v1::flow_query_client::FlowQueryClient::new(world.channel.clone());
    let filter = Some(Filter { address: vec!["web".to_owned()], ..Filter::default() });
    let refused = client.observe(ObserveRequest { filter, ..ObserveRequest::default() }).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    assert!(refused.message().contains("\"web\""), "{refused}");
}
