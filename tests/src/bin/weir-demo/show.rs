//! Lives: weir-demo, what the person sees.
//! Called by: story.
//! May touch: standard output.
//! Never: colours anything that is not a terminal.

use std::env;
use std::io::{IsTerminal, stdout};
use std::time::Instant;

use serde::Serialize;
use weir_tests::harness::Record;

/// One step of the demo, and what came of it.
#[derive(Serialize)]
pub struct Finding {
    /// What was done.
    pub step: &'static str,
    /// What must be seen.
    pub expected: String,
    /// What was seen.
    pub observed: String,
    /// Whether they agree.
    pub ok: bool,
    /// The flow records that prove it.
    pub records: Vec<Record>,
}

/// Writes to the terminal.
pub struct Show {
    colour: bool,
}

impl Show {
    pub fn new() -> Show {
        Show { colour: stdout().is_terminal() && env::var_os("NO_COLOR").is_none() }
    }

    pub fn title(&self, text: &str) {
        println!("\n{}\n", self.paint("1", text));
    }

    /// Something is ready.
    pub fn done(&self, what: &str, since: Instant) {
        println!("  {} {what}  {}", self.paint("32", "ok"), self.time(since));
    }

    /// One step, as it happens.
    pub fn finding(&self, finding: &Finding, since: Instant) {
        let mark = self.mark(finding.ok);
        println!("  {mark} {}: {}  {}", self.paint("1", finding.step), finding.observed, self.time(since));
    }

    /// Everything once more: step, expected, observed, and the records that prove it.
    pub fn table(&self, findings: &[Finding]) {
        let width =
            |of: fn(&Finding) -> &str| findings.iter().map(|finding| of(finding).chars().count()).max().unwrap_or(0);
        let (step, expected) = (width(|finding| finding.step), width(|finding| &finding.expected));
        let head = format!("      {:step$}  {:expected$}  {}", "step", "expected", "observed");
        println!("\n{}", self.paint("1", &head));
        for finding in findings {
            let mark = self.mark(finding.ok);
            println!("  {mark:>2}  {:step$}  {:expected$}  {}", finding.step, finding.expected, finding.observed);
            finding.records.iter().for_each(|record| println!("        {}", self.paint("2", &record.to_string())));
        }
    }

    /// The last line.
    pub fn verdict(&self, ok: bool, since: Instant) {
        let text = if ok { "everything as expected" } else { "NOT as expected; the lines marked NO say where" };
        println!("\n{}  {}", self.paint(if ok { "1;32" } else { "1;31" }, text), self.time(since));
    }

    fn mark(&self, ok: bool) -> String {
        if ok { self.paint("32", "ok") } else { self.paint("1;31", "NO") }
    }

    fn time(&self, since: Instant) -> String {
        self.paint("2", &format!("({:.1} s)", since.elapsed().as_secs_f64()))
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
