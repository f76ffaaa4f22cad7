//! Lives: weir-agent, tests of the telemetry loop.
//! Called by: `cargo test`.
//! May touch: a fake kernel.
//! Never: sleeps to wait for something.

use weir_common::{
    addr::Port,
    event::{Kind, MergeKey, MergeValue, Process},
    verdict::{Direction, Hook, Reason, Verdict},
};

use super::{
    record::{Cause, RecordKind},
    *,
};
use crate::{
    datapath::{CounterCell, Merged, OthersLost},
    runtime::StopSwitch,
    spool::Spool,
    telemetry::loss::RingLosses,
    testing::{Fake, addr, event},
};

fn parts() -> Parts {
    let queue = Arc::new(Queue::new(10_000, Spool::in_memory("boot", String::new()), true));
    Parts {
        names: Arc::default(),
        queue,
        revoker: Arc::default(),
        tally: Arc::default(),
        cgroup_root: "/nonexistent".into(),
    }
}

fn records(queue: &Queue) -> Vec<Record> {
    queue.wait(Duration::ZERO, Duration::ZERO, usize::MAX)
}

fn merged(count: u64) -> Merged {
    let key = MergeKey {
        local: addr(1),
        remote: addr(2),
        generation: 1,
        rule: 0,
        local_identity: 0,
        remote_identity: 1,
        workload: 0,
        ifindex: 0,
        local_port: Port::new(80),
        remote_port: Port::new(0),
        hook: Hook::Xdp as u8,
        direction: Direction::Ingress as u8,
        verdict: Verdict::Deny as u8,
        reason: Reason::Blocklist as u8,
        protocol: 17,
        reserved: [0; 3],
        staged: 0,
        padding: 0,
    };
    let value = MergeValue { count, first_ns: 1, last_ns: 2, ..MergeValue::default() };
    let overflow = vec![(Hook::Xdp, Verdict::Deny, Reason::Blocklist, 7)];
    Merged { entries: vec![(key, value)], overflow, in_table: 0, in_cells: 1 }
}

#[test]
fn what_is_in_the_ring_and_the_tables_at_the_stop_is_still_recorded_and_counted() {
    let (fake, parts) = (Fake::default(), parts());
    let (queue, tally) = (Arc::clone(&parts.queue), Arc::clone(&parts.tally));
    for cookie in 0..900 {
        fake.decide(event(Kind::Verdict, Hook::SockOps, Direction::Egress, cookie));
    }
    fake.inner().merged.push_back(merged(40));
    let (switch, stop) = StopSwitch::new();
    switch.set();
    Telemetry::new(fake, parts).run(&stop).unwrap();
    assert_eq!(tally.recorded(Hook::SockOps, Verdict::Allow, Reason::Rule), 900);
    assert_eq!(tally.recorded(Hook::Xdp, Verdict::Deny, Reason::Blocklist), 47);
    let records = records(&queue);
    assert_eq!((records.iter().map(|record| record.count).sum::<u64>(), records.len()), (947, 902));
    assert_eq!((tally.table.highest(), tally.drops.highest(), tally.overflowed()), (0, 1, 7));
}

/// A socket may be bound and send while the epoch of its datagram is closed; found by a live test on a busy machine.
#[test]
fn who_bound_a_socket_while_the_epoch_was_closed_is_named_in_its_merged_record() {
    let (fake, parts) = (Fake::default(), parts());
    let queue = Arc::clone(&parts.queue);
    let process = Process { pid: u32::MAX, uid: 7, comm: *b"curl\0\0\0\0\0\0\0\0\0\0\0\0", staged: 0, reserved: 0 };
    let bound = event(Kind::Bound, Hook::PostBind, Direction::Egress, 5);
    fake.inner().late.push(Event { detail: zerocopy::transmute!(process), ..bound });
    let mut sent = merged(1);
    sent.overflow.clear();
    for (key, value) in &mut sent.entries {
        key.hook = Hook::Egress as u8;
        value.cookie = 5;
    }
    fake.inner().merged.push_back(sent);
    let mut telemetry = Telemetry::new(fake, parts);
    telemetry.take_merged();
    let named = records(&queue).pop().unwrap().about.process.clone();
    assert_eq!(named.map(|process| process.command.clone()).as_deref(), Some("curl"));
}

#[test]
fn merged_decisions_that_cannot_be_read_do_not_stop_the_events() {
    let (fake, parts) = (Fake::default(), parts());
    let tally = Arc::clone(&parts.tally);
    fake.inner().fail_merged = true;
    fake.decide(event(Kind::Verdict, Hook::Connect, Direction::Egress, 1));
    let (switch, stop) = StopSwitch::new();
    switch.set();
    Telemetry::new(fake, parts).run(&stop).unwrap();
    assert_eq!(tally.recorded(Hook::Connect, Verdict::Allow, Reason::Rule), 1);
}

#[test]
fn the_rings_losses_are_told_once_with_their_hook_and_count() {
    let queue = Queue::new(100, Spool::in_memory("boot", String::new()), true);
    let mut losses = RingLosses::default();
    let cell = |lost| CounterCell {
        hook: Hook::Connect,
        verdict: Verdict::Deny,
        reason: Reason::Default,
        decided: 100,
        lost,
        quiet: 0,
    };
    let mut told = Vec::new();
    for lost in [0, 5, 5, 12] {
        losses.update(&[cell(lost)], OthersLost { closes: lost / 5, kernel_drops: lost / 6 }, &queue);
        told.extend(records(&queue));
    }
    let row = |record: &Record| (record.kind, record.about.hook, record.count);
    let (decisions, closes) = (RecordKind::Loss(Cause::RingFull), RecordKind::Loss(Cause::RingFullClose));
    let connect = Some(Hook::Connect);
    let missed = (RecordKind::Loss(Cause::KernelDropMissed), None, 2);
    let expected = [(decisions, connect, 5), (closes, None, 1), (decisions, connect, 7), (closes, None, 1), missed];
    assert_eq!(told.iter().map(row).collect::<Vec<_>>(), expected);
    assert!(told.iter().all(|record| record.time_ns > 0 && record.end_ns >= record.time_ns));
}
