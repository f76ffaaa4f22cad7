//! Lives: xtask, the task `lint`.
//! Called by: a person before a commit; ci.
//! May touch: the target folder, through cargo.
//! Never: changes a source; stops at the first finding; calls unchecked advisories checked.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use std::{env, fs};

use anyhow::Result;

use crate::paths::Repo;
use crate::report::{Report, Step, write_json};
use crate::setup::{self, tools};
use crate::{pins, process};

/// `cargo xtask lint`.
pub fn task(repo: &Repo, json: Option<&Path>) -> Result<bool> {
    setup::demand(repo, setup::For::Lint)?;
    let report = run(repo)?;
    report.print();
    write_json(json, &report)?;
    Ok(report.ok)
}

/// Runs every check, whatever the ones before found.
pub fn run(repo: &Repo) -> Result<Report> {
    let start = Instant::now();
    let mut steps = vec![
        step("format", process::cargo(repo).args(["fmt", "--all", "--check"]))?,
        step("format: ebpf", in_ebpf(repo).args(["fmt", "--check"]))?,
        step("format: fuzz", in_fuzz(repo).args(["fmt", "--check"]))?,
        step("clippy", process::cargo(repo).args(CLIPPY))?,
        step("clippy: ebpf", &mut clippy_ebpf(repo)?)?,
    ];
    for (name, manifest) in [
        ("dependencies", "Cargo.toml"),
        ("dependencies: ebpf", "ebpf/Cargo.toml"),
        ("dependencies: fuzz", "fuzz/Cargo.toml"),
    ] {
        steps.push(step(name, deny(repo, manifest).args(["check", "bans", "licenses", "sources"]))?);
    }
    steps.extend(advisories(repo)?);
    Ok(Report::new("lint", start, steps))
}

const CLIPPY: [&str; 8] =
    ["clippy", "--workspace", "--all-targets", "--locked", "--keep-going", "--", "-D", "warnings"];

fn step(name: &str, command: &mut Command) -> Result<Step> {
    let start = Instant::now();
    println!("lint: {name}");
    let ok = process::shown(command)?;
    Ok(Step::new(name, ok, start, if ok { "" } else { "see above" }))
}

fn in_ebpf(repo: &Repo) -> Command {
    let mut cargo = process::cargo(repo);
    cargo.current_dir(repo.root().join("ebpf"));
    cargo
}

fn in_fuzz(repo: &Repo) -> Command {
    let mut cargo = process::cargo(repo);
    cargo.current_dir(repo.root().join("fuzz"));
    cargo
}

/// The kernel programs, for the target they are built for; the same switches as agent/build.rs.
fn clippy_ebpf(repo: &Repo) -> Result<Command> {
    let mut cargo = in_ebpf(repo);
    cargo.args([
        "clippy",
        "--release",
        "--locked",
        "--target",
        "bpfel-unknown-none",
        "-Z",
        "build-std=core",
        "--target-dir",
    ]);
    cargo.arg(repo.target()?.join("lint-ebpf")).args(["--", "-D", "warnings"]);
    cargo.env("RUSTC_BOOTSTRAP", "1").env_remove("RUSTFLAGS").env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-cpu=v3");
    if let Ok(library) = fs::read_to_string(repo.tools().join("core-src")) {
        cargo.env("__CARGO_TESTS_ONLY_SRC_ROOT", library.trim());
    }
    Ok(cargo)
}

/// Known faults in dependencies, judged by the database on this machine; without one that is said, not hidden.
fn advisories(repo: &Repo) -> Result<Option<Step>> {
    if advisories_are_here() {
        // Offline: an old answer at once rather than a wait for a server that may not be reachable.
        return step("advisories", deny(repo, "Cargo.toml").args(["--offline", "check", "advisories"])).map(Some);
    }
    println!("lint: advisories were NOT checked: their database is not on this machine");
    println!("  what to do: where its server can be reached, `{} fetch`, then run this again", deny_name(repo));
    Ok(None)
}

/// `cargo deny` on one manifest, with the one configuration.
fn deny(repo: &Repo, manifest: &str) -> Command {
    let mut command = process::clean(tools::program(repo, &pins::CARGO_DENY));
    command.current_dir(repo.root()).args(["--locked", "--config", "deny.toml", "--manifest-path", manifest]);
    command
}

fn deny_name(repo: &Repo) -> String {
    tools::program(repo, &pins::CARGO_DENY).display().to_string()
}

fn advisories_are_here() -> bool {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    let database = home.map(|home| home.join("advisory-dbs"));
    database.and_then(|folder| fs::read_dir(folder).ok()).is_some_and(|mut entries| entries.next().is_some())
}
