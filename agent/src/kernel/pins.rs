//! Lives: agent, user space.
//! Called by: `neighbours`.
//! May touch: the folder `weir` of a BPF file system.
//! Never: what a running agent has pinned there; its folder is locked for as long as it lives.
//!
//! ```text
//!   BPFFS/weir/TREE/xdp-N/            N: id of the program in the slots, `xdp_front` or `xdp_front_frags`
//!   BPFFS/weir/TREE/xdp-N/INDEX-ID    pin of the array of its neighbours: on interface INDEX the neighbour is program ID
//!   BPFFS/weir/TREE/xdp-N/judge       pin of the array of what judges
//! ```
//! The kernel empties an array of programs once nobody holds it open or pinned: without pins, a crash would cut the neighbours off.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

/// What the names of folders begin with.
const PREFIX: &str = "xdp-";

const JUDGE: &str = "judge";

/// The folder of all agents of a managed tree.
#[derive(Clone, Debug)]
pub(super) struct Pins(PathBuf);

/// The folder of one program, which nobody else uses while this lives.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// The program's id.
    pub front: u32,
    _lock: File,
}

/// One pin of a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pin {
    /// The interface.
    pub index: u32,
    /// The program that was there first.
    pub neighbour: u32,
}

impl Pins {
    /// Below the folder of a managed tree (`keep`).
    pub(super) const fn new(tree: PathBuf) -> Self {
        Self(tree)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Makes the folder of a program and locks it.
    pub(super) fn create(&self, front: u32) -> io::Result<Folder> {
        let path = self.0.join(format!("{PREFIX}{front}"));
        fs::create_dir_all(&path)?;
        let lock = File::open(&path)?;
        // Whoever looks for what is left behind lets go of it at once.
        lock.lock()?;
        Ok(Folder { path, front, _lock: lock })
    }

    /// The folders of agents that are gone.
    pub(super) fn left_behind(&self) -> Vec<Folder> {
        let Ok(entries) = fs::read_dir(&self.0) else { return Vec::new() };
        entries.flatten().filter_map(|entry| left_behind(entry.path())).collect()
    }
}

fn left_behind(path: PathBuf) -> Option<Folder> {
    let front = path.file_name()?.to_str()?.strip_prefix(PREFIX)?.parse().ok()?;
    let lock = File::open(&path).ok()?;
    match lock.try_lock() {
        Ok(()) => Some(Folder { path, front, _lock: lock }),
        Err(TryLockError::WouldBlock | TryLockError::Error(_)) => None,
    }
}

impl Folder {
    /// Where to pin.
    pub(super) fn path(&self, pin: Pin) -> PathBuf {
        self.path.join(format!("{}-{}", pin.index, pin.neighbour))
    }

    /// Where to pin what judges.
    pub(super) fn judge(&self) -> PathBuf {
        self.path.join(JUDGE)
    }

    /// What is pinned there.
    pub(super) fn pins(&self) -> Vec<Pin> {
        let Ok(entries) = fs::read_dir(&self.path) else { return Vec::new() };
        let name = |entry: fs::DirEntry| {
            let name = entry.file_name();
            let (index, neighbour) = name.to_str()?.split_once('-')?;
            Some(Pin { index: index.parse().ok()?, neighbour: neighbour.parse().ok()? })
        };
        entries.flatten().filter_map(name).collect()
    }

    /// Takes one away.
    pub(super) fn remove(&self, pin: Pin) {
        let path = self.path(pin);
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "a pin could not be removed");
        }
    }

    /// Takes the folder away unless something is pinned there.
    pub(super) fn close(self) {
        if self.pins().is_empty() {
            let _ = fs::remove_file(self.judge());
        }
        // Not empty: an interface whose neighbour could not be put back, or one of another network namespace. The next start looks again.
        let _ = fs::remove_dir(&self.path);
    }
}

/// Whether an agent of this host stands, or stood and was not taken away, in front of others' XDP programs.
#[must_use]
pub fn shares_slots(bpffs: &Path) -> bool {
    let pattern = bpffs.join("weir/*/xdp-*");
    glob::glob(&pattern.to_string_lossy()).is_ok_and(|mut found| found.next().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_holds_is_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let pins = Pins::new(dir.path().join("weir"));
        assert!(pins.left_behind().is_empty());
        let folder = pins.create(7).unwrap();
        let pin = Pin { index: 3, neighbour: 41 };
        fs::write(folder.path(pin), "").unwrap();
        fs::write(dir.path().join("weir/xdp-7/else"), "").unwrap();
        fs::create_dir(dir.path().join("weir/else")).unwrap();
        assert!(pins.left_behind().is_empty(), "its agent lives");
        drop(folder);
        let found = pins.left_behind();
        assert_eq!(found.iter().map(|folder| (folder.front, folder.pins())).collect::<Vec<_>>(), [(7, vec![pin])]);
        assert!(pins.left_behind().is_empty(), "somebody looks after it");
    }
}
