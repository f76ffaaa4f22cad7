//! Lives: weir-agent, on the exporter's thread.
//! Called by: `runtime`, which starts and stops it.
//! May touch: the queue, the stream to the collector.
//! Never: makes telemetry wait; takes a record out of the queue before the collector has acknowledged it.
//!
//! ```text
//! connecting ─ stream open ─► connected ─ stream broken, no acknowledgement for ACK_PATIENCE ─► connecting (after a pause)
//! ```
//! A new stream begins with the first batch that was not acknowledged, so batches may arrive twice and the collector drops
//! what it has.

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};
use weir_proto::v1::{self, flow_collector_client::FlowCollectorClient};

use super::link::Link;
use crate::{
    exporter::{Backoff, Queue},
    spool::{Parcel, UnknownAck},
};

/// Batches that travel without an acknowledgement.
const WINDOW: usize = 16;
/// Batches that wait for the transport.
const OUTBOX: usize = 4;
/// How long a call may stay unanswered before batches are made for it: one that fails at once costs no batch.
const ANSWER_PATIENCE: Duration = Duration::from_millis(500);
/// Longest time the oldest batch may stay without an acknowledgement.
const ACK_PATIENCE: Duration = Duration::from_secs(30);

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("{}", words(.0))]
    Stream(#[from] Status),
    #[error("the collector ended the stream")]
    Ended,
    #[error("no acknowledgement for {ACK_PATIENCE:?}")]
    Silent,
    #[error(transparent)]
    Acknowledgement(#[from] UnknownAck),
}

/// What a status says to people: the code's own words are of no help where there are others.
fn words(status: &Status) -> &str {
    match status.message() {
        "" => status.code().description(),
        message => message,
    }
}

/// Sends what the queue holds, until it is closed and empty, or closed and the collector is away.
pub async fn run(channel: Channel, queue: Arc<Queue>, node: String, link: Arc<Link>) {
    let mut backoff = Backoff::default();
    while !queue.is_done() {
        let acknowledged = || queue.status().spool.acknowledged;
        let before = acknowledged();
        let session = Session { queue: &queue, node: &node, link: &link };
        let Err(broken) = session.run(channel.clone()).await else { break };
        if acknowledged() > before {
            backoff.reset();
        }
        let was = link.state().word;
        link.set("connecting", broken.to_string());
        if was == "connected" {
            tracing::warn!(reason = %broken, "the stream to the collector broke; records are kept and sent again");
        } else {
            tracing::debug!(reason = %broken, "the collector is not reachable");
        }
        if queue.is_closed() {
            break;
        }
        pause(backoff.pause(), &queue).await;
    }
    let left = queue.status().spool.records;
    if left > 0 {
        tracing::warn!(records = left, "stopped with records that the collector did not acknowledge");
    }
}

/// Waits, but not past the close of the queue.
async fn pause(time: Duration, queue: &Queue) {
    let end = Instant::now() + time;
    while !queue.is_closed() {
        tokio::select! {
            () = sleep_until(end) => return,
            () = queue.changed() => {}
        }
    }
}

/// One stream.
struct Session<'a> {
    queue: &'a Queue,
    node: &'a str,
    link: &'a Link,
}

impl Session<'_> {
    /// Until the queue is done, or the stream broke.
    async fn run(&self, channel: Channel) -> Result<(), Broken> {
        let (outbox, stream) = mpsc::channel(OUTBOX);
        let mut client = FlowCollectorClient::new(channel);
        // A collector may answer only once it has seen a batch, so after a while the call and the first batches go on together.
        let mut call = pin!(client.export(ReceiverStream::new(stream)));
        self.queue.rewind();
        let mut feed = Feed { session: self, outbox: &outbox };
        let answer = feed.until(call.as_mut()).await?;
        self.follow(answer?.into_inner(), feed).await
    }

    /// Sends batches and takes acknowledgements.
    async fn follow(&self, mut acks: Streaming<v1::Ack>, mut feed: Feed<'_, '_>) -> Result<(), Broken> {
        self.link.set("connected", String::new());
        tracing::info!("connected to the collector");
        let mut heard = Instant::now();
        while !self.queue.is_done() {
            let waiting = self.queue.in_flight() > 0;
            if !waiting {
                heard = Instant::now();
            }
            tokio::select! {
                ack = acks.message() => {
                    let ack = ack?.ok_or(Broken::Ended)?;
                    self.queue.acknowledge(&ack.boot_id, ack.sequence)?;
                    heard = Instant::now();
                }
                sent = feed.step() => sent?,
                () = sleep_until(heard + ACK_PATIENCE), if waiting => return Err(Broken::Silent),
            }
        }
        Ok(())
    }
}

/// The sending half of a stream.
struct Feed<'a, 'b> {
    session: &'a Session<'b>,
    outbox: &'a mpsc::Sender<v1::Batch>,
}

impl Feed<'_, '_> {
    /// Sends one batch, or waits until there may be one. May be cancelled at any point without losing a batch.
    async fn step(&mut self) -> Result<(), Broken> {
        let queue = self.session.queue;
        let permit = self.outbox.reserve().await.map_err(|_| Broken::Ended)?;
        let open = queue.in_flight() < WINDOW;
        match open.then(|| queue.next_parcel()).flatten() {
            Some(parcel) => permit.send(batch(parcel, self.session.node)),
            None => {
                drop(permit);
                queue.changed().await;
            }
        }
        Ok(())
    }

    /// Sends batches until the call is answered.
    async fn until<T>(&mut self, mut call: impl Future<Output = T> + Unpin) -> Result<T, Broken> {
        if let Ok(answer) = timeout(ANSWER_PATIENCE, &mut call).await {
            return Ok(answer);
        }
        loop {
            tokio::select! {
                answer = &mut call => return Ok(answer),
                sent = self.step() => {
                    // The outbox closes when the call fails; its answer says why.
                    if sent.is_err() {
                        return Ok(call.await);
                    }
                }
                () = sleep(ACK_PATIENCE) => return Err(Broken::Silent),
            }
        }
    }
}

fn batch(parcel: Parcel, node: &str) -> v1::Batch {
    v1::Batch {
        node: node.to_owned(),
        boot_id: parcel.boot.to_string(),
        sequence: parcel.sequence,
        records: Vec::new(),
        packed: parcel.packed,
        dropped_before: parcel.dropped_before,
    }
}

#[cfg(test)]
#[path = "export_tests.rs"]
mod tests;
