//! Lives: host tests.
//! Called by: `cargo test`.
//! May touch: `fuzz/seeds` and `fuzz/regressions`, read only.
//! Never: needs libFuzzer: what a fuzzer once found is checked wherever tests run.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use weir_fuzz_targets::{TARGETS, Target};

/// An input is a few kilobytes: minutes would be a parser gone quadratic, not a slow machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Runs a target on every file of its folders, and tells the files that broke a promise.
fn replay((name, target): Target) -> (usize, Vec<String>) {
    let all = ["seeds", "regressions"].iter().flat_map(|kind| files(&fuzz().join(kind).join(name)));
    let mut broken = Vec::new();
    let mut count = 0;
    for file in all {
        let (data, start) = (fs::read(&file).unwrap(), Instant::now());
        count += 1;
        if catch_unwind(AssertUnwindSafe(|| target(&data))).is_err() {
            broken.push(format!("{}: the message is above", file.display()));
        } else if start.elapsed() > PATIENCE {
            broken.push(format!("{}: took {:?}", file.display(), start.elapsed()));
        }
    }
    (count, broken)
}

macro_rules! replays {
    ($($test:ident: $place:literal),+ $(,)?) => {
        $(#[test]
        fn $test() {
            let target = TARGETS[$place];
            let (count, broken) = replay(target);
            assert_eq!(broken, Vec::<String>::new());
            assert!(count >= 10, "only {count} inputs for {}", target.0);
        })+
    };
}

replays! {
    texts_keep_their_promises: 0,
    documents_keep_their_promises: 1,
    messages_keep_their_promises: 2,
    frames_keep_their_promises: 3,
    clusters_keep_their_promises: 4,
}

/// Every target has a program, a row in the manifest and seeds; every folder belongs to a target.
#[test]
fn targets_programs_and_folders_are_the_same() {
    let names: Vec<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    for name in &names {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name} is not in fuzz/Cargo.toml");
        assert!(fuzz().join(format!("fuzz_targets/{name}.rs")).is_file(), "{name} has no program");
    }
    for folder in ["seeds", "regressions"].iter().flat_map(|kind| files(&fuzz().join(kind))) {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        assert!(names.contains(&name), "{} belongs to no target", folder.display());
    }
}
