//! Lives: weir-tests, Weir running inside a world.
//! Called by: live tests and the demo.
//! May touch: the world it is given, the programs weir-collector, weir-agent and weirctl.
//! Never: looks inside them; everything goes through configuration files, weirctl and signals.

mod config;
pub mod ctl;
mod error;
pub mod record;
pub mod status;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

pub use config::{COLLECTOR_METRICS, KEPT, METRICS, Options, Tls, collector_socket};
pub use error::HarnessError;
pub use record::Record;
pub use status::Status;

use crate::process::{Running, SOON, deadline, ended_well, program};
use crate::world::{Who, World};

/// How often a state is looked at while waiting for it.
const LOOK: Duration = Duration::from_millis(20);
/// Loading and verifying the programs on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// A clean stop is a quick one.
pub const STOP_WITHIN: Duration = Duration::from_secs(5);

/// A collector and an agent in a world.
#[derive(Debug)]
pub struct Harness {
    // Declared before the world: programs stop while their namespaces are still there.
    agent: Option<Running>,
    collector: Option<Running>,
    options: Options,
    world: World,
}

impl Harness {
    /// Starts both and waits until the agent enforces.
    ///
    /// # Errors
    /// When one of them does not come up; the error carries the end of its log.
    pub fn start(world: World, options: Options) -> Result<Harness, HarnessError> {
        let mut harness = Harness { agent: None, collector: None, options, world };
        harness.start_collector()?;
        harness.start_agent()?;
        Ok(harness)
    }

    /// Starts both, and waits only until the agent answers: for one that has something to complain of.
    ///
    /// # Errors
    /// As [`Harness::start`].
    pub fn start_unready(world: World, options: Options) -> Result<Harness, HarnessError> {
        let mut harness = Harness { agent: None, collector: None, options, world };
        harness.start_collector()?;
        harness.start_agent_unready()?;
        Ok(harness)
    }

    /// The world around it.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Starts a collector.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_collector(&mut self) -> Result<(), HarnessError> {
        let file = self.world.write("collector.yaml", &config::collector(&self.world, &self.options))?;
        let mut command = self.world.probe(Who::Node);
        if self.options.collectors_small_disk {
            command.arg("--small-disk").arg(made(self.history())?);
        }
        command.args(["exec", "--"]).arg(program("weir-collector")).arg("--config").arg(file);
        self.collector = Some(Running::start_daemon("collector", command, self.world.folder())?);
        self.wait("the collector to answer", Harness::collector_answers)
    }

    /// Starts an agent and waits until it enforces.
    ///
    /// # Errors
    /// When it does not get there.
    pub fn start_agent(&mut self) -> Result<(), HarnessError> {
        self.start_agent_unready()?;
        self.wait("the agent to enforce", |harness| harness.status().is_ok_and(|status| status.ready()))
    }

    /// Starts an agent and waits until it answers.
    ///
    /// # Errors
    /// When it does not get there.
    pub fn start_agent_unready(&mut self) -> Result<(), HarnessError> {
        let command = self.agent_command()?;
        self.start_agent_by(command)
    }

    /// The same by a command of the caller's own making, such as [`Self::agent_command`] with more to it.
    ///
    /// # Errors
    /// When it does not get there.
    pub fn start_agent_by(&mut self, command: Command) -> Result<(), HarnessError> {
        self.agent = Some(Running::start_daemon("agent", command, self.world.folder())?);
        self.wait("the agent to answer", |harness| harness.status().is_ok())
    }

    /// Starts another program as the agent, as after an upgrade.
    ///
    /// # Errors
    /// When it does not get there.
    pub fn start_agent_of(&mut self, agent: &Path) -> Result<(), HarnessError> {
        let command = self.command_of(agent)?;
        self.start_agent_by(command)
    }

    /// The agent as it is started here, to start it once more or with other flags.
    ///
    /// # Errors
    /// When its configuration cannot be written.
    pub fn agent_command(&self) -> Result<Command, HarnessError> {
        self.command_of(&program("weir-agent"))
    }

    /// The same with another program in its place.
    fn command_of(&self, agent: &Path) -> Result<Command, HarnessError> {
        let file = self.world.write("agent.yaml", &config::agent(&self.world, &self.options))?;
        let mut command = self.world.probe(Who::Node);
        if self.options.faults {
            command.env("WEIR_FAULTS", config::faults(&self.world));
        }
        if let Some(file) = self.options.agent_without {
            command.args(["--without", file]);
        }
        if self.options.small_disk {
            command.arg("--small-disk").arg(made(self.spool())?);
        }
        if let Some(name) = self.options.agent_cgroup {
            // A second --cgroup would be refused as a repetition; so by way of a second probe.
            command
                .args(["exec", "--"])
                .arg(program("weir-probe"))
                .arg("--cgroup")
                .arg(self.world.managed().join(name));
        }
        command.args(["exec", "--"]).arg(agent).arg("--config").arg(file);
        Ok(command)
    }

    /// SIGTERM to the agent; how long it took.
    ///
    /// # Errors
    /// When it is not gone in time, or ended badly.
    pub fn stop_agent(&mut self) -> Result<Duration, HarnessError> {
        stop(self.agent.take())
    }

    /// Stops the agent and takes out of force what it left; what that said.
    ///
    /// # Errors
    /// When something is left.
    pub fn detach(&mut self) -> Result<String, HarnessError> {
        self.stop_agent()?;
        let config = self.world.folder().join("agent.yaml");
        // Where its interfaces are.
        let mut command = self.world.probe(Who::Node);
        command.args(["exec", "--"]).arg(program("weirctl")).args(["detach", "--config"]).arg(config);
        ctl::call(command, &["detach"], "")?.ok()
    }

    /// SIGTERM to the collector; how long it took.
    ///
    /// # Errors
    /// When it is not gone in time, or ended badly.
    pub fn stop_collector(&mut self) -> Result<Duration, HarnessError> {
        stop(self.collector.take())
    }

    /// Where the agent spools.
    #[must_use]
    pub fn spool(&self) -> PathBuf {
        config::spool(&self.world)
    }

    /// Where the collector keeps records.
    #[must_use]
    pub fn history(&self) -> PathBuf {
        config::history(&self.world)
    }

    /// A signal to the agent, such as SIGSTOP.
    pub fn signal_agent(&mut self, signal: Signal) {
        self.agent.iter_mut().for_each(|agent| agent.signal(signal));
    }

    /// A signal to the collector, such as SIGSTOP.
    pub fn signal_collector(&mut self, signal: Signal) {
        self.collector.iter_mut().for_each(|collector| collector.signal(signal));
    }

    /// SIGKILL to the agent, waited for.
    ///
    /// # Errors
    /// When it is still there.
    pub fn kill_agent(&mut self) -> Result<(), HarnessError> {
        kill(self.agent.take())
    }

    /// SIGKILL to the collector, waited for.
    ///
    /// # Errors
    /// When it is still there.
    pub fn kill_collector(&mut self) -> Result<(), HarnessError> {
        kill(self.collector.take())
    }

    /// The agent's process, while it runs.
    #[must_use]
    pub fn agent_pid(&self) -> Option<u32> {
        self.agent.as_ref().map(Running::pid)
    }

    /// The collector's process, while it runs.
    #[must_use]
    pub fn collector_pid(&self) -> Option<u32> {
        self.collector.as_ref().map(Running::pid)
    }

    /// The file that the agent's log goes to, while it runs.
    #[must_use]
    pub fn agent_log(&self) -> Option<PathBuf> {
        self.agent.as_ref().map(|agent| agent.log().to_owned())
    }

    /// The file in which it finds the faults that it is to have (`weir_agent::faults`).
    #[must_use]
    pub fn faults(&self) -> PathBuf {
        config::faults(&self.world)
    }

    /// Path of the agent's socket.
    #[must_use]
    pub fn agent_socket(&self) -> PathBuf {
        config::agent_socket(&self.world)
    }

    /// Path of the collector's socket.
    #[must_use]
    pub fn collector_socket(&self) -> PathBuf {
        config::collector_socket(&self.world)
    }

    /// Waits until `look` is satisfied.
    ///
    /// # Errors
    /// When that takes too long, or a program of ours ended meanwhile.
    pub fn wait(&mut self, what: &str, look: impl Fn(&Harness) -> bool) -> Result<(), HarnessError> {
        let deadline = deadline(READY_WITHIN);
        while !look(self) {
            self.still_running()?;
            if Instant::now() > deadline {
                return Err(HarnessError::Waited { what: what.to_owned(), logs: self.logs() });
            }
            sleep(LOOK);
        }
        Ok(())
    }

    fn still_running(&mut self) -> Result<(), HarnessError> {
        for running in [&mut self.agent, &mut self.collector].into_iter().flatten() {
            if running.ended() {
                return Err(running.fault("ended by itself".to_owned()).into());
            }
        }
        Ok(())
    }

    /// The ends of both logs, for a failure.
    #[must_use]
    pub fn logs(&self) -> String {
        let logs = [("agent", &self.agent), ("collector", &self.collector)];
        let tails = logs.into_iter().filter_map(|(name, running)| {
            running.as_ref().map(|running| format!("  log of the {name}:\n{}", running.log_tail(30)))
        });
        tails.collect()
    }

    /// Lets everything run on after this process.
    ///
    /// # Errors
    /// When the world cannot be marked as kept.
    pub fn keep(self) -> Result<(), HarnessError> {
        let Harness { agent, collector, world, .. } = self;
        [agent, collector].into_iter().flatten().for_each(Running::leave);
        Ok(world.keep()?)
    }
}

/// A folder that is there from now on.
fn made(folder: PathBuf) -> Result<PathBuf, HarnessError> {
    match std::fs::create_dir_all(&folder) {
        Ok(()) => Ok(folder),
        Err(source) => Err(HarnessError::File { path: folder, source }),
    }
}

fn kill(running: Option<Running>) -> Result<(), HarnessError> {
    if let Some(mut running) = running {
        running.signal(Signal::SIGKILL);
        running.wait(SOON)?;
    }
    Ok(())
}

fn stop(running: Option<Running>) -> Result<Duration, HarnessError> {
    let Some(mut running) = running else { return Ok(Duration::ZERO) };
    let start = Instant::now();
    let status = running.stop(SOON)?;
    if ended_well(status) { Ok(start.elapsed()) } else { Err(running.fault(format!("ended with {status}")).into()) }
}
