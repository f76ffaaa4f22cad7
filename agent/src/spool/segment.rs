//! Lives: weir-agent, spool.
//! Called by: `Spool`, under its lock.
//! May touch: one file below the spool's directory, or memory where the disk does not take it.
//! Never: leaves part of a frame at its end that a later frame would follow.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::frame::{self, Facts, HEADER, Header};

/// Some batches of one boot, in order.
#[derive(Debug)]
pub struct Segment {
    /// The boot they belong to.
    pub boot: Arc<str>,
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
    /// Bytes by workload.
    pub shares: HashMap<String, u64>,
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
    /// Bytes that are no batch any more, and where the next good header is. Decisions that were in them, as far as is known.
    Damage { decisions: u64, next: u64 },
    /// Nothing.
    End,
}

impl Segment {
    /// An empty one in a new file.
    pub fn create(dir: &Path, boot: &Arc<str>, first: u64) -> io::Result<Self> {
        let path = dir.join(format!("{first:020}.segment"));
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Self::empty(boot, first, Store::Disk { file, path }))
    }

    /// An empty one in memory.
    pub fn in_memory(boot: &Arc<str>, first: u64) -> Self {
        Self::empty(boot, first, Store::Memory(Vec::new()))
    }

    fn empty(boot: &Arc<str>, first: u64, store: Store) -> Self {
        let boot = Arc::clone(boot);
        Self {
            boot,
            first,
            last: first.saturating_sub(1),
            oldest_ns: 0,
            newest_ns: 0,
            length: 0,
            records: 0,
            shares: HashMap::new(),
            dirty: false,
            store,
        }
    }

    /// One that an earlier run wrote, up to its last whole batch; and whether something follows that is none. Only headers are read: a start does not wait for a whole spool, and
    /// what else is damaged is met, and told, when it is read. Batches up to `acknowledged` count no records.
    pub fn recover(path: &Path, boot: &Arc<str>, acknowledged: u64) -> io::Result<(Self, bool)> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let end = file.metadata()?.len();
        let mut segment = Self::empty(boot, 0, Store::Disk { file, path: path.to_owned() });
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
            if segment.first == 0 {
                segment.first = header.sequence;
            }
            let waits = header.sequence > acknowledged;
            let records = header.facts.records * u32::from(waits);
            segment.note(header.sequence, Facts { records, ..header.facts });
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
        self.note(sequence, facts);
        Ok(())
    }

    fn note(&mut self, sequence: u64, facts: Facts) {
        self.last = sequence;
        self.oldest_ns = if self.oldest_ns == 0 { facts.newest_ns } else { self.oldest_ns };
        self.newest_ns = self.newest_ns.max(facts.newest_ns);
        self.records += u64::from(facts.records);
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
    pub fn sync(&mut self) -> io::Result<()> {
        match &self.store {
            Store::Disk { file, .. } if self.dirty => file.sync_data()?,
            Store::Disk { .. } | Store::Memory(_) => {}
        }
        self.dirty = false;
        Ok(())
    }

    /// Takes it away.
    pub fn remove(self) -> io::Result<()> {
        match self.store {
            Store::Disk { path, .. } => fs::remove_file(path),
            Store::Memory(_) => Ok(()),
        }
    }
}
