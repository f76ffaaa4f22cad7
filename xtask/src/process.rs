//! Lives: xtask, starting other programs.
//! Called by: every task.
//! May touch: child processes and the log files they write.
//! Never: leaves a child behind; hides why a child failed.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::paths::Repo;

/// `cargo`, in the checkout, the very one that runs this task.
pub fn cargo(repo: &Repo) -> Command {
    let mut command = clean(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(repo.root());
    command
}

/// A program without the variables that `cargo run` set for xtask: build scripts that watch them (ring's does) would be
/// rebuilt at every change between `cargo build` and `cargo xtask build`.
pub fn clean(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        if set_by_cargo_run(&name) {
            command.env_remove(name);
        }
    }
    command
}

fn set_by_cargo_run(name: &OsString) -> bool {
    const SET: [&str; 5] =
        ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "CARGO_BIN_NAME", "CARGO_CRATE_NAME", "RUST_RECURSION_COUNT"];
    let name = name.to_string_lossy();
    name.starts_with("CARGO_PKG_") || SET.contains(&name.as_ref())
}

/// Runs with the terminal shared; the answer is whether it succeeded.
pub fn shown(command: &mut Command) -> Result<bool> {
    let status = command.status().with_context(|| format!("starting {}", name(command)))?;
    Ok(status.success())
}

/// Runs and returns what was printed; a failure carries what went to stderr.
pub fn capture(command: &mut Command) -> Result<String> {
    let name = name(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("starting {name}"))?;
    if !output.status.success() {
        bail!("{name} failed: {}", tail(&String::from_utf8_lossy(&output.stderr), 3));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs and returns what was printed to stderr, which is where cargo speaks.
pub fn complaints(command: &mut Command) -> Result<String> {
    let name = name(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("starting {name}"))?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        bail!("{name} failed: {}", tail(&text, 8));
    }
    Ok(text)
}

/// Runs with all output in `log` and an end to patience; a failure carries the log's last lines.
pub fn logged(command: &mut Command, log: &Path, patience: Duration) -> Result<()> {
    let name = name(command);
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    }
    let file = File::create(log).with_context(|| format!("opening {}", log.display()))?;
    let both = file.try_clone().with_context(|| format!("opening {}", log.display()))?;
    let child = command.stdin(Stdio::null()).stdout(both).stderr(file).spawn();
    let child = child.with_context(|| format!("starting {name}"))?;
    match wait(child, patience)? {
        Some(status) if status.success() => Ok(()),
        Some(status) => bail!("{name} failed ({status}): {}", tail(&fs::read_to_string(log).unwrap_or_default(), 8)),
        None => bail!("{name} did not finish within {} s", patience.as_secs()),
    }
}

/// Waits until the child ends or patience does; then the child is killed and the answer is `None`.
fn wait(mut child: Child, patience: Duration) -> Result<Option<ExitStatus>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().context("waiting for a child")? {
            return Ok(Some(status));
        }
        if start.elapsed() > patience {
            child.kill().context("stopping a child that took too long")?;
            child.wait().context("waiting for a stopped child")?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// The last `count` lines that say something.
fn tail(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let from = lines.len().saturating_sub(count);
    lines.get(from..).unwrap_or_default().join("\n  ")
}

/// The program's name and first argument, for messages.
fn name(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy();
    match command.get_args().next() {
        Some(argument) => format!("{program} {}", argument.to_string_lossy()),
        None => program.into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_never_ends_is_stopped_when_patience_does() {
        let child = Command::new("sleep").arg("600").spawn().unwrap();
        assert!(wait(child, Duration::from_millis(100)).unwrap().is_none());
    }

    #[test]
    fn a_failure_carries_the_last_lines_of_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo first; echo the reason >&2; exit 3"]);
        let error = logged(&mut command, &folder.path().join("deep/log"), Duration::from_secs(20)).unwrap_err();
        assert!(error.to_string().contains("the reason"), "{error}");
    }

    #[test]
    fn variables_of_cargo_run_are_not_handed_on() {
        assert!(set_by_cargo_run(&"CARGO_PKG_VERSION".into()));
        assert!(set_by_cargo_run(&"CARGO_MANIFEST_DIR".into()));
        assert!(!set_by_cargo_run(&"CARGO_TARGET_DIR".into()));
        assert!(!set_by_cargo_run(&"CARGO_HOME".into()));
    }
}
