//! Lives: weir-tests, live tests of an agent that was given little, and of what is forbidden to it (adversarial 78).
//! Called by: main.
//! May touch: the stage; a mount namespace of the agent's own.
//! Never: mounts anything where the host sees it.

use std::fs;
use std::io::ErrorKind;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use weir_tests::documents::workloads;
use weir_tests::harness::Harness;
use weir_tests::process::program;

use crate::rows::judge;
use crate::stage::on_stage;
use crate::verdicts::TABLES;

pub fn trials() -> Vec<Trial> {
    vec![on_stage("adversarial 78: with_little_capabilities_and_on_a_read_only_root_the_agent_works", |harness| {
        for (given, bits) in GIVEN {
            poor(harness, given, bits).with_context(|| given)?;
        }
        harness.stop_agent()?;
        Ok(harness.start_agent()?)
    })]
}

/// What the agent may have at most, as `setpriv` takes it, and what of it is not there (`include/uapi/linux/capability.h`): all but
/// CAP_SYS_RESOURCE; what unit and manifests give; what those of earlier versions gave.
const GIVEN: [(&str, u64); 3] = [
    ("-sys_resource", 1 << 24),
    ("-all,+bpf,+perfmon,+net_admin,+sys_admin,+sys_ptrace", !(1 << 12 | 1 << 19 | 1 << 21 | 1 << 38 | 1 << 39)),
    ("-all,+net_admin,+sys_admin,+sys_ptrace", !(1 << 12 | 1 << 19 | 1 << 21)),
];

/// In a mount namespace of its own: the root is read-only but for the world's folder and what is mounted elsewhere.
const READ_ONLY: &str = r#"
set -e
mount --make-rprivate /
mount --rbind "$0" "$0"
mount -o remount,bind,ro /
exec "$@"
"#;

fn poor(harness: &mut Harness, given: &str, missing: u64) -> Result<()> {
    harness.stop_agent()?;
    let command = with_little(harness, given)?;
    harness.start_agent_by(command)?;
    harness.apply(&workloads())?;
    harness
        .wait("all workloads to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
    let pid = harness.agent_pid().context("the agent is not running")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).context("no CapBnd")?;
    let bounding = u64::from_str_radix(bounding.trim(), 16)?;
    ensure!(bounding & missing == 0, "it may have more than it was given: {bounding:#x}");
    let written = fs::write(format!("/proc/{pid}/root/weir-was-here"), "").map_err(|error| error.kind());
    ensure!(written == Err(ErrorKind::ReadOnlyFilesystem), "its root can be written to: {written:?}");
    ensure!(harness.status()?.agent.sealed, "it is not sealed");
    for (name, table) in TABLES {
        table(harness, judge).with_context(|| name)?;
    }
    Ok(())
}

/// The agent as usual, with this before it.
fn with_little(harness: &Harness, given: &str) -> Result<Command> {
    let usual = harness.agent_command()?;
    let mut command = Command::new(usual.get_program());
    let agent = program("weir-agent");
    for argument in usual.get_args() {
        if argument == agent {
            command.args(["setpriv", "--bounding-set", given, "unshare", "--mount", "sh", "-c", READ_ONLY]);
            command.arg(harness.world().folder());
        }
        command.arg(argument);
    }
    Ok(command)
}
