//! Lives: weir-agent, spool.
//! Called by: `Spool::open`.
//! May touch: what earlier runs left in the spool's directory.
//! Never: removes what was not delivered, but for what cannot be read, and says so then; touches what a later version wrote.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Boot, Spool, frame, position::PositionFile, segment::Segment};

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
        private_dir(dir)?;
        let mut left = Left::default();
        for path in sorted(dir)? {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let Some((start, boot)) = name.split_once('-').filter(|_| path.is_dir()) else { continue };
            if let Some((file, found)) = newer(&path)? {
                tracing::error!(
                    file = %file.display(), found, known = frame::FORMAT,
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
        for path in sorted(dir)?.into_iter().filter(|path| path.extension().is_some_and(|end| end == "segment")) {
            // The end of the last one is what the boot was at when it ended.
            damaged |= cut;
            let segment;
            (segment, cut) = Segment::recover(&path, &boot, position.acknowledged)?;
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

/// The first segment of a run that is of a later format, and which that is.
fn newer(dir: &Path) -> io::Result<Option<(PathBuf, u8)>> {
    for path in sorted(dir)?.into_iter().filter(|path| path.extension().is_some_and(|end| end == "segment")) {
        let mut first = [0; frame::MAGIC.len()];
        // One that is shorter says nothing of its format.
        let read = File::open(&path)?.read_exact(&mut first);
        if let Some(found) = read.ok().and_then(|()| frame::newer(&first)) {
            return Ok(Some((path, found)));
        }
    }
    Ok(None)
}

pub fn sorted(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// A directory only we may read: records tell who talks to whom.
pub fn private_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}
