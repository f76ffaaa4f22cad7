//! Lives: weir-tests, the benchmark of the socket hooks: Weir's kernel side as the agent loads it, without the agent around it.
//! Called by: the benchmark.
//! May touch: cgroups of its own world, through weir-agent's kernel module.
//! Never: lets the event ring fill: a full ring is cheaper than one that is read.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use anyhow::{Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd as _;
use weir_agent::kernel::{AttachState, Events, IngressHook, Kernel, Neighbours, Options, WorkloadState, XdpMode};
use weir_common::verdict::Hook;
use weir_policy::Compiled;

/// How often the reader looks, as the agent's does.
const LOOK_MS: u16 = 20;

/// One load of the programs. Dropping it detaches and unloads them.
pub struct Weir {
    kernel: Kernel,
    ingress: IngressHook,
    reader: Reader,
    /// Generation in force; 0 for none.
    holds: u64,
}

impl Weir {
    /// Loads the programs for workloads below `tree`, attaches nothing.
    pub fn load(tree: &Path, ingress: IngressHook) -> Result<Weir> {
        let options = Options {
            cgroup_root: tree.to_owned(),
            interfaces: Vec::new(),
            xdp_mode: XdpMode::Generic,
            neighbours: Neighbours::default(),
            pin: false,
            strict: false,
            ingress,
            count_runs: false,
            drop_bytes: 0,
            kernel_drops: true,
        };
        let (kernel, events) = Kernel::load(options)?;
        Ok(Weir { kernel, ingress, reader: Reader::start(events), holds: 0 })
    }

    /// Puts `compiled` in force and attaches.
    pub fn attach(&mut self, compiled: &Compiled) -> Result<()> {
        if self.holds != compiled.generation {
            let _ = self.kernel.install(compiled)?;
            self.holds = compiled.generation;
        }
        let observed = self.kernel.reconcile(&compiled.local());
        let alone = self.ingress == IngressHook::SkLookup;
        let attached = |workload: &&WorkloadState| {
            workload.state == AttachState::Attached && workload.hooks.contains(&Hook::SkLookup.name()) == alone
        };
        let attached = observed.workloads.iter().filter(attached).count();
        ensure!(observed.enforcing && attached == 2, "not attached: {observed:?}");
        Ok(())
    }

    /// Detaches.
    pub fn detach(&mut self) {
        self.kernel.detach_sockets();
    }

    /// Events read until now.
    pub fn events(&self) -> u64 {
        self.reader.read.load(Ordering::Relaxed)
    }

    /// Events that found the ring full.
    pub fn lost(&self) -> Result<u64> {
        Ok(self.kernel.counters()?.iter().map(|cell| cell.lost).sum())
    }
}

/// Reads events as the agent does, and makes nothing of them.
struct Reader {
    read: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    fn start(mut events: Events) -> Reader {
        let (read, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, stopped) = (Arc::clone(&read), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                // A failure to wait is no reason not to look.
                let _ = poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLIN)], PollTimeout::from(LOOK_MS));
                count.fetch_add(events.drain(usize::MAX, |_| {}) as u64, Ordering::Relaxed);
            }
        });
        Reader { read, stop, thread: Some(thread) }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            eprintln!("bench: the thread that reads events panicked");
        }
    }
}
