//! Lives: weir-journal.
//! Called by: who keeps a journal, under a lock of its own.
//! May touch: one file of it, or memory where the disk does not take it.
//! Never: leaves part of a frame at its end that a later frame would follow.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use crate::frame::{self, Facts, HEADER, Header};

/// How the names of segments end.
pub const EXTENSION: &str = "segment";

/// Some batches, in order. `T` is what its keeper notes of it.
#[derive(Debug)]
pub struct Segment<T> {
    /// What its keeper notes.
    pub note: T,
    /// Number of the first one.
    pub first: u64,
    /// Number of the last one; `first - 1` while there is none.
    pub last: u64,
    /// Wall clock of the first batch's newest record.
    pub oldest_ns: u64,
    /// Wall clock of the newest record.
    pub newest_ns: u64,
    /// Bytes of whole frames.
    pub length: u64,
    /// Records in it; of one that an earlier run wrote, those that were not acknowledged then.
    pub records: u64,
    /// Whether the kernel holds something of it that is not on the disk itself.
    dirty: bool,
    store: Store,
}

#[derive(Debug)]
enum Store {
    Disk { file: File, path: PathBuf },
    Memory(Vec<u8>),
}

/// What lies at a place of a segment.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// A batch, and where the next one begins.
    Batch(Header, Vec<u8>, u64),
    /// Bytes that are no batch any more.
    Damage {
        /// Decisions that were in them, as far as is known.
        decisions: u64,
        /// Where the next good header is, or the end.
        next: u64,
    },
    /// Nothing.
    End,
}

impl<T> Segment<T> {
    /// An empty one in a new file, which is named after the number of its first batch.
    ///
    /// # Errors
    /// It cannot be made, or is there already.
    pub fn create(dir: &Path, first: u64, note: T) -> io::Result<Self> {
        let path = dir.join(format!("{first:020}.{EXTENSION}"));
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Self::empty(first, Store::Disk { file, path }, note))
    }

    /// An empty one in memory.
    pub const fn in_memory(first: u64, note: T) -> Self {
        Self::empty(first, Store::Memory(Vec::new()), note)
    }

    const fn empty(first: u64, store: Store, note: T) -> Self {
        let last = first.saturating_sub(1);
        Self { note, first, last, oldest_ns: 0, newest_ns: 0, length: 0, records: 0, dirty: false, store }
    }

    /// One that an earlier run wrote, up to its last whole batch; and whether something follows that is none. Only headers are read, each of
    /// which `seen` is shown with its place: a start does not wait for a whole journal, and what else is damaged is met, and told, when it is
    /// read. Batches up to `acknowledged` count no records.
    ///
    /// # Errors
    /// The file cannot be opened or read.
    pub fn recover(
        path: &Path,
        acknowledged: Option<u64>,
        note: T,
        mut seen: impl FnMut(&mut T, u64, &Header),
    ) -> io::Result<(Self, bool)> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let end = file.metadata()?.len();
        let mut segment = Self::empty(0, Store::Disk { file, path: path.to_owned() }, note);
        segment.length = end;
        let (mut at, mut whole) = (0, 0);
        while at < end {
            let Some(header) = Header::read(&segment.bytes(at, HEADER)?) else {
                at = segment.next_header(at + 1)?;
                continue;
            };
            if at + header.length() > end {
                break;
            }
            if whole == 0 {
                segment.first = header.sequence;
            }
            let waits = acknowledged.is_none_or(|last| header.sequence > last);
            let records = header.facts.records * u32::from(waits);
            segment.add(header.sequence, Facts { records, ..header.facts });
            seen(&mut segment.note, at, &header);
            at += header.length();
            whole = at;
        }
        segment.length = whole;
        Ok((segment, whole < end || end == 0))
    }

    /// Writes a batch at the end.
    ///
    /// # Errors
    /// The disk does not take it; then nothing of it is part of the segment.
    pub fn append(&mut self, sequence: u64, facts: Facts, body: &[u8]) -> io::Result<()> {
        let bytes = frame::write(sequence, facts, body);
        match &mut self.store {
            Store::Disk { file, .. } => {
                if let Err(error) = file.write_all_at(&bytes, self.length) {
                    // What was written of it lies behind the end and is overwritten by the next frame; cut off, so that the
                    // room is free again. A disk that refuses this as well changes nothing: the checksum tells.
                    let _ = file.set_len(self.length);
                    return Err(error);
                }
            }
            Store::Memory(held) => held.extend(&bytes),
        }
        self.length += bytes.len() as u64;
        self.dirty = true;
        self.add(sequence, facts);
        Ok(())
    }

    fn add(&mut self, sequence: u64, facts: Facts) {
        self.last = sequence;
        self.oldest_ns = if self.oldest_ns == 0 { facts.newest_ns } else { self.oldest_ns };
        self.newest_ns = self.newest_ns.max(facts.newest_ns);
        self.records += u64::from(facts.records);
    }

    /// The header at `at`, without what follows it; `None` where none is that was written.
    ///
    /// # Errors
    /// The disk does not give it.
    pub fn head(&self, at: u64) -> io::Result<Option<Header>> {
        Ok(Header::read(&self.bytes(at, HEADER)?))
    }

    /// What lies at `at`.
    ///
    /// # Errors
    /// The disk does not give it.
    pub fn read(&self, at: u64) -> io::Result<Found> {
        if at >= self.length {
            return Ok(Found::End);
        }
        let head = self.bytes(at, HEADER)?;
        let Some(header) = Header::read(&head) else {
            return Ok(Found::Damage { decisions: 0, next: self.next_header(at + 1)? });
        };
        let body = self.bytes(at + HEADER as u64, header.size)?;
        if !header.fits(&body) {
            // The header is as it was written, so it says where the next one is.
            let next = (at + header.length()).min(self.length);
            return Ok(Found::Damage { decisions: header.facts.decisions, next });
        }
        Ok(Found::Batch(header, body, at + header.length()))
    }

    /// What of it is there now, to be read by others while it is written, and even once it is removed; `None` of one in memory.
    ///
    /// # Errors
    /// There are no more descriptors.
    pub fn view(&self) -> io::Result<Option<Segment<()>>> {
        let Store::Disk { file, path } = &self.store else { return Ok(None) };
        let store = Store::Disk { file: file.try_clone()?, path: path.clone() };
        let Self { first, last, oldest_ns, newest_ns, length, records, dirty, .. } = *self;
        Ok(Some(Segment { note: (), first, last, oldest_ns, newest_ns, length, records, dirty, store }))
    }

    /// Up to `size` bytes from `at`, fewer at the end.
    fn bytes(&self, at: u64, size: usize) -> io::Result<Vec<u8>> {
        let size = usize::try_from(self.length.saturating_sub(at)).unwrap_or(size).min(size);
        match &self.store {
            Store::Disk { file, .. } => {
                let mut bytes = vec![0; size];
                file.read_exact_at(&mut bytes, at)?;
                Ok(bytes)
            }
            Store::Memory(held) => {
                let start = usize::try_from(at).unwrap_or(usize::MAX);
                Ok(held.get(start..).and_then(|rest| rest.get(..size)).map(<[u8]>::to_vec).unwrap_or_default())
            }
        }
    }

    /// Where the next good header is at or after `at`, or the end.
    fn next_header(&self, at: u64) -> io::Result<u64> {
        let rest = self.bytes(at, usize::try_from(self.length.saturating_sub(at)).unwrap_or(usize::MAX))?;
        let starts = rest.windows(HEADER).position(|bytes| Header::read(bytes).is_some());
        Ok(starts.map_or(self.length, |start| at + start as u64))
    }

    /// Whether it is on disk.
    pub const fn is_on_disk(&self) -> bool {
        matches!(self.store, Store::Disk { .. })
    }

    /// Writes what the kernel holds of it to the disk itself.
    ///
    /// # Errors
    /// The disk does not take it. What of it is lost is not known then.
    pub fn sync(&mut self) -> io::Result<()> {
        match &self.store {
            Store::Disk { file, .. } if self.dirty => file.sync_data()?,
            Store::Disk { .. } | Store::Memory(_) => {}
        }
        self.dirty = false;
        Ok(())
    }

    /// Takes it away.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn remove(self) -> io::Result<()> {
        match self.store {
            Store::Disk { path, .. } => fs::remove_file(path),
            Store::Memory(_) => Ok(()),
        }
    }
}
