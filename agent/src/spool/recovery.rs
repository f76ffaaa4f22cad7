//! Lives: weir-agent, spool.
//! Called by: `Spool::open`.
//! May touch: what earlier runs left in the spool's directory.
//! Never: removes what was not delivered, but for what cannot be read, and says so then; touches what a later version wrote.

use std::{io, path::Path, sync::Arc};

use weir_journal::{FORMAT, newer, open_private, segments, sorted};

use super::{Boot, Owner, Segment, Spool, position::PositionFile};

/// What an earlier run left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// It ended without a word; its last record is of about this time.
    pub ended_ns: Option<u64>,
    /// Batches are missing in what it left, nobody knows how many.
    pub damaged: bool,
    /// Runs that a later version recorded in a format that is not known here; they are left as they are.
    pub newer: usize,
}

impl Spool {
    pub(super) fn recover(&mut self, dir: &Path) -> io::Result<Left> {
        open_private(dir)?;
        let mut left = Left::default();
        for path in sorted(dir)? {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let Some((start, boot)) = name.split_once('-').filter(|_| path.is_dir()) else { continue };
            if let Some((file, found)) = newer(&path)? {
                tracing::error!(
                    file = %file.display(), found, known = FORMAT,
                    "records of a later version's format are left as they are, and none of its run is delivered: start an agent of that \
                     version, which delivers them, or remove the folder"
                );
                left.newer += 1;
                continue;
            }
            let began = start.parse().unwrap_or(0);
            let (newest_ns, damaged) = self.recover_boot(&path, boot)?;
            left.damaged |= damaged;
            let ended = self.boots.get(boot).is_none_or(|boot| boot.position.ended);
            left.ended_ns = (!ended).then_some(newest_ns.max(began));
            self.tidy(boot);
        }
        Ok(left)
    }

    /// Takes over what one boot left: when it was last heard of, and whether a segment before its last one was cut off.
    fn recover_boot(&mut self, dir: &Path, boot: &str) -> io::Result<(u64, bool)> {
        let file = PositionFile::open(dir)?;
        let position = file.read();
        let boot: Arc<str> = boot.into();
        let (mut newest_ns, mut damaged, mut cut) = (file.written_ns(), false, false);
        for path in segments(dir)? {
            // The end of the last one is what the boot was at when it ended.
            damaged |= cut;
            let segment;
            (segment, cut) = Segment::recover(&path, Some(position.acknowledged), Owner::of(&boot), |_, _, _| ())?;
            newest_ns = newest_ns.max(segment.newest_ns);
            if segment.length == 0 || segment.last <= position.acknowledged {
                segment.remove()?;
                continue;
            }
            if self.unsent_ns == 0 {
                self.unsent_ns = segment.oldest_ns;
            }
            self.add(segment);
        }
        let of = Boot { dir: Some(dir.to_owned()), position, file: Some(file) };
        self.boots.insert(boot, of);
        Ok((newest_ns, damaged))
    }
}
