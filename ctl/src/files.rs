//! Lives: ctl.
//! Called by: `apply` and `delete`, for `-f`.
//! May touch: the files named, standard input.
//! Never: descends into folders of a folder; what is applied should be seen in one listing.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// A text and where it is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub name: String,
    pub text: String,
}

/// Reads every `-f`: a file, a folder (its *.yaml and *.yml, by name), or "-" for standard input.
pub fn read(paths: &[PathBuf]) -> Result<Vec<Source>, Failure> {
    let mut sources = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            sources.push(standard_input()?);
        } else if path.is_dir() {
            let files = folder(path)?;
            sources.extend(files.iter().map(|file| one(file)).collect::<Result<Vec<_>, _>>()?);
        } else {
            sources.push(one(path)?);
        }
    }
    Ok(sources)
}

fn standard_input() -> Result<Source, Failure> {
    let mut text = String::new();
    io::stdin().read_to_string(&mut text).map_err(|error| Failure::Usage(format!("standard input: {error}")))?;
    Ok(Source { name: "-".to_owned(), text })
}

fn one(path: &Path) -> Result<Source, Failure> {
    let name = path.display().to_string();
    let text = fs::read_to_string(path).map_err(|error| Failure::Usage(format!("{name}: {error}")))?;
    Ok(Source { name, text })
}

fn folder(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    let fault = |error: io::Error| Failure::Usage(format!("{}: {error}", path.display()));
    let entries = fs::read_dir(path).map_err(fault)?.collect::<Result<Vec<_>, _>>().map_err(fault)?;
    let yaml = |path: &PathBuf| path.is_file() && path.extension().is_some_and(|end| end == "yaml" || end == "yml");
    let mut files: Vec<_> = entries.into_iter().map(|entry| entry.path()).filter(yaml).collect();
    files.sort();
    match files.is_empty() {
        true => Err(Failure::Usage(format!("{}: no *.yaml or *.yml file in this folder", path.display()))),
        false => Ok(files),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_give_their_yaml_files_by_name() {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in [("b.yaml", "b"), ("a.yml", "a"), ("notes.txt", "x"), (".hidden", "y")] {
            fs::write(directory.path().join(name), text).unwrap();
        }
        fs::create_dir(directory.path().join("c.yaml")).unwrap();
        let sources = read(&[directory.path().to_owned(), directory.path().join("notes.txt")]).unwrap();
        assert_eq!(sources.iter().map(|source| source.text.as_str()).collect::<Vec<_>>(), ["a", "b", "x"]);
        assert!(sources[0].name.ends_with("/a.yml"));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing.yaml");
        for path in [missing, directory.path().to_owned()] {
            let failure = read(std::slice::from_ref(&path)).unwrap_err();
            assert!(failure.code() == 2 && failure.to_string().contains(path.to_str().unwrap()), "{failure}");
        }
    }
}
