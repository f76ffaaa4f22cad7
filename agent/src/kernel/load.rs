//! Lives: agent, user space.
//! Called by: `Kernel::load`, once.
//! May touch: the embedded object, the kernel's program loader.
//! Never: attaches.

use std::{
    io,
    time::{Duration, Instant},
};

use aya::{
    Btf, Ebpf, EbpfLoader, Pod,
    programs::{Program, ProgramError},
};
use aya_log::EbpfLogger;
use nix::time::{ClockId, clock_getres};
use tokio::task::JoinHandle;
use weir_common::places::{DropPlaces, SocketPlaces, TaskPlaces};

use super::{
    attach,
    error::{self, KernelError},
    places::Places,
    verifier,
};

/// The object file that `build.rs` made, aligned as an ELF parser wants it.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/weir.bpf.o"));

/// The one that is only measured. Who does not ask for it does not have it: the linker leaves it out of the agent.
pub(super) static BENCH: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bench.bpf.o"));

/// How often the programs' log lines are looked for: they are rare, and none is urgent.
const LOG_INTERVAL: Duration = Duration::from_millis(250);

/// Creates the maps and loads each program.
pub(super) fn load(chain: bool, drop_bytes: u32, places: &Places) -> Result<Ebpf, KernelError> {
    if places.tasks.known == 0 {
        tracing::info!(
            "this kernel does not tell where a task's parts lie: programs ask for it by helpers, which is slower"
        );
    }
    match load_with(places.tasks, chain, drop_bytes, places) {
        Err(error) if places.tasks.known != 0 && is_refusal(&error) => {
            // Whatever else was wrong is still wrong, and then that is what there is to say.
            let loaded = load_with(TaskPlaces::UNKNOWN, chain, drop_bytes, places)?;
            tracing::info!(%error, "this kernel does not let programs read the calling task: programs ask for it by helpers, which is slower");
            Ok(loaded)
        }
        loaded => loaded,
    }
}

/// Whether the kernel has looked at a program and refused it; without memory, say, it has not.
fn is_refusal(error: &KernelError) -> bool {
    matches!(error, KernelError::Program { cause: ProgramError::LoadError { io_error, .. }, .. }
        if io_error.kind() != io::ErrorKind::OutOfMemory)
}

/// The same, the programs reading the calling task in this way.
pub(super) fn load_with(tasks: TaskPlaces, chain: bool, drop_bytes: u32, places: &Places) -> Result<Ebpf, KernelError> {
    let mut ebpf = open(tasks, drop_bytes, places)?;
    attach::programs(chain).try_for_each(|name| load_program(&mut ebpf, name))?;
    Ok(ebpf)
}

/// Creates the maps; loads no program yet. `tasks`: where programs find the parts of a task. `drop_bytes`: how many bytes of a dropped
/// packet they tell.
pub(super) fn open(tasks: TaskPlaces, drop_bytes: u32, places: &Places) -> Result<Ebpf, KernelError> {
    let tasks: [u64; TaskPlaces::WORDS] = zerocopy::transmute!(tasks);
    let sockets = places.sockets.unwrap_or(SocketPlaces::UNKNOWN);
    let sockets: [u64; SocketPlaces::WORDS] = zerocopy::transmute!(sockets);
    let drops = places.drops.as_ref().map_or(DropPlaces::UNKNOWN, |drops| drops.places);
    let drops: [u64; DropPlaces::WORDS] = zerocopy::transmute!(drops);
    let (secret_0, secret_1) = (random_word(), random_word());
    let tick = tick_ns();
    let mut loader = EbpfLoader::new();
    let btf = Btf::from_sys_fs().ok();
    loader.btf(btf.as_ref());
    set(&mut loader, "SECRET_0", &secret_0);
    set(&mut loader, "SECRET_1", &secret_1);
    set(&mut loader, "TICK_NS", &tick);
    let first_jiffy = first_jiffy(tick);
    set(&mut loader, "FIRST_JIFFY", &first_jiffy);
    set(&mut loader, "TASK_PLACES", &tasks);
    set(&mut loader, "SOCKET_PLACES", &sockets);
    set(&mut loader, "DROP_PLACES", &drops);
    set(&mut loader, "DROP_BYTES", &drop_bytes);
    Ok(loader.load(OBJECT)?)
}

/// Loads one program, which the kernel verifies.
pub(super) fn load_program(ebpf: &mut Ebpf, name: &'static str) -> Result<(), KernelError> {
    let program = ebpf.program_mut(name).ok_or(KernelError::NoProgram(name))?;
    let start = Instant::now();
    error::program_point("start.load").and_then(|()| load_one(program)).map_err(|cause| refused(name, cause))?;
    let seconds = start.elapsed().as_secs_f32();
    let verified = |program: &Program| program.info().ok().and_then(|info| info.verified_instruction_count());
    tracing::trace!(program = name, verified = verified(program), seconds, "program loaded");
    Ok(())
}

fn set<'a, T: Pod>(loader: &mut EbpfLoader<'a>, name: &'a str, value: &'a T) {
    loader.override_global(name, value, true);
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the object holds only these kinds; another is a build mistake and says so"
)]
fn load_one(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::Xdp(program) => program.load(),
        Program::CgroupSkb(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        Program::SockOps(program) => program.load(),
        Program::SkLookup(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        Program::RawTracePoint(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "only one variant carries a verifier log")]
fn refused(program: &'static str, cause: ProgramError) -> KernelError {
    let log = match &cause {
        ProgramError::LoadError { verifier_log, .. } => verifier_log.to_string(),
        _ => String::new(),
    };
    tracing::debug!(program, log, "verifier log");
    KernelError::Program { program, cause, verifier: verifier::telling(&log) }
}

/// A word the kernel's random generator made; `RandomState` draws its keys from there.
pub(super) fn random_word() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one("weir")
}

/// Nanoseconds per jiffy: the resolution of the coarse clock is one tick. 0 when it cannot be read.
#[must_use]
pub fn tick_ns() -> u64 {
    let resolution = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).map(|time| time.tv_nsec());
    resolution.ok().and_then(|nanoseconds| u64::try_from(nanoseconds).ok()).unwrap_or(0)
}

/// What the kernel's jiffies started at (`INITIAL_JIFFIES`): five minutes before they wrap in 32 bits.
fn first_jiffy(tick_ns: u64) -> u64 {
    let per_second = 1_000_000_000u64.checked_div(tick_ns).unwrap_or(0);
    (1 << 32) - 300 * per_second
}

/// Forwards what the programs log; stops when dropped.
pub(super) struct LogTask(JoinHandle<()>);

impl Drop for LogTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Starts forwarding aya-log lines to the `log` crate, and so to tracing. Needs a tokio runtime; without one (in tests) the
/// programs' lines stay in their ring.
pub(super) fn forward_logs(ebpf: &mut Ebpf) -> Option<LogTask> {
    let runtime = tokio::runtime::Handle::try_current().ok()?;
    let mut logger = match EbpfLogger::init(ebpf) {
        Ok(logger) => logger,
        Err(error) => {
            tracing::warn!(error = %error, "kernel log lines cannot be forwarded");
            return None;
        }
    };
    Some(LogTask(runtime.spawn(async move {
        let mut timer = tokio::time::interval(LOG_INTERVAL);
        loop {
            timer.tick().await;
            logger.flush();
        }
    })))
}
