//! Lives: xtask, the task `vm`: Weir on the kernels it supports, each booted in an emulator.
//! Called by: a person; ci.
//! May touch: the target folder, `.tools/vm`, docs/kernel-support.md where told to; emulators it starts.
//! Never: uses KVM; takes a case that did not run for one that passed.

mod document;
mod guest;
mod image;
mod parts;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;

use crate::paths::Repo;
use crate::report::{seconds, write_json};
use crate::setup::kernels::{self, SERIES, Series};
use crate::setup::programs as brought;
use crate::{build, process, setup};
use guest::Outcome;
use parts::{Of, PARTS};

/// Shown below `cargo xtask vm --help`.
pub const HELP: &str = "\
Kernels, emulator and busybox come from Debian into .tools/vm; deleting a folder there brings the newest of its series again.
Emulated in software: what is judged is behaviour, and times mean nothing.

Examples:
  cargo xtask vm                        every part on every kernel, and whether docs/kernel-support.md is current
  cargo xtask vm --kernel 6.1           one kernel
  cargo xtask vm --part loading         one part, as CI runs it
  cargo xtask vm --write                write docs/kernel-support.md from this run";

/// `cargo xtask vm`.
#[derive(Args)]
pub struct Options {
    /// 6.1, 6.12 or newest; all of them otherwise
    #[arg(long, value_name = "SERIES")]
    kernel: Option<String>,
    /// Only this part
    #[arg(long, value_name = "NAME")]
    part: Option<String>,
    /// Write docs/kernel-support.md
    #[arg(long, conflicts_with_all = ["kernel", "part"])]
    write: bool,
    /// Also write what was found as JSON to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What one kernel was found to do.
#[derive(Serialize)]
pub struct Kernel {
    /// Its series.
    pub series: &'static str,
    /// As it calls itself.
    pub release: String,
    /// The parts, in order.
    pub parts: Vec<Outcome>,
    /// Wall time.
    pub seconds: f64,
}

/// Everything found.
#[derive(Serialize)]
pub struct Findings {
    kernels: Vec<Kernel>,
}

impl Findings {
    /// Whether every part that a kernel is to pass was passed by it.
    pub fn ok(&self) -> bool {
        !self.kernels.is_empty() && self.kernels.iter().flat_map(|kernel| &kernel.parts).all(|part| part.ok())
    }

    /// For a table of steps.
    pub fn summary(&self) -> String {
        let bad = |kernel: &Kernel| kernel.parts.iter().filter(|part| !part.ok()).count();
        let words: Vec<String> = self.kernels.iter().map(|k| format!("{}: {} failed", k.release, bad(k))).collect();
        words.join(", ")
    }

    fn print(&self) {
        println!(
            "\n{:<10} {:<28} {:<14} {:>7} {:>7} {:>9}",
            "kernel", "release", "part", "passed", "failed", "seconds"
        );
        for kernel in &self.kernels {
            for part in &kernel.parts {
                let (passed, failed) = (part.passed, part.failed);
                println!(
                    "{:<10} {:<28} {:<14} {passed:>7} {failed:>7} {:>9.1}  {}",
                    kernel.series,
                    kernel.release,
                    part.name,
                    part.seconds,
                    part.word()
                );
                part.said.iter().for_each(|line| println!("    {line}"));
            }
        }
        document::programs(&self.kernels).lines().for_each(|line| println!("{line}"));
    }
}

/// `cargo xtask vm`.
pub fn task(repo: &Repo, options: &Options) -> Result<bool> {
    setup::demand(repo, setup::For::Live)?;
    let findings = run(repo, options.kernel.as_deref(), options.part.as_deref())?;
    write_json(options.json.as_deref(), &findings)?;
    if options.write {
        document::write(repo, &findings.kernels)?;
        return Ok(findings.ok());
    }
    let whole = options.kernel.is_none() && options.part.is_none();
    let current = !whole || document::is_current(repo, &findings.kernels)?;
    if !current {
        println!("\n{} says otherwise: run `cargo xtask vm --write`", document::FILE);
    }
    Ok(findings.ok() && current)
}

/// What ci runs: the programs loaded by every kernel.
pub fn for_ci(repo: &Repo) -> Result<Findings> {
    run(repo, None, Some("loading"))
}

fn run(repo: &Repo, kernel: Option<&str>, part: Option<&str>) -> Result<Findings> {
    let series: Vec<&Series> = SERIES.iter().filter(|series| kernel.is_none_or(|name| name == series.name)).collect();
    if series.is_empty() {
        bail!("--kernel {}: there are 6.1, 6.12 and newest", kernel.unwrap_or_default());
    }
    let wanted: Vec<_> = PARTS.iter().filter(|known| part.is_none_or(|name| name == known.name)).collect();
    if wanted.is_empty() {
        let names: Vec<&str> = PARTS.iter().map(|part| part.name).collect();
        bail!("--part {}: there are {}", part.unwrap_or_default(), names.join(", "));
    }
    // The whole workspace, as the task `test` builds it: nothing is compiled twice.
    let mut tests = process::cargo(repo);
    let said = process::complaints(tests.args(["test", "--workspace", "--locked", "--no-run"]))
        .context("building the tests")?;
    let started =
        if wanted.iter().any(|part| part.of == Of::Live) { Some(build::programs_and_tests(repo)?) } else { None };
    let programs = image::Programs::new(repo, &said, started)?;
    let tools = image::Tools {
        qemu: brought::folder(repo, brought::QEMU)?,
        busybox: brought::folder(repo, brought::BUSYBOX)?.join("bin/busybox"),
    };
    let mut kernels = Vec::new();
    for series in series {
        println!("vm: kernel {} ...", series.name);
        let start = Instant::now();
        let folder = kernels::ensure(repo, series)?;
        let booted = image::make(repo, series.name, &folder, &tools, &programs, &wanted)?;
        let (release, parts) = guest::run(&booted, &tools, &wanted, series.name)?;
        kernels.push(Kernel { series: series.name, release, parts, seconds: seconds(start.elapsed()) });
    }
    let findings = Findings { kernels };
    findings.print();
    Ok(findings)
}
