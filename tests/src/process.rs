//! Lives: weir-tests, one process of a world.
//! Called by: harness, live tests, the demo.
//! May touch: processes it started itself, and their log files in the world's folder.
//! Never: waits without a deadline; signals a process it did not start.

use std::env;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::report::{Attempt, Report, Sent, Served};
use crate::world::{Who, World, WorldError};

/// Enough for anything that is not traffic.
pub const SOON: Duration = Duration::from_secs(10);

/// The program called `name`: from WEIR_BIN_DIR, else beside the running program.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    if let Some(folder) = env::var_os("WEIR_BIN_DIR") {
        return Path::new(&folder).join(name);
    }
    let own = env::current_exe().unwrap_or_default();
    let folder = own.parent().unwrap_or(Path::new("."));
    // cargo puts test programs one folder deeper.
    let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    folder.join(name)
}

impl World {
    /// weir-probe as `who`: in its namespace and cgroup. Add a verb and its arguments.
    #[must_use]
    pub fn probe(&self, who: Who) -> Command {
        let mut command = Command::new(program("weir-probe"));
        command.arg("--netns").arg(self.netns(who)).arg("--cgroup").arg(self.cgroup(who));
        command
    }

    /// weir-probe in `who`'s namespace, but in no workload's cgroup.
    #[must_use]
    pub fn visitor(&self, who: Who, line: &str) -> Command {
        let mut command = Command::new(program("weir-probe"));
        command.arg("--netns").arg(self.netns(who)).arg("--cgroup").arg(self.outside());
        command.args(line.split_whitespace());
        command
    }

    /// weir-probe as `who`, with a verb and arguments written as on a command line.
    #[must_use]
    pub fn probe_line(&self, who: Who, line: &str) -> Command {
        let mut command = self.probe(who);
        command.args(line.split_whitespace());
        command
    }

    /// Starts a process of this world; its standard output is read as it comes, both outputs go to a log.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, name: &str, command: Command) -> Result<Running, WorldError> {
        Running::start(name, command, self.folder())
    }

    /// A server, once it listens on as many addresses as it was told.
    ///
    /// # Errors
    /// When it does not listen in time.
    pub fn serve(&self, who: Who, line: &str) -> Result<Running, WorldError> {
        let mut server = self.start(&format!("{}-server", who.name()), self.probe_line(who, line))?;
        let addresses = line.matches("--listen").count();
        for count in 1..=addresses {
            server.wait_for(SOON, |reports| {
                reports.iter().filter(|report| matches!(report, Report::Listening { .. })).nth(count - 1).map(|_| ())
            })?;
        }
        Ok(server)
    }

    /// One try of a client, to its end.
    ///
    /// # Errors
    /// When it ends without a report.
    pub fn attempt(&self, who: Who, line: &str) -> Result<Attempt, WorldError> {
        self.start(&format!("{}-client", who.name()), self.probe_line(who, line))?.attempt()
    }
}

/// A process that was started, with what it has printed so far.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Child,
    log: PathBuf,
    output: Arc<Output>,
    left: bool,
}

#[derive(Debug, Default)]
struct Output {
    state: Mutex<Printed>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Printed {
    lines: Vec<String>,
    reports: Vec<Report>,
    ended: bool,
}

impl Running {
    /// Starts `command`, reads its standard output as it comes, and keeps both outputs in a log in `folder`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: &str, mut command: Command, folder: &Path) -> Result<Running, WorldError> {
        let (log, file) = fresh_log(folder, name)?;
        command.stdout(Stdio::piped());
        let mut running = Running::spawn(name, command, log, &file)?;
        if let Some(stdout) = running.child.stdout.take() {
            let output = Arc::clone(&running.output);
            thread::spawn(move || output.read(BufReader::new(stdout), file));
        }
        Ok(running)
    }

    /// Starts a program that may outlive this one: both outputs go straight to the log.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_daemon(name: &str, mut command: Command, folder: &Path) -> Result<Running, WorldError> {
        let (log, file) = fresh_log(folder, name)?;
        command.stdout(file.try_clone().map_err(|source| lost("opening", &log, source))?);
        let running = Running::spawn(name, command, log, &file)?;
        running.output.close();
        Ok(running)
    }

    /// Its own process group: Ctrl-C is for us to handle.
    fn spawn(name: &str, mut command: Command, log: PathBuf, file: &File) -> Result<Running, WorldError> {
        let errors = file.try_clone().map_err(|source| lost("opening", &log, source))?;
        // A log ends with the message that matters, not with a page of frames.
        command.stdin(Stdio::null()).stderr(errors).process_group(0).env("RUST_BACKTRACE", "0");
        let program = Path::new(command.get_program()).to_path_buf();
        let child = command.spawn().map_err(|source| lost("starting", &program, source))?;
        Ok(Running { name: name.to_owned(), child, log, output: Arc::default(), left: false })
    }

    /// The process's id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
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

    /// Waits until `look` finds what it wants among the reports.
    ///
    /// # Errors
    /// When `within` is over, or the process has ended, before that.
    pub fn wait_for<T>(&mut self, within: Duration, look: impl Fn(&[Report]) -> Option<T>) -> Result<T, WorldError> {
        let deadline = Instant::now() + within;
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
        let deadline = Instant::now() + within;
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

    /// The one attempt of a client, after its end.
    ///
    /// # Errors
    /// When it reported none.
    pub fn attempt(mut self) -> Result<Attempt, WorldError> {
        self.wait(Duration::from_secs(60))?;
        self.attempts().pop().ok_or_else(|| self.fault("ended without reporting an attempt".to_owned()))
    }

    /// Every attempt reported until now.
    #[must_use]
    pub fn attempts(&self) -> Vec<Attempt> {
        let found = self.reports().into_iter().filter_map(|report| match report {
            Report::Attempt(attempt) => Some(attempt),
            Report::Listening { .. } | Report::Accepted { .. } | Report::Sent(_) | Report::Served(_) => None,
        });
        found.collect()
    }

    /// What a sender did, after its end.
    ///
    /// # Errors
    /// When it did not say.
    pub fn sent(mut self) -> Result<Sent, WorldError> {
        self.wait(Duration::from_secs(120))?;
        let found = self.reports().into_iter().find_map(|report| match report {
            Report::Sent(sent) => Some(sent),
            Report::Listening { .. } | Report::Accepted { .. } | Report::Attempt(_) | Report::Served(_) => None,
        });
        found.ok_or_else(|| self.fault("ended without reporting what it sent".to_owned()))
    }

    /// Stops a server and takes its summary.
    ///
    /// # Errors
    /// When it does not stop or does not say.
    pub fn served(mut self) -> Result<Served, WorldError> {
        self.stop(SOON)?;
        let found = self.reports().into_iter().find_map(|report| match report {
            Report::Served(served) => Some(served),
            Report::Listening { .. } | Report::Accepted { .. } | Report::Attempt(_) | Report::Sent(_) => None,
        });
        found.ok_or_else(|| self.fault("ended without reporting what it served".to_owned()))
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

impl Output {
    fn read(&self, lines: impl BufRead, mut log: File) {
        for line in lines.lines().map_while(Result::ok) {
            // The log is for people; losing a line of it must not stop a test.
            drop(writeln!(log, "{line}"));
            let mut printed = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            printed.reports.extend(serde_json::from_str::<Report>(&line));
            printed.lines.push(line);
            self.changed.notify_all();
        }
        self.close();
    }

    fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
        self.changed.notify_all();
    }
}

/// Whether it ended by itself and well, or by the SIGTERM it was sent.
#[must_use]
pub fn ended_well(status: ExitStatus) -> bool {
    status.success() || status.signal() == Some(Signal::SIGTERM as i32)
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
