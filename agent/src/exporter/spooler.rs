//! Lives: weir-agent, on a thread of its own.
//! Called by: `runtime`, which starts it; it ends when the queue is closed and empty.
//! May touch: the queue, and through it the spool's disk.
//! Never: makes telemetry wait for the disk: what waits meanwhile is bounded, and counted where it finds no room.

use std::time::{Duration, Instant};

use super::{
    Queue,
    pending::{QUOTA, workload},
};
use crate::{
    spool::{Codec, Facts, Given, Spool, Why},
    telemetry::{
        clock,
        record::{Cause, Record, RecordKind},
    },
};

/// Records in one batch: what is done once for each batch, here, on the wire and at the collector, is little for each of so many.
pub const BATCH_RECORDS: usize = 4096;
/// Bytes of one batch, if it has more than one record; the collector takes eight times as much.
pub const BATCH_BYTES: usize = 1 << 20;
/// Bytes of its records one by one, likewise; the collector takes twice as much.
pub const PLAIN_BYTES: usize = 32 << 20;
/// Longest time a record waits for others of its batch while the stream keeps up.
const LINGER: Duration = Duration::from_millis(20);
/// The same while batches wait to be sent: they wait anyway, and full ones are smaller.
const LINGER_BEHIND: Duration = Duration::from_secs(1);
/// Time between two looks at what is too old, and two writes to the disk itself.
const TEND: Duration = Duration::from_secs(5);
/// Time until records that found no place are tried again.
const AGAIN: Duration = Duration::from_millis(100);

/// Makes batches of what is pending until the queue is closed and empty.
pub fn run(queue: &Queue, codec: Codec) {
    let mut tended = Instant::now();
    loop {
        let linger = if queue.look(Spool::is_behind) { LINGER_BEHIND } else { LINGER };
        let records = queue.wait(linger, TEND, BATCH_RECORDS);
        if !records.is_empty() && !store(queue, codec, records) {
            if queue.is_closed() {
                break;
            }
            std::thread::sleep(AGAIN);
        }
        if queue.is_pending_done() {
            break;
        }
        if tended.elapsed() >= TEND {
            tended = Instant::now();
            tend(queue, codec);
        }
    }
    queue.spool(Spool::end);
    queue.drained();
}

/// One batch, or several where one would be too large; whether the spool took all. What it did not take waits again.
fn store(queue: &Queue, codec: Codec, mut records: Vec<Record>) -> bool {
    let excess = queue.look(|spool| {
        let scarce = spool.fill_permille() >= 500;
        let is_excess = |record: &mut Record| {
            scarce
                && !matches!(record.kind, RecordKind::Loss(_))
                && spool.share_permille(workload(record)) * QUOTA as u64 >= 1000
        };
        records.extract_if(.., is_excess).collect::<Vec<_>>()
    });
    queue.give_up(&excess);
    // What is left to store, its beginning last.
    let mut parts = vec![records];
    while let Some(mut part) = parts.pop() {
        if part.is_empty() {
            continue;
        }
        let packed = (codec.pack)(&part);
        if (packed.bytes.len() > BATCH_BYTES || packed.plain > PLAIN_BYTES) && part.len() > 1 {
            // Long names: a workload picks the path of its executable, and labels are repeated for each record.
            let rest = part.split_off(part.len() / 2);
            parts.extend([rest, part]);
            continue;
        }
        let facts = facts(&part);
        let names = part.iter().map(workload);
        if !queue.spool(|spool| spool.append(facts, &packed.bytes, names)) {
            parts.push(part);
            queue.put_back(parts.into_iter().rev().flatten().collect());
            return false;
        }
        queue.give_back(part);
        make_room(queue, codec);
        queue.ready();
    }
    true
}

fn facts(records: &[Record]) -> Facts {
    let decisions = |record: &Record| if record.kind == RecordKind::Verdict { record.count } else { 0 };
    Facts {
        records: u32::try_from(records.len()).unwrap_or(u32::MAX),
        decisions: records.iter().map(decisions).sum(),
        newest_ns: records.iter().map(|record| record.time_ns.max(record.end_ns)).max().unwrap_or(0),
    }
}

fn tend(queue: &Queue, codec: Codec) {
    make_room(queue, codec);
    if let Err(error) = queue.spool(Spool::sync) {
        tracing::warn!(error = %error, "the spool could not be written to the disk itself");
    }
}

fn make_room(queue: &Queue, codec: Codec) {
    for (why, given) in queue.spool(|spool| spool.give_up(clock::wall_now(), codec)) {
        let Given { cells, others, again, first_ns, last_ns } = given;
        let is_earlier = why == Why::Earlier;
        let cause = match why {
            Why::Full => Cause::SpoolFull,
            Why::Expired => Cause::SpoolExpired,
            Why::Earlier => Cause::EarlierRun,
        };
        cells.into_iter().for_each(|(cell, count)| queue.lost(cause, cell, count, first_ns, last_ns));
        for ((cause, cell), count) in again {
            // Losses of an earlier run are none of this run's, however they came about.
            let cause = if is_earlier { cause.of_earlier_run() } else { cause };
            queue.lost_again(cause, cell, count, first_ns, last_ns);
        }
        if others > 0 {
            queue.lost(cause.of_others(), None, others, first_ns, last_ns);
        }
    }
}
