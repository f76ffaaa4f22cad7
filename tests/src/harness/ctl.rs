//! Lives: weir-tests, weirctl as a person would call it.
//! Called by: harness, live tests, the demo.
//! May touch: the program weirctl.
//! Never: speaks gRPC itself; what weirctl cannot do, these tests cannot either.

use std::io::Write;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::de::DeserializeOwned;

use super::{Harness, HarnessError, Record, Status};
use crate::process::{deadline, program};

/// How long records may take from the kernel to the collector.
pub const ARRIVE_WITHIN: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(50);

/// What one call of weirctl gave.
#[derive(Clone, Debug)]
pub struct Said {
    /// The arguments.
    pub arguments: String,
    /// The exit status.
    pub status: ExitStatus,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// Standard output of a call that must have succeeded.
    ///
    /// # Errors
    /// When it did not.
    pub fn ok(self) -> Result<String, HarnessError> {
        if self.status.success() {
            return Ok(self.out);
        }
        let said = format!("{}{}", self.out, self.err);
        Err(HarnessError::Ctl { arguments: self.arguments, status: self.status.to_string(), said })
    }

    /// Standard output of a call that must have succeeded, as one JSON value.
    ///
    /// # Errors
    /// When it did not, or the output is something else.
    pub fn json<T: DeserializeOwned>(self) -> Result<T, HarnessError> {
        let arguments = self.arguments.clone();
        let out = self.ok()?;
        serde_json::from_str(&out).map_err(|source| HarnessError::Output { arguments, source, said: out })
    }
}

impl Harness {
    /// weirctl with the sockets of this world.
    #[must_use]
    pub fn ctl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program("weirctl"));
        command.env("WEIR_AGENT", format!("unix:{}", self.agent_socket().display()));
        command.env("WEIR_COLLECTOR", format!("unix:{}", self.collector_socket().display()));
        command.args(arguments);
        command
    }

    /// Calls weirctl, with `input` as its standard input.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn ctl(&self, arguments: &[&str], input: &str) -> Result<Said, HarnessError> {
        call(self.ctl_command(arguments), arguments, input)
    }

    /// Makes `documents` the whole of the policy; the generation then in force.
    ///
    /// # Errors
    /// When they are refused.
    pub fn apply(&self, documents: &str) -> Result<u64, HarnessError> {
        let reply: Applied = self.ctl(&["apply", "--replace-all", "-o", "json", "-f", "-"], documents)?.json()?;
        Ok(reply.generation)
    }

    /// Adds or changes `documents`; the generation then in force.
    ///
    /// # Errors
    /// When they are refused.
    pub fn add(&self, documents: &str) -> Result<u64, HarnessError> {
        let reply: Applied = self.ctl(&["apply", "-o", "json", "-f", "-"], documents)?.json()?;
        Ok(reply.generation)
    }

    /// What `weirctl status` says.
    ///
    /// # Errors
    /// When one of the two programs does not answer.
    pub fn status(&self) -> Result<Status, HarnessError> {
        self.ctl(&["status", "-o", "json"], "")?.json()
    }

    /// Every record the collector has.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn records(&self) -> Result<Vec<Record>, HarnessError> {
        self.observed(&["observe", "-o", "json"])
    }

    fn observed(&self, arguments: &[&str]) -> Result<Vec<Record>, HarnessError> {
        let said = self.ctl(arguments, "")?;
        let arguments = said.arguments.clone();
        let out = said.ok()?;
        let lines = out.lines().filter(|line| !line.is_empty());
        lines
            .map(|line| {
                serde_json::from_str(line).map_err(|source| HarnessError::Output {
                    arguments: arguments.clone(),
                    source,
                    said: line.to_owned(),
                })
            })
            .collect()
    }

    /// Every record since `mark` that the collector has.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn records_since(&self, mark: Mark) -> Result<Vec<Record>, HarnessError> {
        // A stage that many tests have shared has a long story: the collector leaves out what is older.
        let since = mark.0.to_string();
        let records = self.observed(&["observe", "-o", "json", "--since", &since])?;
        Ok(records.into_iter().filter(|record| record.time >= mark.0).collect())
    }

    /// Waits until a record since `mark` fits; what it is called names it in the error, together with those that came.
    ///
    /// # Errors
    /// When none comes in time.
    pub fn record(&self, mark: Mark, what: &str, fits: impl Fn(&Record) -> bool) -> Result<Record, HarnessError> {
        let deadline = deadline(ARRIVE_WITHIN);
        loop {
            let since = self.records_since(mark)?;
            if let Some(found) = since.iter().find(|record| fits(record)) {
                return Ok(found.clone());
            }
            if Instant::now() > deadline {
                let came: String = since.iter().map(|record| format!("  {record}\n")).collect();
                let what = format!("a record of {what}; these came:\n{came}");
                return Err(HarnessError::Waited { what, logs: String::new() });
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Whether the collector answers.
    pub(super) fn collector_answers(&self) -> bool {
        self.ctl(&["observe", "--last", "1", "-o", "json"], "").is_ok_and(|said| said.status.success())
    }
}

/// A point in time, to tell the records of one step from those before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(Timestamp);

impl Mark {
    /// Now. Record times come from another clock, brought to the wall clock once: a little slack is due.
    #[must_use]
    pub fn now() -> Mark {
        Mark::before(Duration::from_millis(2))
    }

    /// So long ago.
    #[must_use]
    pub fn before(since: Duration) -> Mark {
        Mark(Timestamp::now().saturating_sub(since).unwrap_or_default())
    }
}

/// What `weirctl apply -o json` must at least say.
#[derive(serde::Deserialize)]
struct Applied {
    generation: u64,
}

/// Runs a weirctl command line to its end.
///
/// # Errors
/// When it cannot be started.
pub fn call(mut command: Command, arguments: &[&str], input: &str) -> Result<Said, HarnessError> {
    let name = command.get_program().display().to_string();
    let start = |source| HarnessError::Start { program: name.clone(), source };
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(start)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read its input ends all the same, and its status says how.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(start)?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let (out, err) = (text(output.stdout), text(output.stderr));
    Ok(Said { arguments: arguments.join(" "), status: output.status, out, err })
}
