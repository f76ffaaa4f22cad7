//! Lives: weir-tests, one process of a world.
//! Called by: harness, live tests, the demo.
//! May touch: processes it started itself, and their log files in the world's folder.
//! Never: waits without a deadline; signals a process it did not start.

mod output;
mod reports;
mod running;

use std::env;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

pub use running::Running;

use crate::report::Attempt;
use crate::world::{Who, World, WorldError};

/// Enough for anything that is not traffic.
pub const SOON: Duration = Duration::from_secs(10);

/// How many times longer than usual programs may take here: WEIR_SLOWNESS, for an emulated machine.
#[must_use]
pub fn slowness() -> u32 {
    env::var("WEIR_SLOWNESS").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// When waiting ends that is to take no longer than `within`, as slow as it is here.
#[must_use]
pub fn deadline(within: Duration) -> Instant {
    Instant::now() + within * slowness()
}

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
        server.wait_listening(line.matches("--listen").count())?;
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

/// Whether it ended by itself and well, or by the SIGTERM it was sent.
#[must_use]
pub fn ended_well(status: ExitStatus) -> bool {
    status.success() || status.signal() == Some(Signal::SIGTERM as i32)
}
