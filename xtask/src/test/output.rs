//! Lives: xtask, reading what `cargo test` prints.
//! Called by: test, line by line while the tests run.
//! May touch: nothing.
//! Never: counts a suite that ended without its result line, or a test that was skipped unasked, as good.

use serde::Serialize;

/// Tests that may be marked as ignored, with the reason. Everything else that did not run has failed.
const MAY_BE_IGNORED: [(&str, &str); 7] = [
    (
        "attacks_limits::crowding_computed_and_measured",
        "prints the table of docs/limits.md; a smaller flood beside it is judged",
    ),
    (
        "bench_sets::address_sets_beside_the_kernels_trie",
        "a measurement for people; its answers are judged by the tests of sets",
    ),
    ("sets::single_entries_among_a_million", "a measurement for people, which proves nothing by passing"),
    ("slots::one_rule_among_30000_addresses", "a measurement for people, which proves nothing by passing"),
    ("budget::what_every_program_takes", "the figures for `cargo xtask budget`; a test beside it judges them"),
    (
        "adversarial 49: at_length_thirty_thousand_cgroups_come_and_go",
        "takes minutes; a shorter one beside it runs always",
    ),
    (
        "attacks_sources::adversarial_24_at_length_forged_frames_open_no_way_back_for_a_minute",
        "takes a minute; a shorter one beside it runs always",
    ),
];

/// What all suites together said.
#[derive(Default, Serialize)]
pub struct Tally {
    suites: Vec<Suite>,
    passed: u64,
    failed: u64,
    ignored: u64,
    seconds: f64,
}

/// One test program, or the documentation tests of one crate.
#[derive(Default, Debug, PartialEq, Serialize)]
pub struct Suite {
    name: String,
    passed: u64,
    failed: u64,
    ignored: u64,
    seconds: f64,
    /// Names of the tests that failed.
    failures: Vec<String>,
    /// What the harness said of each failure after all tests, in the order it did: its headline, then what the test printed.
    reasons: Vec<Vec<String>>,
    /// Names of the tests that were skipped without being listed above.
    skipped: Vec<String>,
    /// Whether its result line was seen; one that crashed prints none.
    finished: bool,
}

impl Tally {
    /// The tests could not even start, which is one failure.
    pub fn never_ran() -> Tally {
        Tally { failed: 1, ..Tally::default() }
    }

    /// Takes in one line of output.
    pub fn line(&mut self, line: &str) {
        if let Some(name) = suite_name(line) {
            self.suites.push(Suite { name, ..Suite::default() });
        } else if let Some(suite) = self.suites.last_mut().filter(|suite| !suite.finished) {
            suite.line(line.trim_end());
        }
    }

    /// Sums up. `success` is cargo's own opinion, which counts when the lines show no failure.
    pub fn close(&mut self, success: bool, seconds: f64) {
        for suite in self.suites.iter_mut().filter(|suite| !suite.finished) {
            suite.failed += 1;
            suite.failures.push("(ended without a result: crashed, killed, or not a test program)".to_owned());
        }
        self.passed = self.suites.iter().map(|suite| suite.passed).sum();
        self.failed = self.suites.iter().map(|suite| suite.failed + suite.skipped.len() as u64).sum();
        self.ignored = self.suites.iter().map(|suite| suite.ignored).sum();
        if !success && self.failed == 0 {
            self.failed = 1;
        }
        self.seconds = seconds;
    }

    /// Whether at least one test ran and none failed.
    pub fn ok(&self) -> bool {
        self.failed == 0 && self.passed > 0
    }

    /// How many passed.
    pub fn passed(&self) -> u64 {
        self.passed
    }

    /// How many failed, unlisted skips and crashed suites included.
    pub fn failed(&self) -> u64 {
        self.failed
    }

    /// The line that people and machines look for at the end.
    pub fn closing(&self) -> String {
        let closing = format!("{} passed, {} failed", self.passed, self.failed);
        if self.ignored == 0 { closing } else { format!("{closing}, {} skipped", self.ignored) }
    }

    /// Everything that is not as it should be, once more at the end where it is found, with its reason: whoever reads the end of
    /// a long log on another machine may have nothing else.
    pub fn print(&self) {
        for suite in &self.suites {
            for test in &suite.failures {
                println!("FAILED   {}: {test}", suite.name);
                suite.reason(test).iter().for_each(|line| println!("         {line}"));
            }
            suite.skipped.iter().for_each(|test| println!("SKIPPED  {}: {test} (counts as failed)", suite.name));
        }
        if self.passed + self.failed == 0 {
            println!("no test ran: does the filter match a name?");
        }
    }
}

/// How many lines of a failure's reason are repeated, and how many characters of each.
const REASON: (usize, usize) = (8, 300);

impl Suite {
    /// What is known of why a test failed.
    fn reason(&self, test: &str) -> &[String] {
        let is_of = |reason: &&Vec<String>| reason.first().is_some_and(|headline| headline == test);
        self.reasons.iter().find(is_of).and_then(|reason| reason.get(1..)).unwrap_or_default()
    }

    fn line(&mut self, line: &str) {
        if let Some(headline) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" ----")) {
            self.reasons.push(vec![headline.trim_end_matches(" stdout").to_owned()]);
        } else if line == "failures:" {
            // The list of names that comes after them all is nobody's reason.
            self.reasons.push(Vec::new());
        } else if let Some(reason) = self.reasons.last_mut()
            && reason.len() <= REASON.0
            && !line.trim().is_empty()
        {
            reason.push(line.chars().take(REASON.1).collect());
        }
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.result(counts);
        } else if let Some((name, end)) = line.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... ")) {
            // Some harnesses make a column of the names.
            let name = name.trim_end();
            if end.starts_with("FAILED") {
                self.failures.push(name.to_owned());
            } else if end.starts_with("ignored") && !MAY_BE_IGNORED.iter().any(|(listed, _)| *listed == name) {
                self.skipped.push(name.to_owned());
            }
        }
    }

    /// `ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.05s`
    fn result(&mut self, counts: &str) {
        for part in counts.split(['.', ';']).map(str::trim) {
            let Some((number, word)) = part.split_once(' ') else { continue };
            let Ok(number) = number.parse() else { continue };
            match word {
                "passed" => self.passed = number,
                "failed" => self.failed = number,
                "ignored" => self.ignored = number,
                _ => {}
            }
        }
        let time = counts.rsplit_once("finished in ").and_then(|(_, time)| time.trim_end_matches('s').parse().ok());
        self.seconds = time.unwrap_or_default();
        self.finished = true;
    }
}

/// Reads `     Running tests/live.rs (target/debug/deps/live-0a1b)` and `   Doc-tests weir_common`.
fn suite_name(line: &str) -> Option<String> {
    let line = line.trim_end();
    if let Some(name) = line.strip_prefix("   Doc-tests ") {
        return Some(format!("{name} (documentation)"));
    }
    let (what, program) = line.strip_prefix("     Running ")?.strip_suffix(')')?.rsplit_once(" (")?;
    let (_, file) = program.rsplit_once("/deps/")?;
    let name = file.rsplit_once('-').map_or(file, |(name, _)| name);
    Some(format!("{name} ({})", what.trim_start_matches("unittests ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "     Running unittests src/lib.rs (target/debug/deps/weir_common-0a1b2c)

running 2 tests
test gcra::tests::a_burst_is_exact ... ok
test decide::tests::default_is_deny ... ok

test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.25s

   Doc-tests weir_common

running 0 tests

test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

    fn read(text: &str, success: bool) -> Tally {
        let mut tally = Tally::default();
        text.lines().for_each(|line| tally.line(line));
        tally.close(success, 1.0);
        tally
    }

    #[test]
    fn suites_are_named_and_summed() {
        let tally = read(GOOD, true);
        let names: Vec<&str> = tally.suites.iter().map(|suite| suite.name.as_str()).collect();
        assert_eq!(names, ["weir_common (src/lib.rs)", "weir_common (documentation)"]);
        assert_eq!(tally.suites[0].seconds, 0.25);
        assert_eq!(tally.closing(), "2 passed, 0 failed");
        assert!(tally.ok());
    }

    #[test]
    fn a_failed_test_is_named() {
        let text = "     Running tests/live.rs (/t/debug/deps/live-77)\n\
                    test connect ... FAILED\ntest polite ... ok\n\
                    test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 2.00s\n";
        let tally = read(text, false);
        assert_eq!(tally.suites[0].failures, ["connect"]);
        assert_eq!(tally.closing(), "1 passed, 1 failed");
        assert!(!tally.ok());
    }

    #[test]
    fn the_reason_of_a_failure_is_kept_with_it() {
        let text = "     Running tests/live.rs (/t/debug/deps/live-77)\n\
                    test connect ... FAILED\ntest polite ... FAILED\n\nfailures:\n\n\
                    ---- connect ----\nrefused by nobody\n  log: late\n\n---- polite stdout ----\n\nassertion failed: a\n\n\
                    failures:\n    connect\n    polite\n\n\
                    test result: FAILED. 0 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 2.00s\n";
        let tally = read(text, false);
        assert_eq!(tally.suites[0].reason("connect"), ["refused by nobody", "  log: late"]);
        assert_eq!(tally.suites[0].reason("polite"), ["assertion failed: a"]);
        assert!(tally.suites[0].reason("other").is_empty());
        assert_eq!(tally.closing(), "0 passed, 2 failed");
    }

    #[test]
    fn a_suite_that_crashes_has_failed() {
        let tally = read(&format!("{GOOD}     Running tests/live.rs (/t/debug/deps/live-77)\ntest connect ... "), true);
        assert_eq!(tally.closing(), "2 passed, 1 failed");
        assert_eq!(tally.suites[2].failures.len(), 1);
    }

    #[test]
    fn an_unlisted_skip_is_a_failure() {
        let text = "     Running tests/live.rs (/t/debug/deps/live-77)\n\
                    test slow ... ignored, takes a day\ntest quick ... ok\n\
                    test result: ok. 1 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";
        let tally = read(text, true);
        assert_eq!(tally.closing(), "1 passed, 1 failed, 1 skipped");
        assert!(!tally.ok());
    }

    #[test]
    fn cargo_failing_without_a_failed_test_is_a_failure() {
        assert_eq!(read(GOOD, false).closing(), "2 passed, 1 failed");
    }

    #[test]
    fn no_test_at_all_is_not_good() {
        let tally = read("", true);
        assert_eq!(tally.closing(), "0 passed, 0 failed");
        assert!(!tally.ok());
    }
}
