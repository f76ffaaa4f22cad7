//! Lives: weir-agent, telemetry.
//! Called by: `join`, for each event that names a process.
//! May touch: `/proc/PID/cmdline`; `porter`, which reads `/proc/PID/exe` and `/proc/PID/stat`.
//! Never: names an executable that started after the event: then the pid is another process's by now; keeps a command line,
//!   which may hold secrets, beyond its hash.
//!
//! What was read counts for a second, so that a busy process costs two reads a second and not two per connection. Within
//! that second an `exec` shows by the task's name, and a reused pid would need all other pids to have been used up. A program that
//! replaces itself by one of the same name within it is shown as what it was (docs/records.md).
//!
//! A command line lies in the process's own memory. Reading it waits for the lock of that memory's layout at most, not for what the
//! process may put there to keep a reader waiting: the kernel takes pages of files and of `userfaultfd` for unreadable here.

use std::{fs::File, io::Read as _, path::PathBuf, sync::Arc};

use ring::digest::{SHA256, digest};
use weir_common::event::Process;

use super::{bounded::Bounded, clock::Clock, record::ProcessInfo};
use crate::kernel::porter;

/// Processes remembered.
const CAPACITY: usize = 4096;
/// How long a reading counts.
const FRESH_NS: u64 = 1_000_000_000;
/// Longest command line that is hashed, bytes: 128 KiB takes a tenth of a millisecond. A workload chooses how long its own is, up to
/// megabytes.
const LONGEST: u64 = 128 << 10;
/// Nanoseconds per clock tick in `/proc`: `USER_HZ` is 100 on every architecture we run on.
const TICK_NS: u64 = 10_000_000;

/// Finds out more about processes.
pub struct Processes {
    root: PathBuf,
    known: Bounded<Caller, Reading>,
}

/// What tells callers apart: an `exec` changes the task's name, not its pid.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Caller {
    pid: u32,
    uid: u32,
    comm: [u8; 16],
}

struct Reading {
    at_ns: u64,
    info: Arc<ProcessInfo>,
}

impl Processes {
    /// Reads below `root`, which is `/proc` except in tests.
    pub fn new(root: PathBuf) -> Self {
        Self { root, known: Bounded::new(CAPACITY) }
    }

    /// The process of an event that happened at `time_ns` (monotonic); `None` if the event names none.
    pub fn describe(&mut self, process: &Process, time_ns: u64, clock: &Clock) -> Option<Arc<ProcessInfo>> {
        if process.pid == 0 {
            return None;
        }
        let caller = Caller { pid: process.pid, uid: process.uid, comm: process.comm };
        let fresh = self.known.get(&caller).filter(|reading| time_ns.abs_diff(reading.at_ns) < FRESH_NS);
        if let Some(reading) = fresh {
            return Some(Arc::clone(&reading.info));
        }
        let info = Arc::new(self.read(process, clock.boot(time_ns)));
        self.known.insert(caller, Reading { at_ns: time_ns, info: Arc::clone(&info) });
        Some(info)
    }

    fn read(&self, process: &Process, boot_ns: u64) -> ProcessInfo {
        let look = || porter::look(&self.root, process.pid).ok();
        let (before, executable) = look()
            .map_or((None, None), |(stat, program)| (Image::of(&stat), Some(program).filter(|one| !one.is_empty())));
        let hash = File::open(self.root.join(process.pid.to_string()).join("cmdline")).ok().and_then(hash);
        let image = || Image::of(&look()?.0);
        // The same on both sides: what was read between is that process's. Ticks are cut off, never rounded up.
        let same =
            before.filter(|before| before.start_ticks.saturating_mul(TICK_NS) <= boot_ns && image() == Some(*before));
        let (executable, start_ticks, command_line_hash) = match (executable, same) {
            (Some(path), Some(image)) => (path, image.start_ticks, hash),
            (Some(_) | None, Some(_) | None) => (String::new(), 0, None),
        };
        let (pid, uid, command) = (process.pid, process.uid, command(&process.comm));
        ProcessInfo { pid, uid, command, executable, start_ticks, command_line_hash }
    }
}

/// What tells a process from a later one of its pid, and from what it was before an `exec`.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Image {
    start_ticks: u64,
    /// Where its arguments lie, which the kernel varies with each `exec`.
    arguments: Option<u64>,
}

impl Image {
    /// Fields 22 and 48 of `/proc/PID/stat`. The second, the task's name, may hold spaces and parentheses: count after its last one.
    fn of(stat: &str) -> Option<Self> {
        let (_, rest) = stat.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace().skip(19);
        let start_ticks = fields.next()?.parse().ok()?;
        Some(Self { start_ticks, arguments: fields.nth(25).and_then(|field| field.parse().ok()) })
    }
}

/// The first eight bytes of the SHA-256 of a command line as the kernel shows it: each argument, then a zero byte. `None` where there is
/// none (a kernel thread, a process that ends), or more than fits: half of one would be another's.
fn hash(file: File) -> Option<u64> {
    let mut line = Vec::new();
    let read = file.take(LONGEST + 1).read_to_end(&mut line).ok()?;
    let whole = read > 0 && u64::try_from(read).is_ok_and(|read| read <= LONGEST);
    let digest = whole.then(|| digest(&SHA256, &line))?;
    digest.as_ref().first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

fn command(comm: &[u8; 16]) -> String {
    let bytes: Vec<u8> = comm.iter().copied().take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32) -> Process {
        let mut comm = [0; 16];
        comm[..4].copy_from_slice(b"curl");
        Process { pid, uid: 7, comm, staged: 0, reserved: 0 }
    }

    fn fake(root: &std::path::Path, pid: u32, start: u64, exe: &str) {
        let dir = root.join(pid.to_string());
        std::fs::create_dir_all(&dir).unwrap();
        let fields = vec!["0"; 18].join(" ");
        std::fs::write(dir.join("stat"), format!("{pid} (a) b) S {fields} {start} 0 0\n")).unwrap();
        let _ = std::fs::remove_file(dir.join("exe"));
        std::os::unix::fs::symlink(exe, dir.join("exe")).unwrap();
        std::fs::write(dir.join("cmdline"), format!("{exe}\0-s\0")).unwrap();
    }

    /// adversarial 50: a process id used again names nobody rather than the wrong process.
    #[test]
    fn a_process_is_named_unless_it_started_after_the_event() {
        let dir = tempfile::tempdir().unwrap();
        // 500 ticks: five seconds after boot; the boot clock is one second ahead of the monotonic one.
        fake(dir.path(), 9, 500, "/usr/bin/curl");
        let clock = Clock { wall_offset: 0, boot_offset: 1_000_000_000 };
        // printf '/usr/bin/curl\0-s\0' | sha256sum
        let curl = ("/usr/bin/curl", 500, Some(0x3e27_b2d4_640d_77ce));
        let rows = [(4_000_000_000, curl), (3_999_999_999, ("", 0, None)), (60_000_000_000, curl)];
        for (time, expected) in rows {
            let info = Processes::new(dir.path().to_owned()).describe(&process(9), time, &clock).unwrap();
            let found = (info.executable.as_str(), info.start_ticks, info.command_line_hash);
            assert_eq!(found, expected, "at {time}");
            assert_eq!((info.command.as_str(), info.uid, info.pid), ("curl", 7, 9));
        }
    }

    #[test]
    fn a_reading_is_used_for_a_second_and_then_made_again() {
        let dir = tempfile::tempdir().unwrap();
        fake(dir.path(), 9, 1, "/bin/a");
        let mut processes = Processes::new(dir.path().to_owned());
        let mut at = |ns| processes.describe(&process(9), ns, &Clock::default()).unwrap().executable.clone();
        assert_eq!(at(1_000_000_000), "/bin/a");
        fake(dir.path(), 9, 1, "/bin/b");
        assert_eq!(at(1_900_000_000), "/bin/a");
        assert_eq!(at(2_100_000_000), "/bin/b");
    }

    #[test]
    fn what_is_gone_or_never_was_is_not_invented() {
        let dir = tempfile::tempdir().unwrap();
        let mut processes = Processes::new(dir.path().to_owned());
        let gone = processes.describe(&process(8), 1, &Clock::default()).unwrap();
        assert_eq!((gone.executable.as_str(), gone.command_line_hash, gone.pid), ("", None, 8));
        assert_eq!(processes.describe(&process(0), 1, &Clock::default()), None);
    }

    #[test]
    fn a_command_line_that_is_empty_or_too_long_has_no_hash() {
        let dir = tempfile::tempdir().unwrap();
        let longest = usize::try_from(LONGEST).unwrap();
        for (length, has_hash) in [(0, false), (1, true), (longest, true), (longest + 1, false)] {
            fake(dir.path(), 9, 1, "/bin/a");
            std::fs::write(dir.path().join("9/cmdline"), "x".repeat(length)).unwrap();
            let info =
                Processes::new(dir.path().to_owned()).describe(&process(9), u64::MAX, &Clock::default()).unwrap();
            assert_eq!((info.executable.as_str(), info.command_line_hash.is_some()), ("/bin/a", has_hash), "{length}");
        }
    }

    #[test]
    fn an_exec_between_two_looks_shows() {
        let stat =
            |start, arguments| format!("9 (a) b) S {} {start} {} {arguments} 0 0\n", "0 ".repeat(18), "0 ".repeat(25));
        let image = |start, arguments| Image::of(&stat(start, arguments));
        assert!(image(7, 140_000) == image(7, 140_000) && image(7, 140_000).is_some());
        assert!(image(7, 140_000) != image(7, 140_016) && image(7, 140_000) != image(8, 140_000));
    }

    #[test]
    fn our_own_start_time_is_read() {
        let pid = std::process::id();
        let time = super::super::clock::monotonic_now();
        let info = Processes::new("/proc".into()).describe(&process(pid), time, &Clock::now()).unwrap();
        assert_eq!(info.executable, std::env::current_exe().unwrap().display().to_string());
        assert!(info.start_ticks > 0 && info.command_line_hash.is_some());
    }
}
