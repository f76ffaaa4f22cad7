//! Lives: weir-conformance.
//! Called by: main.
//! May touch: standard output, the report file.
//! Never: counts a case as passed that was not asked anything.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

/// How one case or manifest went.
#[derive(Debug, Default, Serialize)]
pub struct Outcome {
    pub name: String,
    /// Questions asked.
    pub asked: usize,
    /// SCTP questions that the tables answer more closed than the evaluator: they do not tell SCTP ports apart.
    pub closed_sctp: usize,
    /// Records that were looked for.
    pub records: usize,
    /// Questions that could not be asked here, by the reason.
    pub not_runnable: BTreeMap<String, usize>,
    /// What went wrong.
    pub failures: Vec<String>,
}

/// Failures shown for one case; the JSON report has all.
const SHOWN: usize = 10;

/// How all went.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    passed: usize,
    failed: usize,
    /// Cases of which no question could be asked here.
    not_runnable: usize,
    asked: usize,
    closed_sctp: usize,
    records: usize,
    /// Questions that could not be asked here, by the reason.
    questions_not_runnable: BTreeMap<String, usize>,
    live: bool,
    cases: Vec<Outcome>,
}

impl Report {
    /// Of cases on a running cluster.
    pub fn live() -> Self {
        Self { live: true, ..Self::default() }
    }

    pub fn is_empty(&self) -> bool {
        self.cases.is_empty()
    }

    /// Notes an outcome, and shows what went wrong.
    pub fn add(&mut self, mut outcome: Outcome) {
        if outcome.asked == 0 && outcome.failures.is_empty() && outcome.not_runnable.is_empty() {
            outcome.failures.push("it asks nothing".to_owned());
        }
        self.asked += outcome.asked;
        self.closed_sctp += outcome.closed_sctp;
        self.records += outcome.records;
        for (why, count) in &outcome.not_runnable {
            *self.questions_not_runnable.entry(why.clone()).or_default() += count;
        }
        if outcome.failures.is_empty() && outcome.asked == 0 {
            self.not_runnable += 1;
        } else if outcome.failures.is_empty() {
            self.passed += 1;
        } else {
            self.failed += 1;
            println!("FAILED {}", outcome.name);
            for failure in outcome.failures.iter().take(SHOWN) {
                println!("  {failure}");
            }
            if outcome.failures.len() > SHOWN {
                println!("  and {} more", outcome.failures.len() - SHOWN);
            }
        }
        self.cases.push(outcome);
    }

    pub fn write(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(file, text + "\n").with_context(|| file.display().to_string())
    }

    /// The last lines; whether all is well.
    pub fn finish(&self) -> bool {
        if self.live {
            return self.finish_live();
        }
        println!("{} questions asked, each from scratch and by increments", self.asked);
        if self.closed_sctp > 0 {
            println!("{} about SCTP ports are answered by the tables more closed than meant", self.closed_sctp);
        }
        println!("{} passed, {} failed", self.passed, self.failed);
        self.failed == 0
    }

    fn finish_live(&self) -> bool {
        println!("{} questions asked by traffic, {} records compared", self.asked, self.records);
        for (why, count) in &self.questions_not_runnable {
            println!("{count} questions not runnable, {why}");
        }
        println!("{} passed, {} failed, {} not runnable", self.passed, self.failed, self.not_runnable);
        self.failed == 0
    }
}
