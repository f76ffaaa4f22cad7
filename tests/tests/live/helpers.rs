//! Lives: weir-tests, live tests on a kernel that does not say where a task's parts lie.
//! Called by: main.
//! May touch: a world of its own.
//! Never: believes that the other way was taken: the agent must have said so.
//!
//! The programs then learn of the calling task by helpers, and `connect` names the process that the SYN cannot name. Nothing else
//! may differ.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use weir_tests::harness::{Harness, Options};
use weir_tests::world::World;

use crate::abreast;
use crate::attacks_places::passed;
use crate::rows::judge;
use crate::stage::agrees;
use crate::verdicts::TABLES;

pub fn trials() -> Vec<Trial> {
    vec![abreast("where_the_kernel_does_not_tell_its_types_records_name_processes_all_the_same", by_helpers)]
}

/// The kernel's account of its types.
const TYPES: &str = "/sys/kernel/btf/vmlinux";
/// What the agent says when it must do without.
const SAID: &str = "programs ask for it by helpers";

fn by_helpers() -> Result<()> {
    let told = Harness::start(World::new("told")?, Options::default())?;
    ensure!(!told.logs().contains(SAID), "this kernel does not tell its types at all:\n{}", told.logs());
    drop(told);
    let options = Options { agent_without: Some(TYPES), ..Options::default() };
    let mut harness = Harness::start(World::new("helpers")?, options)?;
    ensure!(harness.logs().contains(SAID), "the programs know where a task's parts lie:\n{}", harness.logs());
    for (_, table) in TABLES.iter().filter(|(name, _)| ["egress", "ingress"].contains(name)) {
        table(&mut harness, judge)?;
    }
    // Whose cgroup the calling task is in decides here.
    passed(&mut harness)?;
    agrees(&harness)
}
