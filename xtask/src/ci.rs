//! Lives: xtask, the task `ci`: what a submission is judged by.
//! Called by: `.ci/run`, and a person who wants to know beforehand.
//! May touch: nothing itself; its steps do.
//! Never: stops at the first failure, except when setup failed; ends without the closing line.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use serde::Serialize;

use crate::paths::Repo;
use crate::report::{Report, Step, write_json};
use crate::{chart, layers, lint, setup, test, vm};

/// The table, and what each step found.
#[derive(Serialize)]
struct Whole {
    #[serde(flatten)]
    summary: Report,
    setup: Report,
    lint: Option<Report>,
    layers: Option<layers::Findings>,
    chart: Option<Report>,
    test: Option<test::Tally>,
    vm: Option<vm::Findings>,
}

/// `cargo xtask ci`.
pub fn task(repo: &Repo, json: Option<&Path>) -> Result<bool> {
    let start = Instant::now();
    let mut steps = Vec::new();
    let setup = setup::run(repo, setup::For::Ci)?;
    steps.push(Step::new("setup", setup.ok, start, setup.failed()));
    let mut whole = Whole {
        summary: Report::new("ci", start, Vec::new()),
        setup,
        lint: None,
        layers: None,
        chart: None,
        test: None,
        vm: None,
    };
    if whole.setup.ok {
        let at = Instant::now();
        whole.lint = judged("lint", at, lint::run(repo), |lint| (lint.ok, lint.failed()), &mut steps);
        let at = Instant::now();
        let found = layers::check(repo);
        if let Ok(findings) = &found {
            findings.print();
        }
        whole.layers = judged("layers", at, found, |found| (found.ok(), found.summary()), &mut steps);
        let at = Instant::now();
        whole.chart = judged("chart", at, chart::run(repo), |chart| (chart.ok, chart.failed()), &mut steps);
        let at = Instant::now();
        let tally = test::run(repo, &[]);
        whole.test = judged("test", at, tally, |tally| (tally.ok(), tally.closing()), &mut steps);
        let at = Instant::now();
        whole.vm = judged("vm", at, vm::for_ci(repo), |found| (found.ok(), found.summary()), &mut steps);
    }
    whole.summary = Report::new("ci", start, steps);
    whole.summary.print();
    write_json(json, &whole)?;
    println!("\n{}", closing(&whole.summary, whole.test.as_ref()));
    Ok(whole.summary.ok)
}

/// Notes how a step ended; one that could not even run has failed, and its reason is in the table.
fn judged<T>(
    name: &str,
    start: Instant,
    found: Result<T>,
    verdict: impl FnOnce(&T) -> (bool, String),
    steps: &mut Vec<Step>,
) -> Option<T> {
    match found {
        Ok(value) => {
            let (ok, detail) = verdict(&value);
            steps.push(Step::new(name, ok, start, detail));
            Some(value)
        }
        Err(error) => {
            steps.push(Step::new(name, false, start, format!("{error:#}")));
            None
        }
    }
}

/// The tests' closing line, where each other step that failed counts as one failure more.
fn closing(summary: &Report, test: Option<&test::Tally>) -> String {
    let others = summary.steps.iter().filter(|step| !step.ok && (step.name != "test" || test.is_none())).count();
    let (passed, failed) = test.map_or((0, 0), |tally| (tally.passed(), tally.failed()));
    format!("{passed} passed, {} failed", failed + others as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(steps: &[(&str, bool)]) -> Report {
        let start = Instant::now();
        Report::new("ci", start, steps.iter().map(|(name, ok)| Step::new(*name, *ok, start, "")).collect())
    }

    #[test]
    fn a_step_that_failed_shows_in_the_closing_line() {
        let ran = test::Tally::never_ran();
        let rows = [
            (summary(&[("setup", false)]), None, "0 passed, 1 failed"),
            (
                summary(&[("setup", true), ("lint", false), ("layers", false), ("test", false)]),
                None,
                "0 passed, 3 failed",
            ),
            (summary(&[("lint", false), ("test", false)]), Some(&ran), "0 passed, 2 failed"),
            (summary(&[("lint", true), ("test", false)]), Some(&ran), "0 passed, 1 failed"),
        ];
        for (summary, tally, line) in rows {
            assert_eq!(closing(&summary, tally), line);
        }
    }
}
