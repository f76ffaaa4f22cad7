//! Lives: weir-conformance.
//! Called by: main.
//! May touch: the folder of cases, read only.
//! Never: skips a file it cannot read: a case that is not run must not look like one that passed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;

use crate::case::Case;

/// What a file holds.
pub enum File {
    Case(Box<Case>),
    Manifests(Vec<Manifest>),
    /// Neither: where it is, and why.
    Unreadable(String, anyhow::Error),
}

/// A document and whether it must be accepted.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub name: String,
    pub manifest: String,
    pub accepted: bool,
    #[serde(default)]
    pub why: String,
    #[serde(default, rename = "origin")]
    _origin: Option<IgnoredAny>,
    #[serde(default, rename = "needs")]
    _needs: Option<IgnoredAny>,
}

/// A file of manifests.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifests {
    #[serde(default, rename = "format")]
    _format: Option<IgnoredAny>,
    cases: Vec<Manifest>,
}

/// Every JSON file at or below a path, in order of its name.
pub fn read(path: &Path) -> Result<Vec<File>> {
    let mut paths = Vec::new();
    fs::metadata(path).with_context(|| path.display().to_string())?;
    collect(path, &mut paths)?;
    paths.sort();
    let read = |path: &PathBuf| one(path).unwrap_or_else(|error| File::Unreadable(path.display().to_string(), error));
    Ok(paths.iter().map(read).collect())
}

fn collect(path: &Path, paths: &mut Vec<PathBuf>) -> Result<()> {
    if !path.is_dir() {
        paths.push(path.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(path).with_context(|| path.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, paths)?;
        } else if path.extension().is_some_and(|extension| extension == "json") {
            paths.push(path);
        }
    }
    Ok(())
}

fn one(path: &Path) -> Result<File> {
    let text = fs::read_to_string(path)?;
    // Read twice: the first tells what it is, the second knows lines and columns.
    let value: Value = serde_json::from_str(&text).context("not JSON")?;
    if let Some(format) = value.get("format").filter(|format| **format != 1) {
        bail!("its format is {format}; 1 is the only one that is known");
    }
    if value.get("cases").is_some() {
        let manifests: Manifests = serde_json::from_str(&text).context("not a list of manifests")?;
        return Ok(File::Manifests(manifests.cases));
    }
    Ok(File::Case(serde_json::from_str(&text).context("not a case")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_case_says_where_and_why() {
        let rows = [
            ("{", "not JSON: EOF while parsing an object at line 1 column 1"),
            (r#"{"format": 2, "name": "a", "expected": []}"#, "its format is 2; 1 is the only one that is known"),
            (
                r#"{"name": "a", "expects": []}"#,
                "not a case: unknown field `expects`, expected one of `format`, `name`",
            ),
            (r#"{"name": "a"}"#, "not a case: missing field `expected` at line 1 column 13"),
            (
                r#"{"name": "a", "expected": [], "then": [{"polices": [], "expected": []}]}"#,
                "not a case: unknown field `polices`, expected one of `change`",
            ),
            (
                r#"{"name": "a", "expected": [{"from": "a/b", "to": "a/b", "allow": true}]}"#,
                "not a case: unknown field `allow`, expected one of `from`",
            ),
            (r#"{"cases": [{"name": "a", "manifest": "", "accept": true}]}"#, "not a list of manifests: unknown field"),
        ];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("case.json");
        for (text, words) in rows {
            fs::write(&path, text).unwrap();
            let files = read(folder.path()).unwrap();
            let [File::Unreadable(file, error)] = files.as_slice() else { panic!("{text} was read") };
            assert!(format!("{error:#}").starts_with(words), "{error:#}");
            assert_eq!(*file, path.display().to_string());
        }
    }
}
