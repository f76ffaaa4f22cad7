//! Lives: weir-agent; the one file that says what runs, in which order it starts and stops, and how long each may take.
//! Called by: `main`.
//! May touch: every subsystem; signals.
//! Never: lets a subsystem end unnoticed: one that ends before it was told to ends the process.
//!
//! | subsystem | where | stops | deadline |
//! |---|---|---|---|
//! | rpc | runtime `weir-rpc` | 1st: no new requests, those under way finish | [`RPC_DEADLINE`] |
//! | metrics | runtime `weir-rpc` | with rpc: a scrape under way is dropped | [`RPC_DEADLINE`] |
//! | arrivals | thread `weir-arrivals` | 2nd: control looks once a second only | [`ARRIVALS_DEADLINE`] |
//! | control | thread `weir-control` | 2nd: drops the kernel side; what is attached stays so, unless `pin: false` | [`CONTROL_DEADLINE`] |
//! | revoker | thread `weir-revoker` | 3rd: after the sweep under way | [`REVOKER_DEADLINE`] |
//! | progress | thread `weir-progress` | after it; one that waits for a socket's lock is left behind | [`PROGRESS_DEADLINE`] |
//! | telemetry | thread `weir-telemetry` | 4th: empties the ring and the merge tables once more | [`TELEMETRY_DEADLINE`] |
//! | spooler | thread `weir-spooler` | 5th: packs what is left and writes it to the spool | [`SPOOLER_DEADLINE`] |
//! | exporter | thread `weir-exporter` | 6th: sends what is left; what stays in the spool is sent by the next run | [`EXPORTER_DEADLINE`] |
//!
//! Beside them a process, the porter (`kernel::porter`), which ends with this one; should it end before, so does the agent.
//!
//! The main thread, outside every runtime, has the last word: whoever misses its deadline is left behind and named.
//!
//! Start: the programs are loaded and the process is sealed (`kernel::seal`); an empty generation is in force before anything is
//! attached; then the last good policy, then the policy directory, then the first reconcile attaches. "Ready" (`enforcing` in the
//! log, `READY=1` to the service manager, `Status.enforcing`) means: programs attached, a generation in force.

mod error;
mod notify;
mod own;
mod porter;
mod subsystem;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

pub use error::RunError;
use subsystem::{Exits, Subsystem};
pub use subsystem::{Stop, StopSwitch};
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
};

use weir_policy::Timestamp;

use crate::{
    bounds,
    config::{Config, XdpMode},
    control::{Control, Settings, actor, arrivals::Arrivals},
    datapath::{Datapath, EventSource},
    exporter::{Queue, spooler},
    kernel::{self, Kernel, KernelError, fence::Fence},
    lock, metrics,
    revoke::{self, Revoker},
    rpc::{self, Link},
    spool::{Left, Limits, Spool},
    telemetry::{Parts, Telemetry, clock, names::Names, progress::Watch, record::Cause, tally::Tally},
};

const RPC_DEADLINE: Duration = Duration::from_millis(300);
const ARRIVALS_DEADLINE: Duration = Duration::from_millis(200);
const CONTROL_DEADLINE: Duration = Duration::from_millis(500);
const REVOKER_DEADLINE: Duration = Duration::from_millis(300);
const PROGRESS_DEADLINE: Duration = Duration::from_millis(300);
const TELEMETRY_DEADLINE: Duration = Duration::from_millis(200);
const SPOOLER_DEADLINE: Duration = Duration::from_millis(300);
const EXPORTER_DEADLINE: Duration = Duration::from_millis(900);
/// Threads that serve the API.
const RPC_THREADS: usize = 2;

/// Runs the agent until a signal stops it.
///
/// # Errors
/// It could not start, or a subsystem ended early.
pub fn run(config: &Config) -> Result<(), RunError> {
    let _lock = lock::take(&config.state_dir, &config.cgroup_root)?;
    bounds::take()?;
    let porter = kernel::porter::start().map_err(|source| RunError::System { what: "the porter", source })?;
    let fence = own::fence(config);
    let runtime = runtime(Some(fence.clone()))?;
    let options = kernel::Options {
        cgroup_root: config.cgroup_root.clone(),
        interfaces: config.interfaces.clone(),
        xdp_mode: match config.xdp_mode {
            XdpMode::Auto => kernel::XdpMode::Auto,
            XdpMode::Native => kernel::XdpMode::Native,
            XdpMode::Generic => kernel::XdpMode::Generic,
        },
        neighbours: config.neighbours.clone(),
        strict: !config.unknown.passes(),
        ingress: config.ingress_hook,
        pin: config.pin,
        count_runs: config.metrics.is_some_and(|metrics| metrics.program_stats),
        drop_bytes: config.drop_bytes,
        kernel_drops: config.kernel_drops,
    };
    let (kernel, events) = {
        let _inside = runtime.enter();
        Kernel::load(options).map_err(refused)?
    };
    kernel::seal::close(&fence, config.neighbours.chain || kernel::shares_slots(&config.neighbours.bpffs));
    let ended = async {
        tokio::select! {
            ended = terminated() => ended,
            early = porter::ended(porter) => Err(early),
        }
    };
    run_on(config, runtime, kernel, events, ended)
}

/// Why the kernel takes no programs: it names no capability, so whichever is missing comes first.
fn refused(error: KernelError) -> RunError {
    let (missing, source) = (bounds::missing(bounds::capabilities()), Box::new(error));
    if missing.is_empty() { RunError::Kernel(source) } else { RunError::Privileges { missing, source } }
}

/// Takes everything out of force that agents of the configured tree left there.
///
/// # Errors
/// An agent runs, or something cannot be taken away.
pub fn detach(config: &Config) -> Result<kernel::Detached, RunError> {
    let _lock = lock::take(&config.state_dir, &config.cgroup_root)?;
    kernel::detach(&config.neighbours.bpffs, &config.cgroup_root).map_err(|error| RunError::Kernel(Box::new(error)))
}

/// The runtime that serves the API, whose threads are fenced in.
pub(crate) fn runtime(fence: Option<Fence>) -> Result<Runtime, RunError> {
    let mut builder = Builder::new_multi_thread();
    let built = builder
        .worker_threads(RPC_THREADS)
        .thread_name("weir-rpc")
        .on_thread_start(move || {
            // Some of them are started before the process is sealed.
            if let Some(fence) = &fence {
                fence.raise_early();
            }
            kernel::seal::hold_nothing();
        })
        .enable_all()
        .build();
    built.map_err(|source| RunError::System { what: "the runtime of the API", source })
}

/// Runs over any datapath, until `ended`.
///
/// # Errors
/// As [`run`].
pub fn run_on<D: Datapath, S: EventSource>(
    config: &Config,
    runtime: Runtime,
    datapath: D,
    events: S,
    ended: impl Future<Output = Result<(), RunError>>,
) -> Result<(), RunError> {
    let (exits, mut exited) = Exits::channel();
    let agent = Agent::start(config, &runtime, datapath, events, &exits)?;
    let result = runtime.block_on(async {
        tokio::select! {
            ended = ended => ended,
            early = exited.next() => Err(early),
        }
    });
    if let Err(error) = &result {
        tracing::error!(error = %error, "stopping");
    }
    agent.stop();
    runtime.shutdown_background();
    result
}

/// SIGTERM or SIGINT.
async fn terminated() -> Result<(), RunError> {
    let listen = |kind| signal(kind).map_err(|source| RunError::System { what: "a signal handler", source });
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let name = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    tracing::info!(signal = name, "stopping");
    Ok(())
}

/// Every subsystem that runs.
struct Agent {
    rpc: Subsystem,
    metrics: Option<Subsystem>,
    arrivals: Option<Subsystem>,
    control: Subsystem,
    revoker: Subsystem,
    telemetry: Subsystem,
    progress: Option<Subsystem>,
    spooler: Subsystem,
    exporter: Option<Subsystem>,
    queue: Arc<Queue>,
}

impl Agent {
    fn start<D: Datapath, S: EventSource>(
        config: &Config,
        runtime: &Runtime,
        datapath: D,
        mut events: S,
        exits: &Exits,
    ) -> Result<Self, RunError> {
        let per_policy = config.metrics.is_some_and(|metrics| metrics.per_policy);
        let (names, tally) = (Arc::new(Names::default()), Arc::new(Tally::new(per_policy)));
        let revoker = Arc::new(Revoker::default());
        let queue = queue(config)?;
        let link = Arc::new(Link::new(config.collector.as_ref().map(|collector| collector.address.clone())));

        let parts = Parts {
            names: Arc::clone(&names),
            queue: Arc::clone(&queue),
            revoker: Arc::clone(&revoker),
            tally: Arc::clone(&tally),
            cgroup_root: config.cgroup_root.clone(),
        };
        let closes = events.take_adopted();
        let mut telemetry = Telemetry::new(events, parts);
        let mut progress = None;
        if !config.progress.is_zero()
            && let Some((watch, found)) = Watch::new(Arc::clone(&revoker), config.cgroup_root.clone(), config.progress)
        {
            telemetry = telemetry.with_progress(config.progress, found);
            progress = Some(Subsystem::thread("progress", exits, move |stop| {
                kernel::seal::hold_nothing();
                watch.run(&stop);
                Ok(())
            })?);
        }
        let telemetry = Subsystem::thread("telemetry", exits, move |stop| {
            kernel::seal::hold_nothing();
            telemetry.run(&stop).map_err(|e| e.to_string())
        })?;
        let spooler = {
            let queue = Arc::clone(&queue);
            Subsystem::thread("spooler", exits, move |_| {
                kernel::seal::hold_nothing();
                spooler::run(&queue, rpc::pack::CODEC);
                Ok(())
            })?
        };
        let exporter = exporter(config, &queue, &link, exits)?;

        let root = config.cgroup_root.clone();
        let work = revoke::Work::new(Arc::clone(&revoker), root, Arc::clone(&names), Arc::clone(&queue), closes);
        let work = Subsystem::thread("revoker", exits, move |stop| {
            kernel::seal::hold_what_cutting_takes();
            work.run(&stop);
            Ok(())
        })?;

        let (arrivals, news) = match Arrivals::open() {
            Ok((arrivals, news)) => (arrivals, Some(news)),
            Err(error) => {
                tracing::warn!(error = %error, "cgroups that appear are not told at once, but found within a second");
                (Arrivals::default(), None)
            }
        };
        let settings = Settings {
            node: config.node.clone(),
            cgroup_root: config.cgroup_root.clone(),
            unknown: config.unknown,
            unselected: config.unselected,
            state_dir: config.state_dir.clone(),
            names,
            queue: Arc::clone(&queue),
            revoker: Arc::clone(&revoker),
            clock: Arc::new(|| Timestamp(clock::wall_now())),
            arrivals,
        };
        let (control, handle) = control(config, datapath, settings, exits)?;
        let arrivals = match news {
            Some(news) => {
                let handle = handle.clone();
                Some(Subsystem::thread("arrivals", exits, move |stop| {
                    kernel::seal::hold_nothing();
                    news.run(&handle, &stop).map_err(|error| error.to_string())
                })?)
            }
            None => None,
        };

        let info = Arc::new(rpc::Info {
            node: config.node.clone(),
            unknown: config.unknown.name(),
            unselected: config.unselected.name(),
            sealed: kernel::seal::is_closed(),
            landlock: kernel::fence::state().word(),
            cgroup_root: PathBuf::from(&config.cgroup_root),
            tally,
            queue: Arc::clone(&queue),
            revoker,
            link,
        });
        let metrics = match config.metrics {
            Some(metrics) => Some(serve_metrics(metrics.listen, runtime, handle.clone(), Arc::clone(&info), exits)?),
            None => None,
        };
        let listeners = {
            let _inside = runtime.enter();
            rpc::listen(&config.grpc)?
        };
        let rpc = Subsystem::task("rpc", exits, runtime, |stop| async move {
            rpc::serve(listeners, handle, info, stop).await.map_err(|error| weir_transport::why(&error))
        });
        Ok(Self { rpc, metrics, arrivals, control, revoker: work, telemetry, progress, spooler, exporter, queue })
    }

    /// Stops everything, in the order of the table above.
    fn stop(self) {
        notify::stopping();
        self.rpc.stop(RPC_DEADLINE);
        if let Some(metrics) = self.metrics {
            metrics.stop(RPC_DEADLINE);
        }
        if let Some(arrivals) = self.arrivals {
            arrivals.stop(ARRIVALS_DEADLINE);
        }
        self.control.stop(CONTROL_DEADLINE);
        self.revoker.stop(REVOKER_DEADLINE);
        if let Some(progress) = self.progress {
            progress.stop(PROGRESS_DEADLINE);
        }
        self.telemetry.stop(TELEMETRY_DEADLINE);
        self.queue.close();
        self.spooler.finish(SPOOLER_DEADLINE);
        if let Some(exporter) = self.exporter {
            exporter.finish(EXPORTER_DEADLINE);
        }
        tracing::info!("stopped");
    }
}

/// The control thread, which begins with what was in force before and the policy directory; and what sends it commands.
fn control<D: Datapath>(
    config: &Config,
    datapath: D,
    settings: Settings,
    exits: &Exits,
) -> Result<(Subsystem, actor::Handle), RunError> {
    let mut control = Control::start(datapath, settings)?;
    let restored = control.restore()?;
    if let Some(dir) = &config.policy_dir {
        control.apply_dir(dir, restored)?;
    }
    let (handle, mailbox) = actor::channel();
    let thread = Subsystem::thread("control", exits, move |stop| {
        actor::run(control, &mailbox, &stop, || {
            tracing::info!("enforcing");
            notify::ready();
        });
        Ok(())
    })?;
    Ok((thread, handle))
}

/// The page for Prometheus and for probes.
fn serve_metrics(
    at: SocketAddr,
    runtime: &Runtime,
    control: actor::Handle,
    info: Arc<rpc::Info>,
    exits: &Exits,
) -> Result<Subsystem, RunError> {
    let listener = {
        let _inside = runtime.enter();
        metrics::listen(at).map_err(|source| RunError::Metrics { at, source })?
    };
    Ok(Subsystem::task("metrics", exits, runtime, |stop| async move {
        metrics::serve(listener, control, info, stop).await.map_err(|error| error.to_string())
    }))
}

/// The exporter's thread, with a runtime of its own so that a heavy request never delays a record.
fn exporter(
    config: &Config,
    queue: &Arc<Queue>,
    link: &Arc<Link>,
    exits: &Exits,
) -> Result<Option<Subsystem>, RunError> {
    let Some(collector) = &config.collector else {
        tracing::warn!("no collector is configured: decisions are counted, their records are not kept");
        return Ok(None);
    };
    let connect = rpc::collector_config(collector)?;
    let system = |source| RunError::System { what: "the runtime of the exporter", source };
    let runtime = Builder::new_current_thread().enable_all().build().map_err(system)?;
    let channel = {
        let _inside = runtime.enter();
        connect.connect()?
    };
    let (queue, link, node) = (Arc::clone(queue), Arc::clone(link), config.node.clone());
    let thread = Subsystem::thread("exporter", exits, move |_| {
        kernel::seal::hold_nothing();
        runtime.block_on(rpc::export::run(channel, queue, node, link));
        Ok(())
    })?;
    Ok(Some(thread))
}

/// The queue, with what earlier runs left to deliver. Without a collector there is nothing to keep.
fn queue(config: &Config) -> Result<Arc<Queue>, RunError> {
    let enabled = config.collector.is_some();
    let limits = Limits { bytes: if enabled { config.spool.bytes } else { 0 }, ..config.spool };
    let dir = config.state_dir.join("spool");
    let now = clock::wall_now();
    let boot = boot_id()?;
    let (spool, left) = Spool::open(&dir, limits, &boot, now).unwrap_or_else(|error| {
        // Enforcement does not wait for a disk; status says so.
        tracing::error!(dir = %dir.display(), error = %error, "the spool cannot be used: records are kept in memory only");
        (Spool::in_memory(&boot, error.to_string()), Left::default())
    });
    let records = spool.status().records;
    if records > 0 {
        tracing::info!(records, "an earlier run left records that are delivered first");
    }
    let queue = Queue::new(config.queue_records, spool, enabled);
    if left.damaged {
        tracing::error!("some of what an earlier run left cannot be read any more");
        queue.lost(Cause::SpoolDamaged, None, 0, now, now);
    }
    if let Some(ended_ns) = left.ended_ns {
        tracing::warn!(
            "an earlier run ended without a word; what it had in memory is lost, and records tell since when"
        );
        queue.lost(Cause::AgentEnded, None, 0, ended_ns.min(now), now);
    }
    Ok(Arc::new(queue))
}

/// A random name for this run, from the kernel.
fn boot_id() -> Result<String, RunError> {
    let read = std::fs::read_to_string("/proc/sys/kernel/random/uuid");
    read.map(|text| text.trim().to_owned()).map_err(|source| RunError::System { what: "a random boot id", source })
}

#[cfg(test)]
mod tests;
