//! Lives: weir-tests, live tests of what a running agent may still do (adversarial 78).
//! Called by: main.
//! May touch: the stage; `/proc` of its agent and of its porter, reading; the two of them.
//! Never: asks the agent: the kernel says what each of its threads may.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use weir_tests::documents::workloads;
use weir_tests::harness::Harness;
use weir_tests::process::SOON;

use crate::stage::on_stage;

pub fn trials() -> Vec<Trial> {
    vec![
        on_stage("adversarial 78: no_thread_of_a_running_agent_loads_or_executes_a_program", sealed),
        on_stage("adversarial 78: the_porter_ends_with_its_agent_and_never_alone", together),
    ]
}

/// By number (`include/uapi/linux/capability.h`).
const NET_ADMIN: u64 = 1 << 12;
const SYS_PTRACE: u64 = 1 << 19;
const SYS_ADMIN: u64 = 1 << 21;
const SYS_NICE: u64 = 1 << 23;
const BPF: u64 = 1 << 39;

/// What each may hold, by its name; every other thread as the one that makes tables and attaches.
const MOST: [(&str, u64); 7] = [
    ("weir-rpc", 0),
    ("weir-spooler", 0),
    ("weir-exporter", 0),
    ("weir-telemetry", 0),
    ("weir-progress", 0),
    ("weir-revoker", NET_ADMIN | SYS_NICE),
    ("weir-hand", NET_ADMIN | SYS_NICE),
];
const MAKES_TABLES: u64 = BPF | NET_ADMIN | SYS_NICE;
/// Started by any world.
const THERE: [&str; 6] =
    ["weir-rpc", "weir-spooler", "weir-exporter", "weir-telemetry", "weir-revoker", "weir-control"];

fn sealed(harness: &mut Harness) -> Result<()> {
    // A change makes tables anew, so whatever starts late has started.
    harness.apply(&workloads())?;
    harness
        .wait("all workloads to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
    let status = harness.status()?;
    ensure!(status.agent.sealed, "status does not say that it is sealed");
    ensure!(status.agent.landlock == "full", "Landlock: {:?}, on a kernel that has it", status.agent.landlock);
    let pid = harness.agent_pid().context("the agent is not running")?;
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for thread in threads(pid)? {
        let most = MOST.iter().find(|(name, _)| *name == thread.name).map_or(MAKES_TABLES, |(_, most)| *most);
        thread.is_sealed(most)?;
        *seen.entry(thread.name).or_default() += 1;
    }
    for name in THERE {
        ensure!(seen.contains_key(name), "no thread {name}: {seen:?}");
    }
    porter(pid)
}

/// An agent without a porter ends, and says why; a porter without an agent ends.
fn together(harness: &mut Harness) -> Result<()> {
    let porter = child(harness.agent_pid().context("the agent is not running")?)?;
    harness.kill_agent()?;
    let gone = || !Path::new(&format!("/proc/{porter}")).exists();
    ensure!(within(SOON, gone), "porter {porter} has outlived its agent");
    harness.start_agent()?;
    let porter = child(harness.agent_pid().context("the agent is not running")?)?;
    let log = harness.agent_log().context("no log")?;
    kill(Pid::from_raw(i32::try_from(porter)?), Signal::SIGKILL)?;
    let told = || fs::read_to_string(&log).is_ok_and(|text| text.contains("subsystem porter ended early"));
    ensure!(within(SOON, told), "the agent does not say that its porter has ended");
    // It ends by itself; what is left to do is to wait for it.
    let _ = harness.kill_agent();
    Ok(harness.start_agent()?)
}

fn within(time: Duration, look: impl Fn() -> bool) -> bool {
    let end = Instant::now() + time;
    while !look() && Instant::now() < end {
        thread::sleep(Duration::from_millis(20));
    }
    look()
}

fn child(agent: u32) -> Result<u32> {
    let children = fs::read_to_string(format!("/proc/{agent}/task/{agent}/children"))?;
    let children: Vec<u32> = children.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let [child] = children.as_slice() else { bail!("the agent has {} children, not one porter", children.len()) };
    Ok(*child)
}

/// The porter: one thread, of a process that the agent started, which holds what the agent does not.
fn porter(agent: u32) -> Result<()> {
    let all = threads(child(agent)?)?;
    let [only] = all.as_slice() else { bail!("its porter has {} threads", all.len()) };
    ensure!(only.name == "weir-porter", "its child is {}", only.name);
    only.is_sealed(SYS_ADMIN | SYS_PTRACE | NET_ADMIN)
}

#[derive(Debug)]
struct Thread {
    name: String,
    status: String,
}

fn threads(pid: u32) -> Result<Vec<Thread>> {
    let tasks = fs::read_dir(Path::new("/proc").join(pid.to_string()).join("task"))?;
    let paths: Vec<PathBuf> = tasks.map(|entry| Ok(entry?.path().join("status"))).collect::<Result<_>>()?;
    // One that ends meanwhile has nothing to hold.
    let texts = paths.iter().filter_map(|path| fs::read_to_string(path).ok());
    texts.map(|status| Ok(Thread { name: field(&status, "Name:")?.to_owned(), status })).collect()
}

impl Thread {
    fn is_sealed(&self, most: u64) -> Result<()> {
        let Self { name, status } = self;
        let has = |wanted, value| field(status, wanted).map(|found| found == value);
        ensure!(has("Seccomp:", "2")? && has("NoNewPrivs:", "1")?, "{name} is not sealed:\n{status}");
        ensure!(
            has("CapInh:", "0000000000000000")? && has("CapAmb:", "0000000000000000")?,
            "{name} bequeaths:\n{status}"
        );
        for set in ["CapEff:", "CapPrm:"] {
            let held = u64::from_str_radix(field(status, set)?, 16)?;
            ensure!(held & !most == 0, "{name} holds {held:#x}, where {most:#x} is the most");
        }
        Ok(())
    }
}

fn field<'a>(status: &'a str, name: &str) -> Result<&'a str> {
    let value = status.lines().find_map(|line| line.strip_prefix(name));
    Ok(value.with_context(|| format!("no {name} in\n{status}"))?.trim())
}
