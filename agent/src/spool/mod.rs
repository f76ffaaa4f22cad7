//! Lives: weir-agent, between the queue of records and the stream to the collector.
//! Called by: `exporter`: its spooler appends batches and gives up old ones, the stream takes and acknowledges them.
//! May touch: `STATE_DIR/spool`, or memory of a bounded size where the disk does not take it.
//! Never: gives a number twice; forgets a batch that was not acknowledged without saying what was in it; gives up a batch that may have
//!   been sent, because the collector may have it.
//!
//! ```text
//! STATE_DIR/spool/START-BOOT/position                  acknowledged and sent, up to which batch
//!                           /SEQUENCE.segment          frames: a header with checksums, and a packed batch
//!
//!   oldest boot ... this boot
//!   ┌──────────────────────────┬───────────────┬───────────┐
//!   │ sent, not acknowledged   │ not sent yet  │ append ►  │    acknowledged segments are removed; when there are too many bytes,
//!   └──────────────────────────┴───────────────┴───────────┘    or they are too old, the oldest that was never sent is given up
//!                        next ► ┘
//! ```

mod given;
mod position;
mod recovery;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use given::read_given;
pub use given::{Codec, Given, Packed, Why};
use position::{Position, PositionFile};
pub use recovery::Left;
pub use weir_journal::Facts;
use weir_journal::{Found, open_private};

/// Segments a full spool is made of.
const SEGMENTS: u64 = 16;
/// Bounds of a segment's size.
const SEGMENT_BYTES: (u64, u64) = (64 << 10, 8 << 20);
/// Bytes kept in memory while the disk takes none.
const MEMORY: u64 = 8 << 20;
/// Time between two tries to use a disk that took nothing.
const DISK_AGAIN: Duration = Duration::from_secs(5);
/// A segment of which everything is acknowledged is replaced from this size on.
const WORTH_REPLACING: u64 = 256 << 10;

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes on disk; 0: nothing is kept there.
    pub bytes: u64,
    /// Longest time a batch is kept.
    pub age: Duration,
}

/// A batch on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parcel {
    /// The boot it belongs to.
    pub boot: Arc<str>,
    /// Its number.
    pub sequence: u64,
    /// Batches right before it that were given up.
    pub dropped_before: u64,
    /// Its records, packed.
    pub packed: Vec<u8>,
    /// How many they are.
    pub records: u64,
}

/// An acknowledgement of a batch that is not on its way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the collector acknowledged batch {got} of boot {boot:?}, but only batches up to {sent} were sent")]
pub struct UnknownAck {
    /// What it said.
    pub got: u64,
    /// Of which boot.
    pub boot: String,
    /// The last one sent.
    pub sent: u64,
}

/// Numbers for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpoolStatus {
    /// Records in batches that were not acknowledged.
    pub records: u64,
    /// Bytes of segments.
    pub bytes: u64,
    /// Most bytes.
    pub capacity: u64,
    /// Wall clock of about the oldest batch that was not acknowledged; 0 while there is none.
    pub oldest_ns: u64,
    /// Records given to the stream, each time they were.
    pub sent: u64,
    /// Records acknowledged.
    pub acknowledged: u64,
    /// Decisions of this boot in batches that were given up.
    pub lost: u64,
    /// Why the disk is not used; empty while it is, or is not to be.
    pub fault: String,
}

/// Batches in order, from the oldest that was not acknowledged.
#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
    limits: Limits,
    boot: Arc<str>,
    boots: HashMap<Arc<str>, Boot>,
    /// By age; the last one of this boot is appended to.
    segments: BTreeMap<u64, Segment>,
    next_id: u64,
    /// Number of the last batch of this boot.
    made: u64,
    cursor: Place,
    in_flight: VecDeque<InFlight>,
    /// Wall clock of about the first batch that was not sent, while there is one.
    unsent_ns: u64,
    /// Bytes by workload.
    shares: HashMap<String, u64>,
    disk_from: Option<Instant>,
    status: SpoolStatus,
}

#[derive(Debug)]
struct Boot {
    dir: Option<PathBuf>,
    position: Position,
    file: Option<PositionFile>,
}

/// Batches of one boot.
type Segment = weir_journal::Segment<Owner>;

/// Whose a segment is.
#[derive(Debug)]
struct Owner {
    /// The boot its batches belong to.
    boot: Arc<str>,
    /// Bytes by workload.
    shares: HashMap<String, u64>,
}

impl Owner {
    fn of(boot: &Arc<str>) -> Self {
        Self { boot: Arc::clone(boot), shares: HashMap::new() }
    }
}

/// A place in a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    segment: u64,
    offset: u64,
}

#[derive(Debug)]
struct InFlight {
    boot: Arc<str>,
    sequence: u64,
    records: u64,
    newest_ns: u64,
    place: Place,
}

impl Spool {
    /// A spool below `dir` for batches of `boot`, which began at `start_ns` by the wall clock; with what earlier runs left.
    ///
    /// # Errors
    /// What is there cannot be listed or opened.
    pub fn open(dir: &Path, limits: Limits, boot: &str, start_ns: u64) -> io::Result<(Self, Left)> {
        let mut spool = Self::empty(dir.join(format!("{start_ns:020}-{boot}")), limits, boot);
        let left = if limits.bytes > 0 { spool.recover(dir)? } else { Left::default() };
        Ok((spool, left))
    }

    fn empty(dir: PathBuf, limits: Limits, boot: &str) -> Self {
        let boot: Arc<str> = boot.into();
        let this = Boot { dir: None, position: Position::START, file: None };
        Self {
            dir,
            limits,
            boots: HashMap::from([(Arc::clone(&boot), this)]),
            boot,
            segments: BTreeMap::new(),
            next_id: 0,
            made: 0,
            cursor: Place::default(),
            in_flight: VecDeque::new(),
            unsent_ns: 0,
            shares: HashMap::new(),
            disk_from: (limits.bytes > 0).then(Instant::now),
            status: SpoolStatus { capacity: limits.bytes, ..SpoolStatus::default() },
        }
    }

    /// A spool that uses no disk, because of `fault`.
    #[must_use]
    pub fn in_memory(boot: &str, fault: String) -> Self {
        let mut spool = Self::empty(PathBuf::new(), Limits { bytes: 0, age: Duration::MAX }, boot);
        spool.status.fault = fault;
        spool
    }

    fn add(&mut self, segment: Segment) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.status.bytes += segment.length;
        self.status.records += segment.records;
        self.segments.insert(id, segment);
        id
    }

    /// Adds a batch; whether there is room for it. Where the disk does not take it, memory does, up to a bound.
    /// `names` are the workloads of its records, one for each.
    pub fn append<'a>(&mut self, facts: Facts, packed: &[u8], names: impl Iterator<Item = &'a str> + Clone) -> bool {
        if !self.is_behind() {
            self.unsent_ns = facts.newest_ns;
        }
        let sequence = self.made + 1;
        let size = packed.len() as u64;
        let Some(id) = self.place_for(sequence, size, facts.newest_ns) else { return false };
        let result = self.segments.get_mut(&id).map(|segment| {
            let before = segment.length;
            segment.append(sequence, facts, packed).map(|()| segment.length - before)
        });
        match result {
            Some(Ok(grown)) => {
                self.status.bytes += grown;
                self.status.records += u64::from(facts.records);
                self.made = sequence;
                if self.segments.get(&id).is_some_and(Segment::is_on_disk) {
                    self.status.fault.clear();
                }
                self.share_out(id, grown, facts.records, names);
                true
            }
            Some(Err(error)) => {
                self.disk_failed(&error);
                // Once more, into memory.
                self.append(facts, packed, names)
            }
            None => false,
        }
    }

    /// Notes whose the bytes of a batch are.
    fn share_out<'a>(&mut self, id: u64, bytes: u64, records: u32, names: impl Iterator<Item = &'a str>) {
        let each = bytes / u64::from(records).max(1);
        let Some(segment) = self.segments.get_mut(&id) else { return };
        let mut of_batch: HashMap<&str, u64> = HashMap::new();
        // Neighbours are mostly of one workload, whose name lies in one place.
        let mut names = names.peekable();
        while let Some(name) = names.next() {
            let others = std::iter::from_fn(|| names.next_if(|next| std::ptr::eq(*next, name))).count();
            *of_batch.entry(name).or_default() += each * (1 + others as u64);
        }
        for (name, bytes) in of_batch {
            for shares in [&mut self.shares, &mut segment.note.shares] {
                *shares.entry(name.to_owned()).or_default() += bytes;
            }
        }
    }

    /// How much of all room a workload has, in thousandths; 0 for none, which is many. What an earlier run left is nobody's.
    pub fn share_permille(&self, workload: &str) -> u64 {
        let room = if self.limits.bytes > 0 { self.limits.bytes } else { MEMORY };
        self.shares.get(workload).filter(|_| !workload.is_empty()).map_or(0, |held| held * 1000 / room)
    }

    /// The segment the next batch goes to.
    fn place_for(&mut self, sequence: u64, size: u64, now_ns: u64) -> Option<u64> {
        let long = u64::try_from(self.limits.age.as_nanos()).unwrap_or(u64::MAX) / SEGMENTS;
        let disk = self.disk_from.is_some_and(|from| from <= Instant::now());
        let last = self.segments.last_key_value().filter(|(_, segment)| segment.note.boot == self.boot);
        if let Some((id, segment)) = last
            && segment.is_on_disk() == disk
            && (segment.length == 0
                || segment.length + size <= self.segment_bytes() && now_ns.saturating_sub(segment.oldest_ns) <= long)
        {
            return (disk || self.memory() + size <= MEMORY).then_some(*id);
        }
        if disk {
            match self.create(sequence) {
                Ok(segment) => return Some(self.add(segment)),
                Err(error) => self.disk_failed(&error),
            }
        }
        let room = self.memory() + size <= MEMORY;
        room.then(|| self.add(Segment::in_memory(sequence, Owner::of(&self.boot))))
    }

    fn create(&mut self, sequence: u64) -> io::Result<Segment> {
        let boot = self.boots.entry(Arc::clone(&self.boot)).or_insert(Boot {
            dir: None,
            position: Position::START,
            file: None,
        });
        if boot.file.is_none() {
            open_private(&self.dir)?;
            let file = PositionFile::open(&self.dir)?;
            file.write(boot.position)?;
            (boot.file, boot.dir) = (Some(file), Some(self.dir.clone()));
        }
        Segment::create(&self.dir, sequence, Owner::of(&self.boot))
    }

    fn disk_failed(&mut self, error: &io::Error) {
        if self.status.fault.is_empty() {
            tracing::warn!(dir = %self.dir.display(), error = %error, "records are kept in memory: the spool's disk does not take them");
        }
        self.status.fault = error.to_string();
        self.disk_from = Some(Instant::now() + DISK_AGAIN);
    }

    fn memory(&self) -> u64 {
        self.segments.values().filter(|segment| !segment.is_on_disk()).map(|segment| segment.length).sum()
    }

    fn segment_bytes(&self) -> u64 {
        let (least, most) = SEGMENT_BYTES;
        (self.limits.bytes / SEGMENTS).clamp(least, most)
    }

    /// Gives up the oldest batches that were never sent, where there are too many bytes or they are too old; what was in them.
    pub fn give_up(&mut self, now_ns: u64, codec: Codec) -> Vec<(Why, Given)> {
        let age = u64::try_from(self.limits.age.as_nanos()).unwrap_or(u64::MAX);
        let mut given = Vec::new();
        loop {
            let bytes: u64 =
                self.segments.values().filter(|segment| segment.is_on_disk()).map(|segment| segment.length).sum();
            let full = self.limits.bytes > 0 && bytes > self.limits.bytes;
            let is_old = |segment: &Segment| now_ns.saturating_sub(segment.newest_ns) > age;
            let last = self.segments.keys().next_back().copied();
            let unsent = self.segments.iter().find(|(id, segment)| {
                let position = self.boots.get(&segment.note.boot).map_or(Position::UNKNOWN, |boot| boot.position);
                segment.first > position.sent && Some(**id) != last && (full || is_old(segment))
            });
            let Some((id, why)) =
                unsent.map(|(id, segment)| (*id, if is_old(segment) { Why::Expired } else { Why::Full }))
            else {
                return given;
            };
            if let Some(segment) = self.segments.remove(&id) {
                let lost = read_given(&segment, codec);
                let decisions = lost.cells.values().sum::<u64>();
                let is_ours = segment.note.boot == self.boot;
                if is_ours {
                    self.status.lost += decisions;
                }
                self.status.records = self.status.records.saturating_sub(segment.records);
                tracing::warn!(
                    decisions,
                    reason = if why == Why::Full { "the spool is full" } else { "they are too old" },
                    "records that were not delivered are given up"
                );
                given.push((if is_ours { why } else { Why::Earlier }, lost));
                self.drop_segment(segment);
            }
        }
    }

    /// The next batch to send; it counts as sent from now on. If damage was met on the way, the decisions in it, as far as is known.
    pub fn next_parcel(&mut self) -> (Option<Parcel>, Option<u64>) {
        let mut damaged = None;
        loop {
            let Some((id, offset)) = self.at_cursor() else { return (None, damaged) };
            let Some(segment) = self.segments.get(&id) else { return (None, damaged) };
            let found = segment.read(offset).unwrap_or_else(|error| {
                tracing::error!(error = %error, "a segment of the spool cannot be read");
                Found::Damage { decisions: 0, next: segment.length }
            });
            let boot = Arc::clone(&segment.note.boot);
            match found {
                Found::Batch(header, packed, next) => {
                    self.cursor = Place { segment: id, offset: next };
                    let before = self.last_of(&boot);
                    if header.sequence <= self.acknowledged(&boot) {
                        continue;
                    }
                    let dropped_before = header.sequence.saturating_sub(before + 1);
                    let records = u64::from(header.facts.records);
                    let place = Place { segment: id, offset };
                    self.in_flight.push_back(InFlight {
                        boot: Arc::clone(&boot),
                        sequence: header.sequence,
                        records,
                        newest_ns: header.facts.newest_ns,
                        place,
                    });
                    // Of the next one this is not known without reading it; it is hardly younger.
                    self.unsent_ns = header.facts.newest_ns;
                    self.note_sent(&boot, header.sequence);
                    self.status.sent += records;
                    let sequence = header.sequence;
                    return (Some(Parcel { boot, sequence, dropped_before, packed, records }), damaged);
                }
                Found::Damage { decisions, next } => {
                    damaged = Some(damaged.unwrap_or(0) + decisions);
                    self.cursor = Place { segment: id, offset: next };
                }
                Found::End => self.cursor = Place { segment: id + 1, offset: 0 },
            }
        }
    }

    /// The segment the cursor is in and where; `None` at the end of all.
    fn at_cursor(&self) -> Option<(u64, u64)> {
        let (id, segment) = self.segments.range(self.cursor.segment..).next()?;
        let offset = if *id == self.cursor.segment { self.cursor.offset } else { 0 };
        let is_last = self.segments.last_key_value().is_some_and(|(last, _)| last == id);
        (offset < segment.length || !is_last).then_some((*id, offset))
    }

    /// The last batch of a boot that was sent on this stream, or acknowledged.
    fn last_of(&self, boot: &Arc<str>) -> u64 {
        let sent = self.in_flight.iter().rev().find(|batch| batch.boot == *boot).map(|batch| batch.sequence);
        sent.unwrap_or_else(|| self.acknowledged(boot))
    }

    fn acknowledged(&self, boot: &Arc<str>) -> u64 {
        self.boots.get(boot).map_or(0, |boot| boot.position.acknowledged)
    }

    fn note_sent(&mut self, boot: &Arc<str>, sequence: u64) {
        if let Some(boot) = self.boots.get_mut(boot)
            && boot.position.sent < sequence
        {
            boot.position.sent = sequence;
            boot.write();
        }
    }

    /// A new stream begins with the first batch that was not acknowledged.
    pub fn rewind(&mut self) {
        if let Some(first) = self.in_flight.front() {
            (self.cursor, self.unsent_ns) = (first.place, first.newest_ns);
            self.in_flight.clear();
        }
    }

    /// The name of this boot.
    pub fn boot(&self) -> Arc<str> {
        Arc::clone(&self.boot)
    }

    /// Batches that are on their way.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Lets go of every batch of a boot up to `sequence`.
    ///
    /// # Errors
    /// No such batch is on its way.
    pub fn acknowledge(&mut self, boot: &str, sequence: u64) -> Result<(), UnknownAck> {
        let sent = self.in_flight.iter().rev().find(|batch| *batch.boot == *boot).map(|batch| batch.sequence);
        let known = self.boots.get_mut(boot).filter(|known| sequence <= sent.unwrap_or(known.position.acknowledged));
        let Some(known) = known else {
            return Err(UnknownAck { got: sequence, boot: boot.to_owned(), sent: sent.unwrap_or(0) });
        };
        if sequence <= known.position.acknowledged {
            return Ok(());
        }
        known.position.acknowledged = sequence;
        known.write();
        // What was sent before, of an earlier boot, has arrived as well: a stream keeps its order.
        let upto = self.in_flight.iter().rposition(|batch| *batch.boot == *boot && batch.sequence <= sequence);
        for batch in self.in_flight.drain(..upto.map_or(0, |upto| upto + 1)) {
            self.status.acknowledged += batch.records;
            self.status.records = self.status.records.saturating_sub(batch.records);
            if *batch.boot != *boot
                && let Some(earlier) = self.boots.get_mut(&batch.boot)
            {
                earlier.position.acknowledged = earlier.position.acknowledged.max(batch.sequence);
                earlier.write();
            }
        }
        self.remove_acknowledged();
        Ok(())
    }

    fn remove_acknowledged(&mut self) {
        let last = self.segments.keys().next_back().copied();
        let done = |id: u64, segment: &Segment| {
            let acknowledged = self.acknowledged(&segment.note.boot);
            segment.last <= acknowledged
                && (Some(id) != last || segment.length >= WORTH_REPLACING || !segment.is_on_disk())
        };
        let gone: Vec<u64> =
            self.segments.iter().filter(|(id, segment)| done(**id, segment)).map(|(id, _)| *id).collect();
        for id in gone {
            if let Some(segment) = self.segments.remove(&id) {
                self.drop_segment(segment);
            }
        }
    }

    fn drop_segment(&mut self, segment: Segment) {
        self.status.bytes = self.status.bytes.saturating_sub(segment.length);
        for (name, bytes) in &segment.note.shares {
            if let Some(held) = self.shares.get_mut(name) {
                *held = held.saturating_sub(*bytes);
            }
        }
        self.shares.retain(|_, held| *held > 0);
        let boot = Arc::clone(&segment.note.boot);
        if let Err(error) = segment.remove() {
            tracing::warn!(error = %error, "a segment of the spool that is not needed any more cannot be removed");
        }
        self.tidy(&boot);
    }

    /// Removes the directory of an earlier boot of which nothing is left.
    fn tidy(&mut self, boot: &str) {
        if *self.boot == *boot || self.segments.values().any(|segment| *segment.note.boot == *boot) {
            return;
        }
        if let Some(dir) = self.boots.remove(boot).and_then(|boot| boot.dir) {
            let removed = fs::remove_file(dir.join("position")).and_then(|()| fs::remove_dir(&dir));
            if let Err(error) = removed {
                tracing::warn!(dir = %dir.display(), error = %error, "what an earlier run left cannot be removed");
            }
        }
    }

    /// Whether every batch was acknowledged.
    pub fn is_empty(&self) -> bool {
        self.in_flight.is_empty() && self.at_cursor().is_none()
    }

    /// Whether batches wait that were not sent.
    pub fn is_behind(&self) -> bool {
        self.at_cursor().is_some()
    }

    /// Share of the most bytes that is used, in thousandths.
    pub fn fill_permille(&self) -> u64 {
        let on_disk = (self.status.bytes * 1000).checked_div(self.limits.bytes);
        on_disk.unwrap_or_else(|| self.memory() * 1000 / MEMORY)
    }

    /// Writes what the kernel holds of segments to the disk itself; not of what was acknowledged.
    pub fn sync(&mut self) -> io::Result<()> {
        if self.is_empty() { Ok(()) } else { self.segments.values_mut().try_for_each(Segment::sync) }
    }

    /// Notes that this boot has written its last batch.
    pub fn end(&mut self) {
        if let Some(boot) = self.boots.get_mut(&self.boot) {
            boot.position.ended = true;
            boot.write();
        }
        if self
            .segments
            .values()
            .all(|segment| segment.note.boot != self.boot || segment.last <= self.acknowledged(&self.boot))
        {
            // Nothing to remember.
            self.segments.retain(|_, segment| segment.note.boot != self.boot);
            let _ = fs::remove_dir_all(&self.dir);
        }
    }

    /// Numbers for people.
    pub fn status(&self) -> SpoolStatus {
        let unsent = self.is_behind().then_some(self.unsent_ns);
        let oldest_ns = self.in_flight.front().map(|batch| batch.newest_ns).or(unsent).unwrap_or(0);
        SpoolStatus { oldest_ns, ..self.status.clone() }
    }
}

impl Boot {
    /// Where the position cannot be written, batches are sent again after a restart; the collector knows them.
    fn write(&self) {
        if let Some(Err(error)) = self.file.as_ref().map(|file| file.write(self.position)) {
            tracing::debug!(error = %error, "how far records are delivered cannot be noted");
        }
    }
}

#[cfg(test)]
mod tests;
