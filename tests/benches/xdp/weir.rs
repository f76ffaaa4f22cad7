//! Lives: weir-tests, the benchmark of XDP: Weir's kernel side as the agent loads it, without the agent around it.
//! Called by: rounds, prefixes, honesty, bulk.
//! May touch: interfaces of the benchmark's own world, through weir-agent's kernel module.
//! Never: tables that no document could have made.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow, ensure};
use weir_agent::kernel::{Events, IngressHook, InterfaceOption, Kernel, Neighbours, Options, XdpMode, tick_ns};
use weir_common::verdict::Verdict;
use weir_policy::{Compiled, Fault};
use weir_tests::world::links::INSIDE;

use crate::frame::{ELSEWHERE, PORT};
use crate::site::{RECEIVER, Wire};

/// One load of the programs. Dropping it detaches and unloads them.
pub struct Weir {
    kernel: Kernel,
    events: Events,
    mode: &'static str,
    /// Generation in force; 0 for none.
    holds: u64,
}

impl Weir {
    /// Loads the programs, attaches nothing.
    pub fn load(cgroup: &Path, mode: XdpMode) -> Result<Weir> {
        let options = Options {
            cgroup_root: cgroup.to_owned(),
            interfaces: vec![InterfaceOption { name: INSIDE.to_owned(), refuses: 0 }],
            xdp_mode: mode,
            neighbours: Neighbours::default(),
            pin: false,
            strict: false,
            ingress: IngressHook::Cgroup,
            count_runs: false,
            drop_bytes: 0,
            kernel_drops: true,
        };
        let (kernel, events) = Kernel::load(options)?;
        Ok(Weir { kernel, events, mode: if mode == XdpMode::Generic { "generic" } else { "native" }, holds: 0 })
    }

    /// Puts `compiled` in force and attaches to the judging end.
    pub fn attach(&mut self, wire: &Wire, compiled: &Compiled) -> Result<()> {
        if self.holds != compiled.generation {
            let _ = self.kernel.install(compiled)?;
            self.holds = compiled.generation;
        }
        let kernel = &mut self.kernel;
        let observed = wire.at_receiver(|| Ok(kernel.reconcile(&compiled.local())))?;
        let interface = observed.interfaces.first().context("no interface")?;
        ensure!(interface.mode == self.mode && interface.index == wire.receives, "not attached: {observed:?}");
        Ok(())
    }

    /// Detaches, and does with the records what the agent does every second: takes them.
    pub fn detach(&mut self) -> Result<()> {
        self.kernel.detach_interfaces();
        let _ = self.events.take_merged()?;
        Ok(())
    }
}

/// The tables that documents make; `generation` names them.
pub fn compiled(documents: &str, generation: u64) -> Result<Compiled> {
    weir_tests::compiled::compiled(documents, generation, Verdict::Allow, tick_ns()).map_err(said)
}

/// The first fault, as people read it.
fn said(faults: Vec<Fault>) -> anyhow::Error {
    faults
        .first()
        .map_or_else(|| anyhow!("no fault, and nothing else"), |fault| anyhow!("{}; {}", fault.problem, fault.remedy))
}

/// The service that all frames are for, with this limit.
pub fn limited(limit: &str) -> String {
    format!(
        "apiVersion: weir.dev/v1alpha1\nkind: Workload\nmetadata: {{name: api, labels: {{app: api}}}}\n\
         spec: {{addresses: [{ELSEWHERE}, {RECEIVER}]}}\n\
         ---\napiVersion: weir.dev/v1alpha1\nkind: RateLimit\nmetadata: {{name: api}}\n\
         spec:\n  workloadSelector: {{matchLabels: {{app: api}}}}\n  ports: [{{protocol: UDP, port: {PORT}}}]\n  {limit}\n"
    )
}
