//! Lives: weir-tests, a process that was started.
//! Called by: `World::start` and its kin.
//! May touch: that process and its log.
//! Never: leaves it running when dropped, unless told so.

use std::fs::File;
use std::io::BufReader;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::SOON;
use super::output::Output;
use crate::report::Report;
use crate::world::WorldError;

/// A process that was started, with what it has printed so far.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Child,
    log: PathBuf,
    output: Arc<Output>,
    left: bool,
}

impl Running {
    /// Starts `command`, reads its standard output as it comes, and keeps both outputs in a log in `folder`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: &str, mut command: Command, folder: &Path) -> Result<Running, WorldError> {
        let (log, file) = fresh_log(folder, name)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut running = Running::spawn(name, command, log, &file)?;
        if let Some(stdout) = running.child.stdout.take() {
            let output = Arc::clone(&running.output);
            thread::spawn(move || output.read(BufReader::new(stdout), file));
        }
        Ok(running)
    }

    /// Starts a program to talk with: its input and output are the caller's, what it says on standard error goes to the log.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_talking(
        name: &str,
        mut command: Command,
        folder: &Path,
    ) -> Result<(Running, ChildStdin, ChildStdout), WorldError> {
        let (log, file) = fresh_log(folder, name)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut running = Running::spawn(name, command, log, &file)?;
        running.output.close();
        match (running.child.stdin.take(), running.child.stdout.take()) {
            (Some(stdin), Some(stdout)) => Ok((running, stdin, stdout)),
            _ => Err(running.fault("was started without pipes".to_owned())),
        }
    }

    /// Starts a program that may outlive this one: both outputs go straight to the log.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_daemon(name: &str, mut command: Command, folder: &Path) -> Result<Running, WorldError> {
        let (log, file) = fresh_log(folder, name)?;
        command.stdin(Stdio::null()).stdout(file.try_clone().map_err(|source| lost("opening", &log, source))?);
        let running = Running::spawn(name, command, log, &file)?;
        running.output.close();
        Ok(running)
    }

    /// Its own process group: Ctrl-C is for us to handle.
    fn spawn(name: &str, mut command: Command, log: PathBuf, file: &File) -> Result<Running, WorldError> {
        let errors = file.try_clone().map_err(|source| lost("opening", &log, source))?;
        // A log ends with the message that matters, not with a page of frames.
        command.stderr(errors).process_group(0).env("RUST_BACKTRACE", "0");
        let program = Path::new(command.get_program()).to_path_buf();
        let child = command.spawn().map_err(|source| WorldError::Start { program, source })?;
        Ok(Running { name: name.to_owned(), child, log, output: Arc::default(), left: false })
    }

    /// The process's id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The file that both outputs go to.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Everything printed on standard output until now.
    #[must_use]
    pub fn text(&self) -> String {
        let printed = self.output.state.lock().unwrap_or_else(PoisonError::into_inner);
        printed.lines.join("\n")
    }

    /// Everything reported until now.
    #[must_use]
    pub fn reports(&self) -> Vec<Report> {
        self.output.state.lock().unwrap_or_else(PoisonError::into_inner).reports.clone()
    }

    /// Connections accepted until now.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.reports().iter().filter(|report| matches!(report, Report::Accepted { .. })).count()
    }

    /// Waits until a server listens on as many addresses.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn wait_listening(&mut self, addresses: usize) -> Result<(), WorldError> {
        let listens = |report: &&Report| matches!(report, Report::Listening { .. });
        self.wait_for(super::SOON, |reports| (reports.iter().filter(listens).count() >= addresses).then_some(()))
    }

    /// Waits until `look` finds what it wants among the reports.
    ///
    /// # Errors
    /// When `within` is over, or the process has ended, before that.
    pub fn wait_for<T>(&mut self, within: Duration, look: impl Fn(&[Report]) -> Option<T>) -> Result<T, WorldError> {
        let deadline = super::deadline(within);
        let mut printed = self.output.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(found) = look(&printed.reports) {
                return Ok(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || printed.ended {
                let what = if printed.ended { "ended" } else { "waited too long" };
                drop(printed);
                return Err(self.fault(format!("{what} before it reported what was expected")));
            }
            let waited = self.output.changed.wait_timeout(printed, left);
            printed = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for the end, and for its output to be read.
    ///
    /// # Errors
    /// When it takes longer than `within`; it is killed then.
    pub fn wait(&mut self, within: Duration) -> Result<ExitStatus, WorldError> {
        let deadline = super::deadline(within);
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Ok(self.read_out(status)),
                Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(2)),
                Ok(None) => {
                    self.kill();
                    return Err(self.fault(format!("did not end within {within:?}")));
                }
                Err(error) => return Err(self.fault(format!("waiting for it: {error}"))),
            }
        }
    }

    /// The reader ends with the last copy of the pipe, which a grandchild may hold: do not wait forever.
    fn read_out(&self, status: ExitStatus) -> ExitStatus {
        let printed = self.output.state.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.output.changed.wait_timeout_while(printed, SOON, |printed| !printed.ended));
        status
    }

    /// SIGTERM, then waits.
    ///
    /// # Errors
    /// When it is not gone after `within`; it is killed then.
    pub fn stop(&mut self, within: Duration) -> Result<ExitStatus, WorldError> {
        self.signal(Signal::SIGTERM);
        self.wait(within)
    }

    /// Sends a signal, unless the process is known to have ended.
    pub fn signal(&mut self, signal: Signal) {
        if let Ok(None) = self.child.try_wait() {
            let pid = Pid::from_raw(self.child.id().cast_signed());
            // It may end just now; then there is nothing to signal.
            let _ = kill(pid, signal);
        }
    }

    /// The log's last lines, for a failure.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all.iter().skip(all.len().saturating_sub(lines)).map(|line| format!("    {line}\n")).collect()
    }

    /// An error about this process, with the end of its log: the world's folder is gone when somebody reads it.
    #[must_use]
    pub fn fault(&self, problem: String) -> WorldError {
        let problem = format!("{problem}\n{}", self.log_tail(20));
        WorldError::Process { name: self.name.clone(), problem, log: self.log.clone() }
    }

    /// Whether it is gone.
    pub fn ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Lets it run on after this process.
    pub fn leave(mut self) {
        self.left = true;
    }

    fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.left {
            self.kill();
        }
    }
}

/// A log that no earlier process of that name has.
fn fresh_log(folder: &Path, name: &str) -> Result<(PathBuf, File), WorldError> {
    let mut number = 1;
    loop {
        let path = folder.join(format!("{name}-{number}.log"));
        match File::create_new(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
            Err(source) => return Err(lost("creating", &path, source)),
        }
    }
}

fn lost(action: &'static str, path: &Path, source: std::io::Error) -> WorldError {
    WorldError::File { action, path: path.to_path_buf(), source }
}
