//! Lives: weir-agent, control.
//! Called by: `sets`, after each change of what is loaded; `Control::start`.
//! May touch: the folder `sets` of the state directory.
//! Never: leaves half a file, or takes a journal for one that belongs to another file.
//!
//! `NAME.set` holds all entries, one a line with its end, below a number; `NAME.journal` the changes since, below the same number.
//! Each change there ends with a line of its own. What a crash or a full disk cut off counts up to the last of them: the change after
//! it was never confirmed. Nothing is appended to such a journal, nor to one that belongs to another file: the set is saved whole.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use weir_policy::{
    Prefix,
    sets::{Entries, Expiry, Loaded, NEVER, entry},
};

use super::{ControlError, format};
use crate::faults;

/// Journal bytes from which the set is saved whole.
const MOST_JOURNAL: usize = 1 << 20;
const HEADER: &str = "# weir-agent: loaded into an address set, save ";
/// What it begins with in every format (`format`).
const WHAT: &str = "# weir-agent: loaded into an address set";
const REMEDY: &str = "move the file away, start again, and load the set again";
/// The line that ends a change.
const END: &str = ".";

/// Everything that was loaded, without what has ended by `now`.
pub fn read(state_dir: &Path, now: Expiry) -> Result<Loaded, ControlError> {
    let mut loaded = Loaded::default();
    let folder = folder(state_dir);
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        |source| ControlError::Read { path, source }
    };
    let found = match fs::read_dir(&folder) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(loaded),
        Err(error) => return Err(unreadable(&folder)(error)),
    };
    for file in found {
        let path = file.map_err(unreadable(&folder))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".set")) else { continue };
        let mut entries = read_one(&path).map_err(unreadable(&path))?;
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
    faults::point("set.create")?;
    let mut file = io::BufWriter::new(File::create(&beside)?);
    writeln!(file, "{HEADER}{number}")?;
    for (prefix, ends) in entries.iter() {
        writeln!(file, "{prefix} {ends}")?;
    }
    faults::point("set.sync")?;
    file.into_inner()?.sync_all()?;
    faults::point("set.rename")?;
    fs::rename(&beside, set_path(&folder, name))?;
    faults::point("set.renamed")?;
    // What it says is in the file now, and its number is another one.
    remove_file(&journal_path(&folder, name))?;
    File::open(folder)?.sync_all()
}

/// Appends changes to a set's journal; `false`: it is long, or there is no file it could belong to, so the set is to be saved whole.
pub fn note(state_dir: &Path, name: &str, removed: &[Prefix], added: &[Prefix], ends: Expiry) -> io::Result<bool> {
    let folder = folder(state_dir);
    let path = journal_path(&folder, name);
    let Some(header) = header(&set_path(&folder, name))? else { return Ok(false) };
    let before = journal(&path)?;
    if before.as_ref().is_some_and(|journal| !can_go_on(journal, &header)) {
        return Ok(false);
    }
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    let mut text = if before.is_none() { format!("{header}\n") } else { String::new() };
    for prefix in removed {
        text.push_str(&format!("-{prefix}\n"));
    }
    for prefix in added {
        text.push_str(&format!("+{prefix} {ends}\n"));
    }
    text.push_str(END);
    text.push('\n');
    let (first, second) = text.as_bytes().split_at(text.len() / 2);
    file.write_all(first)?;
    faults::point("set.note")?;
    file.write_all(second)?;
    file.sync_all()?;
    if before.is_none() {
        File::open(folder)?.sync_all()?;
    }
    Ok(true)
}

/// Whether a change can be appended: the journal is not long, belongs to the file with this header, and ends with a whole change.
fn can_go_on(journal: &str, header: &str) -> bool {
    journal.len() < MOST_JOURNAL && journal.lines().next() == Some(header) && journal.ends_with(&format!("\n{END}\n"))
}

/// A journal's text; `None` if there is none.
fn journal(path: &Path) -> io::Result<Option<String>> {
    match fs::read(path) {
        // What is no text was not written by us: it ends nothing, and nothing is appended to it.
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
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
    format::check(&text, WHAT).map_err(|newer| io::Error::new(io::ErrorKind::InvalidData, newer))?;
    let mut lines = text.lines();
    let header = lines.next().unwrap_or_default();
    let mut entries: Entries = lines.map(parse).collect::<io::Result<_>>()?;
    let Some(journal) = journal(&path.with_extension("journal"))? else { return Ok(entries) };
    let changes = journal.strip_prefix(header).filter(|changes| changes.starts_with('\n')).unwrap_or_default();
    let whole = changes.rfind(&format!("\n{END}\n")).and_then(|end| changes.get(1..end)).unwrap_or_default();
    for line in whole.lines().filter(|line| *line != END) {
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
    let faulty =
        || io::Error::new(io::ErrorKind::InvalidData, format!("{line:?} is no entry of an address set; {REMEDY}"));
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
    use std::error::Error as _;

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
        fs::write(&journal, format!("{whole}-198.51.100.0/24\n")).unwrap();
        assert_eq!(held(path), expected, "half a change is none");
        for other in ["save 6", "save 71"] {
            fs::write(&journal, whole.replace("save 7", other)).unwrap();
            assert_eq!(held(path).len(), 2, "the journal of another file");
            assert_eq!(held(path)[0].0, "192.0.2.1/32");
        }
        remove(path, "bad");
        assert_eq!(held(path), []);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["bad", "worse"] {
            save(dir.path(), name, &Entries::default(), 7).unwrap();
        }
        let path = dir.path().join("sets/worse.set");
        fs::write(&path, format!("{HEADER}7\n192.0.2.1 0\n192.0.2.\n")).unwrap();
        let said = read(dir.path(), 100).err().map(|error| format!("{error}: {}", error.source().unwrap()));
        let said = said.unwrap();
        assert!(said.contains(&path.display().to_string()) && said.contains("\"192.0.2.\" is no entry"), "{said}");
    }

    #[test]
    fn a_file_of_a_later_format_is_refused_by_name_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), "bad", &Entries::default(), 7).unwrap();
        let path = dir.path().join("sets/bad.set");
        // Its lines would be read otherwise.
        for (text, expected) in [
            (format!("{WHAT}, format 2, save 7\n192.0.2.1 0\n"), Some("format 2")),
            (format!("{WHAT}, format 1, save 7\n192.0.2.1 0\n"), None),
        ] {
            fs::write(&path, &text).unwrap();
            let said = read(dir.path(), 100).err().map(|error| format!("{error}: {}", error.source().unwrap()));
            assert_eq!(said.is_some(), expected.is_some(), "{said:?}");
            for word in expected
                .into_iter()
                .flat_map(|found| [found, "knows format 1", "sets/bad.set", "start an agent of that version"])
            {
                assert!(said.as_ref().is_some_and(|said| said.contains(word)), "{word}: {said:?}");
            }
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    /// What a crash or a full disk may leave, after which changes must not be lost, nor the next start fail.
    #[test]
    fn nothing_is_appended_to_what_was_cut_off_or_is_anothers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        let entries: Entries = [(prefix("192.0.2.1"), NEVER)].into_iter().collect();
        let journal = path.join("sets/bad.journal");
        save(path, "bad", &entries, 7).unwrap();
        assert!(note(path, "bad", &[], &[prefix("10.0.0.0/8")], NEVER).unwrap());
        let whole = fs::read_to_string(&journal).unwrap();
        let left = [
            String::new(),
            HEADER.to_owned(),
            format!("{HEADER}7\n"),
            format!("{whole}+203.0.113.0/2"),
            format!("{whole}-192.0.2.1/32\n"),
            whole.replace("save 7", "save 6"),
        ];
        for left in left {
            fs::write(&journal, &left).unwrap();
            let before = held(path);
            assert!(!note(path, "bad", &[], &[prefix("198.51.100.0/24")], NEVER).unwrap(), "{left:?}");
            assert_eq!((held(path), fs::read_to_string(&journal).unwrap()), (before, left));
        }
        // Saved whole, changes are noted again.
        save(path, "bad", &entries, 8).unwrap();
        assert!(note(path, "bad", &[], &[prefix("198.51.100.0/24")], NEVER).unwrap());
        assert!(note(path, "bad", &[prefix("192.0.2.1")], &[], NEVER).unwrap());
        assert_eq!(held(path), [("198.51.100.0/24".to_owned(), NEVER)]);
    }
}
