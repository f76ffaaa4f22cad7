//! Lives: collector, the export by OTLP (gRPC).
//! Called by: `run`, where the configuration names a receiver.
//! May touch: the receiver; the store and the queue, which nobody waits for.
//! Never: slows down a stream of records or its acknowledgements, whatever the receiver does.
//!
//! ```text
//! export ─ push ─► queue ─ next ─► parts ─► one request at a time ─► receiver
//! ```
//! Order of stopping: the server's streams end and the queue is closed; what waits is sent, then the metrics once more; what
//! is left after [`FLUSH`] is said in the log.

mod attributes;
mod client;
mod log;
mod logs;
mod metrics;
mod queue;
mod requests;

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, sleep};

pub use client::OtlpError;
pub use queue::{Numbers, Queue};

use self::client::{Client, Reach};
use self::metrics::Own;
use super::Store;
use crate::otlp::OtlpConfig;
use crate::store::now_ns;
use crate::supervisor::Stop;

/// Time to send what waits when the process stops; shorter than the supervisor's patience.
const FLUSH: Duration = Duration::from_millis(1500);

/// Sends records and metrics to a receiver.
pub struct Exporter {
    reach: Reach,
    queue: Arc<Queue>,
    store: Arc<Store>,
    own: Own,
    interval: Duration,
}

impl Exporter {
    /// Reads the files that the configuration names; nothing is sent yet.
    ///
    /// # Errors
    /// One of them cannot be used.
    pub fn prepare(config: &OtlpConfig, store: Arc<Store>) -> Result<Self, OtlpError> {
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
        Ok(Self {
            reach: Reach::prepare(config)?,
            queue: Arc::new(Queue::new(config.queue_records)),
            store,
            own: Own { host, instance: format!("{:016x}", fastrand::u64(..)) },
            interval: Duration::from_secs(config.metrics_interval_seconds),
        })
    }

    /// Where records go to be exported.
    #[must_use]
    pub fn queue(&self) -> Arc<Queue> {
        Arc::clone(&self.queue)
    }

    /// Sends until the queue is closed and empty, at most [`FLUSH`] longer than until the stop signal.
    pub async fn run(self, stop: Stop) {
        let (mut patience, queue) = (stop.clone(), self.queue());
        let late = async {
            patience.stopped().await;
            sleep(FLUSH).await;
        };
        tokio::select! {
            () = self.work(stop) => {}
            () = late => {}
        }
        let left = queue.numbers().queued;
        if left > 0 {
            tracing::warn!(records = left, "the collector stops before the OTLP receiver has taken all records");
        }
    }

    async fn work(self, stop: Stop) {
        let mut client = Client::new(self.reach.clone(), "metrics");
        let records = logs::run(Client::new(self.reach.clone(), "records"), self.queue(), stop.clone());
        tokio::join!(records, self.metrics(&mut client, stop));
        // The last word, with everything counted.
        self.tell(&mut client).await;
    }

    async fn metrics(&self, client: &mut Client, mut stop: Stop) {
        let mut ticks = interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.stopped() => return,
            }
            tokio::select! {
                () = self.tell(client) => {}
                () = stop.stopped() => return,
            }
        }
    }

    /// Sends every metric once. What is refused is not tried again: the next time says the same and more.
    async fn tell(&self, client: &mut Client) {
        for request in metrics::requests(&self.store.summary(), &self.queue.numbers(), &self.own, now_ns()) {
            let partial = client.metrics(request).await.ok().flatten().unwrap_or_default();
            if partial.rejected_data_points > 0 {
                client.partly(partial.rejected_data_points.unsigned_abs(), &partial.error_message);
            }
        }
    }
}
