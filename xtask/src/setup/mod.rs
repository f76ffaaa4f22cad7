//! Lives: xtask, the task `setup`.
//! Called by: a person once, and every other task each time.
//! May touch: the repository's `.tools`; rustup's `rust-src` component of the toolchain in use.
//! Never: installs a package, changes apt's or the user's configuration; takes a second when nothing is missing.

mod apt;
pub mod charts;
mod cxx;
mod debian;
mod host;
pub mod kernels;
pub mod programs;
mod rust_src;
mod rustc;
pub mod tools;

use std::fs::{self, File};
use std::io::{Write, stdout};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::paths::Repo;
use crate::pins;
use crate::report::{Report, Step, write_json};

/// Shown below `cargo xtask setup --help`.
pub const HELP: &str = "\
Everything goes to .tools in the repository; deleting that folder undoes it. Logs of what was built are in .tools/log.

Environment:
  WEIR_SETUP_RUST_SRC=debian   take core's source from Debian's package even where rustup has it
  WEIR_SETUP_RUST_SRC=rustup   never ask Debian";

/// What the calling task is going to do, hence what it needs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum For {
    /// Compile: nothing about the host matters.
    Build,
    /// Judge sources and dependencies.
    Lint,
    /// Load programs into this kernel.
    Live,
    /// Render the chart: nothing is compiled.
    Chart,
    /// Run fuzzers: the kernel programs are not built for that.
    Fuzz,
    /// All of it; what only live tasks need is said, not demanded.
    Person,
    /// All of it, demanded.
    Ci,
}

/// What a step found.
pub enum Found {
    /// Nothing to do, or done: the text says what is there.
    Ok(String),
    /// Only some tasks need it, and the caller is not one of them.
    Lacking(Failure),
}

/// Why a step failed, and what a person does about it.
#[derive(Debug)]
pub struct Failure {
    /// What is missing or went wrong.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl Failure {
    /// Both halves at once.
    pub fn new(what: impl Into<String>, remedy: impl Into<String>) -> Failure {
        Failure { what: what.into(), remedy: remedy.into() }
    }
}

/// `cargo xtask setup`.
pub fn task(repo: &Repo, json: Option<&Path>) -> Result<bool> {
    let report = run(repo, For::Person)?;
    write_json(json, &report)?;
    Ok(report.ok)
}

/// Brings what `purpose` needs, or stops the calling task.
pub fn demand(repo: &Repo, purpose: For) -> Result<()> {
    if run(repo, purpose)?.ok { Ok(()) } else { bail!("setup failed; see above for what to do") }
}

/// Brings what the benchmark of XDP measures beside Weir, if it can be had: the benchmark says what it did without.
pub fn rivals(repo: &Repo) {
    let _ = step("iptables", || programs::ensure(repo, programs::IPTABLES, true));
    let _ = step("xdp-tools", || programs::ensure(repo, programs::XDP_FILTER, true));
}

/// Runs every step, even after a failure: a person wants to hear all of it at once.
pub fn run(repo: &Repo, purpose: For) -> Result<Report> {
    let start = Instant::now();
    let mut steps = Vec::new();
    // Even lint compiles the kernel programs: clippy runs the agent's build script.
    steps.push(step(&format!("rustc {}.{}", pins::RUSTC.0, pins::RUSTC.1), || rustc::check(repo)));
    if purpose == For::Fuzz {
        steps.push(step("C++ compiler", cxx::check));
        steps.push(tool(repo, &pins::CARGO_FUZZ));
        return Ok(Report::new("setup", start, steps));
    }
    if matches!(purpose, For::Chart | For::Ci) {
        steps.push(step("helm", || charts::helm(repo)));
        steps.push(step("Kubernetes' schemas", || charts::schemas(repo)));
    }
    if purpose == For::Chart {
        return Ok(Report::new("setup", start, steps));
    }
    steps.push(step("core's source", || rust_src::ensure(repo)));
    steps.push(tool(repo, &pins::BPF_LINKER));
    if matches!(purpose, For::Lint | For::Person | For::Ci) {
        steps.push(tool(repo, &pins::CARGO_DENY));
    }
    if matches!(purpose, For::Live | For::Person | For::Ci) {
        steps.push(step("this host", || host::check(purpose == For::Person)));
        let lenient = purpose == For::Person;
        steps.push(step("nftables", || programs::ensure(repo, programs::NFT, lenient)));
        steps.push(step("prometheus", || programs::ensure(repo, programs::PROMETHEUS, lenient)));
    }
    Ok(Report::new("setup", start, steps))
}

fn tool(repo: &Repo, tool: &pins::Tool) -> Step {
    step(&format!("{} {}", tool.name, tool.version), || tools::ensure(repo, tool))
}

/// Runs one step and prints its one line; a step that takes long adds to the line with [`say`].
fn step(name: &str, work: impl FnOnce() -> Result<Found, Failure>) -> Step {
    let start = Instant::now();
    say(&format!("setup: {name} ... "));
    let (ok, word, detail) = match work() {
        Ok(Found::Ok(detail)) => (true, "ok", detail),
        Ok(Found::Lacking(lack)) => (true, "lacking", lack.to_string()),
        Err(failure) => (false, "FAILED", failure.to_string()),
    };
    let step = Step::new(name, ok, start, detail);
    match word {
        "ok" => println!("ok ({:.1}s)", step.seconds),
        other => println!("{other}: {}", step.detail),
    }
    step
}

/// Adds to the current line, at once.
fn say(text: &str) {
    print!("{text}");
    // A closed stdout is found by the next println, which is not this function's business.
    let _ = stdout().flush();
}

/// Held while something is brought: two tasks started together must not build the same tool into the same place.
fn lock(repo: &Repo) -> Result<File> {
    let folder = repo.tools();
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let path = folder.join("lock");
    let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    file.lock().with_context(|| format!("locking {}", path.display()))?;
    Ok(file)
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\n  what to do: {}", self.what, self.remedy)
    }
}
