//! Lives: xtask, docs/kernel-support.md: which feature works on which kernel.
//! Called by: vm.
//! May touch: that file.
//! Never: says of a kernel what was not run on it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result};

use super::Kernel;
use super::parts::{FEATURES, PARTS};
use crate::paths::Repo;

/// Where it lies.
pub const FILE: &str = "docs/kernel-support.md";

/// Figures below this line differ from package to package, and are not compared.
const FIGURES: &str = "## What the verifier looks at";

/// Writes the file anew.
pub fn write(repo: &Repo, kernels: &[Kernel]) -> Result<()> {
    let path = repo.root().join(FILE);
    fs::write(&path, text(kernels)).with_context(|| format!("writing {FILE}"))
}

/// Whether the file says what was found, but for releases and figures.
pub fn is_current(repo: &Repo, kernels: &[Kernel]) -> Result<bool> {
    let there = fs::read_to_string(repo.root().join(FILE)).with_context(|| format!("reading {FILE}"))?;
    Ok(compared(&there) == compared(&text(kernels)))
}

fn compared(text: &str) -> Vec<&str> {
    text.lines().take_while(|line| *line != FIGURES).filter(|line| !line.starts_with("Releases: ")).collect()
}

fn text(kernels: &[Kernel]) -> String {
    let mut text = BEGINNING.to_owned();
    let releases: Vec<&str> = kernels.iter().map(|kernel| kernel.release.as_str()).collect();
    // Writing to a string cannot fail.
    let _ = writeln!(text, "Releases: {}.\n", releases.join(", "));
    text.push_str("## What was run\n\n");
    let head = |text: &mut String, first: &str| {
        let _ = write!(text, "| {first} |");
        kernels.iter().for_each(|kernel| text.extend([" ", kernel.series, " |"]));
        let _ = writeln!(text, "\n|---|{}", "---|".repeat(kernels.len()));
    };
    head(&mut text, "part");
    for part in &PARTS {
        let _ = write!(text, "| {}: {} |", part.name, part.shows);
        for kernel in kernels {
            let found = kernel.parts.iter().find(|found| found.name == part.name);
            let word = found.map_or("not run".to_owned(), |found| match found.lacks {
                Some(_) => found.word(),
                None => format!("{} of {} passed", found.passed, found.passed + found.failed),
            });
            let _ = write!(text, " {word} |");
        }
        text.push('\n');
    }
    text.push_str("\n## Features that depend on the kernel\n\nAs the code has it; not tried in these runs.\n\n");
    text.push_str("| feature | since | before that |\n|---|---|---|\n");
    for (feature, since, degrades) in FEATURES {
        let _ = writeln!(text, "| {feature} | {since} | {degrades} |");
    }
    let _ = write!(text, "\n{FIGURES}\n\n{}", programs(kernels));
    text
}

/// The verifier's figures as a table; nothing where no kernel was asked.
pub fn programs(kernels: &[Kernel]) -> String {
    let figures: Vec<_> = kernels
        .iter()
        .filter_map(|kernel| Some((kernel, kernel.parts.iter().find(|part| !part.verified.is_empty())?)))
        .collect();
    let names: BTreeSet<&String> = figures.iter().flat_map(|(_, part)| part.verified.keys()).collect();
    if names.is_empty() {
        return String::new();
    }
    let mut text = "| instructions verified |".to_owned();
    figures.iter().for_each(|(kernel, _)| text.extend([" ", kernel.series, " |"]));
    let _ = writeln!(text, "\n|---|{}", "---:|".repeat(figures.len()));
    for name in names {
        let _ = write!(text, "| {name} |");
        for (_, part) in &figures {
            let _ = write!(text, " {} |", part.verified.get(name).map_or("-".to_owned(), ToString::to_string));
        }
        text.push('\n');
    }
    text
}

const BEGINNING: &str = "\
# Kernels

Written by `cargo xtask vm --write`, which boots each kernel in an emulator and runs there what the tables say; do not edit it here,
but in `xtask/src/vm/parts.rs`. \"newest\" is the newest kernel that Debian's backports had when it was brought.
Everything else of the tests runs on the kernel of whoever calls `cargo xtask test` (6.18 so far).

Tried on kernels other than 6.18 is what this table says and no more. The parts `agent` and `limits` are live tests: agent, collector,
network namespaces, traffic.

";
