//! Lives: weir-journal.
//! Called by: `segment`, for each batch that is written, read or looked for.
//! May touch: bytes.
//! Never: takes a header or a body for good whose checksum says otherwise.
//!
//! ```text
//! 0     4         8         16         24         32       36        40          44           48
//! │magic│body size│sequence │newest_ns │decisions │records │body crc │ zero      │ header crc │ body ...
//! ```
//! All numbers are little-endian; checksums are CRC-32 (IEEE 802.3).

/// Bytes of a header.
pub const HEADER: usize = 48;
/// Largest body, bytes; the largest batch that is taken from anyone has 8 MiB. A size beyond it is no size.
pub const MAX_BODY: usize = 9 << 20;
/// First bytes of each frame, by which the next one is found behind damage.
pub const MAGIC: [u8; 4] = *b"WFR1";

/// What the first bytes of all formats have in common; the one after them says which it is, from `1` on.
const FAMILY: &[u8] = b"WFR";
/// The format that is written here, and the only one that is read.
pub const FORMAT: u8 = MAGIC[3] - b'0';

/// The format of what these bytes begin, where it is one that a later version writes.
pub fn newer(bytes: &[u8]) -> Option<u8> {
    let said = bytes.strip_prefix(FAMILY)?.first()?;
    said.is_ascii_digit().then(|| said - b'0').filter(|said| *said > FORMAT)
}

/// What is known of a batch without reading it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Its records.
    pub records: u32,
    /// Decisions they stand for.
    pub decisions: u64,
    /// Wall clock of its newest record, nanoseconds.
    pub newest_ns: u64,
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Number of the batch within its boot.
    pub sequence: u64,
    /// Bytes of the body.
    pub size: usize,
    /// What is in it.
    pub facts: Facts,
    body_crc: u32,
}

/// A frame: header and body.
pub fn write(sequence: u64, facts: Facts, body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let mut frame = Vec::with_capacity(HEADER + body.len());
    frame.extend(MAGIC);
    frame.extend(size.to_le_bytes());
    frame.extend(sequence.to_le_bytes());
    frame.extend(facts.newest_ns.to_le_bytes());
    frame.extend(facts.decisions.to_le_bytes());
    frame.extend(facts.records.to_le_bytes());
    frame.extend(crc32fast::hash(body).to_le_bytes());
    frame.extend([0; 4]);
    frame.extend(crc32fast::hash(&frame).to_le_bytes());
    frame.extend(body);
    frame
}

impl Header {
    /// The header these bytes begin with; `None` if they are none, or were changed.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes.get(..HEADER)?;
        let said = u32::from_le_bytes(*bytes.get(HEADER - 4..)?.first_chunk()?);
        if bytes.first_chunk() != Some(&MAGIC) || crc32fast::hash(bytes.get(..HEADER - 4)?) != said {
            return None;
        }
        rest = rest.get(4..)?;
        let size = usize::try_from(u32::from_le_bytes(take(&mut rest)?)).ok()?;
        let sequence = u64::from_le_bytes(take(&mut rest)?);
        let newest_ns = u64::from_le_bytes(take(&mut rest)?);
        let decisions = u64::from_le_bytes(take(&mut rest)?);
        let records = u32::from_le_bytes(take(&mut rest)?);
        let body_crc = u32::from_le_bytes(take(&mut rest)?);
        (size <= MAX_BODY).then_some(Self { sequence, size, facts: Facts { records, decisions, newest_ns }, body_crc })
    }

    /// Whether this is the body that was written.
    pub fn fits(&self, body: &[u8]) -> bool {
        body.len() == self.size && crc32fast::hash(body) == self.body_crc
    }

    /// Bytes from this header to the next.
    pub const fn length(&self) -> u64 {
        (HEADER + self.size) as u64
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_back_and_no_changed_bit_goes_unseen() {
        let facts = Facts { records: 3, decisions: 500, newest_ns: 77 };
        let frame = write(9, facts, b"body");
        let header = Header::read(&frame).unwrap();
        assert_eq!((header.sequence, header.facts, header.length()), (9, facts, frame.len() as u64));
        assert!(header.fits(&frame[HEADER..]));
        for bit in 0..frame.len() * 8 {
            let mut changed = frame.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let good = Header::read(&changed).is_some_and(|header| header.fits(&changed[HEADER..]));
            assert!(!good, "bit {bit}");
        }
        for short in 0..HEADER {
            assert_eq!(Header::read(&frame[..short]), None);
        }
    }
}
