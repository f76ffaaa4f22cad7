//! Lives: weir-conformance, the agent of one node.
//! Called by: node.
//! May touch: the agent through weirctl, as a person would; files in the fabric's folder.
//! Never: speaks of a state that the agent has not confirmed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;
use weir_policy::{Edit, Resource, Resources};
use weir_tests::harness::Status;
use weir_tests::harness::ctl::{Said, call};
use weir_tests::process::{Running, program};
use weir_tests::world::Fabric;

use crate::walk;

/// Loading and verifying the programs on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// What an agent does by itself, once a second.
const SETTLED_WITHIN: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);

/// An agent that runs, and what it was told.
pub struct Agent {
    running: Running,
    socket: PathBuf,
    collector: PathBuf,
    resources: Resources,
}

impl Agent {
    /// Starts an agent in its node's namespace and waits until it enforces.
    pub fn start(fabric: &Fabric, node: &str, netns: &Path, cgroup_root: &Path, collector: &Path) -> Result<Agent> {
        let folder = fabric.folder().join(format!("node-{node}"));
        // Not with its parents: a signal may just have removed the world.
        if !folder.exists() {
            std::fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        }
        let (socket, file) = (folder.join("agent.sock"), folder.join("agent.yaml"));
        let config = json!({
            "node": node,
            "cgroupRoot": cgroup_root,
            "unknownWorkloads": "allow",
            "stateDir": folder.join("state"),
            // Its cluster goes with it.
            "pin": false,
            "grpc": {"socket": {"path": socket, "allowedUids": [0]}},
            "collector": {"address": format!("unix:{}", collector.display())},
            "log": {"level": "info", "format": "text"},
        });
        std::fs::write(&file, config.to_string()).with_context(|| file.display().to_string())?;
        let mut command = Command::new(program("weir-probe"));
        command.arg("--netns").arg(netns).arg("--cgroup").arg(fabric.outside());
        command.args(["exec", "--"]).arg(program("weir-agent")).arg("--config").arg(file);
        let running = Running::start_daemon(&format!("agent-{node}"), command, fabric.folder())?;
        let collector = collector.to_owned();
        let mut agent = Agent { running, socket, collector, resources: Resources::default() };
        agent.wait(READY_WITHIN, "enforces", Status::ready)?;
        Ok(agent)
    }

    /// Makes these the whole of what there is.
    pub fn replace(&mut self, wanted: &[Resource]) -> Result<()> {
        self.ctl(&["apply", "--replace-all", "-f", "-"], &text(wanted.iter()))?.ok()?;
        self.resources = wanted.iter().cloned().collect();
        Ok(())
    }

    /// Turns what there is into this, by the differences only: what is gone first, then what is new or different.
    pub fn change(&mut self, wanted: &[Resource]) -> Result<()> {
        let target: Resources = wanted.iter().cloned().collect();
        let (mut gone, mut new) = (Vec::new(), Vec::new());
        for edit in walk::edits(&self.resources, &target, 1) {
            match edit {
                Edit::Put(resource) => new.push(resource),
                Edit::Remove(id) => gone.extend(self.resources.get(&id).cloned()),
            }
        }
        if !gone.is_empty() {
            self.ctl(&["delete", "-f", "-"], &text(gone.iter()))?.ok()?;
        }
        if !new.is_empty() {
            self.ctl(&["apply", "-f", "-"], &text(new.iter()))?.ok()?;
        }
        self.resources = target;
        Ok(())
    }

    /// The generation in force once every pod of the node is attached.
    pub fn settled(&mut self) -> Result<u64> {
        let status = self.wait(SETTLED_WITHIN, "has attached every pod of its node", |status| {
            status.ready() && status.all_attached()
        })?;
        Ok(status.agent.generation)
    }

    /// Waits for a generation after this one, which the agent makes by itself.
    pub fn wait_past(&mut self, generation: u64) -> Result<()> {
        self.wait(SETTLED_WITHIN, "has followed its host's addresses", |status| status.agent.generation > generation)?;
        Ok(())
    }

    /// What `weirctl status` says.
    pub fn status(&self) -> Result<Status> {
        Ok(self.ctl(&["status", "-o", "json"], "")?.json()?)
    }

    fn wait(&mut self, within: Duration, what: &str, is: impl Fn(&Status) -> bool) -> Result<Status> {
        let deadline = Instant::now() + within;
        loop {
            let status = self.status();
            match status {
                Ok(status) if is(&status) => return Ok(status),
                _ if self.running.ended() => return Err(self.running.fault("ended by itself".to_owned()).into()),
                Ok(status) if Instant::now() > deadline => {
                    bail!("no agent that {what} after {within:?}: {:?}\n{}", status.agent, self.running.log_tail(20))
                }
                Err(error) if Instant::now() > deadline => {
                    return Err(error.context(format!("no agent that {what} after {within:?}")));
                }
                Ok(_) | Err(_) => std::thread::sleep(LOOK),
            }
        }
    }

    fn ctl(&self, arguments: &[&str], input: &str) -> Result<Said> {
        let mut command = Command::new(program("weirctl"));
        command.env("WEIR_AGENT", format!("unix:{}", self.socket.display()));
        command.env("WEIR_COLLECTOR", format!("unix:{}", self.collector.display()));
        command.args(arguments);
        Ok(call(command, arguments, input)?)
    }
}

fn text<'r>(resources: impl Iterator<Item = &'r Resource>) -> String {
    resources.map(|resource| format!("---\n{}\n", resource.to_yaml().trim_start_matches("---\n"))).collect()
}
