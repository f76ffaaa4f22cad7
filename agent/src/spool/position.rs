//! Lives: weir-agent, spool.
//! Called by: `Spool`, for each batch that is sent or acknowledged.
//! May touch: the file `position` of one boot's directory.
//! Never: is believed when its checksum says otherwise: then everything may have been sent and nothing was acknowledged.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    time::UNIX_EPOCH,
};

/// How far the delivery of a boot's batches is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Every batch up to this one is acknowledged.
    pub acknowledged: u64,
    /// Every batch up to this one may have been sent.
    pub sent: u64,
    /// Whether the agent wrote its last batch before it ended.
    pub ended: bool,
}

impl Position {
    /// Of a boot of which nothing was sent.
    pub const START: Self = Self { acknowledged: 0, sent: 0, ended: false };
    /// Of one of which nothing is known.
    pub const UNKNOWN: Self = Self { acknowledged: 0, sent: u64::MAX, ended: false };
}

/// The file that remembers it.
#[derive(Debug)]
pub struct PositionFile(File);

const SIZE: usize = 24;

impl PositionFile {
    /// Opens it, made if there is none.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        options.open(dir.join("position")).map(Self)
    }

    /// What it says.
    pub fn read(&self) -> Position {
        let mut bytes = [0; SIZE];
        let read = self.0.read_exact_at(&mut bytes, 0);
        let parts = || {
            let (acknowledged, rest) = bytes.split_first_chunk()?;
            let (sent, rest) = rest.split_first_chunk()?;
            let (ended, rest) = rest.split_first_chunk()?;
            let good = crc32fast::hash(bytes.get(..SIZE - 4)?) == u32::from_le_bytes(*rest.first_chunk()?);
            let ended = u32::from_le_bytes(*ended) != 0;
            let position =
                Position { acknowledged: u64::from_le_bytes(*acknowledged), sent: u64::from_le_bytes(*sent), ended };
            good.then_some(position)
        };
        read.ok().and_then(|()| parts()).unwrap_or(Position::UNKNOWN)
    }

    /// When it was written last, nanoseconds since the Unix epoch; 0 where that is not known.
    pub fn written_ns(&self) -> u64 {
        let modified = self.0.metadata().and_then(|data| data.modified()).ok();
        let since = modified.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        u64::try_from(since.as_nanos()).unwrap_or(0)
    }

    /// Writes it. Not to the disk itself: after a power cut it is not known, or behind, and batches are sent again.
    pub fn write(&self, position: Position) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(SIZE);
        bytes.extend(position.acknowledged.to_le_bytes());
        bytes.extend(position.sent.to_le_bytes());
        bytes.extend(u32::from(position.ended).to_le_bytes());
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        self.0.write_all_at(&bytes, 0)
    }
}
