//! Lives: weir-conformance.
//! Called by: main.
//! May touch: the folder of cases, read only.
//! Never: skips a file it cannot read: a case that is not run must not look like one that passed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use crate::case::Case;

/// What a file holds.
pub enum File {
    Case(Box<Case>),
    Manifests(Vec<Manifest>),
}

/// A document and whether it must be accepted.
#[derive(Clone, Debug, Deserialize)]
pub struct Manifest {
    pub name: String,
    pub manifest: String,
    pub accepted: bool,
    #[serde(default)]
    pub why: String,
}

/// Every JSON file at or below a path, in order of its name.
pub fn read(path: &Path) -> Result<Vec<File>> {
    let mut paths = Vec::new();
    collect(path, &mut paths)?;
    paths.sort();
    paths.iter().map(|path| one(path).with_context(|| path.display().to_string())).collect()
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
    let value: Value = serde_json::from_str(&fs::read_to_string(path)?)?;
    if value.get("format").is_some_and(|format| *format != 1) {
        bail!("a format other than 1");
    }
    match value.get("cases") {
        Some(cases) => Ok(File::Manifests(serde_json::from_value(cases.clone())?)),
        None => Ok(File::Case(serde_json::from_value(value)?)),
    }
}
