//! Lives: collector, the export of records.
//! Called by: `rpc::otlp`, which runs it for as long as the collector.
//! May touch: the queue, the receiver.
//! Never: has more than one request under way; forgets a record before it is taken, or counted as lost.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::client::{Client, Refusal};
use super::queue::{Cause, Item, Queue};
use super::requests::{Part, parts};
use crate::supervisor::Stop;

/// First pause before a request is sent once more; each next is twice as long.
const FIRST: Duration = Duration::from_millis(200);
/// Longest of them.
const LONGEST: Duration = Duration::from_secs(30);
/// Longest pause once the process stops.
const HURRY: Duration = Duration::from_millis(200);
/// How often a receiver that is there may ask for the same request again.
const MAX_AGAIN: u32 = 10;

/// Sends records until the queue is closed and empty.
pub async fn run(mut client: Client, queue: Arc<Queue>, mut stop: Stop) {
    while let Some(items) = queue.next().await {
        for part in parts(&items) {
            let of_part = items.get(part.range.clone()).unwrap_or_default();
            deliver(&mut client, &queue, part, of_part, &mut stop).await;
        }
        queue.settled();
    }
}

async fn deliver(client: &mut Client, queue: &Queue, part: Part, items: &[Item], stop: &mut Stop) {
    let records = items.len() as u64;
    let (mut next, mut again) = (FIRST, 0);
    loop {
        let asked = match client.logs(part.request.clone()).await {
            Ok(partial) => {
                let partial = partial.unwrap_or_default();
                let rejected = u64::try_from(partial.rejected_log_records).unwrap_or(0).min(records);
                queue.sent(records - rejected);
                if rejected > 0 {
                    client.partly(rejected, &partial.error_message);
                    queue.lost_unnamed(rejected, items, Cause::Rejected);
                }
                return;
            }
            Err(Refusal::Never) => return queue.lost(items, Cause::Rejected),
            Err(Refusal::Again { .. }) if again >= MAX_AGAIN => return queue.lost(items, Cause::GaveUp),
            Err(Refusal::Again { pause }) => {
                again += 1;
                pause
            }
            Err(Refusal::Away { pause }) => pause,
        };
        rest(asked.unwrap_or_else(|| jitter(next)), stop).await;
        next = (next * 2).min(LONGEST);
        queue.retried(records);
    }
}

/// Random within the upper half, so that many collectors do not come all at once.
fn jitter(full: Duration) -> Duration {
    full.mul_f64(0.5 + fastrand::f64() / 2.0)
}

/// Waits; not for long once the process stops.
async fn rest(pause: Duration, stop: &mut Stop) {
    let hurry = async {
        stop.stopped().await;
        sleep(HURRY.min(pause)).await;
    };
    tokio::select! {
        () = sleep(pause) => {}
        () = hurry => {}
    }
}
