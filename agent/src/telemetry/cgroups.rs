//! Lives: weir-agent, telemetry.
//! Called by: `join`, for events of tasks in a cgroup that is not a workload's own directory.
//! May touch: the managed cgroup tree, read only.
//! Never: walks the tree more than once a second, or past [`MAX_CGROUPS`] directories.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use foldhash::HashMap;

/// Directories looked at.
const MAX_CGROUPS: usize = 16_384;
/// Time between two walks.
const PAUSE_NS: u64 = 1_000_000_000;

/// Cgroup ids and their paths below the managed tree. The id of a cgroup is the inode number of its directory.
pub struct Cgroups {
    root: PathBuf,
    paths: HashMap<u64, Arc<str>>,
    walked_ns: Option<u64>,
}

impl Cgroups {
    /// Names cgroups below `root`.
    pub fn new(root: PathBuf) -> Self {
        Self { root, paths: HashMap::default(), walked_ns: None }
    }

    /// The path of a cgroup below the root, "" for the root itself; `None` if it is not there (any more).
    pub fn path(&mut self, id: u64, now_ns: u64) -> Option<Arc<str>> {
        let recent = self.walked_ns.is_some_and(|walked| now_ns.abs_diff(walked) < PAUSE_NS);
        if id != 0 && !recent && !self.paths.contains_key(&id) {
            self.walked_ns = Some(now_ns);
            self.paths = walk(&self.root);
        }
        self.paths.get(&id).cloned()
    }
}

fn walk(root: &Path) -> HashMap<u64, Arc<str>> {
    let mut paths = HashMap::default();
    let mut waiting = vec![root.to_owned()];
    while let Some(dir) = waiting.pop() {
        let Ok(meta) = std::fs::metadata(&dir) else { continue };
        let below = dir.strip_prefix(root).unwrap_or(&dir);
        paths.insert(meta.ino(), Arc::from(below.to_string_lossy().as_ref()));
        if paths.len() >= MAX_CGROUPS {
            break;
        }
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        let is_dir = |entry: &std::fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
        waiting.extend(entries.filter_map(Result::ok).filter(is_dir).map(|entry| entry.path()));
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_cgroup_is_found_by_its_inode_but_not_looked_for_all_the_time() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
            std::fs::metadata(dir.path().join(name)).unwrap().ino()
        };
        let first = make("web/worker");
        let mut cgroups = Cgroups::new(dir.path().to_owned());
        assert_eq!(cgroups.path(first, 1).as_deref(), Some("web/worker"));
        let second = make("api");
        assert_eq!(cgroups.path(second, 2), None);
        assert_eq!(cgroups.path(second, PAUSE_NS + 1).as_deref(), Some("api"));
        assert_eq!(cgroups.path(0, u64::MAX), None);
    }
}
