//! Lives: collector, the history on disk.
//! Called by: `store`, under its lock; readers go on with views, outside it.
//! May touch: the folder `history.directory`.
//! Never: looks into a batch; removes anything but the oldest; writes behind what could not be written.
//!
//! ```text
//! history.directory/lock                     held by the collector that writes here
//!                  /POSITION.segment         frames (`weir-journal`): first the sums as they were, then batches
//!
//!   oldest segment ... newest
//!   ┌───────────────┬───────────────┬──────────┐
//!   │ S S B B B B B │ S S B B B B B │ S S B  ► │   a frame's number is the position of its first record in the history
//!   └───────────────┴───────────────┴──────────┘
//! ```
//! The sums (`nodes`) that begin a segment let a start read the last segments only, and outlive the batches they came from.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use weir_journal::{FORMAT, Facts, Header, Segment, newer, open_private, segments};

/// Segments a full history is made of.
const SEGMENTS: u64 = 16;
/// Bounds of a segment's size, bytes.
const SEGMENT_BYTES: (u64, u64) = (64 << 10, 64 << 20);
/// How the names of files end in which there is no whole batch, but something.
const DAMAGED: &str = "damaged";
/// Bytes between two places that are remembered of a segment: a reader looks through that many.
const MARK_EVERY: u64 = 64 << 10;

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes; the segment that is being written may go beyond.
    pub bytes: u64,
    /// Longest time since a record came: what a node's clock says of it does not matter.
    pub age: Duration,
}

/// What of a segment is remembered.
#[derive(Debug, Default)]
pub struct Notes {
    /// Position and place of some frames, in order.
    marks: Vec<(u64, u64)>,
    /// Position behind the last record.
    end: u64,
    /// Wall clock when it was begun, and when its last batch came, nanoseconds.
    begun_ns: u64,
    written_ns: u64,
}

impl Notes {
    fn add(&mut self, at: u64, position: u64, records: u32) {
        if self.marks.last().is_none_or(|(_, last)| at >= last + MARK_EVERY) {
            self.marks.push((position, at));
        }
        self.end = position + u64::from(records);
    }
}

/// Why a batch is not on disk.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The disk did not take it; what was there before is as it was.
    #[error(
        "history.directory {path}: {source}; nothing is acknowledged, and agents keep their records, until it can be written to"
    )]
    Refused {
        /// Where.
        path: PathBuf,
        /// The error underneath.
        source: io::Error,
    },
    /// What of the last batches is on the disk itself is not known any more.
    #[error("history.directory {path}: what was written may not be on the disk: {source}")]
    Unsure {
        /// Where.
        path: PathBuf,
        /// The error underneath.
        source: io::Error,
    },
}

/// Why a history on disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder or a file in it.
    #[error(
        "history.directory {path}: {source}; name another (--history-directory), or leave it out to keep records in memory only"
    )]
    Folder {
        /// Where.
        path: PathBuf,
        /// The error underneath.
        source: io::Error,
    },
    /// Another collector writes there.
    #[error(
        "history.directory {path}: another weir-collector keeps its history there; stop it, or name another folder"
    )]
    InUse {
        /// Where.
        path: PathBuf,
    },
    /// A later version wrote there.
    #[error(
        "history.directory {path}: {file} is of format {found}, and this collector knows {known}; start a collector of the version that \
         wrote it, or name another folder"
    )]
    Newer {
        /// Where.
        path: PathBuf,
        /// Which file says so.
        file: PathBuf,
        /// Its format.
        found: u8,
        /// The last one known.
        known: u8,
    },
}

/// The history on disk.
#[derive(Debug)]
pub struct Archive {
    dir: PathBuf,
    limits: Limits,
    /// By the position of their first record.
    segments: BTreeMap<u64, Segment<Notes>>,
    /// The one that is written, if any was begun.
    active: Option<u64>,
    bytes: u64,
    end: u64,
    _lock: File,
}

/// Numbers for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// Records kept.
    pub records: u64,
    /// Bytes they take.
    pub bytes: u64,
    /// Most bytes.
    pub capacity: u64,
    /// Wall clock of about the oldest one, nanoseconds; 0 while there is none.
    pub oldest_ns: u64,
}

impl Archive {
    /// Takes over what is in a folder, which is made if it is not there.
    ///
    /// # Errors
    /// The folder cannot be used, another collector does, or a later version has written there.
    pub fn open(dir: &Path, limits: Limits) -> Result<Self, OpenError> {
        let path = dir.to_owned();
        let folder = |source| OpenError::Folder { path: path.clone(), source };
        open_private(dir).map_err(folder)?;
        let lock = File::create(dir.join("lock")).map_err(folder)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { path }),
            Err(TryLockError::Error(source)) => return Err(folder(source)),
        }
        if let Some((file, found)) = newer(dir).map_err(folder)? {
            return Err(OpenError::Newer { path, file, found, known: FORMAT });
        }
        let mut archive =
            Self { dir: path.clone(), limits, segments: BTreeMap::new(), active: None, bytes: 0, end: 0, _lock: lock };
        segments(dir).and_then(|paths| paths.iter().try_for_each(|path| archive.recover(path))).map_err(folder)?;
        Ok(archive)
    }

    fn recover(&mut self, path: &Path) -> io::Result<()> {
        let note = |notes: &mut Notes, at, header: &Header| notes.add(at, header.sequence, header.facts.records);
        let file = fs::metadata(path)?;
        let written = file.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        let notes = Notes { written_ns: nanoseconds(written), ..Notes::default() };
        let (segment, torn) = Segment::recover(path, None, notes, note)?;
        if torn {
            tracing::warn!(file = %path.display(), "what follows the last whole batch is left out: one that was being written, or damage");
        }
        if segment.records == 0 && (!torn || file.len() == 0) {
            // Begun, and nothing came.
            return segment.remove();
        }
        if segment.records == 0 {
            // Out of the way of a segment of that name; whether something can be read there is for a person to see.
            return fs::rename(path, path.with_extension(DAMAGED));
        }
        self.bytes += segment.length;
        self.end = self.end.max(segment.note.end);
        self.segments.insert(segment.first, segment);
        Ok(())
    }

    /// Position of the oldest record.
    #[must_use]
    pub fn begin(&self) -> u64 {
        self.segments.keys().next().copied().unwrap_or(self.end)
    }

    /// The position the next record will have.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.end
    }

    /// Numbers for people.
    #[must_use]
    pub fn numbers(&self) -> Disk {
        Disk {
            records: self.segments.values().map(|segment| segment.records).sum(),
            bytes: self.bytes,
            capacity: self.limits.bytes,
            oldest_ns: self.segments.values().next().map_or(0, |segment| segment.oldest_ns),
        }
    }

    /// Position of the newest segment with which the last `records` records begin, or the oldest segment.
    #[must_use]
    pub fn before_last(&self, records: u64) -> u64 {
        let mut left = records;
        for (first, segment) in self.segments.iter().rev() {
            left = left.saturating_sub(segment.records);
            if left == 0 {
                return *first;
            }
        }
        self.begin()
    }

    /// Writes a batch that came at `now_ns`; `sums` are what begins a segment, if one is begun. It is on the disk itself once a view of it was synced.
    ///
    /// # Errors
    /// The disk does not take it.
    pub fn append(
        &mut self,
        facts: Facts,
        body: &[u8],
        now_ns: u64,
        sums: impl FnOnce() -> Vec<Vec<u8>>,
    ) -> Result<(), ArchiveError> {
        let id = match self.active {
            Some(id) if !self.is_done(id, body.len(), now_ns) => id,
            _ => self.begin_segment(&sums(), now_ns)?,
        };
        self.write(id, facts, body, now_ns).map_err(|source| self.refused(source))?;
        self.give_up(now_ns);
        Ok(())
    }

    fn write(&mut self, id: u64, facts: Facts, body: &[u8], now_ns: u64) -> io::Result<()> {
        let Some(segment) = self.segments.get_mut(&id) else { return Err(io::Error::other("no segment is begun")) };
        let at = segment.length;
        segment.append(self.end, facts, body)?;
        segment.note.add(at, self.end, facts.records);
        segment.note.written_ns = now_ns;
        self.bytes += segment.length - at;
        self.end += u64::from(facts.records);
        Ok(())
    }

    /// Whether a batch should begin another segment.
    fn is_done(&self, id: u64, size: usize, now_ns: u64) -> bool {
        let most = (self.limits.bytes / SEGMENTS).clamp(SEGMENT_BYTES.0, SEGMENT_BYTES.1);
        let long = nanoseconds(self.limits.age) / SEGMENTS;
        self.segments.get(&id).is_none_or(|segment| {
            segment.records > 0
                && (segment.length + size as u64 > most || now_ns.saturating_sub(segment.note.begun_ns) > long)
        })
    }

    fn begin_segment(&mut self, sums: &[Vec<u8>], now_ns: u64) -> Result<u64, ArchiveError> {
        if let Some(old) = self.active.and_then(|id| self.segments.get_mut(&id)) {
            // After this nobody would sync it.
            old.sync().map_err(|source| ArchiveError::Unsure { path: self.dir.clone(), source })?;
        }
        self.active = None;
        let id = self.end;
        let segment = Segment::create(&self.dir, id, Notes { begun_ns: now_ns, ..Notes::default() })
            .map_err(|source| self.refused(source))?;
        self.segments.insert(id, segment);
        let folder = || File::open(&self.dir)?.sync_all();
        let written =
            folder().and_then(|()| sums.iter().try_for_each(|sum| self.write(id, Facts::default(), sum, now_ns)));
        if let Err(source) = written {
            self.remove(id);
            return Err(self.refused(source));
        }
        self.active = Some(id);
        Ok(id)
    }

    fn refused(&self, source: io::Error) -> ArchiveError {
        ArchiveError::Refused { path: self.dir.clone(), source }
    }

    /// Removes the oldest segments beyond the limits, but never the one that is written.
    pub fn give_up(&mut self, now_ns: u64) {
        let age = nanoseconds(self.limits.age);
        while let Some((id, segment)) = self.segments.first_key_value() {
            let id = *id;
            let is_old = now_ns.saturating_sub(segment.note.written_ns) > age;
            if Some(id) == self.active || !(is_old || self.bytes > self.limits.bytes) {
                return;
            }
            self.remove(id);
        }
    }

    fn remove(&mut self, id: u64) {
        let Some(segment) = self.segments.remove(&id) else { return };
        self.bytes = self.bytes.saturating_sub(segment.length);
        if let Err(error) = segment.remove() {
            tracing::warn!(folder = %self.dir.display(), error = %error, "a segment of the history cannot be removed");
        }
    }

    /// The segment that is written, to be synced outside the lock.
    ///
    /// # Errors
    /// There are no more descriptors.
    pub fn active(&self) -> io::Result<Option<Segment<()>>> {
        self.active.and_then(|id| self.segments.get(&id)).map_or(Ok(None), Segment::view)
    }

    /// Where the first record at or after `position` is to be looked for: a segment, a place in it, and where the next segment begins.
    ///
    /// # Errors
    /// There are no more descriptors.
    pub fn at(&self, position: u64) -> io::Result<Option<Place>> {
        let holds = self.segments.range(..=position).next_back().filter(|(_, segment)| position < segment.note.end);
        let Some((id, segment)) = holds.or_else(|| self.segments.range(position..).next()) else { return Ok(None) };
        let marks = &segment.note.marks;
        let mark = marks.partition_point(|(first, _)| *first <= position).saturating_sub(1);
        // The sums before the first batch have its position too.
        let offset = marks.get(mark).filter(|(first, _)| first < &position).map_or(0, |(_, offset)| *offset);
        Ok(segment.view()?.map(|view| Place { first: *id, view, offset, end: segment.note.end }))
    }
}

/// Where to read.
#[derive(Debug)]
pub struct Place {
    /// Position of the segment's first record.
    pub first: u64,
    /// The segment.
    pub view: Segment<()>,
    /// A frame of it at or before the record.
    pub offset: u64,
    /// Position behind its last record.
    pub end: u64,
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const LIMITS: Limits = Limits { bytes: 1 << 20, age: Duration::from_secs(16) };
    const SECOND: u64 = 1_000_000_000;

    fn open(dir: &Path) -> Archive {
        Archive::open(dir, LIMITS).unwrap()
    }

    fn append(archive: &mut Archive, records: u32, now_ns: u64, size: usize) {
        let facts = Facts { records, decisions: 0, newest_ns: 1 };
        archive.append(facts, &vec![7; size], now_ns, || vec![vec![1; 100]]).unwrap();
    }

    #[test]
    fn the_oldest_segments_go_beyond_bytes_or_age_and_never_the_one_that_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut archive = open(dir.path());
        for n in 1..=300 {
            append(&mut archive, 10, n * SECOND / 100, 10_000);
        }
        let numbers = archive.numbers();
        assert!(numbers.bytes <= LIMITS.bytes && numbers.bytes > LIMITS.bytes * 9 / 10, "{numbers:?}");
        assert_eq!((archive.end(), archive.begin() + numbers.records), (3000, 3000));
        let files = |dir: &Path| segments(dir).unwrap().len();
        assert!(files(dir.path()) >= 15, "{}", files(dir.path()));
        archive.give_up(3 * SECOND + 17 * SECOND);
        assert_eq!(files(dir.path()), 1);
        assert!(archive.begin() < 3000 && archive.numbers().records > 0);
        // A segment ends after a sixteenth of the longest age, so that what is too old can go.
        append(&mut archive, 1, 4 * SECOND + 1, 10);
        append(&mut archive, 1, 5 * SECOND + 2, 10);
        assert_eq!(files(dir.path()), 3);
    }

    #[test]
    fn a_place_is_found_for_every_position() {
        let dir = tempfile::tempdir().unwrap();
        let mut archive = open(dir.path());
        assert!(archive.at(0).unwrap().is_none());
        (0..200).for_each(|_| append(&mut archive, 7, 1, 3000));
        let again = |mut archive: Archive| {
            archive.active = None;
            for position in 0..1400 {
                let place = archive.at(position).unwrap().unwrap();
                let mut at = place.offset;
                let found = loop {
                    let head = place.view.head(at).unwrap().unwrap();
                    if head.facts.records > 0 && position < head.sequence + 7 {
                        break head.sequence;
                    }
                    at += head.length();
                };
                assert_eq!(found, position / 7 * 7, "{position}");
                assert!(at - place.offset < 2 * MARK_EVERY, "{position}");
            }
            assert!(archive.at(1400).unwrap().is_none());
        };
        again(archive);
        again(open(dir.path()));
    }

    #[test]
    fn a_folder_has_one_collector_and_no_other_versions_files() {
        let dir = tempfile::tempdir().unwrap();
        let mut archive = open(dir.path());
        append(&mut archive, 1, 1, 10);
        let refused = Archive::open(dir.path(), LIMITS).unwrap_err().to_string();
        assert!(refused.contains("another weir-collector"), "{refused}");
        drop(archive);
        fs::write(dir.path().join("00000000000000000009.segment"), "WFR7 and more").unwrap();
        let refused = Archive::open(dir.path(), LIMITS).unwrap_err().to_string();
        assert!(refused.contains("is of format 7, and this collector knows 1"), "{refused}");
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let refused = Archive::open(&file, LIMITS).unwrap_err().to_string();
        assert!(refused.contains("--history-directory"), "{refused}");
    }

    #[test]
    fn a_segment_that_cannot_be_begun_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut archive = open(dir.path());
        append(&mut archive, 5, 1, 10);
        // Where the next segment would be.
        let obstacle = dir.path().join(format!("{:020}.segment", 5));
        fs::create_dir(&obstacle).unwrap();
        let facts = Facts { records: 5, decisions: 0, newest_ns: 1 };
        let refused = archive.append(facts, b"x", 10 * SECOND, Vec::new).unwrap_err();
        assert!(matches!(refused, ArchiveError::Refused { .. }), "{refused}");
        assert_eq!((archive.end(), archive.numbers().records), (5, 5));
        fs::remove_dir(&obstacle).unwrap();
        append(&mut archive, 5, 10 * SECOND, 10);
        assert_eq!((archive.end(), open_again(archive, dir.path()).numbers().records), (10, 10));
    }

    #[test]
    fn what_cannot_be_read_at_all_is_put_aside_and_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let mut archive = open(dir.path());
        append(&mut archive, 5, 1, 10);
        drop(archive);
        let path = segments(dir.path()).unwrap().remove(0);
        let garbage = vec![3; 5000];
        fs::write(&path, &garbage).unwrap();
        let mut archive = open(dir.path());
        assert_eq!((archive.end(), archive.numbers().records), (0, 0));
        append(&mut archive, 5, 1, 10);
        assert_eq!(
            (open_again(archive, dir.path()).end(), fs::read(path.with_extension(DAMAGED)).unwrap()),
            (5, garbage)
        );
    }

    fn open_again(archive: Archive, dir: &Path) -> Archive {
        drop(archive);
        open(dir)
    }
}
