//! Lives: collector's tests.
//! Called by: cargo test.
//! May touch: a collector and receivers of its own.
//! Never: lets a receiver's trouble reach an agent unnoticed: each test sends batches and wants them acknowledged meanwhile.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use weir_collector::otlp::OtlpConfig;

use crate::receiver::{Answer, Receiver, config};
use crate::world::{World, batch};

/// An address that nobody listens on.
async fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

fn at(address: SocketAddr) -> Receiver {
    Receiver::at(address, None, Vec::new())
}

/// Cookies of the records that arrived, and what losses say: cause, decisions, records.
fn story(receiver: &Receiver) -> (Vec<u64>, Vec<(String, u64, u64)>) {
    let (mut cookies, mut losses) = (Vec::new(), Vec::new());
    for arrived in receiver.arrived() {
        let number = |name: &str| arrived.said.get(name).map_or(0, |text| text.parse::<u64>().unwrap());
        match arrived.said.get("weir.loss_cause") {
            Some(cause) => losses.push((cause.clone(), number("weir.count"), number("weir.lost_records"))),
            None => cookies.push(number("weir.socket.cookie")),
        }
    }
    (cookies, losses)
}

async fn send(world: &World, cookies: impl Iterator<Item = u64>) {
    let mut agent = world.agent().await;
    let begin = Instant::now();
    for (sequence, cookie) in (1..).zip(cookies) {
        assert_eq!(agent.send(batch(sequence, [cookie])).await.unwrap(), sequence);
    }
    // Far more than it takes, and less than one answer of a receiver may.
    assert!(begin.elapsed() < Duration::from_secs(5), "agents wait for the receiver: {:?}", begin.elapsed());
}

#[tokio::test]
async fn a_receiver_that_is_away_gets_everything_once_it_is_back() {
    let address = free().await;
    let world = World::exporting(100, Some(&config(address)));
    send(&world, 1..=20).await;
    let receiver = at(address);
    receiver.until("20 records", |receiver| receiver.arrived().len() >= 20).await;
    assert_eq!(story(&receiver), ((1..=20).collect(), vec![]));

    // It restarts: a connection that broke is made anew.
    let address = receiver.end().await;
    let mut agent = world.agent().await;
    agent.send(batch(21, [21])).await.unwrap();
    let again = at(address);
    again.until("the record after the restart", |receiver| !receiver.arrived().is_empty()).await;
    assert_eq!(story(&again), (vec![21], vec![]));
}

#[tokio::test]
async fn what_may_be_tried_again_is_until_it_is_taken() {
    let pause = Duration::from_millis(700);
    let details = ErrorDetails::with_retry_info(Some(pause));
    let receiver = Receiver::answering(vec![
        Answer::Refuse(Status::unavailable("starting")),
        Answer::Refuse(Status::aborted("moved")),
        Answer::Refuse(Status::data_loss("disk")),
        Answer::Refuse(Status::with_error_details(Code::ResourceExhausted, "slow down", details)),
    ]);
    let world = World::exporting(100, Some(&OtlpConfig { metrics_interval_seconds: 1, ..receiver.config() }));
    send(&world, 1..=3).await;
    receiver.until("the fourth try", |receiver| receiver.tries() == 4).await;
    let refused = Instant::now();
    receiver.until("three records", |receiver| receiver.arrived().len() >= 3).await;
    // A little less than the pause, since the fourth try was noticed late.
    assert!(refused.elapsed() >= pause - Duration::from_millis(200), "it did not wait: {:?}", refused.elapsed());
    assert_eq!((story(&receiver), receiver.tries()), ((vec![1, 2, 3], vec![]), 5));
    receiver
        .until("the count of retries", |receiver| receiver.value("weir.otlp.records.retried", &[]) == Some(12))
        .await;
}

#[tokio::test]
async fn what_is_refused_for_good_is_lost_counted_and_told() {
    let receiver = Receiver::answering(vec![
        Answer::Refuse(Status::invalid_argument("never")),
        Answer::Refuse(Status::unauthenticated("who?")),
    ]);
    let world = World::exporting(100, Some(&OtlpConfig { metrics_interval_seconds: 1, ..receiver.config() }));
    send(&world, 1..=3).await;
    receiver.until("the first try", |receiver| receiver.tries() == 1).await;
    let mut agent = world.agent().await;
    agent.send(batch(4, [4])).await.unwrap();
    receiver.until("the second try", |receiver| receiver.tries() == 2).await;
    agent.send(batch(5, [5])).await.unwrap();
    receiver.until("a record and a loss", |receiver| receiver.arrived().len() >= 2).await;
    // Two decisions each; the loss that was refused with the second record is not forgotten.
    assert_eq!(story(&receiver), (vec![5], vec![("otlp_rejected".to_owned(), 8, 4)]));
    let loss = &receiver.arrived()[1];
    assert_eq!((loss.record.severity_number, loss.record.event_name.as_str()), (17, "weir.flow.loss"));
    assert_eq!((loss.record.time_unix_nano, loss.said["weir.end_time_unix_nano"].as_str()), (1000, "4000"));
    assert_eq!((loss.said["weir.hook"].as_str(), loss.said["weir.verdict"].as_str()), ("connect", "deny"));
    let dropped = |receiver: &Receiver| {
        receiver.value("weir.otlp.records.dropped", &[("weir.loss_cause", "otlp_rejected")]) == Some(4)
    };
    receiver.until("the count of what was refused", dropped).await;
}

#[tokio::test]
async fn what_is_taken_in_part_is_counted_and_told() {
    let receiver = Receiver::answering(vec![Answer::Part(2)]);
    let world = World::exporting(100, Some(&OtlpConfig { metrics_interval_seconds: 1, ..receiver.config() }));
    send(&world, 1..=3).await;
    receiver.until("the first request", |receiver| receiver.arrived().len() == 3).await;
    let mut agent = world.agent().await;
    agent.send(batch(4, [4])).await.unwrap();
    receiver.until("a loss", |receiver| !story(receiver).1.is_empty()).await;
    assert_eq!(story(&receiver), (vec![1, 2, 3, 4], vec![("otlp_rejected".to_owned(), 0, 2)]));
    receiver.until("what was sent", |receiver| receiver.value("weir.otlp.records.sent", &[]) == Some(3)).await;
}

#[tokio::test]
async fn a_full_queue_leaves_out_the_newest_and_says_how_many() {
    let address = free().await;
    let world = World::exporting(1000, Some(&OtlpConfig { queue_records: 10, ..config(address) }));
    send(&world, 1..=100).await;
    let receiver = at(address);
    receiver.until("ten records and a loss", |receiver| receiver.arrived().len() >= 11).await;
    assert_eq!(story(&receiver), ((1..=10).collect(), vec![("otlp_queue_full".to_owned(), 180, 90)]));
    assert_eq!(
        world.node("n", "b").await.decisions["connect/deny/default"],
        200,
        "the collector itself lost something"
    );
}

#[tokio::test]
async fn a_receiver_that_never_answers_is_left_and_tried_anew() {
    let receiver = Receiver::answering(vec![Answer::Silence]);
    let world = World::exporting(100, Some(&receiver.config()));
    send(&world, 1..=3).await;
    receiver.until("the records", |receiver| receiver.arrived().len() >= 3).await;
    assert_eq!((story(&receiver).0, receiver.tries()), (vec![1, 2, 3], 2));
}

#[tokio::test]
async fn garbage_loses_nothing_and_ends_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (counted, mut count) = tokio::sync::watch::channel(0);
    let garbage = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _sent = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n\xff\xff\xff\xff").await;
            counted.send_modify(|count| *count += 1);
        }
    });
    let world = World::exporting(100, Some(&config(address)));
    send(&world, 1..=3).await;
    // Metrics have a connection of their own, and try once.
    count.wait_for(|count| *count >= 3).await.unwrap();
    garbage.abort();
    let _aborted = garbage.await;
    let receiver = at(address);
    receiver.until("the records", |receiver| receiver.arrived().len() >= 3).await;
    assert_eq!(story(&receiver), (vec![1, 2, 3], vec![]));
}

#[tokio::test]
async fn a_receiver_that_asks_again_and_again_is_not_obeyed_for_ever() {
    let refuse = || {
        let soon = ErrorDetails::with_retry_info(Some(Duration::from_millis(10)));
        Answer::Refuse(Status::with_error_details(Code::OutOfRange, "too large for me", soon))
    };
    let receiver = Receiver::answering((0..11).map(|_| refuse()).collect());
    let world = World::exporting(100, Some(&receiver.config()));
    send(&world, 1..=3).await;
    receiver.until("eleven tries", |receiver| receiver.tries() == 11).await;
    let mut agent = world.agent().await;
    agent.send(batch(4, [4])).await.unwrap();
    receiver.until("a record and a loss", |receiver| receiver.arrived().len() >= 2).await;
    assert_eq!(story(&receiver), (vec![4], vec![("otlp_gave_up".to_owned(), 6, 3)]));
}

#[tokio::test]
async fn a_silent_receiver_does_not_hold_up_the_stop() {
    let receiver = Receiver::answering(vec![Answer::Silence]);
    let mut world = World::exporting(100, Some(&receiver.config()));
    send(&world, 1..=3).await;
    receiver.until("the first try", |receiver| receiver.tries() == 1).await;
    let begin = Instant::now();
    world.supervisor.drain().await;
    assert!(begin.elapsed() < weir_collector::supervisor::DRAIN, "{:?}", begin.elapsed());
}
