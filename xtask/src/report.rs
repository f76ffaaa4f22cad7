//! Lives: xtask, how a task says what it found.
//! Called by: every task that reports.
//! May touch: stdout and the file given by `--json`.
//! Never: says in one form what it does not say in the other.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

/// What a task that consists of steps found.
#[derive(Serialize)]
pub struct Report {
    /// The task's name.
    pub task: &'static str,
    /// Whether every step passed.
    pub ok: bool,
    /// Wall time of the whole task.
    pub seconds: f64,
    /// The steps, in the order they ran.
    pub steps: Vec<Step>,
}

/// One step of a task.
#[derive(Serialize)]
pub struct Step {
    /// What was checked or brought.
    pub name: String,
    /// Whether it passed.
    pub ok: bool,
    /// Wall time.
    pub seconds: f64,
    /// What was found, or what is wrong and what to do.
    pub detail: String,
}

impl Report {
    /// Sums steps up.
    pub fn new(task: &'static str, start: Instant, steps: Vec<Step>) -> Report {
        let ok = steps.iter().all(|step| step.ok);
        Report { task, ok, seconds: seconds(start.elapsed()), steps }
    }

    /// The names of the steps that failed.
    pub fn failed(&self) -> String {
        let failed: Vec<&str> = self.steps.iter().filter(|step| !step.ok).map(|step| step.name.as_str()).collect();
        failed.join(", ")
    }

    /// A table of steps and durations.
    pub fn print(&self) {
        let width = self.steps.iter().map(|step| step.name.len()).max().unwrap_or(0);
        println!();
        for step in &self.steps {
            let verdict = if step.ok { "ok" } else { "FAILED" };
            println!("  {:width$}  {verdict:6}  {:7.1} s  {}", step.name, step.seconds, step.detail);
        }
    }
}

impl Step {
    /// Names a step and how it ended.
    pub fn new(name: impl Into<String>, ok: bool, start: Instant, detail: impl Into<String>) -> Step {
        Step { name: name.into(), ok, seconds: seconds(start.elapsed()), detail: detail.into() }
    }
}

/// Seconds to the millisecond, for JSON.
pub fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}

/// Writes `value` where `--json` says, if it was given.
pub fn write_json(file: Option<&Path>, value: &impl Serialize) -> Result<()> {
    let Some(file) = file else { return Ok(()) };
    let mut text = serde_json::to_string_pretty(value).context("writing the report as JSON")?;
    text.push('\n');
    fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}
