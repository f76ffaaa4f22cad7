//! Lives: weir-agent, control.
//! Called by: `sets`, after each change of what is loaded; `Control::start`.
//! May touch: the folder `sets` of the state directory.
//! Never: leaves half a file, or takes a journal for one that belongs to another file.
//!
//! `NAME.set` holds all entries, one a line with its end, below a number; `NAME.journal` the changes since, below the same number.
//! A journal whose last line was cut off by a crash counts up to there: that change was never confirmed.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use weir_policy::{
    Prefix,
    sets::{Entries, Expiry, Loaded, NEVER, entry},
};

/// Journal bytes from which the set is saved whole.
const MOST_JOURNAL: u64 = 1 << 20;
const HEADER: &str = "# weir-agent: loaded into an address set, save ";

/// Everything that was loaded, without what has ended by `now`.
pub fn read(state_dir: &Path, now: Expiry) -> io::Result<Loaded> {
    let mut loaded = Loaded::default();
    let found = match fs::read_dir(folder(state_dir)) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(loaded),
        Err(error) => return Err(error),
    };
    for file in found {
        let path = file?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".set")) else { continue };
        let mut entries = read_one(&path)?;
        drop(entries.expire(now));
        loaded.put(name, entries);
    }
    Ok(loaded)
}

/// Writes a set whole.
pub fn save(state_dir: &Path, name: &str, entries: &Entries, number: u64) -> io::Result<()> {
    let folder = folder(state_dir);
    fs::create_dir_all(&folder)?;
    let beside = folder.join(format!("{name}.new"));
    let mut file = io::BufWriter::new(File::create(&beside)?);
    writeln!(file, "{HEADER}{number}")?;
    for (prefix, ends) in entries.iter() {
        writeln!(file, "{prefix} {ends}")?;
    }
    file.into_inner()?.sync_all()?;
    fs::rename(&beside, set_path(&folder, name))?;
    // What it says is in the file now, and its number is another one.
    remove_file(&journal_path(&folder, name))?;
    File::open(folder)?.sync_all()
}

/// Appends changes to a set's journal; `false`: it is long, or there is no file it could belong to, so the set is to be saved whole.
pub fn note(state_dir: &Path, name: &str, removed: &[Prefix], added: &[Prefix], ends: Expiry) -> io::Result<bool> {
    let folder = folder(state_dir);
    let path = journal_path(&folder, name);
    let Some(header) = header(&set_path(&folder, name))? else { return Ok(false) };
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    let length = file.metadata()?.len();
    if length > MOST_JOURNAL {
        return Ok(false);
    }
    let mut text = if length == 0 { format!("{header}\n") } else { String::new() };
    for prefix in removed {
        text.push_str(&format!("-{prefix}\n"));
    }
    for prefix in added {
        text.push_str(&format!("+{prefix} {ends}\n"));
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    Ok(true)
}

/// Forgets a set. What cannot be deleted is logged: it would come back with a set of that name after a restart.
pub fn remove(state_dir: &Path, name: &str) {
    let folder = folder(state_dir);
    for path in [set_path(&folder, name), journal_path(&folder, name)] {
        if let Err(error) = remove_file(&path) {
            tracing::error!(error = %error, path = %path.display(), "what was loaded into a deleted address set stays on disk");
        }
    }
}

fn read_one(path: &Path) -> io::Result<Entries> {
    let text = fs::read_to_string(path)?;
    let mut lines = text.lines();
    let header = lines.next().unwrap_or_default();
    let mut entries: Entries = lines.map(parse).collect::<io::Result<_>>()?;
    let journal = match fs::read_to_string(path.with_extension("journal")) {
        Ok(journal) => journal,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(entries),
        Err(error) => return Err(error),
    };
    let whole = journal.rfind('\n').and_then(|end| journal.get(..end)).unwrap_or_default();
    let Some(changes) = whole.strip_prefix(header) else { return Ok(entries) };
    for line in changes.lines().filter(|line| !line.is_empty()) {
        match line.strip_prefix('+') {
            Some(added) => {
                let (prefix, ends) = parse(added)?;
                entries.insert(prefix, ends);
            }
            None => drop(entries.remove(&parse(line.trim_start_matches('-'))?.0)),
        }
    }
    Ok(entries)
}

fn parse(line: &str) -> io::Result<(Prefix, Expiry)> {
    let (prefix, ends) = line.split_once(' ').unwrap_or((line, ""));
    let ends = if ends.is_empty() { Some(NEVER) } else { ends.parse().ok() };
    let prefix = entry(prefix).ok().and_then(|prefixes| prefixes.first().copied());
    let faulty = || io::Error::new(io::ErrorKind::InvalidData, format!("{line:?} is no entry of an address set"));
    prefix.zip(ends).ok_or_else(faulty)
}

/// The first line of a set's file; `None` if there is no such file.
fn header(path: &Path) -> io::Result<Option<String>> {
    use io::BufRead as _;
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    io::BufReader::new(file).lines().next().transpose()
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn folder(state_dir: &Path) -> PathBuf {
    state_dir.join("sets")
}

fn set_path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.set"))
}

fn journal_path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.journal"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        entry(text).unwrap()[0]
    }

    fn held(dir: &Path) -> Vec<(String, Expiry)> {
        let loaded = read(dir, 100).unwrap();
        let entries = loaded.get("bad").map(|set| set.entries.clone()).unwrap_or_default();
        entries.iter().map(|(prefix, ends)| (prefix.to_string(), *ends)).collect()
    }

    #[test]
    fn what_was_saved_and_noted_is_read_again_and_half_a_line_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        assert!(!note(path, "bad", &[], &[prefix("10.0.0.0/8")], 0).unwrap(), "there is no file to add to");
        let entries = [("192.0.2.1", 0), ("2001:db8::/32", 200), ("192.0.2.9", 50)];
        let entries: Entries = entries.iter().map(|(text, ends)| (prefix(text), *ends)).collect();
        save(path, "bad", &entries, 7).unwrap();
        assert_eq!(held(path), [("192.0.2.1/32".to_owned(), 0), ("2001:db8::/32".to_owned(), 200)]);
        assert!(note(path, "bad", &[prefix("192.0.2.1")], &[prefix("198.51.100.0/24")], 300).unwrap());
        let expected = [("198.51.100.0/24".to_owned(), 300), ("2001:db8::/32".to_owned(), 200)];
        assert_eq!(held(path), expected);
        let journal = path.join("sets/bad.journal");
        let whole = fs::read_to_string(&journal).unwrap();
        fs::write(&journal, format!("{whole}+203.0.113.0/2")).unwrap();
        assert_eq!(held(path), expected, "a change that was cut off was never confirmed");
        fs::write(&journal, whole.replace("save 7", "save 6")).unwrap();
        assert_eq!(held(path).len(), 2, "the journal of another file");
        assert_eq!(held(path)[0].0, "192.0.2.1/32");
        remove(path, "bad");
        assert_eq!(held(path), []);
    }
}
