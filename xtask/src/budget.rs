//! Lives: xtask, the task `budget`: what the kernel programs take, recorded in ebpf/budget.toml.
//! Called by: a person whose change made a program grow, shrink, come or go.
//! May touch: ebpf/budget.toml.
//! Never: raises a number without a reason; loads programs itself (the in-kernel tests do).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::paths::Repo;
use crate::{process, setup};

/// Shown below `cargo xtask budget --help`.
pub const HELP: &str = "\
The verifier looks at a program's every path and refuses a million instructions. A test fails when a program needs over 10 %
more than is recorded here. Without a reason numbers only fall, so that small growth adds up until somebody gives one.

Examples:
  cargo xtask budget                                     old and new, and what fell is recorded
  cargo xtask budget --reason 'ingress checks who sent'  what grew is recorded too, with this reason";

/// `cargo xtask budget`.
#[derive(Args)]
pub struct Options {
    /// Why programs grew: records the larger numbers as well
    #[arg(long, value_name = "WHY")]
    reason: Option<String>,
}

const FILE: &str = "ebpf/budget.toml";
/// The test that says what every program takes.
const FIGURES: &str = "budget::what_every_program_takes";

/// ebpf/budget.toml.
#[derive(Debug, Default, PartialEq, Deserialize, Serialize)]
struct Budget {
    /// Series of the kernel whose verifier counted.
    kernel: String,
    programs: BTreeMap<String, Program>,
}

/// What one program takes.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
struct Program {
    verified: u32,
    instructions: u32,
    machine_bytes: u32,
    reason: String,
}

/// Measures, prints old and new, and writes the file; `false` when something grew and no reason was given.
pub fn task(repo: &Repo, options: &Options) -> Result<bool> {
    setup::demand(repo, setup::For::Live)?;
    let path = repo.root().join(FILE);
    let old = match fs::read_to_string(&path) {
        Ok(text) => toml::from_str(&text).with_context(|| format!("reading {FILE}"))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Budget::default(),
        Err(error) => return Err(error).context(format!("reading {FILE}")),
    };
    let mut test = process::cargo(repo);
    test.args(["test", "--locked", "--package", "weir-tests", "--test", "kernel_runs", "--"]);
    test.args(["--ignored", "--exact", "--nocapture", FIGURES]);
    let found = parse(&process::capture(&mut test).context("loading the programs")?)?;
    let (new, held_back) = merge(&old, &found, options.reason.as_deref());
    print(&old, &found);
    fs::write(&path, text(&new)).with_context(|| format!("writing {FILE}"))?;
    if held_back.is_empty() {
        println!("\n{FILE} says so now");
        return Ok(true);
    }
    println!("\nnot recorded, for want of a reason (--reason WHY): {}", held_back.join(", "));
    Ok(false)
}

/// Reads the lines of the test.
fn parse(output: &str) -> Result<Budget> {
    let mut budget = Budget::default();
    for line in output.lines().filter_map(|line| line.split_once("budget: ").map(|(_, rest)| rest)) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["kernel", series] => budget.kernel = (*series).to_owned(),
            ["program", name, numbers @ ..] => {
                let numbers: Vec<u32> = numbers.iter().filter_map(|number| number.parse().ok()).collect();
                let [verified, instructions, machine_bytes] = numbers.as_slice() else { bail!("unread: {line}") };
                let (verified, instructions, machine_bytes) = (*verified, *instructions, *machine_bytes);
                let program = Program { verified, instructions, machine_bytes, reason: String::new() };
                budget.programs.insert((*name).to_owned(), program);
            }
            _ => bail!("unread: {line}"),
        }
    }
    if budget.programs.is_empty() {
        bail!("the test {FIGURES} said nothing; is its name still that?");
    }
    Ok(budget)
}

/// What to record, and the names of programs that grew without a reason. Another kernel's figures are not compared.
fn merge(old: &Budget, found: &Budget, reason: Option<&str>) -> (Budget, Vec<String>) {
    let mut held_back = Vec::new();
    let mut programs = BTreeMap::new();
    for (name, now) in &found.programs {
        let before = old.programs.get(name).filter(|_| old.kernel == found.kernel);
        let grew = before.is_none_or(|before| now.verified > before.verified);
        let kept = match (grew, reason, before) {
            (true, Some(reason), _) => Program { reason: reason.to_owned(), ..now.clone() },
            (false, _, Some(before)) => Program { reason: before.reason.clone(), ..now.clone() },
            (_, None, Some(before)) => {
                held_back.push(name.clone());
                before.clone()
            }
            (_, _, None) => Program { reason: "first recorded".to_owned(), ..now.clone() },
        };
        programs.insert(name.clone(), kept);
    }
    (Budget { kernel: found.kernel.clone(), programs }, held_back)
}

fn print(old: &Budget, found: &Budget) {
    println!(
        "{:<18} {:>9} {:>9} {:>7}  {:>12} {:>13}",
        "", "recorded", "verified", "", "instructions", "machine bytes"
    );
    for (name, now) in &found.programs {
        let before = old.programs.get(name).map_or(0, |before| before.verified);
        let grown = if before == 0 { "new".to_owned() } else { percent(before, now.verified) };
        println!(
            "{name:<18} {before:>9} {:>9} {grown:>7}  {:>12} {:>13}",
            now.verified, now.instructions, now.machine_bytes
        );
    }
    for name in old.programs.keys().filter(|name| !found.programs.contains_key(*name)) {
        println!("{name:<18} is no more");
    }
}

fn percent(before: u32, now: u32) -> String {
    format!("{:+.1}%", (f64::from(now) / f64::from(before) - 1.0) * 100.0)
}

/// The file. Made here and not by a serializer, for the sake of its first lines and one line a number.
fn text(budget: &Budget) -> String {
    let mut text = format!(
        "# What each kernel program takes: instructions the verifier looked at, the program's own, bytes of machine code.\n\
         # Written by `cargo xtask budget`. A test fails when `verified` grows by over 10 %: give a reason, and commit both.\n\
         kernel = \"{}\"\n",
        budget.kernel
    );
    for (name, program) in &budget.programs {
        let Program { verified, instructions, machine_bytes, reason } = program;
        let reason = reason.replace('\\', "\\\\").replace('"', "\\\"");
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\n[programs.{name}]\nverified = {verified}\ninstructions = {instructions}\n\
             machine_bytes = {machine_bytes}\nreason = \"{reason}\"\n"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(programs: &[(&str, u32, &str)]) -> Budget {
        let program = |verified, reason: &str| Program {
            verified,
            instructions: verified / 10,
            machine_bytes: verified,
            reason: reason.to_owned(),
        };
        let programs = programs.iter().map(|(name, verified, reason)| ((*name).to_owned(), program(*verified, reason)));
        Budget { kernel: "6.18".to_owned(), programs: programs.collect() }
    }

    #[test]
    fn numbers_fall_by_themselves_and_rise_only_for_a_reason() {
        let old = budget(&[("falls", 100, "old"), ("rises", 100, "old"), ("goes", 1, "old")]);
        let found = budget(&[("falls", 90, ""), ("rises", 101, ""), ("comes", 5, "")]);
        let (new, held_back) = merge(&old, &found, None);
        assert_eq!(new, budget(&[("falls", 90, "old"), ("rises", 100, "old"), ("comes", 5, "first recorded")]));
        assert_eq!(held_back, ["rises"]);
        let (new, held_back) = merge(&old, &found, Some("why"));
        assert_eq!(new, budget(&[("falls", 90, "old"), ("rises", 101, "why"), ("comes", 5, "why")]));
        assert!(held_back.is_empty());
    }

    #[test]
    fn another_kernels_figures_are_recorded_as_they_are() {
        let old = Budget { kernel: "6.1".to_owned(), ..budget(&[("a", 1, "old")]) };
        let (new, held_back) = merge(&old, &budget(&[("a", 2, "")]), None);
        assert_eq!((new, held_back.len()), (budget(&[("a", 2, "first recorded")]), 0));
    }

    #[test]
    fn what_is_written_is_read_again() {
        let written = budget(&[("a", 2, "a \"reason\" with \\"), ("b", 30, "")]);
        assert_eq!(toml::from_str::<Budget>(&text(&written)).unwrap(), written);
    }

    #[test]
    fn the_tests_lines_are_found_among_others() {
        let output = "running 1 test\ntest x ... budget: kernel 6.18\nbudget: program a 20 2 20\nok\n";
        assert_eq!(parse(output).unwrap(), budget(&[("a", 20, "")]));
        assert!(parse("running 0 tests\n").is_err());
        assert!(parse("budget: program a 20 2\n").is_err());
    }
}
