//! Lives: weir-tests, the benchmark of telemetry: memory with many open connections.
//! Called by: plan and smoke, which start it as a process of its own.
//! May touch: its own memory.
//! Never: says that there were sockets: there is no room for a million here. Events are fed to the agent's own telemetry, which does with
//!   them what it does with the kernel's; what the kernel itself takes for a connection is not in the figure.

use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use weir_agent::datapath::{DatapathError, EventSource, Merged};
use weir_agent::exporter::Queue;
use weir_agent::revoke::Revoker;
use weir_agent::runtime::StopSwitch;
use weir_agent::spool::Spool;
use weir_agent::telemetry::names::Names;
use weir_agent::telemetry::tally::Tally;
use weir_agent::telemetry::{Parts, Telemetry};
use weir_common::addr::{Addr, Port, Protocol};
use weir_common::event::{Event, Kind, Process};
use weir_common::verdict::{Direction, Hook, Reason, Verdict};
use zerocopy::{FromZeros as _, transmute};

use crate::threads;

/// What remembering took.
#[derive(Debug, Serialize, Deserialize)]
pub struct Remembered {
    /// Openings that were told of, none of which ended.
    pub openings: u32,
    /// Of those known to the part that cuts what a new policy forbids.
    pub known: usize,
    /// Bytes more than before.
    pub bytes: u64,
}

/// Lets a process of its own remember `count` openings.
pub fn measure(count: u32) -> Result<Remembered> {
    let mut command = Command::new(std::env::current_exe()?);
    let output = command.args(["openings", &count.to_string()]).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{}: {said}", output.status);
    serde_json::from_slice(&output.stdout).context("what it printed")
}

/// Remembers them, here, and prints what that took.
pub fn remember(count: u32) -> Result<()> {
    let revoker = Arc::new(Revoker::default());
    let parts = Parts {
        names: Arc::new(Names::default()),
        queue: Arc::new(Queue::new(1, Spool::in_memory("bench", String::new()), false)),
        revoker: Arc::clone(&revoker),
        tally: Arc::new(Tally::default()),
        cgroup_root: PathBuf::from("/nonexistent"),
    };
    let (switch, stop) = StopSwitch::new();
    let after = Arc::new(Mutex::new(0));
    let source = Openings { count, next: 0, switch, after: Arc::clone(&after) };
    let telemetry = Telemetry::new(source, parts);
    let before = resident()?;
    telemetry.run(&stop)?;
    let after = *after.lock().unwrap_or_else(PoisonError::into_inner);
    let bytes = u64::saturating_sub(after, before);
    println!("{}", serde_json::to_string(&Remembered { openings: count, known: revoker.report().known, bytes })?);
    Ok(())
}

fn resident() -> Result<u64> {
    threads::resident(nix::unistd::getpid().as_raw())
}

/// Openings by as many clients, one after the other.
struct Openings {
    count: u32,
    next: u32,
    switch: StopSwitch,
    /// Resident memory once all were told, bytes: telemetry has forgotten everything when it returns.
    after: Arc<Mutex<u64>>,
}

impl EventSource for Openings {
    fn wait(&mut self, _: Duration) -> io::Result<()> {
        if self.next == self.count {
            *self.after.lock().unwrap_or_else(PoisonError::into_inner) = resident().map_err(io::Error::other)?;
            self.switch.set();
        }
        Ok(())
    }

    fn drain(&mut self, limit: usize, sink: &mut dyn FnMut(&Event)) -> usize {
        let end = self.count.min(self.next.saturating_add(u32::try_from(limit).unwrap_or(u32::MAX)));
        let told = self.next..end;
        self.next = end;
        told.map(|number| sink(&opening(number))).count()
    }

    fn take_merged(&mut self) -> Result<Merged, DatapathError> {
        Ok(Merged::default())
    }
}

/// An opening of a connection of its own, as the kernel tells of the calling side's.
fn opening(number: u32) -> Event {
    let [a, b, c, d] = number.to_be_bytes();
    let process =
        Process { pid: std::process::id(), uid: 0, comm: *b"bench\0\0\0\0\0\0\0\0\0\0\0", staged: 0, reserved: 0 };
    Event {
        time_ns: weir_agent::telemetry::clock::monotonic_now(),
        generation: 1,
        cookie: u64::from(number) + 1,
        local: Addr::v4([10, 0, 0, 1]),
        remote: Addr::v4([10 | a, b, c, d]),
        workload: 1,
        local_port: Port::new(40_000),
        remote_port: Port::new(443),
        kind: Kind::Verdict as u8,
        hook: Hook::SockOps as u8,
        direction: Direction::Egress as u8,
        verdict: Verdict::Allow as u8,
        reason: Reason::Rule as u8,
        protocol: Protocol::TCP.0,
        detail: transmute!(process),
        ..Event::new_zeroed()
    }
}
