//! Lives: collector.
//! Called by: `rpc`, from every stream.
//! May touch: memory only.
//! Never: holds the lock across a wait, a filter or an encoding; a reader cannot hold up a sender.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use crate::history::{History, Page};
use crate::nodes::{Boot, Nodes, Order, Tally, Totals};

/// Everything the collector holds. `T` is a record; the store never looks into one.
#[derive(Debug)]
pub struct Store<T> {
    state: Mutex<State<T>>,
    /// The end of the history, for readers that wait for more.
    end: watch::Sender<u64>,
    start_ns: u64,
}

#[derive(Debug)]
struct State<T> {
    history: History<T>,
    nodes: Nodes,
}

/// A batch as the store takes it.
#[derive(Debug)]
pub struct Batch<T> {
    /// Number within the boot, from 1.
    pub sequence: u64,
    /// Batches right before it that its sender gave up.
    pub dropped_before: u64,
    /// Records, each with what it adds to the sums.
    pub records: Vec<(Arc<T>, Tally)>,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// This batch and every one before it are held, or will never come.
    pub acknowledge: u64,
    /// Whether it was new.
    pub order: Order,
}

/// Numbers about the whole collector.
#[derive(Debug)]
pub struct Summary {
    /// Every boot with the name of its node.
    pub boots: Vec<(String, Boot)>,
    /// What all boots of each node make together.
    pub nodes: Vec<(String, Totals)>,
    /// Records kept.
    pub kept: u64,
    /// Most records that are kept.
    pub capacity: u64,
    /// Records that had to go.
    pub evicted: u64,
    /// Start of the collector, nanoseconds since the Unix epoch.
    pub start_ns: u64,
}

impl<T> Store<T> {
    /// An empty store whose history keeps this many records.
    #[must_use]
    pub fn new(records: usize) -> Self {
        let state = State { history: History::new(records), nodes: Nodes::default() };
        Self { state: Mutex::new(state), end: watch::Sender::new(0), start_ns: now_ns() }
    }

    /// Takes a batch over. When this returns its records can be read and the batch may be acknowledged.
    pub fn take(&self, node: &str, boot_id: &str, batch: Batch<T>) -> Taken {
        let mut state = self.lock();
        let State { history, nodes } = &mut *state;
        let boot = nodes.boot(node, boot_id);
        boot.last_seen_ns = now_ns();
        if boot.first_seen_ns == 0 {
            boot.first_seen_ns = boot.last_seen_ns;
        }
        let order = boot.order(batch.sequence, batch.dropped_before);
        if order != Order::Duplicate {
            for (record, tally) in batch.records {
                boot.add(&tally);
                history.push(record);
            }
        }
        // Of one that came again its own number, not the last: its sender may have forgotten that it sent the ones after it.
        let (acknowledge, end) = (batch.sequence, history.end());
        drop(state);
        self.end.send_replace(end);
        Taken { acknowledge, order }
    }

    /// Notes that a node's stream is open for as long as the returned value lives.
    pub fn connected(self: &Arc<Self>, node: &str, boot_id: &str) -> Connected<T> {
        self.lock().nodes.boot(node, boot_id).streams += 1;
        Connected { store: Arc::clone(self), node: node.to_owned(), boot_id: boot_id.to_owned() }
    }

    /// See [`History::page`].
    #[must_use]
    pub fn page(&self, position: u64, limit: usize) -> Page<T> {
        self.lock().history.page(position, limit)
    }

    /// See [`History::page_before`].
    #[must_use]
    pub fn page_before(&self, position: u64, limit: usize) -> Page<T> {
        self.lock().history.page_before(position, limit)
    }

    /// First and next position of the history.
    #[must_use]
    pub fn bounds(&self) -> (u64, u64) {
        let state = self.lock();
        (state.history.evicted(), state.history.end())
    }

    /// A watch on the end of the history.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.end.subscribe()
    }

    /// Numbers for people.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let state = self.lock();
        Summary {
            boots: state.nodes.iter().map(|(node, boot)| (node.to_owned(), boot.clone())).collect(),
            nodes: state.nodes.totals().map(|(node, totals)| (node.to_owned(), totals)).collect(),
            kept: state.history.len() as u64,
            capacity: state.history.capacity() as u64,
            evicted: state.history.evicted(),
            start_ns: self.start_ns,
        }
    }

    /// A panic elsewhere leaves numbers that are at worst one record behind; going on is better than stopping.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A node's stream that is open.
#[derive(Debug)]
pub struct Connected<T> {
    store: Arc<Store<T>>,
    node: String,
    boot_id: String,
}

impl<T> Drop for Connected<T> {
    fn drop(&mut self) {
        let mut state = self.store.lock();
        let boot = state.nodes.boot(&self.node, &self.boot_id);
        boot.streams = boot.streams.saturating_sub(1);
    }
}

/// Wall clock, nanoseconds since the Unix epoch.
pub fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(sequence: u64, records: &[u32]) -> Batch<u32> {
        let decision = || Tally::Decision { what: "connect/allow/rule".to_owned(), count: 3 };
        Batch {
            sequence,
            dropped_before: 0,
            records: records.iter().map(|record| (Arc::new(*record), decision())).collect(),
        }
    }

    #[test]
    fn a_resent_batch_is_acknowledged_and_not_kept_twice() {
        let store = Store::new(10);
        assert_eq!(store.take("n", "b", batch(1, &[1, 2])).acknowledge, 1);
        let again = store.take("n", "b", batch(1, &[1, 2]));
        assert_eq!(again, Taken { acknowledge: 1, order: Order::Duplicate });
        let summary = store.summary();
        assert_eq!((summary.kept, summary.boots[0].1.duplicates), (2, 1));
        assert_eq!(summary.boots[0].1.decisions["connect/allow/rule"], 6);
    }

    #[test]
    fn a_stream_counts_as_open_until_it_is_dropped() {
        let store = Arc::new(Store::<u32>::new(10));
        let first = store.connected("n", "b");
        let second = store.connected("n", "b");
        drop(first);
        assert_eq!(store.summary().boots[0].1.streams, 1);
        drop(second);
        assert_eq!(store.summary().boots[0].1.streams, 0);
    }

    #[test]
    fn a_reader_that_waits_is_told_of_the_new_end() {
        let store = Store::new(10);
        let watch = store.watch();
        store.take("n", "b", batch(1, &[1, 2]));
        assert_eq!(*watch.borrow(), 2);
        assert_eq!(store.bounds(), (0, 2));
    }
}
