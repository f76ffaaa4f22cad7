//! Lives: weir-agent, `--doctor`: whether an agent runs here already.
//! Called by: `doctor`.
//! May touch: `/proc/locks`, reading.
//! Never: tries the locks: an agent that starts at this very moment would find them taken.

use std::{fs, path::Path};

use nix::sys::stat::{major, minor, stat};

use super::Check;
use crate::{config::Config, kernel::left_in_force};

/// Who holds the agent's two locks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Running {
    state: Option<String>,
    tree: Option<String>,
}

impl Running {
    /// The agent of this configuration.
    pub(super) fn pid(&self) -> Option<u32> {
        self.state.as_ref().filter(|pid| self.tree.as_ref() == Some(pid))?.parse().ok()
    }
}

pub(super) fn find(config: &Config) -> Running {
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    Running { state: holder(&locks, &config.state_dir.join("agent.lock")), tree: holder(&locks, &config.cgroup_root) }
}

/// The process that holds a lock on a file, by the kernel's list: "1: FLOCK  ADVISORY  WRITE 42 08:01:1234 0 EOF".
fn holder(locks: &str, path: &Path) -> Option<String> {
    let file = stat(path).ok()?;
    let place = format!("{:02x}:{:02x}:{}", major(file.st_dev), minor(file.st_dev), file.st_ino);
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [_, "FLOCK", "ADVISORY", "WRITE", pid, at, ..] if *at == place => Some((*pid).to_owned()),
            _ => None,
        }
    })
}

pub(super) fn check(running: &Running, config: &Config) -> Check {
    const NAME: &str = "agent";
    let (state, root) = (config.state_dir.display(), config.cgroup_root.display());
    match (&running.state, &running.tree) {
        (None, None) => match left_in_force(&config.neighbours.bpffs, &config.cgroup_root) {
            0 => Check::ok(NAME, "none runs with this stateDir or cgroupRoot"),
            links => Check::ok(
                NAME,
                format!("none runs; {links} links of one that ended are in force (`weirctl detach` takes them away)"),
            ),
        },
        (Some(pid), Some(same)) if pid == same => {
            Check::ok(NAME, format!("process {pid} runs with this configuration"))
        }
        (Some(pid), _) => Check::fail(
            NAME,
            format!("another weir-agent (process {pid}) has the stateDir {state}, and manages another cgroupRoot"),
            "stop it, or give this one another stateDir",
        ),
        (None, Some(pid)) => Check::fail(
            NAME,
            format!("another weir-agent (process {pid}) manages the cgroupRoot {root} with another stateDir"),
            "stop it, or give this one another cgroupRoot",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{doctor::Outcome, lock};

    #[test]
    fn who_holds_the_locks_is_seen_without_touching_them() {
        let dir = tempfile::tempdir().unwrap();
        let (state, other, root) = (dir.path().join("s"), dir.path().join("t"), dir.path().join("root"));
        fs::create_dir(&root).unwrap();
        let config = |state: &Path| {
            let text = format!("cgroupRoot: {}\nstateDir: {}\n", root.display(), state.display());
            crate::config::read("t.yaml", &text).unwrap()
        };
        assert_eq!(find(&config(&state)), Running::default());
        assert!(!state.exists(), "looking makes nothing");
        let held = lock::take(&state, &root).unwrap();
        let ours = find(&config(&state));
        assert_eq!(ours.pid(), Some(std::process::id()));
        assert_eq!(check(&ours, &config(&state)).outcome, Outcome::Ok);
        let theirs = check(&find(&config(&other)), &config(&other));
        assert!(theirs.outcome == Outcome::Fail && theirs.found.contains("with another stateDir"), "{theirs:?}");
        drop(held);
        assert_eq!(find(&config(&state)), Running::default());
    }
}
