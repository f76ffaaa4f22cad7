//! Lives: weir-tests, the benchmark of telemetry: the least that can be done with events.
//! Called by: plan, smoke.
//! May touch: a world of its own, a TCP connection over loopback.
//! Never: makes anything of an event; sends a byte fewer than the kernel gave.
//!
//! Weir's programs without the agent: a thread reads the same ring, wakes as the agent does, and writes the events as they are to a
//! socket, as many at once and as late as the agent's batches.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{Builder, JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use weir_agent::kernel::{AttachState, Events, IngressHook, Kernel, Neighbours, Options, XdpMode, tick_ns};
use weir_common::event::{Event, Kind};
use weir_common::verdict::Verdict;
use weir_tests::compiled::compiled;
use weir_tests::process::Running;
use weir_tests::world::World;
use zerocopy::IntoBytes as _;

use crate::site::{self, Job, Turn};
use crate::threads::{self, Used};

/// The agent's own: longest time an event lies in the ring, records in a batch, and how long the first waits for others.
const TURN_MS: u16 = 25;
const BATCH: usize = 1024;
const LINGER: Duration = Duration::from_millis(20);
/// Longer than any event waits on the way: when nothing has come for so long, all has.
const SETTLED: Duration = Duration::from_millis(200);

/// What is counted on the way.
#[derive(Default)]
struct Counts {
    /// Events that an agent makes a record of.
    records: AtomicU64,
    sent: AtomicU64,
}

/// A load of the programs whose events go to a socket.
pub struct Floor {
    _server: Running,
    kernel: Kernel,
    reader: Reader,
    world: World,
}

/// The thread.
struct Reader {
    name: String,
    counts: Arc<Counts>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Floor {
    /// Loads and attaches in a world of its own.
    pub fn start(label: &str, number: usize) -> Result<Floor> {
        let world = World::new(label).context("building a world; needs root")?;
        let options = Options {
            cgroup_root: world.managed(),
            interfaces: Vec::new(),
            xdp_mode: XdpMode::Generic,
            neighbours: Neighbours::default(),
            pin: false,
            strict: false,
            ingress: IngressHook::Cgroup,
            count_runs: false,
            drop_bytes: 0,
            kernel_drops: false,
        };
        let (mut kernel, events) = Kernel::load(options)?;
        let tables = compiled(&site::documents(), 1, Verdict::Allow, tick_ns());
        let tables = tables.map_err(|faults| anyhow!("{:?}", faults.first()))?;
        let _ = kernel.install(&tables)?;
        let observed = kernel.reconcile(&tables.local());
        let attached = observed.workloads.iter().filter(|workload| workload.state == AttachState::Attached).count();
        ensure!(observed.enforcing && attached == 3, "not attached: {observed:?}");
        let reader = Reader::start(format!("floor-{number}"), events)?;
        let server = site::serve(&world)?;
        Ok(Floor { _server: server, kernel, reader, world })
    }

    /// Does a job; what came of it, and what the thread used meanwhile.
    pub fn turn(&self, job: Job, time: Duration) -> Result<(Turn, Used)> {
        let counts = || {
            let Counts { records, sent } = &*self.reader.counts;
            (records.load(Ordering::Relaxed), sent.load(Ordering::Relaxed))
        };
        let used = || threads::of(std::process::id())?.remove(&self.reader.name).context("no thread reads");
        let (before, (records, sent)) = (used()?, counts());
        let began = Instant::now();
        let tries = job.run(&self.world, time)?;
        let wall = began.elapsed();
        let mut now = counts();
        loop {
            sleep(SETTLED);
            let last = std::mem::replace(&mut now, counts());
            if last == now {
                break;
            }
        }
        let (after, (records_now, sent_now)) = (used()?, now);
        Ok((Turn { tries, records: records_now - records, bytes: sent_now - sent, wall }, after - before))
    }

    /// Events that found the ring full.
    pub fn lost(&self) -> Result<u64> {
        Ok(self.kernel.counters()?.iter().map(|cell| cell.lost).sum())
    }
}

impl Reader {
    fn start(name: String, events: Events) -> Result<Reader> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let socket = TcpStream::connect(listener.local_addr()?)?;
        let (mut taken, _) = listener.accept()?;
        let (counts, stop) = (Arc::new(Counts::default()), Arc::new(AtomicBool::new(false)));
        let sink = Builder::new().name("sink".to_owned()).spawn(move || {
            let mut piece = vec![0; BATCH * size_of::<Event>()];
            while matches!(taken.read(&mut piece), Ok(1..)) {}
        })?;
        let (count, told) = (Arc::clone(&counts), Arc::clone(&stop));
        let reads = Builder::new().name(name.clone()).spawn(move || {
            if let Err(error) = pass_on(events, socket, &count, &told) {
                eprintln!("bench: the floor's socket: {error}");
            }
        })?;
        Ok(Reader { name, counts, stop, threads: vec![reads, sink] })
    }
}

/// Ring to socket, until told to stop.
fn pass_on(mut events: Events, mut socket: TcpStream, counts: &Counts, stop: &AtomicBool) -> std::io::Result<()> {
    let mut batch: Vec<u8> = Vec::with_capacity(2 * BATCH * size_of::<Event>());
    let mut since = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        // A failure to wait is no reason not to look.
        let _ = poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLIN)], PollTimeout::from(TURN_MS));
        loop {
            if batch.is_empty() {
                since = Instant::now();
            }
            let mut records = 0;
            let read = events.drain(BATCH, |event| {
                records += u64::from(event.kind == Kind::Verdict as u8 || event.kind == Kind::Close as u8);
                batch.extend_from_slice(event.as_bytes());
            });
            counts.records.fetch_add(records, Ordering::Relaxed);
            if batch.len() >= BATCH * size_of::<Event>() || (!batch.is_empty() && since.elapsed() >= LINGER) {
                socket.write_all(&batch)?;
                counts.sent.fetch_add(batch.len() as u64, Ordering::Relaxed);
                batch.clear();
            }
            if read < BATCH {
                break;
            }
        }
    }
    Ok(())
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if self.threads.drain(..).any(|thread| thread.join().is_err()) {
            eprintln!("bench: a thread of the floor panicked");
        }
    }
}
