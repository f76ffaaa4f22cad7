//! Lives: weir-agent.
//! Called by: `runtime`, before the kernel is touched.
//! May touch: the lock file in the state directory, a lock on the cgroup root's directory.
//! Never: removes the file (another process may already hold a lock on it).

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
};

/// Held for as long as the process runs; the kernel lets go of it when the process ends, however that happens.
#[derive(Debug)]
pub struct Lock {
    _file: File,
    _tree: File,
}

/// Why this agent must not start.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another agent has the state directory.
    #[error(
        "another weir-agent (pid {pid}) already runs with state directory {}; stop it, or give this one another --state-dir \
         and cgroup tree", dir.display()
    )]
    Held {
        /// Process id as the other one wrote it, or "unknown".
        pid: String,
        /// The directory in dispute.
        dir: PathBuf,
    },
    /// Another agent, with another state directory, manages the cgroup tree.
    #[error("another weir-agent already manages the cgroup tree {}; stop it, or give this one another --cgroup-root", root.display())]
    TreeHeld {
        /// The tree in dispute.
        root: PathBuf,
    },
    /// The file could not be opened, locked or written.
    #[error("{} cannot be opened and locked; check that it exists, the state directory on a writable disk", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Takes the locks of `state_dir`, creating the directory if needed, and of the cgroup tree: two agents on one tree would each
/// judge its packets by a policy the other does not know.
///
/// # Errors
/// Another process holds one of them, or the file cannot be used.
pub fn take(state_dir: &Path, cgroup_root: &Path) -> Result<Lock, LockError> {
    let file = take_state(state_dir)?;
    Ok(Lock { _file: file, _tree: take_tree(cgroup_root)? })
}

fn take_tree(root: &Path) -> Result<File, LockError> {
    let unusable = |source| LockError::Unusable { path: root.to_owned(), source };
    let directory = File::open(root).map_err(unusable)?;
    match directory.try_lock() {
        Ok(()) => Ok(directory),
        Err(TryLockError::WouldBlock) => Err(LockError::TreeHeld { root: root.to_owned() }),
        Err(TryLockError::Error(source)) => Err(unusable(source)),
    }
}

fn take_state(state_dir: &Path) -> Result<File, LockError> {
    let path = state_dir.join("agent.lock");
    let unusable = |source| LockError::Unusable { path: path.clone(), source };
    std::fs::create_dir_all(state_dir).map_err(unusable)?;
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(LockError::Held { pid: holder(&mut file), dir: state_dir.to_owned() });
        }
        Err(TryLockError::Error(source)) => return Err(unusable(source)),
    }
    write_pid(&mut file).map_err(unusable)?;
    Ok(file)
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    match file.read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => text.trim().to_owned(),
        Ok(_) | Err(_) => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_is_refused_and_told_who_holds_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let first = take(&state, dir.path()).unwrap();
        let refused = take(&state, dir.path()).unwrap_err();
        assert!(matches!(&refused, LockError::Held { pid, .. } if *pid == std::process::id().to_string()), "{refused}");
        assert!(refused.to_string().contains(&state.display().to_string()));
        drop(first);
        take(&state, dir.path()).unwrap();
    }

    #[test]
    fn a_second_agent_on_the_same_tree_is_refused_whatever_its_state_directory() {
        let dir = tempfile::tempdir().unwrap();
        let first = take(&dir.path().join("one"), dir.path()).unwrap();
        let refused = take(&dir.path().join("two"), dir.path()).unwrap_err();
        assert!(matches!(&refused, LockError::TreeHeld { root } if root == dir.path()), "{refused}");
        drop(first);
        take(&dir.path().join("two"), dir.path()).unwrap();
    }

    #[test]
    fn a_directory_that_cannot_be_made_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let error = take(&dir.path().join("file"), dir.path()).unwrap_err();
        assert!(error.to_string().contains("agent.lock"), "{error}");
    }
}
