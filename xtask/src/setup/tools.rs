//! Lives: xtask, setup's bringing of tools that cargo can install.
//! Called by: setup, once per pinned tool.
//! May touch: `.tools`.
//! Never: accepts another version than the pinned one; installs outside `.tools`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::{Failure, Found, lock, say};
use crate::paths::Repo;
use crate::{pins, process};

/// Two shared cores and a slow network still finish in a third of this.
const PATIENCE: Duration = Duration::from_secs(30 * 60);

/// Makes `.tools/bin` (or PATH, where that is as good) hold the pinned version.
pub fn ensure(repo: &Repo, tool: &pins::Tool) -> Result<Found, Failure> {
    if let Some(found) = locate(repo, tool) {
        return Ok(found);
    }
    let _held = lock(repo).map_err(|error| Failure::new(format!("{error:#}"), "make the repository writable"))?;
    // Another task may have brought it while this one waited for the lock.
    if let Some(found) = locate(repo, tool) {
        return Ok(found);
    }
    install(repo, tool)?;
    locate(repo, tool).ok_or_else(|| {
        Failure::new(format!("{} was installed but does not start or is of another version", tool.name), manual(tool))
    })
}

/// The program to start, for tasks that call it.
pub fn program(repo: &Repo, tool: &pins::Tool) -> PathBuf {
    let own = repo.tools().join("bin").join(tool.name);
    if own.is_file() { own } else { PathBuf::from(tool.name) }
}

fn locate(repo: &Repo, tool: &pins::Tool) -> Option<Found> {
    let own = repo.tools().join("bin").join(tool.name);
    if has_version(&own, tool) {
        return Some(Found::Ok(own.display().to_string()));
    }
    (!own.exists() && tool.from_path && has_version(Path::new(tool.name), tool))
        .then(|| Found::Ok("on PATH".to_owned()))
}

fn has_version(program: &Path, tool: &pins::Tool) -> bool {
    let text = process::capture(Command::new(program).arg("--version"));
    text.is_ok_and(|text| is_version(&text, tool.version))
}

/// `name 1.2.3`, perhaps with more after it; a name alone or `1.2.30` does not do.
fn is_version(text: &str, version: &str) -> bool {
    text.lines().next().and_then(|line| line.split_whitespace().nth(1)) == Some(version)
}

fn install(repo: &Repo, tool: &pins::Tool) -> Result<(), Failure> {
    let tools = repo.tools();
    let log = tools.join("log").join(format!("{}.log", tool.name));
    say(&format!("building it, {} (log: {}) ... ", tool.duration, log.display()));
    let build = tools.join("build");
    let mut cargo = process::cargo(repo);
    cargo.args(["install", tool.name, "--version", &format!("={}", tool.version), "--locked", "--force", "--root"]);
    cargo.arg(&tools).args(tool.install).env("CARGO_TARGET_DIR", &build);
    // The workspace's lints and flags are not for other people's code.
    cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    let done = process::logged(&mut cargo, &log, PATIENCE);
    // Hundreds of megabytes that nothing will use again; left behind only costs room.
    let _ = fs::remove_dir_all(&build);
    done.map_err(|error| Failure::new(format!("{error:#}"), manual(tool)))
}

fn manual(tool: &pins::Tool) -> String {
    format!(
        "check that the crate registry can be reached and a C compiler is there, or run `cargo install {} --version {} --locked {} --root .tools` yourself",
        tool.name,
        tool.version,
        tool.install.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_version_counts() {
        let rows = [
            ("bpf-linker 0.10.4\n", true),
            ("bpf-linker 0.10.4 (abc)\nmore", true),
            ("bpf-linker 0.10.40", false),
            ("bpf-linker 0.9.4", false),
            ("0.10.4", false),
            ("", false),
        ];
        for (text, good) in rows {
            assert_eq!(is_version(text, "0.10.4"), good, "{text:?}");
        }
    }

    #[test]
    fn a_tool_that_is_not_there_has_no_version() {
        assert!(!has_version(Path::new("/nowhere/bpf-linker"), &pins::BPF_LINKER));
    }
}
