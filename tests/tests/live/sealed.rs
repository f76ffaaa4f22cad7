//! Lives: weir-tests, a live test of what a running agent may still do (adversarial 78).
//! Called by: main.
//! May touch: the stage; `/proc` of its agent, reading.
//! Never: asks the agent: the kernel says what each of its threads may.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use weir_tests::documents::workloads;
use weir_tests::harness::Harness;

use crate::stage::on_stage;

pub fn trials() -> Vec<Trial> {
    vec![on_stage("adversarial 78: no_thread_of_a_running_agent_loads_or_executes_a_program", sealed)]
}

/// What any thread may keep (`include/uapi/linux/capability.h`): NET_ADMIN 12, SYS_PTRACE 19, SYS_ADMIN 21, SYS_NICE 23, PERFMON 38, BPF 39.
const MOST: u64 = 1 << 12 | 1 << 19 | 1 << 21 | 1 << 23 | 1 << 38 | 1 << 39;
/// Threads that serve people, or carry records away.
const HOLD_NOTHING: [&str; 3] = ["weir-rpc", "weir-spooler", "weir-exporter"];

fn sealed(harness: &mut Harness) -> Result<()> {
    // A change makes tables anew, so whatever starts late has started.
    harness.apply(&workloads())?;
    harness
        .wait("all workloads to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
    ensure!(harness.status()?.agent.sealed, "status does not say that it is sealed");
    let pid = harness.agent_pid().context("the agent is not running")?;
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for entry in fs::read_dir(Path::new("/proc").join(pid.to_string()).join("task"))? {
        // One that ends meanwhile has nothing to hold.
        let Ok(status) = fs::read_to_string(entry?.path().join("status")) else { continue };
        let field = |name: &str| -> Result<String> {
            let value = status.lines().find_map(|line| line.strip_prefix(name));
            Ok(value.with_context(|| format!("no {name} in\n{status}"))?.trim().to_owned())
        };
        let name = field("Name:")?;
        ensure!(field("Seccomp:")? == "2" && field("NoNewPrivs:")? == "1", "{name} is not sealed:\n{status}");
        for set in ["CapEff:", "CapPrm:"] {
            let held = u64::from_str_radix(&field(set)?, 16)?;
            let most = if HOLD_NOTHING.contains(&&*name) { 0 } else { MOST };
            ensure!(held & !most == 0, "{name} holds {held:#x}, where {most:#x} is the most");
        }
        *seen.entry(name).or_default() += 1;
    }
    for name in HOLD_NOTHING.into_iter().chain(["weir-control", "weir-telemetry", "weir-revoker"]) {
        ensure!(seen.contains_key(name), "no thread {name}: {seen:?}");
    }
    Ok(())
}
