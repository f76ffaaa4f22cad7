//! Lives: weir-agent, control.
//! Called by: `apply`, after a change is in force; `runtime`, at start; `doctor`, which reads what there is.
//! May touch: `policy.yaml` in the state directory; the policy directory, read only.
//! Never: leaves a half-written file: it is written beside, flushed to disk, and renamed; takes one for good that is not as it was written.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use weir_policy::Resources;

use super::{Apply, Control, ControlError, format};
use crate::{datapath::Datapath, faults};

const FILE: &str = "policy.yaml";
/// First line of the file. The number goes on from it, so that no two policies of a node ever share one.
const HEADER: &str = "# weir-agent: last good policy, generation ";
/// What it begins with in every format (`format`).
const WHAT: &str = "# weir-agent: last good policy";
/// What the second line begins with; whoever corrects the file by hand takes that line out. A file that was cut off could else be a smaller
/// policy without a fault.
const SUM: &str = "# weir-agent: CRC-32 of all below, take this line out to change it: ";

impl<D: Datapath> Control<D> {
    /// Puts the last good policy in force again; `true` if there was one.
    ///
    /// # Errors
    /// It is faulty, or the kernel refused it.
    pub fn restore(&mut self) -> Result<bool, ControlError> {
        let path = self.settings.state_dir.join(FILE);
        let Some(source) = stored_policy(&self.settings.state_dir)? else { return Ok(false) };
        if documents(&source.1).is_some_and(str::is_empty) {
            tracing::info!("the last good policy is an empty one");
            return Ok(true);
        }
        let sources = vec![source];
        let applied = self.apply(&Apply { sources, ..Apply::default() })?;
        if !applied.faults.is_empty() {
            return Err(ControlError::Stored { path, faults: applied.faults });
        }
        let resources = self.force.resources.len();
        tracing::info!(generation = applied.generation, resources, "last good policy restored");
        Ok(true)
    }

    /// Applies the files of the policy directory, all of them or none. With a last good policy in force their faults are
    /// logged and that policy stays: a typing mistake must not take a rebooted node's policy away.
    ///
    /// # Errors
    /// A file cannot be read, the kernel refused, or the files are faulty and nothing else is in force.
    pub fn apply_dir(&mut self, dir: &Path, restored: bool) -> Result<(), ControlError> {
        let sources = policy_files(dir)?;
        if sources.is_empty() {
            tracing::info!(dir = %dir.display(), "the policy directory is empty");
            return Ok(());
        }
        let applied = self.apply(&Apply { sources, ..Apply::default() })?;
        if applied.faults.is_empty() {
            tracing::info!(
                generation = applied.generation,
                changes = applied.changes.len(),
                "policy directory applied"
            );
            return Ok(());
        }
        if !restored {
            return Err(ControlError::PolicyDir(applied.faults));
        }
        for fault in &applied.faults {
            tracing::error!(fault = %fault, "policy directory not applied, the last good policy stays in force");
        }
        Ok(())
    }

    /// Saves what is in force; a warning if that failed. It is then tried again until it is saved.
    pub(super) fn save(&mut self) -> Option<String> {
        let path = self.settings.state_dir.join(FILE);
        let failed = write(&path, &text(self.generation(), &self.force.resources)).err();
        // Once, and not with every try.
        match (&failed, self.unsaved) {
            (Some(error), false) => {
                tracing::error!(error = %error, path = %path.display(), "the policy in force could not be saved");
            }
            (None, true) => tracing::info!(path = %path.display(), "the policy in force is saved now"),
            (Some(_), true) | (None, false) => {}
        }
        self.unsaved = failed.is_some();
        let error = failed?;
        Some(format!(
            "in force, but not saved: {error} ({}); a restart would bring back the policy before it",
            path.display()
        ))
    }

    /// Saves what could not be saved before, if there is something; a warning if it still cannot.
    pub(super) fn save_again(&mut self) -> Option<String> {
        if self.unsaved { self.save() } else { None }
    }
}

/// The file of the last good policy and its text; `None` if there is none.
///
/// # Errors
/// It cannot be read, is not as it was written, or a later version wrote it.
pub fn stored_policy(state_dir: &Path) -> Result<Option<(String, String)>, ControlError> {
    let path = state_dir.join(FILE);
    let Some(text) = read(&path)? else { return Ok(None) };
    if let Err(source) = format::check(&text, WHAT) {
        return Err(ControlError::Newer { path, source });
    }
    let (name, sum) = (path.display().to_string(), sum(&text));
    match documents(&text) {
        Some(documents) if sum.as_deref() != Some(&sum_of(documents)) => Err(ControlError::Damaged { path }),
        Some(_) | None => Ok(Some((name, text))),
    }
}

/// What the checksum is about; `None` where there is none: an older agent's file, or one that was changed by hand.
fn documents(text: &str) -> Option<&str> {
    let (_, below) = text.strip_prefix(HEADER)?.split_once('\n')?;
    Some(below.strip_prefix(SUM)?.split_once('\n').map_or("", |(_, documents)| documents))
}

/// The checksum that the file says.
fn sum(text: &str) -> Option<String> {
    Some(text.lines().nth(1)?.strip_prefix(SUM)?.to_owned())
}

fn sum_of(documents: &str) -> String {
    format!("{:08x}", crc32fast::hash(documents.as_bytes()))
}

/// Number of the generation in the file; 0 if there is no file.
pub(super) fn last_generation(state_dir: &Path) -> Result<u64, ControlError> {
    let text = read(&state_dir.join(FILE))?;
    let number = text.as_deref().and_then(|text| text.strip_prefix(HEADER)?.lines().next()?.trim().parse().ok());
    Ok(number.unwrap_or(0))
}

fn text(generation: u64, resources: &Resources) -> String {
    let mut text = String::new();
    for resource in resources.iter() {
        let yaml = resource.to_yaml();
        text.push_str("---\n");
        text.push_str(yaml.trim_start_matches("---\n"));
        if !yaml.ends_with('\n') {
            text.push('\n');
        }
    }
    format!("{HEADER}{generation}\n{SUM}{}\n{text}", sum_of(&text))
}

fn read(path: &Path) -> Result<Option<String>, ControlError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ControlError::Read { path: path.to_owned(), source }),
    }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    make(dir)?;
    let beside = path.with_extension("yaml.new");
    if let Err(error) = replace(path, &beside, text) {
        // A full disk needs the room; what is not there need not be removed.
        let _ = fs::remove_file(&beside);
        return Err(error);
    }
    // The rename itself is on disk only once the directory is.
    faults::point("save.renamed")?;
    File::open(dir)?.sync_all()?;
    faults::passed("save.saved");
    Ok(())
}

/// A folder that is new is on disk only once the one that it is in is.
fn make(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(dir)?;
    dir.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

fn replace(path: &Path, beside: &Path, text: &str) -> io::Result<()> {
    faults::point("save.create")?;
    let mut file = File::create(beside)?;
    let (first, second) = text.as_bytes().split_at(text.len() / 2);
    file.write_all(first)?;
    faults::point("save.write")?;
    file.write_all(second)?;
    faults::point("save.sync")?;
    file.sync_all()?;
    faults::point("save.rename")?;
    fs::rename(beside, path)
}

/// The policy files of a directory, in order of their names.
///
/// # Errors
/// The directory or one of them cannot be read.
pub fn policy_files(dir: &Path) -> Result<Vec<(String, String)>, ControlError> {
    let unreadable = |path: &Path, source| ControlError::Read { path: path.to_owned(), source };
    let entries = fs::read_dir(dir).map_err(|source| unreadable(dir, source))?;
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<_>>()
        .map_err(|source| unreadable(dir, source))?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml"));
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).map_err(|source| unreadable(&path, source))?;
            Ok((path.display().to_string(), text))
        })
        .collect()
}
