//! Lives: weir-journal.
//! Called by: whoever opens a journal.
//! May touch: the folder it is told.
//! Never: changes what others may do with a folder that is there already.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::frame;
use crate::segment::EXTENSION;

/// Makes a folder that only we may read, if it is not there: records tell who talks to whom.
///
/// # Errors
/// It cannot be made.
pub fn open_private(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// What is in a folder, by name.
///
/// # Errors
/// It cannot be listed.
pub fn sorted(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// The segments in a folder, oldest first.
///
/// # Errors
/// It cannot be listed.
pub fn segments(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = sorted(dir)?;
    paths.retain(|path| path.extension().is_some_and(|end| end == EXTENSION));
    Ok(paths)
}

/// The first segment in a folder that a later version wrote in a format that is not known here, and which that is.
///
/// # Errors
/// The folder or one of them cannot be read.
pub fn newer(dir: &Path) -> io::Result<Option<(PathBuf, u8)>> {
    for path in segments(dir)? {
        let mut first = [0; frame::MAGIC.len()];
        // One that is shorter says nothing of its format.
        let read = File::open(&path)?.read_exact(&mut first);
        if let Some(found) = read.ok().and_then(|()| frame::newer(&first)) {
            return Ok(Some((path, found)));
        }
    }
    Ok(None)
}
