//! Lives: collector.
//! Called by: `rpc`, from every stream.
//! May touch: memory, and the history on disk.
//! Never: holds the lock while a reader or a sync waits for the disk, a filter or an encoding; a reader cannot hold up a sender.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use weir_journal::{Facts, Found};

use crate::archive::{Archive, ArchiveError, Disk, Place};
use crate::history::{History, Page};
use crate::nodes::{Boot, Nodes, Order, Tally, Totals};

/// Everything the collector holds. `T` is a record; the store never looks into one.
#[derive(Debug)]
pub struct Store<T> {
    state: Mutex<State<T>>,
    /// The end of the history, for readers that wait for more.
    end: watch::Sender<u64>,
    start_ns: u64,
    /// Position of the oldest record when it was opened.
    first: u64,
    /// How batches on disk are read; `None` where none are kept there.
    read: Option<ReadBatch<T>>,
    /// Up to which position all is on the disk itself. Held while it is brought there: who waits meanwhile finds it done.
    durable: Mutex<u64>,
    /// Why nothing more can be kept on disk, once that is so.
    broken: watch::Sender<Option<String>>,
}

/// Reads a batch that is kept on disk; `None` if these bytes are none.
pub type ReadBatch<T> = fn(&[u8]) -> Option<Kept<T>>;

/// A batch that is kept on disk, with whose it is.
#[derive(Debug)]
pub struct Kept<T> {
    /// The node it came from.
    pub node: String,
    /// The boot it belongs to.
    pub boot_id: String,
    /// The batch; its bytes are not filled in.
    pub batch: Batch<T>,
}

#[derive(Debug)]
struct State<T> {
    history: History<T>,
    nodes: Nodes,
    archive: Option<Archive>,
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
    /// Wall clock of its newest record, nanoseconds.
    pub newest_ns: u64,
    /// As it is kept on disk, [`BATCH`] first; empty where nothing is.
    pub bytes: Vec<u8>,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// This batch and every one before it are held, or will never come.
    pub acknowledge: u64,
    /// Whether it was new.
    pub order: Order,
    /// Up to which position all must be durable before that is said.
    pub end: u64,
}

/// Numbers about the whole collector.
#[derive(Debug)]
pub struct Summary {
    /// Every boot with the name of its node.
    pub boots: Vec<(String, Boot)>,
    /// What all boots of each node make together.
    pub nodes: Vec<(String, Totals)>,
    /// Records kept in memory.
    pub kept: u64,
    /// Most records that are kept in memory.
    pub capacity: u64,
    /// Records that had to go since the start: from memory, and from disk where they are kept there.
    pub evicted: u64,
    /// What is on disk; `None` where nothing is kept there.
    pub disk: Option<Disk>,
    /// Start of the collector, nanoseconds since the Unix epoch.
    pub start_ns: u64,
}

/// The first byte of what is on disk: a batch, or a part of the sums.
pub const BATCH: u8 = b'B';
const SUMS: u8 = b'S';

impl<T> Store<T> {
    /// An empty store that keeps this many records, in memory only.
    #[must_use]
    pub fn new(records: usize) -> Self {
        Self::of(records, None, None)
    }

    fn of(records: usize, archive: Option<Archive>, read: Option<ReadBatch<T>>) -> Self {
        let first = archive.as_ref().map_or(0, Archive::begin);
        let state = State { history: History::new(records), nodes: Nodes::default(), archive };
        Self {
            state: Mutex::new(state),
            end: watch::Sender::new(0),
            start_ns: now_ns(),
            first,
            read,
            durable: Mutex::new(0),
            broken: watch::Sender::new(None),
        }
    }

    /// A store with what is on disk: of that, this many records are in memory, too. Reads as many batches.
    ///
    /// # Errors
    /// The disk does not give them.
    pub fn open(records: usize, archive: Archive, read: ReadBatch<T>) -> io::Result<Self> {
        let (begin, end) = (archive.before_last(records as u64), archive.end());
        let store = Self::of(records, Some(archive), Some(read));
        store.lock().history.skip_to(begin);
        let mut position = begin;
        while let Some(place) = store.place(position)? {
            // Sums count from what begins the first segment that is read; those of later ones say the same again.
            store.recover(&place, place.first == begin)?;
            position = place.end;
        }
        let mut state = store.lock();
        state.history.skip_to(end);
        drop(state);
        store.end.send_replace(end);
        *store.durable.lock().unwrap_or_else(PoisonError::into_inner) = end;
        Ok(store)
    }

    /// Adds what is in a segment.
    fn recover(&self, place: &Place, with_sums: bool) -> io::Result<()> {
        let (mut at, mut damaged) = (0, 0_u64);
        loop {
            let (header, body, next) = match place.view.read(at)? {
                Found::Batch(header, body, next) => (header, body, next),
                Found::Damage { next, .. } => {
                    damaged += 1;
                    at = next;
                    continue;
                }
                Found::End => break,
            };
            at = next;
            let mut state = self.lock();
            match body.split_first() {
                Some((&SUMS, said)) if with_sums => damaged += u64::from(!state.nodes.restore(said)),
                Some((&SUMS, _)) => {}
                Some((&BATCH, said)) => {
                    let kept = self.read.and_then(|read| read(said));
                    state.history.skip_to(header.sequence);
                    match kept {
                        Some(Kept { node, boot_id, batch }) => {
                            state.add(&node, &boot_id, batch, header.facts.newest_ns);
                        }
                        None => damaged += 1,
                    }
                }
                Some(_) | None => damaged += 1,
            }
        }
        if damaged > 0 {
            tracing::error!(
                segment = place.first,
                damaged,
                "parts of the history on disk are damaged and are left out"
            );
        }
        Ok(())
    }

    /// Whether batches are kept on disk, too.
    #[must_use]
    pub const fn keeps(&self) -> bool {
        self.read.is_some()
    }

    /// Takes a batch over. When this returns its records can be read; it may be acknowledged once they are durable.
    ///
    /// # Errors
    /// It is to be kept on disk, and the disk does not take it: then nothing has changed.
    pub fn take(&self, node: &str, boot_id: &str, batch: Batch<T>) -> Result<Taken, ArchiveError> {
        let mut state = self.lock();
        let sequence = batch.sequence;
        if !state.nodes.boot(node, boot_id).is_here(sequence) {
            state.write_down(&batch).inspect_err(|error| self.note(error))?;
        }
        let order = state.add(node, boot_id, batch, now_ns());
        let end = state.history.end();
        drop(state);
        self.end.send_replace(end);
        // Of one that came again its own number, not the last: its sender may have forgotten that it sent the ones after it.
        Ok(Taken { acknowledge: sequence, order, end })
    }

    /// Returns once all records before `end` are on the disk itself, where they are kept there. Waits for the disk.
    ///
    /// # Errors
    /// The disk does not take them; what of them is there is not known then, and nothing more is kept.
    pub fn make_durable(&self, end: u64) -> io::Result<()> {
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        if *durable >= end {
            return Ok(());
        }
        let (active, upto) = match &self.lock().archive {
            Some(archive) => (archive.active()?, archive.end()),
            None => return Ok(()),
        };
        if let Some(mut active) = active {
            active.sync().inspect_err(|error| drop(self.broken.send_replace(Some(error.to_string()))))?;
        }
        *durable = upto;
        Ok(())
    }

    fn note(&self, error: &ArchiveError) {
        if matches!(error, ArchiveError::Unsure { .. }) {
            self.broken.send_replace(Some(error.to_string()));
        }
    }

    /// Ready once nothing more can be kept on disk; says why.
    #[must_use]
    pub fn broken(&self) -> watch::Receiver<Option<String>> {
        self.broken.subscribe()
    }

    /// Removes from disk what is too old.
    pub fn give_up(&self) {
        if let Some(archive) = &mut self.lock().archive {
            archive.give_up(now_ns());
        }
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

    /// Whether what is at `position` has left the memory, and is to be asked of the disk.
    #[must_use]
    pub fn is_past(&self, position: u64) -> bool {
        let state = self.lock();
        state.archive.is_some() && position < state.history.evicted()
    }

    /// About `limit` records from `position` on and before `until`, from disk. Batches without a record since `since_ns` are passed over.
    /// Waits for the disk.
    ///
    /// # Errors
    /// The disk does not give them.
    pub fn past(&self, position: u64, until: u64, limit: usize, since_ns: u64) -> io::Result<Page<T>> {
        let mut page = Page { records: Vec::new(), next: position, missed: 0 };
        while page.next < until && page.records.len() < limit {
            let Some(place) = self.place(page.next)? else {
                // It has gone since, or what is left is in memory.
                let next = self.lock().history.evicted().clamp(page.next, until);
                page.missed += next - page.next;
                page.next = next;
                break;
            };
            self.read_on(&place, until, limit, since_ns, &mut page)?;
        }
        Ok(page)
    }

    fn read_on(&self, place: &Place, until: u64, limit: usize, since_ns: u64, page: &mut Page<T>) -> io::Result<()> {
        let mut at = place.offset;
        let stop = until.min(place.end);
        while page.next < stop && page.records.len() < limit {
            if let Some(header) = place.view.head(at)?
                && (header.facts.newest_ns < since_ns || header.sequence + u64::from(header.facts.records) <= page.next)
            {
                // Also the sums, which have no time.
                at += header.length();
                page.next = page.next.max(stop.min(header.sequence + u64::from(header.facts.records)));
                continue;
            }
            match place.view.read(at)? {
                Found::Batch(header, body, next) => {
                    at = next;
                    let records = match body.split_first() {
                        Some((&BATCH, said)) => self.read.and_then(|read| read(said)),
                        Some(_) | None => None,
                    };
                    page.add(header.sequence, records.map(|kept| kept.batch.records).unwrap_or_default(), stop);
                }
                Found::Damage { next, .. } => at = next,
                Found::End => page.skip_to(stop),
            }
        }
        Ok(())
    }

    fn place(&self, position: u64) -> io::Result<Option<Place>> {
        self.lock().archive.as_ref().map_or(Ok(None), |archive| archive.at(position))
    }

    /// First and next position of the history.
    #[must_use]
    pub fn bounds(&self) -> (u64, u64) {
        let state = self.lock();
        (state.begin(), state.history.end())
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
            evicted: state.begin() - self.first,
            disk: state.archive.as_ref().map(Archive::numbers),
            start_ns: self.start_ns,
        }
    }

    /// A panic elsewhere leaves numbers that are at worst one record behind; going on is better than stopping.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> State<T> {
    /// Position of the oldest record that is anywhere.
    fn begin(&self) -> u64 {
        let memory = self.history.evicted();
        self.archive.as_ref().map_or(memory, |archive| archive.begin().min(memory))
    }

    fn write_down(&mut self, batch: &Batch<T>) -> Result<(), ArchiveError> {
        let Self { nodes, archive: Some(archive), .. } = self else { return Ok(()) };
        let records = u32::try_from(batch.records.len()).unwrap_or(u32::MAX);
        let facts = Facts { records, decisions: 0, newest_ns: batch.newest_ns };
        archive.append(facts, &batch.bytes, now_ns(), || {
            nodes.saved().map(|saved| [&[SUMS], saved.bytes().as_slice()].concat()).collect()
        })
    }

    /// Counts a batch, and adds its records if it is new.
    fn add(&mut self, node: &str, boot_id: &str, batch: Batch<T>, seen_ns: u64) -> Order {
        let boot = self.nodes.boot(node, boot_id);
        boot.last_seen_ns = boot.last_seen_ns.max(seen_ns);
        if boot.first_seen_ns == 0 {
            boot.first_seen_ns = seen_ns;
        }
        let order = boot.order(batch.sequence, batch.dropped_before);
        if order != Order::Duplicate {
            for (record, tally) in batch.records {
                boot.add(&tally);
                self.history.push(record);
            }
        }
        order
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
    use std::fs;
    use std::ops::Range;
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::archive::Limits;

    fn batch(sequence: u64, records: &[u32]) -> Batch<u32> {
        let decision = || Tally::Decision { what: "connect/allow/rule".to_owned(), count: 3 };
        Batch {
            sequence,
            dropped_before: 0,
            newest_ns: 0,
            bytes: Vec::new(),
            records: records.iter().map(|record| (Arc::new(*record), decision())).collect(),
        }
    }

    #[test]
    fn a_resent_batch_is_acknowledged_and_not_kept_twice() {
        let store = Store::new(10);
        assert_eq!(store.take("n", "b", batch(1, &[1, 2])).unwrap().acknowledge, 1);
        let again = store.take("n", "b", batch(1, &[1, 2])).unwrap();
        assert_eq!(again, Taken { acknowledge: 1, order: Order::Duplicate, end: 2 });
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
        store.take("n", "b", batch(1, &[1, 2])).unwrap();
        assert_eq!(*watch.borrow(), 2);
        assert_eq!(store.bounds(), (0, 2));
    }

    const LIMITS: Limits = Limits { bytes: 1 << 30, age: Duration::from_secs(1 << 30) };

    /// Records are their own numbers; a batch is kept as those, one a line, behind whose it is.
    fn numbered(node: &str, sequence: u64, numbers: Range<u32>) -> Batch<u32> {
        let lines: String = numbers.clone().map(|number| format!("{number}\n")).collect();
        let newest_ns = u64::from(numbers.end);
        let numbers: Vec<u32> = numbers.collect();
        Batch { newest_ns, bytes: format!("B{node}\n{sequence}\n{lines}").into_bytes(), ..batch(sequence, &numbers) }
    }

    fn read(bytes: &[u8]) -> Option<Kept<u32>> {
        let mut lines = std::str::from_utf8(bytes).ok()?.lines();
        let (node, sequence) = (lines.next()?.to_owned(), lines.next()?.parse().ok()?);
        let numbers: Vec<u32> = lines.map(|line| line.parse().ok()).collect::<Option<_>>()?;
        Some(Kept { node, boot_id: "b".to_owned(), batch: batch(sequence, &numbers) })
    }

    fn open(dir: &Path, records: usize, limits: Limits) -> Store<u32> {
        Store::open(records, Archive::open(dir, limits).unwrap(), read).unwrap()
    }

    /// Batches of ten from two nodes in turn, each with the next numbers.
    fn fill(store: &Store<u32>, batches: Range<u32>) {
        for n in batches {
            let node = ["x", "y"][n as usize % 2];
            let batch = numbered(node, u64::from(n / 2) + 1, n * 10..n * 10 + 10);
            let taken = store.take(node, "b", batch).unwrap();
            assert_eq!((taken.order, taken.end), (Order::New { missing: 0 }, u64::from(n) * 10 + 10));
        }
    }

    /// All that is there, from memory and disk, and what was missed.
    fn all(store: &Store<u32>, since_ns: u64) -> (Vec<u32>, u64) {
        let (mut position, end) = store.bounds();
        let (mut numbers, mut missed) = (Vec::new(), 0);
        while position < end {
            let page = match store.is_past(position) {
                true => store.past(position, end, 7, since_ns).unwrap(),
                false => store.page(position, 7),
            };
            assert!(page.next > position, "stuck at {position}");
            numbers.extend(page.records.iter().map(|record| **record));
            (position, missed) = (page.next, missed + page.missed);
        }
        (numbers, missed)
    }

    fn sums(store: &Store<u32>) -> Vec<(String, u64, u64, u64)> {
        let boots = store.summary().boots.into_iter();
        boots
            .map(|(node, boot)| (node, boot.last_sequence, boot.records, boot.decisions["connect/allow/rule"]))
            .collect()
    }

    #[test]
    fn what_was_taken_is_there_after_a_crash_and_is_not_taken_twice() {
        let dir = tempfile::tempdir().unwrap();
        let expected = [("x".to_owned(), 50, 500, 1500), ("y".to_owned(), 50, 500, 1500)];
        let store = open(dir.path(), 35, LIMITS);
        fill(&store, 0..100);
        store.make_durable(1000).unwrap();
        assert_eq!((all(&store, 0), sums(&store)), (((0..1000).collect(), 0), expected.to_vec()));
        drop(store);
        for records in [1, 35, 5000] {
            let store = open(dir.path(), records, LIMITS);
            assert_eq!(all(&store, 0), ((0..1000).collect(), 0), "{records}");
            assert_eq!(sums(&store), expected, "{records}");
            let again = store.take("y", "b", numbered("y", 50, 990..1000)).unwrap();
            assert_eq!((again.order, again.end), (Order::Duplicate, 1000));
            let summary = store.summary();
            assert_eq!((summary.kept, summary.evicted), (records.min(1000) as u64, 0));
            assert_eq!(summary.disk.unwrap().records, 1000);
        }
        let store = open(dir.path(), 35, LIMITS);
        fill(&store, 100..110);
        drop(store);
        assert_eq!(all(&open(dir.path(), 35, LIMITS), 0), ((0..1100).collect(), 0));
    }

    #[test]
    fn what_is_older_than_asked_is_passed_over_and_pages_end_where_they_are_told_to() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), 15, LIMITS);
        fill(&store, 0..100);
        // By batches: the caller looks at each record.
        assert_eq!(all(&store, 505), ((500..1000).collect(), 0));
        for (position, until, limit, expected) in
            [(3, 8, 100, 3..8), (3, 900, 5, 3..10), (95, 123, 100, 95..123), (700, 700, 9, 0..0)]
        {
            let page = store.past(position, until, limit, 0).unwrap();
            let numbers: Vec<u32> = page.records.iter().map(|record| **record).collect();
            assert_eq!((numbers, page.missed), (expected.clone().collect(), 0), "{position} {until} {limit}");
            assert_eq!(page.next, u64::from(expected.end).max(position));
        }
    }

    #[test]
    fn what_had_to_go_is_counted_as_missed_and_stays_in_the_sums() {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits { bytes: 150_000, ..LIMITS };
        let store = open(dir.path(), 35, limits);
        fill(&store, 0..10_000);
        let (begin, end) = store.bounds();
        assert!(begin > 0 && end == 100_000);
        assert_eq!(all(&store, 0).0.first().copied().map(u64::from), Some(begin));
        let page = store.past(0, begin + 5, 100, 0).unwrap();
        assert_eq!((page.missed, page.next, page.records.len()), (begin, begin + 5, 5));
        assert_eq!(store.summary().evicted, begin);
        let before = sums(&store);
        drop(store);
        let store = open(dir.path(), 35, limits);
        assert_eq!((sums(&store), store.bounds()), (before, (begin, end)));
        assert_eq!(store.summary().evicted, 0, "since the start");
    }

    #[test]
    fn what_is_torn_or_damaged_is_left_out_and_all_else_stays() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), 1000, LIMITS);
        fill(&store, 0..20);
        drop(store);
        let path = weir_journal::segments(dir.path()).unwrap().remove(0);
        let whole = fs::read(&path).unwrap();
        let batch = whole.windows(5).position(|bytes| bytes == b"\n100\n").unwrap();
        // A bit of the eleventh batch, and the last one torn off in its middle.
        let mut bytes = whole[..whole.len() - 9].to_vec();
        bytes[batch + 2] ^= 4;
        fs::write(&path, bytes).unwrap();
        let store = open(dir.path(), 1000, LIMITS);
        let expected: Vec<u32> = (0..100).chain(110..190).collect();
        let (numbers, missed) = all(&store, 0);
        assert_eq!((numbers.as_slice(), missed), (&expected[..], 10));
        // What was never acknowledged comes again, and goes on where it was.
        fill(&store, 19..25);
        drop(store);
        assert_eq!(all(&open(dir.path(), 3, LIMITS), 0), ((0..100).chain(110..250).collect(), 10));
    }
}
