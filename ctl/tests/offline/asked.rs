//! Lives: ctl's tests of the verb policy.
//! Called by: every test of this folder.
//! May touch: child processes that run weirctl.
//! Never: lets the environment of whoever tests change an answer.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// What a script sees.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl From<Output> for Seen {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

/// The folder with what is asked about.
pub fn shop() -> PathBuf {
    here().join("shop")
}

pub fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/offline")
}

fn command(folder: &Path, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weirctl"));
    command.arg("policy").args(line.split_whitespace()).env_clear().env("TZ", "UTC").current_dir(folder);
    command
}

/// Runs `weirctl policy LINE` in a folder.
pub fn run(folder: &Path, line: &str) -> Seen {
    command(folder, line).stdin(Stdio::null()).output().unwrap().into()
}

/// The same with something on standard input.
pub fn run_with_input(folder: &Path, line: &str, input: &str) -> Seen {
    let mut command = command(folder, line);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap().into()
}

/// A folder with these files.
pub fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    folder
}
