//! Lives: agent, user space.
//! Called by: `control`, for the status.
//! May touch: directories below the configured root, to read.
//! Never: looks into a workload's cgroup; walks a tree without a bound.
//!
//! Cgroups of the managed tree with processes that are no workload's: no policy selects them.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use super::namespaces::processes;

/// How deep is looked: deeper than any container runtime nests.
const MAX_DEPTH: usize = 16;
/// Directories looked into at most, so that a strange tree does not hold up control.
const LOOKS: usize = 20_000;

/// A cgroup without a workload, with all below it that has none either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unowned {
    /// Its path below the root; empty for processes in the root itself.
    pub path: String,
    /// Processes in it and below.
    pub processes: usize,
}

/// Cgroups below `root` with processes that belong to none of the cgroups in `owned`, in order of their paths. Of cgroups inside of
/// each other only the topmost is named, unless there is an owned one among them.
#[must_use]
pub fn unowned(root: &Path, owned: &BTreeSet<PathBuf>) -> Vec<Unowned> {
    let mut walk = Walk { owned, looks: LOOKS };
    let Branch { own, below, .. } = walk.branch(root, "", MAX_DEPTH);
    // The root's own processes are told of apart: they are not one cgroup with everything else.
    let mut found: Vec<Unowned> = one(String::new(), own).into_iter().chain(below).collect();
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

struct Walk<'o> {
    owned: &'o BTreeSet<PathBuf>,
    looks: usize,
}

/// What there is in a cgroup.
struct Branch {
    /// Processes in the cgroup itself.
    own: usize,
    /// What is below it.
    below: Vec<Unowned>,
    /// A workload is among what is below it.
    mixed: bool,
}

impl Walk<'_> {
    fn branch(&mut self, directory: &Path, path: &str, depth: usize) -> Branch {
        let mut branch = Branch { own: processes(directory).len(), below: Vec::new(), mixed: false };
        self.looks = self.looks.saturating_sub(1);
        // One that is gone again has no processes.
        let Some(entries) = fs::read_dir(directory).ok().filter(|_| depth > 0 && self.looks > 0) else { return branch };
        for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            let (directory, name) = (entry.path(), entry.file_name());
            if self.owned.contains(&directory) {
                branch.mixed = true;
                continue;
            }
            let name = name.to_string_lossy();
            let path = if path.is_empty() { name.into_owned() } else { format!("{path}/{name}") };
            let inner = self.branch(&directory, &path, depth - 1);
            branch.mixed |= inner.mixed;
            if inner.mixed {
                branch.below.extend(one(path, inner.own).into_iter().chain(inner.below));
            } else {
                let all = inner.own + inner.below.iter().map(|unowned| unowned.processes).sum::<usize>();
                branch.below.extend(one(path, all));
            }
        }
        branch
    }
}

fn one(path: String, processes: usize) -> Option<Unowned> {
    (processes > 0).then_some(Unowned { path, processes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_of_no_workload_are_named_by_the_topmost_cgroup_without_one() {
        let root = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let directory = root.path().join(name);
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("cgroup.procs"), text).unwrap();
        };
        put("", "1\n2\n");
        put("system.slice/sshd", "3\n");
        put("system.slice/deep/er", "4\n5\n");
        put("pods/web/container", "6\n");
        put("pods/host", "7\n");
        put("pods/empty", "");
        put("agent", "8\n");
        let owned = ["pods/web", "agent"].map(|name| root.path().join(name)).into();
        let found = unowned(root.path(), &owned);
        let found: Vec<(&str, usize)> = found.iter().map(|one| (one.path.as_str(), one.processes)).collect();
        assert_eq!(found, [("", 2), ("pods/host", 1), ("system.slice", 3)]);
        assert_eq!(unowned(Path::new("/nowhere/at/all"), &BTreeSet::new()), []);
    }
}
