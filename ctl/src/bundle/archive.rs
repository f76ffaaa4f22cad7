//! Lives: ctl, writing a support bundle.
//! Called by: the verb support-bundle.
//! May touch: one new file and, until it is whole, another beside it.
//! Never: overwrites; leaves half a file; lets anybody but the owner read it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process;

use flate2::{Compression, write::GzEncoder};
use jiff::Timestamp;
use tar::{Builder, Header};

use super::Member;
use crate::failure::Failure;

/// Whether there is no file of this name.
pub fn is_free(path: &Path) -> Result<(), Failure> {
    match fs::symlink_metadata(path) {
        Ok(_) => Err(Failure::Usage(format!("{} exists and is not overwritten; name another file", path.display()))),
        Err(_) => Ok(()),
    }
}

/// Writes all members, below a folder of their own.
pub fn write(path: &Path, folder: &str, members: &[Member], now: Timestamp) -> Result<(), Failure> {
    let beside = beside(path);
    let unwritten = |error: io::Error| Failure::Usage(format!("{} cannot be written: {error}", path.display()));
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside).map_err(unwritten)?;
    // A link, unlike a rename, never takes the place of another file.
    let done = pack(file, folder, members, now).and_then(|()| fs::hard_link(&beside, path));
    let removed = fs::remove_file(&beside);
    match done {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => is_free(path).and(Err(unwritten(error))),
        done => done.and(removed).map_err(unwritten),
    }
}

fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}", process::id()))
}

fn pack(file: File, folder: &str, members: &[Member], now: Timestamp) -> io::Result<()> {
    let mut tar = Builder::new(GzEncoder::new(file, Compression::default()));
    for Member { name, bytes } in members {
        let mut header = Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(now.as_second()).unwrap_or(0));
        tar.append_data(&mut header, format!("{folder}/{name}"), bytes.as_slice())?;
    }
    let mut file = tar.into_inner()?.finish()?;
    file.flush()?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;

    use flate2::read::GzDecoder;
    use tar::Archive;

    use super::*;

    #[test]
    fn a_bundle_is_for_its_owner_and_never_takes_a_files_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b.tar.gz");
        let members = [Member { name: "a.json", bytes: b"{}".to_vec() }];
        write(&path, "weir", &members, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let mut archive = Archive::new(GzDecoder::new(File::open(&path).unwrap()));
        let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(entry.path().unwrap().to_str(), Some("weir/a.json"));
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        assert_eq!(text, "{}");

        let before = fs::read(&path).unwrap();
        let refused = write(&path, "weir", &[], Timestamp::UNIX_EPOCH).unwrap_err();
        assert!(refused.to_string().contains("is not overwritten"), "{refused}");
        assert_eq!(fs::read(&path).unwrap(), before);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }
}
