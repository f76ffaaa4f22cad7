//! Lives: xtask, the task `layers`: the arrows of DESIGN.md section 3, checked.
//! Called by: a person; ci.
//! May touch: manifests and sources of this repository, read-only.
//! Never: lets a crate pass that its table does not know.

mod manifest;
mod source;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::paths::Repo;
use crate::report::write_json;

/// Shown below `cargo xtask layers --help`.
pub const HELP: &str = "\
Checked:
  - which crate may depend on which (the table in xtask/src/layers/mod.rs)
  - only agent/src/kernel names aya; only rpc.rs files and rpc folders (and proto, transport) name tonic or generated types
  - policy and common do no I/O and hold no clock
  - every file opens by saying where it lives";

/// What one crate may do.
struct Layer {
    folder: &'static str,
    package: &'static str,
    /// Packages of this repository it may depend on.
    may_use: &'static [&'static str],
    /// No I/O, no async, no clock.
    pure: bool,
    /// Where in the crate aya may be named.
    kernel_api: Scope,
    /// Where in the crate tonic and generated types may be named.
    wire: Scope,
}

/// Where a name may be used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Everywhere,
    Nowhere,
    /// In `src/kernel.rs` and the folder `src/kernel`.
    Kernel,
    /// In files called `rpc.rs` and folders called `rpc`.
    Rpc,
}

use Scope::{Everywhere, Kernel, Nowhere, Rpc};

const COMMON: &str = "weir-common";
const POLICY: &str = "weir-policy";
const PROTO: &str = "weir-proto";
const TRANSPORT: &str = "weir-transport";
const JOURNAL: &str = "weir-journal";
const ALL: &[&str] = &[COMMON, POLICY, PROTO, TRANSPORT, JOURNAL, "weir-agent", "weir-collector", "weir-ctl"];

/// The arrows. A crate that is not here is a finding.
#[rustfmt::skip]
const LAYERS: [Layer; 13] = [
    Layer { folder: "common", package: COMMON, may_use: &[], pure: true, kernel_api: Nowhere, wire: Nowhere },
    Layer { folder: "ebpf", package: "weir-ebpf", may_use: &[COMMON], pure: false, kernel_api: Nowhere, wire: Nowhere },
    Layer { folder: "policy", package: POLICY, may_use: &[COMMON], pure: true, kernel_api: Nowhere, wire: Nowhere },
    Layer { folder: "proto", package: PROTO, may_use: &[], pure: false, kernel_api: Nowhere, wire: Everywhere },
    Layer { folder: "transport", package: TRANSPORT, may_use: &[PROTO], pure: false, kernel_api: Nowhere, wire: Everywhere },
    Layer { folder: "journal", package: JOURNAL, may_use: &[], pure: false, kernel_api: Nowhere, wire: Nowhere },
    Layer { folder: "agent", package: "weir-agent", may_use: &[COMMON, POLICY, PROTO, TRANSPORT, JOURNAL], pure: false, kernel_api: Kernel, wire: Rpc },
    Layer { folder: "collector", package: "weir-collector", may_use: &[PROTO, TRANSPORT, JOURNAL], pure: false, kernel_api: Nowhere, wire: Rpc },
    Layer { folder: "ctl", package: "weir-ctl", may_use: &[POLICY, COMMON, PROTO, TRANSPORT], pure: false, kernel_api: Nowhere, wire: Rpc },
    Layer { folder: "tests", package: "weir-tests", may_use: ALL, pure: false, kernel_api: Everywhere, wire: Everywhere },
    Layer { folder: "bench", package: "weir-bench", may_use: &[COMMON, POLICY], pure: false, kernel_api: Nowhere, wire: Nowhere },
    Layer { folder: "fuzz/targets", package: "weir-fuzz-targets", may_use: &[COMMON, POLICY, PROTO], pure: false, kernel_api: Nowhere, wire: Everywhere },
    Layer { folder: "xtask", package: "xtask", may_use: &[], pure: false, kernel_api: Nowhere, wire: Nowhere },
];

/// What was found in the whole repository.
#[derive(Serialize)]
pub struct Findings {
    /// How many files were read.
    files: usize,
    findings: Vec<Finding>,
}

/// One arrow that points the wrong way.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Finding {
    file: PathBuf,
    line: usize,
    what: String,
    remedy: String,
}

/// `cargo xtask layers`.
pub fn task(repo: &Repo, json: Option<&Path>) -> Result<bool> {
    let findings = check(repo)?;
    findings.print();
    write_json(json, &findings)?;
    Ok(findings.ok())
}

/// Reads every manifest and source and collects all findings.
pub fn check(repo: &Repo) -> Result<Findings> {
    let root = repo.root();
    let mut found = Findings { files: 0, findings: manifest::unknown_members(root)? };
    for layer in &LAYERS {
        let folder = root.join(layer.folder);
        if !folder.is_dir() {
            continue;
        }
        found.findings.extend(manifest::check(root, layer)?);
        for file in sources(&folder)? {
            let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
            let name = file.strip_prefix(root).unwrap_or(&file);
            found.findings.extend(source::check(layer, name, &text));
            found.files += 1;
        }
    }
    found.findings.sort();
    Ok(found)
}

impl Findings {
    /// Whether all arrows point the right way.
    pub fn ok(&self) -> bool {
        self.findings.is_empty()
    }

    /// One line each, and a last one for all.
    pub fn print(&self) {
        self.findings.iter().for_each(|finding| println!("{finding}"));
        println!("layers: {}", self.summary());
    }

    /// All in a few words.
    pub fn summary(&self) -> String {
        match self.findings.len() {
            0 => format!("{} files, all arrows as designed", self.files),
            count => format!("{} files, {count} to mend", self.files),
        }
    }
}

impl Finding {
    fn new(file: &Path, line: usize, what: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { file: file.to_path_buf(), line, what: what.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.file.display(), self.line, self.what, self.remedy)
    }
}

/// Every Rust file below a folder, build output excepted.
fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
            let entry = entry.with_context(|| format!("reading {}", folder.display()))?;
            let path = entry.path();
            let kind = entry.file_type().with_context(|| format!("reading {}", path.display()))?;
            if kind.is_dir() && entry.file_name() != "target" {
                folders.push(path);
            } else if kind.is_file() && path.extension().is_some_and(|end| end == "rs") {
                files.push(path);
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes a small tree of files and checks it.
    fn findings(files: &[(&str, &str)]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let found = check(&Repo::at(folder.path())).unwrap();
        found.findings.iter().map(|finding| format!("{}:{}", finding.file.display(), finding.line)).collect()
    }

    const ROOT: (&str, &str) = ("Cargo.toml", "[workspace]\nmembers = [\"agent\", \"policy\"]\n");

    #[test]
    fn a_tree_as_designed_has_no_findings() {
        let files = [
            ROOT,
            (
                "agent/Cargo.toml",
                "[package]\nname = \"weir-agent\"\n[dependencies]\nweir-policy = { workspace = true }\naya = \"0.14\"\n",
            ),
            ("agent/src/main.rs", "//! Lives: agent\nmod rpc;\nfn main() {}\n"),
            ("agent/src/rpc.rs", "//! Lives: agent\nuse tonic::Status;\n"),
            ("agent/src/rpc/policy.rs", "//! Lives: agent\nuse weir_proto::v1;\n"),
            ("agent/src/kernel/load.rs", "//! Lives: agent\nuse aya::Ebpf;\n"),
            ("agent/target/x.rs", "generated"),
            ("policy/Cargo.toml", "[package]\nname = \"weir-policy\"\n[dependencies]\nweir-common.workspace = true\n"),
            ("policy/src/lib.rs", "//! Lives: policy\n//! Not `std::fs` and not aya.\nuse std::net::IpAddr;\n"),
            ("tests/src/lib.rs", "//! A world.\nuse aya::Ebpf;\nuse tonic::Code;\n"),
        ];
        assert_eq!(findings(&files), [""; 0]);
    }

    #[test]
    fn each_wrong_arrow_is_found_where_it_is() {
        let files = [
            ("Cargo.toml", "[workspace]\nmembers = [\n  \"agent\",\n  \"extra\",\n]\n"),
            (
                "agent/Cargo.toml",
                "[package]\nname = \"weir-agent\"\n[dependencies]\nweir-collector = { path = \"x\" }\n",
            ),
            ("agent/src/rpc.rs", "//! Lives: agent\nuse aya::Ebpf;\n"),
            ("agent/src/state.rs", "//! Lives: agent\n\nfn f(_: tonic::Status) {}\n"),
            (
                "policy/Cargo.toml",
                "[package]\nname = \"policy\"\n[dependencies]\ntokio = \"1\"\n[dev-dependencies.agent]\npackage = \"weir-agent\"\n",
            ),
            ("policy/src/lib.rs", "use std::fs;\n"),
        ];
        let expected = [
            "Cargo.toml:4",
            "agent/Cargo.toml:4",
            "agent/src/rpc.rs:2",
            "agent/src/state.rs:3",
            "policy/Cargo.toml:2",
            "policy/Cargo.toml:4",
            "policy/Cargo.toml:5",
            "policy/src/lib.rs:1",
            "policy/src/lib.rs:1",
        ];
        assert_eq!(findings(&files), expected);
    }
}
