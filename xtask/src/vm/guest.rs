//! Lives: xtask, one emulated kernel from its start to its last line.
//! Called by: vm.
//! May touch: an emulator it starts, and that one's log in target/vm.
//! Never: uses KVM; leaves an emulator behind; believes a part that has no end.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use super::image::{Booted, Tools};
use super::parts::{LOADING, Part, refusal};
use crate::process;

/// Longest time of a kernel from start to end.
const PATIENCE: Duration = Duration::from_secs(3000);

/// How a part went on one kernel.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Outcome {
    /// The part's.
    pub name: &'static str,
    /// Cases that passed.
    pub passed: usize,
    /// Cases that failed, or did not run.
    pub failed: usize,
    /// Of the emulated clock.
    pub seconds: f64,
    /// Why this kernel does not do it.
    pub lacks: Option<&'static str>,
    /// Instructions the verifier looked at, by program.
    pub verified: BTreeMap<String, u32>,
    /// What was printed, for whoever looks for the reason.
    pub said: Vec<String>,
}

impl Outcome {
    /// Whether it is as it should be.
    pub fn ok(&self) -> bool {
        self.lacks.is_some() || (self.failed == 0 && self.passed > 0)
    }

    /// One line of the test program.
    fn take(&mut self, line: &str) {
        if let Some((_, rest)) = line.split_once("test result: ") {
            self.passed += number(rest, "passed").unwrap_or(0);
            let took =
                rest.rsplit_once("finished in ").and_then(|(_, time)| time.trim_end_matches('s').parse::<f64>().ok());
            self.seconds += took.unwrap_or(0.0);
        }
        if let Some((_, rest)) = line.split_once("budget: program ") {
            let mut words = rest.split_whitespace();
            if let (Some(name), Some(Ok(verified))) = (words.next(), words.next().map(str::parse)) {
                self.verified.insert(name.to_owned(), verified);
            }
        }
    }

    /// Of a kernel that is known to refuse: only that very refusal is as it should be.
    fn refused_as(&mut self, says: &str, why: &'static str) {
        if self.failed > 0 && self.said.iter().any(|line| line.contains(says)) {
            (self.lacks, self.said) = (Some(why), Vec::new());
        } else {
            self.failed = self.failed.max(1);
            self.said.push(format!(
                "this kernel is listed as refusing with `{says}` (xtask/src/vm/parts.rs): mend the list"
            ));
        }
    }

    /// The same for people.
    pub fn word(&self) -> String {
        match self.lacks {
            Some(why) => format!("not on this kernel: {why}"),
            None if self.ok() => "ok".to_owned(),
            None => "FAILED".to_owned(),
        }
    }
}

/// Boots, waits for the end, and reads what was said: the kernel's release, and the parts.
pub fn run(booted: &Booted, tools: &Tools, parts: &[&Part], series: &str) -> Result<(String, Vec<Outcome>)> {
    let log = booted.disk.with_file_name("console.log");
    let share = tools.qemu.join("usr/share");
    let (usr, lib) = (tools.qemu.join("usr/lib/x86_64-linux-gnu"), tools.qemu.join("lib/x86_64-linux-gnu"));
    let mut qemu = process::clean(tools.qemu.join("usr/bin/qemu-system-x86_64"));
    qemu.env("LD_LIBRARY_PATH", format!("{}:{}", usr.display(), lib.display()));
    qemu.arg("-L").arg(share.join("qemu")).arg("-L").arg(share.join("seabios"));
    // This emulator spoils flags at exchanges of 16 bytes now and then, and kernels since 6.10 then die in their allocator: it must not
    // offer them. One processor, because with two it happens more.
    qemu.args([
        "-accel",
        "tcg",
        "-cpu",
        "max,cx16=off",
        "-smp",
        "1",
        "-m",
        "2048",
        "-nographic",
        "-nodefaults",
        "-no-reboot",
    ]);
    qemu.args(["-serial", "stdio", "-append", "console=ttyS0 quiet oops=panic panic=-1"]);
    qemu.arg("-kernel").arg(&booted.kernel).arg("-initrd").arg(&booted.disk);
    // What it said counts even where it did not end by itself.
    let ended = process::logged(&mut qemu, &log, PATIENCE);
    let text =
        String::from_utf8_lossy(&fs::read(&log).with_context(|| format!("reading {}", log.display()))?).into_owned();
    let outcomes = parts.iter().map(|part| read(&text, part, series)).collect();
    let release =
        text.lines().find_map(|line| line.trim().split_once("vm: release ")).map(|(_, release)| release.to_owned());
    let release =
        release.with_context(|| format!("kernel {series} did not boot ({ended:?}); see {}", log.display()))?;
    Ok((release, outcomes))
}

fn read(text: &str, part: &Part, series: &str) -> Outcome {
    let mut outcome = Outcome { name: part.name, ..Outcome::default() };
    let loading = refusal(series, LOADING);
    if part.name != LOADING
        && let Some(refused) = loading
    {
        outcome.lacks = Some(refused.why);
        return outcome;
    }
    let known = refusal(series, part.name);
    let lines = text.lines().map(str::trim_end);
    let begun = lines.skip_while(|line| *line != format!("vm: begin {}", part.name));
    let lines: Vec<&str> = begun.take_while(|line| *line != format!("vm: end {}", part.name)).collect();
    lines.iter().for_each(|line| outcome.take(line));
    // What did not run, has not passed.
    outcome.failed = part.cases.len().saturating_sub(outcome.passed);
    if outcome.failed > 0 {
        outcome.said = lines.iter().rev().take(30).rev().map(|line| (*line).to_owned()).collect();
    }
    if let Some(known) = known {
        outcome.refused_as(known.says, known.why);
    }
    outcome
}

/// The number before `word`.
fn number(text: &str, word: &str) -> Option<usize> {
    let part = text.split([';', '.']).find_map(|part| part.trim().strip_suffix(word));
    part.and_then(|number| number.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::super::parts::PARTS;
    use super::*;

    const SAID: &str = "vm: release 6.1\nvm: begin loading\r\ntest x ... budget: kernel 6.1\nbudget: program xdp 80 9 9\nok\n\
                        test result: ok. 1 passed; 0 failed; 0 ignored; finished in 6.57s\nvm: end loading\n";

    #[test]
    fn what_ran_is_counted_and_what_did_not_has_failed() {
        let found = read(SAID, &PARTS[0], "x");
        assert_eq!((found.passed, found.failed, found.seconds), (1, 0, 6.57));
        assert_eq!(found.verified, BTreeMap::from([("xdp".to_owned(), 80)]));
        assert!(found.ok());
        let never = read(SAID, &PARTS[1], "x");
        assert_eq!((never.passed, never.failed, never.ok()), (0, 1, false));
    }

    #[test]
    fn a_known_refusal_is_one_only_while_the_kernel_says_so() {
        let refused = "vm: begin verdicts\nassertion failed: port 53\ntest result: FAILED. 0 passed; 1 failed\nvm: end verdicts\n";
        assert!(read(refused, &PARTS[2], "6.1").lacks.is_some());
        assert!(!read(refused, &PARTS[2], "newest").ok());
        assert!(!read(&refused.replace("53", "80"), &PARTS[2], "6.1").ok());
        assert!(!read(&SAID.replace("loading", "verdicts"), &PARTS[2], "6.1").ok());
    }
}
