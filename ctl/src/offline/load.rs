//! Lives: ctl.
//! Called by: the verbs of policy.
//! May touch: the files named and the folders below them, standard input, the clock.
//! Never: follows a link to a folder, or reads what is hidden.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use weir_common::verdict::Verdict;
use weir_policy::{Context, Documents, Fault, OtherKinds, Resources, Timestamp, addr, parse_documents};

use crate::failure::Failure;
use crate::files::{self, Source};
use crate::render::output::remark;
use crate::render::style::clean;

/// How documents are read and what is assumed beside them.
#[derive(Clone, Debug, Args)]
pub struct Reading {
    /// Pass over documents of kinds that are neither policies nor what policies speak about, such as Deployment.
    #[arg(long)]
    pub skip_other_kinds: bool,
    /// The time at which to look, for what expires (RFC 3339); now, if not given.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub at: Option<Timestamp>,
    /// An address of the host that enforces, which is entity "host"; may be repeated.
    #[arg(long, value_name = "ADDRESS")]
    pub host_address: Vec<IpAddr>,
}

/// The documents a question is about.
#[derive(Clone, Debug, Args)]
pub struct Inputs {
    /// A file, a folder (its *.yaml, *.yml and *.json, and those of folders in it), or - for standard input; may be repeated.
    #[arg(short, long = "file", value_name = "PATH", required = true)]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    pub reading: Reading,
}

fn time(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|fault| format!("{fault}; write a time such as 2026-11-22T12:00:00Z"))
}

impl Reading {
    /// What the evaluator is told beside the documents.
    pub fn context(&self) -> Context {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        Context {
            generation: 1,
            unknown: Verdict::Allow,
            unselected: Verdict::Allow,
            host_addresses: self.host_address.iter().map(|address| addr(*address)).collect(),
            tick_ns: 0,
            now: self.at.unwrap_or_else(|| Timestamp(u64::try_from(now()).unwrap_or(u64::MAX))),
        }
    }

    /// Reads texts together.
    pub fn parse(&self, sources: &[Source]) -> Result<Documents, Vec<Fault>> {
        let others = if self.skip_other_kinds { OtherKinds::Skip } else { OtherKinds::Refuse };
        let texts = sources.iter().map(|source| (source.name.as_str(), source.text.as_str()));
        parse_documents(texts, others)
    }

    /// Reads texts that must be sound. Their faults, and what was passed over, are remarks.
    pub fn documents(&self, sources: &[Source]) -> Result<Documents, Failure> {
        match self.parse(sources) {
            Ok(documents) => {
                remark_skipped(&documents.skipped);
                Ok(documents)
            }
            Err(faults) => {
                faults.iter().for_each(|fault| remark(&clean(&fault.to_string())));
                Err(Failure::Refused(format!("refused: {}", count(faults.len(), "fault"))))
            }
        }
    }
}

impl Inputs {
    /// Reads everything.
    pub fn resources(&self) -> Result<Resources, Failure> {
        let documents = self.reading.documents(&sources(&self.files)?)?;
        Ok(documents.resources.into_iter().collect())
    }
}

/// Says what was passed over: what is not looked at should be seen.
pub fn remark_skipped(skipped: &[String]) {
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    skipped.iter().for_each(|kind| *kinds.entry(kind).or_default() += 1);
    if !kinds.is_empty() {
        let kinds: Vec<_> = kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        remark(&format!("skipped {}: {}", count(skipped.len(), "document"), clean(&kinds.join(", "))));
    }
}

/// "1 fault", "2 faults".
pub fn count(number: usize, noun: &str) -> String {
    let plural = match noun.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None => format!("{noun}s"),
    };
    format!("{number} {}", if number == 1 { noun } else { &plural })
}

/// Every text, each file once: a file may also be found by its folder.
pub fn sources(paths: &[PathBuf]) -> Result<Vec<Source>, Failure> {
    let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
    for path in paths {
        match path.as_os_str() == "-" || !path.is_dir() {
            true => found.push(path.clone()),
            false => found.extend(below(path)?),
        }
    }
    found.retain(|path| seen.insert(fs::canonicalize(path).unwrap_or_else(|_| path.clone())));
    files::read(&found)
}

/// The documents of a folder and all folders in it, by name.
fn below(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let (mut open, mut found) = (vec![folder.to_owned()], Vec::new());
    while let Some(folder) = open.pop() {
        let fault = |error: std::io::Error| Failure::Usage(format!("{}: {error}", folder.display()));
        for entry in fs::read_dir(&folder).map_err(fault)? {
            let entry = entry.map_err(fault)?;
            let path = entry.path();
            if entry.file_name().to_string_lossy().starts_with('.') {
                continue;
            }
            if entry.file_type().map_err(fault)?.is_dir() {
                open.push(path);
            } else if path.is_file() && is_document(&path) {
                found.push(path);
            }
        }
    }
    found.sort();
    match found.is_empty() {
        true => Err(Failure::Usage(format!("{}: no *.yaml, *.yml or *.json file in this folder", folder.display()))),
        false => Ok(found),
    }
}

fn is_document(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_read_with_all_below_and_each_file_once() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("a/b")).unwrap();
        fs::create_dir(root.path().join(".git")).unwrap();
        for name in ["z.yaml", "a/m.yml", "a/b/k.json", "a/notes.txt", ".git/x.yaml", "a/.hidden.yaml"] {
            fs::write(root.path().join(name), name).unwrap();
        }
        let sources = sources(&[root.path().join("a/m.yml"), root.path().to_owned()]).unwrap();
        let texts: Vec<_> = sources.iter().map(|source| source.text.as_str()).collect();
        assert_eq!(texts, ["a/m.yml", "a/b/k.json", "z.yaml"]);
    }

    #[test]
    fn counts_have_their_plural() {
        assert_eq!([count(0, "fault"), count(1, "policy"), count(2, "policy")], ["0 faults", "1 policy", "2 policies"]);
    }
}
