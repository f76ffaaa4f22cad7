//! Lives: collector, between the streams of records and the export.
//! Called by: `rpc::export`, which pushes; `rpc::otlp::logs`, which takes.
//! May touch: its own memory, behind one lock held for moments.
//! Never: makes a pusher wait; copies a record; forgets that one was left out.
//!
//! When the queue is full the newest records are left out: what is kept is then a story without gaps up to records of loss
//! that say what is missing, added up by node, hook, verdict and reason. A loss that a node reported is never left out but
//! added up likewise. The number of these sums is bounded; beyond it they go by cause alone.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;
use weir_proto::v1::{FlowRecord, RecordType};

use crate::store::now_ns;

/// Most records in one request.
pub const BATCH: usize = 1000;
/// Longest time a record waits for others to share its request.
const DELAY: Duration = Duration::from_secs(1);
/// Most sums of what is missing.
const MAX_GAPS: usize = 1024;

/// Why a record was not exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The receiver did not keep up, or was away for too long.
    QueueFull,
    /// The receiver refuses it for good.
    Rejected,
    /// The receiver asked for it again and again, and never took it.
    GaveUp,
}

impl Cause {
    /// The word in records and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::QueueFull => "otlp_queue_full",
            Self::Rejected => "otlp_rejected",
            Self::GaveUp => "otlp_gave_up",
        }
    }
}

/// A record on its way out.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// The record.
    pub record: Arc<FlowRecord>,
    /// When the collector took it over, nanoseconds since the Unix epoch.
    pub observed_ns: u64,
    /// Of a loss on the way out: how many records it stands for.
    pub lost_records: u64,
}

/// Numbers about the export.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Records the receiver has taken.
    pub sent: u64,
    /// Records that were sent once more.
    pub retried: u64,
    /// Records that were left out.
    pub dropped: BTreeMap<Cause, u64>,
    /// Records that wait, those under way included.
    pub queued: u64,
    /// Most records that may wait.
    pub capacity: u64,
}

/// The bounded queue.
#[derive(Debug)]
pub struct Queue {
    state: Mutex<State>,
    changed: Notify,
    capacity: usize,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Item>,
    /// Records taken, and not yet settled.
    under_way: usize,
    gaps: BTreeMap<Key, Gap>,
    /// Whether the gaps should be told. Not by themselves after the receiver refused them.
    tell: bool,
    closed: bool,
    sent: u64,
    retried: u64,
    dropped: BTreeMap<Cause, u64>,
}

/// What missing records have in common.
#[derive(Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    node: String,
    hook: String,
    verdict: i32,
    reason: String,
    cause: String,
}

#[derive(Debug)]
struct Gap {
    decisions: u64,
    records: u64,
    first_ns: u64,
    last_ns: u64,
}

impl Queue {
    /// An empty queue for this many records.
    pub fn new(capacity: usize) -> Self {
        Self { state: Mutex::default(), changed: Notify::new(), capacity }
    }

    /// Takes records over, or counts them as left out. Never waits for anything but the lock.
    pub fn push(&self, records: impl IntoIterator<Item = Arc<FlowRecord>>) {
        let observed_ns = now_ns();
        let mut state = self.lock();
        for record in records {
            let item = Item { record, observed_ns, lost_records: 0 };
            if state.waiting.len() + state.under_way < self.capacity {
                state.waiting.push_back(item);
            } else {
                state.lose(&item, Cause::QueueFull);
            }
        }
        state.tell = !state.gaps.is_empty();
        drop(state);
        self.changed.notify_one();
    }

    /// No more records will come.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    /// The next records to send, once a batch is full or has waited long enough; `None` when there will be none. They count
    /// as under way until they are settled.
    pub async fn next(&self) -> Option<Vec<Item>> {
        loop {
            let (some, closed) = self.look(1);
            match (some, closed) {
                (true, _) => break,
                (false, true) => return None,
                (false, false) => self.changed.notified().await,
            }
        }
        let full = async {
            while self.look(BATCH) == (false, false) {
                self.changed.notified().await;
            }
        };
        let _in_time = timeout(DELAY, full).await;
        Some(self.lock().take())
    }

    /// Whether this many records can be taken, and whether no more will come.
    fn look(&self, wanted: usize) -> (bool, bool) {
        let state = self.lock();
        let gaps = if state.tell { state.gaps.len() } else { 0 };
        (state.waiting.len() + gaps >= wanted, state.closed)
    }

    /// The receiver has taken this many.
    pub fn sent(&self, records: u64) {
        self.lock().sent += records;
    }

    /// Every record under way was sent or lost.
    pub fn settled(&self) {
        self.lock().under_way = 0;
    }

    /// These records will not be sent again.
    pub fn lost(&self, items: &[Item], cause: Cause) {
        let mut state = self.lock();
        items.iter().for_each(|item| state.lose(item, cause));
    }

    /// Some of a request's records were refused, and nobody said which.
    pub fn lost_unnamed(&self, records: u64, items: &[Item], cause: Cause) {
        let times = || items.iter().map(|item| item.record.time_ns);
        let (first_ns, last_ns) = (times().min().unwrap_or_default(), times().max().unwrap_or_default());
        let key = Key { cause: cause.name().to_owned(), ..Key::default() };
        let mut state = self.lock();
        *state.dropped.entry(cause).or_default() += records;
        state.add(key, &Gap { decisions: 0, records, first_ns, last_ns });
    }

    /// This many records are sent once more.
    pub fn retried(&self, records: u64) {
        self.lock().retried += records;
    }

    /// Numbers for people and for metrics.
    pub fn numbers(&self) -> Numbers {
        let state = self.lock();
        Numbers {
            sent: state.sent,
            retried: state.retried,
            dropped: state.dropped.clone(),
            queued: (state.waiting.len() + state.under_way) as u64,
            capacity: self.capacity as u64,
        }
    }

    /// A panic elsewhere leaves numbers that are at worst one record behind; going on is better than stopping.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self) -> Vec<Item> {
        let count = self.waiting.len().min(BATCH);
        let mut items: Vec<Item> = self.waiting.drain(..count).collect();
        // What is missing came after everything that waits.
        while self.tell && self.waiting.is_empty() && items.len() < BATCH {
            match self.gaps.pop_first() {
                Some((key, gap)) => items.push(gap.item(key)),
                None => self.tell = false,
            }
        }
        self.under_way = items.len();
        items
    }

    fn lose(&mut self, item: &Item, cause: Cause) {
        let record = &*item.record;
        let loss = record.r#type() == RecordType::Loss;
        let cause_name = if loss { record.loss_cause.clone() } else { cause.name().to_owned() };
        if !loss {
            *self.dropped.entry(cause).or_default() += 1;
        }
        let key = Key {
            node: record.node.clone(),
            hook: record.hook.clone(),
            verdict: record.verdict,
            reason: record.reason.clone(),
            cause: cause_name,
        };
        let gap = Gap {
            decisions: record.count,
            records: if loss { item.lost_records } else { 1 },
            first_ns: record.time_ns,
            last_ns: record.time_ns.max(record.end_ns),
        };
        self.add(key, &gap);
    }

    fn add(&mut self, key: Key, gap: &Gap) {
        let room = self.gaps.len() < MAX_GAPS || self.gaps.contains_key(&key);
        let key = if room { key } else { Key { cause: known(&key.cause).to_owned(), ..Key::default() } };
        let sum = self.gaps.entry(key).or_insert(Gap { decisions: 0, records: 0, ..*gap });
        sum.decisions = sum.decisions.saturating_add(gap.decisions);
        sum.records = sum.records.saturating_add(gap.records);
        sum.first_ns = sum.first_ns.min(gap.first_ns);
        sum.last_ns = sum.last_ns.max(gap.last_ns);
    }
}

/// Our own causes; what a node says could be anything.
fn known(cause: &str) -> &str {
    let ours = [Cause::QueueFull, Cause::Rejected, Cause::GaveUp].map(Cause::name);
    if ours.contains(&cause) { cause } else { "other" }
}

impl Gap {
    fn item(self, key: Key) -> Item {
        let record = FlowRecord {
            r#type: RecordType::Loss.into(),
            node: key.node,
            hook: key.hook,
            verdict: key.verdict,
            reason: key.reason,
            loss_cause: key.cause,
            count: self.decisions,
            time_ns: self.first_ns,
            end_ns: self.last_ns,
            ..FlowRecord::default()
        };
        Item { record: Arc::new(record), observed_ns: now_ns(), lost_records: self.records }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(node: &str, time_ns: u64, count: u64) -> Arc<FlowRecord> {
        let (kind, hook) = (RecordType::Verdict.into(), "connect".to_owned());
        Arc::new(FlowRecord { r#type: kind, hook, node: node.to_owned(), time_ns, count, ..FlowRecord::default() })
    }

    fn loss(cause: &str, count: u64) -> Arc<FlowRecord> {
        let record =
            FlowRecord { r#type: RecordType::Loss.into(), count, time_ns: 5, end_ns: 9, ..FlowRecord::default() };
        Arc::new(FlowRecord { loss_cause: cause.to_owned(), ..record })
    }

    #[tokio::test(start_paused = true)]
    async fn what_finds_no_room_is_told_after_what_did() {
        let queue = Queue::new(2);
        queue.push([record("a", 1, 1), record("a", 2, 1), record("a", 3, 4), record("b", 4, 2)]);
        queue.push([record("a", 9, 6), loss("ring_full", 7), loss("ring_full", 1)]);
        assert_eq!(queue.numbers().dropped[&Cause::QueueFull], 3, "a loss is added up, not dropped");
        let items = queue.next().await.unwrap();
        assert_eq!(queue.numbers().queued, 5);
        let told: Vec<_> = items
            .iter()
            .map(|item| {
                let record = &item.record;
                (&*record.node, &*record.loss_cause, record.count, record.time_ns, record.end_ns, item.lost_records)
            })
            .collect();
        let expected = [
            ("a", "", 1, 1, 0, 0),
            ("a", "", 1, 2, 0, 0),
            ("", "ring_full", 8, 5, 9, 0),
            ("a", "otlp_queue_full", 10, 3, 9, 2),
            ("b", "otlp_queue_full", 2, 4, 4, 1),
        ];
        assert_eq!(told, expected);
        queue.settled();
        queue.close();
        assert_eq!(queue.next().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn refused_losses_wait_for_a_record_to_go_with() {
        let queue = Queue::new(10);
        queue.push([record("a", 1, 3)]);
        let items = queue.next().await.unwrap();
        queue.lost(&items, Cause::Rejected);
        queue.settled();
        assert!(timeout(DELAY * 10, queue.next()).await.is_err(), "a receiver that refuses is asked without end");
        queue.push([record("a", 2, 1)]);
        let items = queue.next().await.unwrap();
        assert_eq!((items.len(), items[1].record.count, items[1].lost_records), (2, 3, 1));
        // Refused again, it is still the same loss.
        queue.lost(&items, Cause::Rejected);
        assert_eq!(queue.numbers().dropped[&Cause::Rejected], 2);
        queue.push([record("a", 3, 1)]);
        let items = queue.next().await.unwrap();
        assert_eq!((items.len(), items[1].record.count, items[1].lost_records), (2, 4, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_is_full_or_has_waited() {
        let queue = Queue::new(10 * BATCH);
        queue.push((0..2 * BATCH as u64 + 1).map(|time| record("a", time, 1)));
        let begin = tokio::time::Instant::now();
        for expected in [BATCH, BATCH] {
            assert_eq!(queue.next().await.unwrap().len(), expected);
            queue.settled();
        }
        assert_eq!(begin.elapsed(), Duration::ZERO);
        assert_eq!(queue.next().await.unwrap().len(), 1);
        assert_eq!(begin.elapsed(), DELAY);
    }

    #[test]
    fn records_under_way_take_room() {
        let queue = Queue::new(1);
        queue.push([record("a", 1, 1)]);
        let _items = queue.lock().take();
        queue.push([record("a", 2, 1)]);
        assert_eq!(queue.numbers().dropped[&Cause::QueueFull], 1);
    }

    #[test]
    fn sums_of_what_is_missing_are_bounded() {
        let queue = Queue::new(0);
        queue.push((0..5000).map(|node| record(&node.to_string(), 1, 2)));
        queue.push((0..5000).map(|node| loss(&node.to_string(), 1)));
        let state = queue.lock();
        assert!(state.gaps.len() <= MAX_GAPS + 4, "{}", state.gaps.len());
        assert_eq!(state.gaps.values().map(|gap| gap.decisions).sum::<u64>(), 15_000);
    }
}
