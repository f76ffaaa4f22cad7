//! Lives: weir-agent, tests of the queue.
//! Called by: `cargo test`.
//! May touch: memory.
//! Never: needs a collector; the stream is tested in `rpc`, the spool in `spool`.

use weir_common::verdict::{Hook, Reason, Verdict};

use super::*;
use crate::telemetry::record::{About, End, RecordKind, WorkloadName};

fn verdict(hook: Hook, count: u64, time_ns: u64) -> Record {
    let (verdict, reason) = (Some(Verdict::Deny), Some(Reason::Default));
    let about = About { hook: Some(hook), verdict, reason, ..About::default() };
    Record { count, time_ns, ..Record::of(Arc::new(about)) }
}

fn of(workload: &str) -> Record {
    let name = WorkloadName { name: workload.to_owned(), labels: vec![], cgroup: None };
    let local = End { workload: (!workload.is_empty()).then(|| Arc::new(name)), ..End::default() };
    let mut record = verdict(Hook::Connect, 1, 5);
    Arc::make_mut(&mut record.about).local = local;
    record
}

fn queue(capacity: usize) -> Queue {
    Queue::new(capacity, Spool::in_memory("boot", String::new()), true)
}

fn taken(queue: &Queue, most: usize) -> Vec<Record> {
    queue.wait(Duration::ZERO, Duration::ZERO, most)
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
    assert_eq!((queue.status().lost, queue.status().pending), (502, 2));
    queue.push(vec![verdict(Hook::Connect, 1, 70)]);
    assert_eq!(queue.status().lost, 503);
    let mut told = [taken(&queue, 2), taken(&queue, 2)].concat();
    let kept: Vec<u64> = told.drain(..2).map(|record| record.time_ns).collect();
    assert_eq!(kept, [10, 20]);
    let row = |hook, cause, count, first, last| (hook, RecordKind::Loss(cause), count, first, last);
    let mut found: Vec<_> = told.iter().map(|r| (r.about.hook, r.kind, r.count, r.time_ns, r.end_ns)).collect();
    found.sort_by_key(|row| row.2);
    let expected = [
        row(None, Cause::QueueFullClose, 1, 60, 60),
        row(Some(Hook::Connect), Cause::QueueFull, 3, 30, 70),
        row(Some(Hook::Xdp), Cause::QueueFull, 500, 40, 40),
    ];
    assert_eq!(found, expected);
    assert_eq!((queue.status().losses[&Cause::QueueFull], queue.status().losses[&Cause::QueueFullClose]), (503, 1));
    queue.push(vec![verdict(Hook::Connect, 1, 80)]);
    assert_eq!(taken(&queue, 9).len(), 1, "nothing is told twice");
}

#[test]
fn a_loss_that_finds_no_room_is_told_later_and_counted_once() {
    let queue = queue(2);
    queue.push(vec![verdict(Hook::Connect, 1, 1), verdict(Hook::Connect, 1, 2)]);
    queue.lost(Cause::RingFull, Some(7), 9, 3, 4);
    let told = taken(&queue, 2);
    queue.put_back(told[2..].to_vec());
    let told = taken(&queue, 2);
    assert_eq!(told.iter().map(|r| (r.kind, r.count)).collect::<Vec<_>>(), [(RecordKind::Loss(Cause::RingFull), 9)]);
    assert_eq!((queue.status().losses[&Cause::RingFull], queue.status().lost), (9, 0));
}

#[test]
fn records_that_found_no_place_are_tried_again_soon() {
    let queue = queue(10);
    queue.put_back(vec![verdict(Hook::Connect, 1, 1)]);
    let begin = Instant::now();
    assert_eq!(queue.wait(Duration::from_millis(1), Duration::from_secs(60), 1024).len(), 1);
    assert!(begin.elapsed() < Duration::from_secs(30), "it waited for a push that nobody owes");
}

/// Adversarial 42: one workload's flood does not push out the records of the others.
#[test]
fn a_workload_that_floods_gets_a_quarter_while_room_is_scarce() {
    let queue = queue(1000);
    queue.push((0..400).map(|_| of("shop/loud")).collect());
    assert_eq!(queue.status().lost, 0, "there is room: nobody is held back");
    queue.push((0..5000).map(|_| of("shop/loud")).collect());
    assert_eq!(queue.status().pending, 500);
    for name in ["shop/a", "shop/b", ""] {
        queue.push((0..100).map(|_| of(name)).collect());
    }
    let losses = queue.status().losses;
    assert_eq!((losses[&Cause::Quota], losses[&Cause::QueueFull], queue.status().pending), (4900, 0, 800));
    let records = taken(&queue, 1000);
    let (records, told) = records.split_at(800);
    let held = |name: &str| records.iter().filter(|record| pending::workload(record) == name).count();
    assert_eq!([held("shop/loud"), held("shop/a"), held("shop/b"), held("")], [500, 100, 100, 100]);
    let whose = told.iter().map(|r| (r.kind, pending::workload(r), r.count)).collect::<Vec<_>>();
    assert_eq!(whose, [(RecordKind::Loss(Cause::Quota), "shop/loud", 4900)], "the loss says whose records they were");
}

#[test]
fn without_a_collector_nothing_is_kept_and_nothing_counts_as_lost() {
    let queue = Queue::new(2, Spool::in_memory("boot", String::new()), false);
    queue.push((0..10).map(|n| verdict(Hook::Connect, 1, n)).collect());
    queue.lost(Cause::RingFull, Some(0), 1, 1, 1);
    assert_eq!((queue.status().pending, queue.status().lost, queue.next_parcel()), (0, 0, None));
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
