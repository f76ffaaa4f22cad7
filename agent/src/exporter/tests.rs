//! Lives: weir-agent, tests of the queue.
//! Called by: `cargo test`.
//! May touch: memory.
//! Never: needs a collector; the stream is tested in `rpc`.

use weir_common::verdict::{Hook, Reason, Verdict};

use super::{state::BATCH_RECORDS, *};
use crate::telemetry::record::RecordKind;

fn verdict(hook: Hook, count: u64, time_ns: u64) -> Record {
    let (verdict, reason) = (Some(Verdict::Deny), Some(Reason::Default));
    Record { hook: Some(hook), verdict, reason, count, time_ns, ..Record::default() }
}

fn queue(capacity: usize) -> Queue {
    Queue::new(capacity, "boot".into(), true)
}

#[test]
fn batches_are_numbered_without_gaps_and_kept_until_acknowledged() {
    let queue = queue(10_000);
    queue.push((0..2500).map(|n| verdict(Hook::Connect, 1, n)).collect());
    let sizes: Vec<usize> = (1..=3).map(|n| queue.batch(n).unwrap().records.len()).collect();
    assert_eq!(sizes, [BATCH_RECORDS, BATCH_RECORDS, 2500 - 2 * BATCH_RECORDS]);
    assert_eq!(queue.batch(4), None);
    assert_eq!(queue.batch(5), None, "a number is never skipped");
    assert_eq!(queue.first_unacknowledged(), 1);
    queue.acknowledge(2).unwrap();
    assert_eq!((queue.first_unacknowledged(), queue.batch(2), queue.batch(3).map(|b| b.sequence)), (3, None, Some(3)));
    queue.acknowledge(1).unwrap();
    assert_eq!(queue.acknowledge(4), Err(UnknownAck { got: 4, sent: 3 }));
    let status = queue.status();
    assert_eq!((status.sent, status.acknowledged, status.queued), (2500, 2048, 452));
    queue.close();
    assert!(!queue.is_done());
    queue.acknowledge(3).unwrap();
    assert!(queue.is_done());
}

#[test]
fn what_finds_no_room_is_counted_exactly_and_told_once_there_is_room() {
    let queue = queue(2);
    let close = Record { kind: RecordKind::Close, time_ns: 60, ..Record::default() };
    queue.push(vec![
        verdict(Hook::Connect, 1, 10),
        verdict(Hook::Connect, 1, 20),
        verdict(Hook::Connect, 1, 30),
        verdict(Hook::Xdp, 500, 40),
        verdict(Hook::Connect, 1, 50),
        close,
    ]);
    assert_eq!((queue.status().lost, queue.status().queued), (502, 2));
    assert_eq!(queue.batch(1).unwrap().records.len(), 2);
    queue.push(vec![verdict(Hook::Connect, 1, 70)]);
    assert_eq!(queue.status().lost, 503, "a batch on its way still takes room");
    queue.acknowledge(1).unwrap();
    let first = queue.batch(2).unwrap();
    queue.acknowledge(2).unwrap();
    let told: Vec<Record> = first.records.iter().chain(&queue.batch(3).unwrap().records).cloned().collect();
    let row = |hook, cause, count, first, last| (hook, RecordKind::Loss(cause), count, first, last);
    let mut found: Vec<_> = told.iter().map(|r| (r.hook, r.kind, r.count, r.time_ns, r.end_ns)).collect();
    found.sort_by_key(|row| row.2);
    let expected = [
        row(None, Cause::QueueFullClose, 1, 60, 60),
        row(Some(Hook::Connect), Cause::QueueFull, 3, 30, 70),
        row(Some(Hook::Xdp), Cause::QueueFull, 500, 40, 40),
    ];
    assert_eq!(found, expected);
    queue.push(vec![verdict(Hook::Connect, 1, 80)]);
    assert_eq!(queue.batch(4).map(|batch| batch.records.len()), Some(1), "nothing is told twice");
}

#[test]
fn without_a_collector_nothing_is_kept_and_nothing_counts_as_lost() {
    let queue = Queue::new(2, "boot".into(), false);
    queue.push((0..10).map(|n| verdict(Hook::Connect, 1, n)).collect());
    queue.lost(Cause::RingFull, 0, 1, 1, 1);
    assert_eq!((queue.status().queued, queue.status().lost, queue.batch(1)), (0, 0, None));
}

#[test]
fn pauses_grow_to_a_bound_and_begin_again() {
    let mut backoff = Backoff::default();
    let pauses: Vec<Duration> = (0..12).map(|_| backoff.pause()).collect();
    for (index, pause) in pauses.iter().enumerate() {
        let full = FIRST.saturating_mul(1 << index).min(LONGEST);
        assert!(*pause >= full / 2 && *pause <= full, "{index}: {pause:?}");
    }
    backoff.reset();
    assert!(backoff.pause() <= FIRST);
}
