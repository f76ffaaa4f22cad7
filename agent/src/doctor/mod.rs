//! Lives: weir-agent, `--doctor`.
//! Called by: `main`; `weirctl doctor` and `weirctl support-bundle` run that.
//! May touch: reads the host; what can only be found out by doing it is done in a cgroup and a namespace of the doctor's own
//!   (`kernel::preflight`).
//! Never: changes anything, takes the agent's locks, needs an agent or a usable configuration; shows a value of a faulty
//!   configuration, a key, or the command line of a process: reports are pasted into tickets.

mod certificates;
mod facts;
mod host;
mod listeners;
mod neighbours;
mod others;
mod policy;
mod programs;

use std::fmt;

use serde::Serialize;

use crate::config::{self, Args, Config, Fault};

/// How a check ended, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Not looked at, for the reason given.
    Skipped,
    /// As it should be.
    Ok,
    /// The agent works, and something is worth knowing.
    Warn,
    /// The agent would not start, or would not enforce all it should.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Its name, which scripts may look for.
    pub name: &'static str,
    /// How it ended.
    pub outcome: Outcome,
    /// What was found; several lines where the kernel's verifier speaks.
    pub found: String,
    /// What to do about it, in one line; empty where nothing is to be done.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub remedy: String,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Outcome::Ok, found, "")
    }

    fn warn(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(name, Outcome::Warn, found, remedy)
    }

    fn fail(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(name, Outcome::Fail, found, remedy)
    }

    fn skipped(name: &'static str, why: impl Into<String>) -> Self {
        Self::new(name, Outcome::Skipped, why, "")
    }

    fn new(name: &'static str, outcome: Outcome, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, outcome, found: found.into(), remedy: remedy.into() }
    }
}

/// Everything that was looked at.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The agent's version.
    pub version: &'static str,
    /// The node's name, where the configuration is usable.
    pub node: Option<String>,
    /// What was looked at, in the order in which a start needs it.
    pub checks: Vec<Check>,
    /// What a support bundle needs to know and no check judges.
    pub facts: facts::Facts,
}

impl Report {
    /// Whether an agent would start here and enforce.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.checks.iter().all(|check| check.outcome != Outcome::Fail)
    }
}

/// Looks at everything. Takes a few seconds: the kernel verifies every program.
#[must_use]
pub fn examine(args: &Args) -> Report {
    let config = config::load(args);
    let running = config.as_ref().map(others::find).unwrap_or_default();
    let mut checks = vec![configuration(&config)];
    let usable = config.as_ref().ok();
    checks.extend(host::checks(running.pid()));
    let (tried, tags) = programs::checks(usable);
    checks.extend(tried);
    if let Some(config) = usable {
        let ours = neighbours::Ours::new(tags, running.pid());
        checks.extend(places(config, &running, &ours));
    }
    let node = usable.map(|config| config.node.clone());
    let facts = facts::gather(usable, &running);
    Report { version: env!("CARGO_PKG_VERSION"), node, checks, facts }
}

/// What depends on the configuration.
fn places(config: &Config, running: &others::Running, ours: &neighbours::Ours) -> Vec<Check> {
    let documents = policy::read(config);
    let mut checks = vec![others::check(running, config), host::state_dir(&config.state_dir), host::bpffs(config)];
    checks.extend(policy::checks(&documents, config));
    checks.push(host::open_files(running.pid(), documents.workloads()));
    checks.push(neighbours::interfaces(config, ours));
    checks.push(neighbours::cgroups(&config.cgroup_root, ours));
    checks.extend(listeners::checks(config, running));
    checks.extend(certificates::checks(config));
    checks
}

fn configuration(config: &Result<Config, Vec<Fault>>) -> Check {
    match config {
        Ok(_) => Check::ok("configuration", "usable"),
        Err(faults) => Check::fail(
            "configuration",
            format!("{}; what depends on it was not looked at", places_of(faults)),
            "weir-agent --check shows each fault with its value",
        ),
    }
}

/// Where faults are. Not what is written there: it could be anything.
fn places_of(faults: &[Fault]) -> String {
    const SHOWN: usize = 5;
    let place = |fault: &Fault| match (fault.line, fault.field.as_str()) {
        (0, "") => fault.source.clone(),
        (0, field) => format!("{}: {field}", fault.source),
        (line, _) => format!("{}:{line}", fault.source),
    };
    let mut shown: Vec<String> = faults.iter().take(SHOWN).map(place).collect();
    if faults.len() > SHOWN {
        shown.push("...".to_owned());
    }
    let plural = if faults.len() == 1 { "" } else { "s" };
    format!("{} fault{plural} at {}", faults.len(), shown.join(", "))
}

impl Outcome {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
            Self::Skipped => "skipped",
        }
    }
}

/// For people: a line for each check, what to do about it below.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
        for Check { name, outcome, found, remedy } in &self.checks {
            let found = found.replace('\n', "\n    ");
            writeln!(f, "{:<8} {name:<width$}  {found}", outcome.word())?;
            if !remedy.is_empty() {
                writeln!(f, "    what to do: {remedy}")?;
            }
        }
        let count = |wanted| self.checks.iter().filter(|check| check.outcome == wanted).count();
        let (failed, warned) = (count(Outcome::Fail), count(Outcome::Warn));
        writeln!(f, "{} checks, {failed} failed, {warned} warnings", self.checks.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_faulty_configuration_is_named_by_place_and_none_of_its_values_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.yaml");
        std::fs::write(&path, "cgroupRoot: /w\npassword: CANARY\nCANARY2: 1\nxdpMode: CANARY3\n").unwrap();
        let args = Args { config: Some(path), ..Args::default() };
        let check = configuration(&config::load(&args));
        assert_eq!(check.outcome, Outcome::Fail);
        assert!(check.found.contains("3 faults") && check.found.contains("agent.yaml:4"), "{check:?}");
        assert!(!check.found.contains("CANARY"), "{check:?}");
    }

    #[test]
    fn only_a_failure_keeps_a_report_from_passing() {
        let report = |checks| Report { version: "1", node: None, checks, facts: facts::Facts::default() };
        let fine = vec![Check::ok("a", "x"), Check::warn("b", "y", "z"), Check::skipped("c", "w")];
        let failed = vec![Check::fail("program", "refused\nR1 is bad", "upgrade")];
        assert!(report(fine.clone()).passes() && !report(failed.clone()).passes());
        let shown = report([fine, failed].concat()).to_string();
        let expected = "ok       a        x\nwarn     b        y\n    what to do: z\nskipped  c        w\n\
                        fail     program  refused\n    R1 is bad\n    what to do: upgrade\n4 checks, 1 failed, 1 warnings\n";
        assert_eq!(shown, expected);
    }
}
