//! Lives: xtask, the task `fuzz`.
//! Called by: a person, after a change of what reads bytes from outside, or of what compiles.
//! May touch: the target folder; `fuzz/corpus` and `fuzz/artifacts`, which git does not keep; `fuzz/regressions`.
//! Never: throws away an input that broke something; goes on for ever.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::paths::Repo;
use crate::report::{Report, Step, write_json};
use crate::setup::{self, tools};
use crate::{pins, process};

/// Shown below `cargo xtask fuzz --help`.
pub const HELP: &str = "\
What each target feeds and what must hold is in fuzz/targets. An input that breaks it is copied to fuzz/regressions/TARGET,
where every `cargo test` runs it again: mend the fault, and commit the input with it. Nothing else fuzzing makes is kept by git.

Needs a C++ compiler (Debian: g++). cargo-fuzz is brought into .tools.

Examples:
  cargo xtask fuzz                          every target for a minute
  cargo xtask fuzz compile --seconds 3600   one of them for an hour
  cargo test -p weir-fuzz-targets           every input that was ever kept, once";

/// `cargo xtask fuzz`.
#[derive(Args)]
pub struct Options {
    /// One target (a file in fuzz/fuzz_targets); without it: all
    #[arg(value_name = "TARGET")]
    target: Option<String>,
    /// How long each target runs
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=604_800))]
    seconds: u32,
    /// Also write the report as JSON to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs targets one after the other; `false` when one of them broke a promise.
pub fn task(repo: &Repo, options: &Options) -> Result<bool> {
    let start = Instant::now();
    let known = targets(repo)?;
    let wanted = match &options.target {
        Some(name) if known.contains(name) => vec![name.clone()],
        Some(name) => bail!("there is no target {name}; there are {}", known.join(", ")),
        None => known,
    };
    setup::demand(repo, setup::For::Fuzz)?;
    println!("fuzz: building with coverage counters; the first time takes minutes");
    let built = process::shown(&mut cargo_fuzz(repo, "build", &[])?)?;
    ensure!(built, "the fuzzers do not build; cargo's message is above");
    let steps: Result<Vec<Step>> = wanted.iter().map(|target| run(repo, target, options.seconds)).collect();
    let report = Report::new("fuzz", start, steps?);
    report.print();
    write_json(options.json.as_deref(), &report)?;
    Ok(report.ok)
}

/// The targets there are: a program each.
fn targets(repo: &Repo) -> Result<Vec<String>> {
    let folder = repo.root().join("fuzz/fuzz_targets");
    let entries = fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?;
    let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let stems = paths.filter_map(|path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
    let mut names: Vec<String> = stems.collect();
    names.sort();
    Ok(names)
}

/// One target until its time is over or something broke.
fn run(repo: &Repo, target: &str, seconds: u32) -> Result<Step> {
    let (start, since) = (Instant::now(), SystemTime::now());
    let fuzz = repo.root().join("fuzz");
    let (corpus, artifacts) = (fuzz.join("corpus").join(target), fuzz.join("artifacts").join(target));
    for folder in [&corpus, &artifacts] {
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    }
    println!("\nfuzz: {target} for {seconds} s");
    let mut command = cargo_fuzz(repo, "run", &[target])?;
    command.arg(&corpus).arg(fuzz.join("seeds").join(target)).arg("--");
    command.args([format!("-max_total_time={seconds}"), "-timeout=10".to_owned(), "-max_len=4096".to_owned()]);
    command.arg(format!("-artifact_prefix={}/", artifacts.display())).args(["-print_final_stats=1", "-verbosity=1"]);
    if ["yaml", "kube"].contains(&target) {
        command.arg(format!("-dict={}", fuzz.join("dictionaries/documents.dict").display()));
    }
    let ok = process::shown(&mut command)?;
    let kept = keep(&artifacts, &fuzz.join("regressions").join(target), since)?;
    let detail = match (ok, kept.as_slice()) {
        (true, _) => format!("nothing broke; {} inputs reach something of their own", count(&corpus)?),
        (false, []) => "it ended early and left no input; see above".to_owned(),
        (false, kept) => format!("kept {}; mend the fault and commit both", kept.join(", ")),
    };
    Ok(Step::new(target, ok, start, detail))
}

/// Copies what broke something since then to where tests find it.
fn keep(artifacts: &Path, regressions: &Path, since: SystemTime) -> Result<Vec<String>> {
    let mut kept = Vec::new();
    for entry in fs::read_dir(artifacts).with_context(|| format!("reading {}", artifacts.display()))? {
        let path = entry.with_context(|| format!("reading {}", artifacts.display()))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // `slow-unit-` is a note, not a fault.
        let broke = ["crash-", "timeout-", "oom-", "leak-"].iter().any(|start| name.starts_with(start));
        let new = fs::metadata(&path).and_then(|meta| meta.modified()).is_ok_and(|time| time >= since);
        if broke && new {
            fs::create_dir_all(regressions).with_context(|| format!("creating {}", regressions.display()))?;
            let to = regressions.join(&name);
            fs::copy(&path, &to).with_context(|| format!("copying to {}", to.display()))?;
            kept.push(to.display().to_string());
        }
    }
    Ok(kept)
}

fn count(folder: &Path) -> Result<usize> {
    Ok(fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?.count())
}

/// `cargo fuzz` without a sanitizer: ours is safe code, and a sanitizer needs a standard library of its own. Coverage counters
/// are an unstable switch of the compiler, which RUSTC_BOOTSTRAP lets the stable one have, as for the kernel programs.
fn cargo_fuzz(repo: &Repo, verb: &str, arguments: &[&str]) -> Result<Command> {
    let mut command = process::clean(tools::program(repo, &pins::CARGO_FUZZ));
    command.args(["fuzz", verb, "--sanitizer", "none"]).args(arguments).current_dir(repo.root());
    // Another workspace with other flags: in the same folder each would throw away what the other built.
    command.env("CARGO_TARGET_DIR", repo.target()?.join("fuzz")).env("RUSTC_BOOTSTRAP", "1");
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_broke_something_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (artifacts, regressions) = (folder.path().join("artifacts"), folder.path().join("regressions"));
        fs::create_dir(&artifacts).unwrap();
        for name in ["crash-1", "timeout-2", "slow-unit-3", "readme"] {
            fs::write(artifacts.join(name), name).unwrap();
        }
        assert_eq!(keep(&artifacts, &regressions, SystemTime::UNIX_EPOCH).unwrap().len(), 2);
        assert_eq!(fs::read_to_string(regressions.join("crash-1")).unwrap(), "crash-1");
        assert_eq!(count(&regressions).unwrap(), 2);
        let later = SystemTime::now() + std::time::Duration::from_secs(60);
        assert!(keep(&artifacts, &regressions, later).unwrap().is_empty(), "what was there before is not new");
    }

    #[test]
    fn targets_are_the_programs_there_are() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        assert_eq!(targets(&Repo::at(root)).unwrap(), ["compile", "kube", "packet", "proto", "yaml"]);
    }
}
