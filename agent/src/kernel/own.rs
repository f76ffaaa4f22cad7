//! Lives: agent, user space.
//! Called by: `cgroups`, at each reconcile.
//! May touch: `/proc/self/cgroup`, and directories below the configured root, to read.
//! Never: moves a process.
//!
//! An agent inside the tree that it manages must not cut itself off from its collector, whatever a policy says of the processes there.

use std::{
    fs,
    path::{Path, PathBuf},
    process,
};

use super::namespaces::processes;

/// Levels below the root in which the agent is looked for: as deep as the kernel programs look.
const MAX_DEPTH: usize = 12;

/// Where the agent itself runs.
#[derive(Debug, Default)]
pub(super) struct Own {
    /// What the kernel said of it when it was looked for.
    said: String,
    path: Option<PathBuf>,
}

impl Own {
    /// The agent's own cgroup, if that is below `root`; looked for again only when it has moved.
    pub(super) fn look(&mut self, root: &Path) -> Option<&Path> {
        let said = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        if said != self.said {
            self.path = find(root, &process::id().to_string(), MAX_DEPTH);
            self.said = said;
            self.tell();
        }
        self.path()
    }

    /// Where it was found last.
    pub(super) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    fn tell(&self) {
        let Some(path) = &self.path else { return };
        let others = processes(path).len().saturating_sub(1);
        tracing::info!(cgroup = %path.display(), "the agent runs inside the managed tree: its own cgroup is not judged");
        if others > 0 {
            tracing::warn!(
                cgroup = %path.display(),
                others,
                "processes in the agent's own cgroup are not judged either; start the agent in a cgroup of its own"
            );
        }
    }
}

/// The directory that holds the process. By looking: the kernel's path of a cgroup begins at the root of a cgroup namespace, which
/// need not be where the tree is mounted.
fn find(path: &Path, pid: &str, depth: usize) -> Option<PathBuf> {
    if processes(path).iter().any(|process| process == pid) {
        return Some(path.to_owned());
    }
    let below = fs::read_dir(path).ok().filter(|_| depth > 0)?;
    let directories = below.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.into_iter().find_map(|entry| find(&entry.path(), pid, depth - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_is_found_where_it_is_and_nowhere_else() {
        let me = process::id().to_string();
        let rows: [(&str, &str, Option<&str>); 4] = [
            ("in the root", "", Some("")),
            ("in a service", "system.slice/weir-agent.service", Some("system.slice/weir-agent.service")),
            ("too deep to be known as a caller", "1/2/3/4/5/6/7/8/9/10/11/12/13", None),
            ("elsewhere", "../elsewhere", None),
        ];
        for (name, place, expected) in rows {
            let tree = tempfile::tempdir().unwrap();
            let root = tree.path().join("root");
            fs::create_dir_all(root.join("other")).unwrap();
            fs::create_dir_all(root.join(place)).unwrap();
            fs::write(root.join("other/cgroup.procs"), "1\n").unwrap();
            fs::write(root.join(place).join("cgroup.procs"), format!("1\n{me}\n")).unwrap();
            assert_eq!(Own::default().look(&root), expected.map(|path| root.join(path)).as_deref(), "{name}");
        }
    }
}
