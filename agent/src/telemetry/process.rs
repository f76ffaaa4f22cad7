//! Lives: weir-agent, telemetry.
//! Called by: `join`, for each event that names a process.
//! May touch: `/proc/PID/exe` and `/proc/PID/stat`.
//! Never: names an executable that started after the event: then the pid is another process's by now.
//!
//! What was read counts for a second, so that a busy process costs two reads a second and not two per connection. Within
//! that second an `exec` shows by the task's name, and a reused pid would need all other pids to have been used up.

use std::{path::PathBuf, sync::Arc};

use weir_common::event::Process;

use super::{bounded::Bounded, clock::Clock, record::ProcessInfo};

/// Processes remembered.
const CAPACITY: usize = 4096;
/// How long a reading counts.
const FRESH_NS: u64 = 1_000_000_000;
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
        let place = self.root.join(process.pid.to_string());
        let start_ticks = || start_ticks(&std::fs::read_to_string(place.join("stat")).ok()?);
        let before = start_ticks();
        let executable = std::fs::read_link(place.join("exe")).ok();
        // The same start time on both sides of the link: the link is that process's. Ticks are cut off, never rounded up.
        let same = before.filter(|start| start_ticks() == Some(*start) && start.saturating_mul(TICK_NS) <= boot_ns);
        let (executable, start_ticks) = match (executable, same) {
            (Some(path), Some(start)) => (path.to_string_lossy().into_owned(), start),
            (Some(_) | None, Some(_) | None) => (String::new(), 0),
        };
        ProcessInfo { pid: process.pid, uid: process.uid, command: command(&process.comm), executable, start_ticks }
    }
}

/// Field 22 of `/proc/PID/stat`. The second field, the task's name, may hold spaces and parentheses: count after its last one.
fn start_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
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
    }

    #[test]
    fn a_process_is_named_unless_it_started_after_the_event() {
        let dir = tempfile::tempdir().unwrap();
        // 500 ticks: five seconds after boot; the boot clock is one second ahead of the monotonic one.
        fake(dir.path(), 9, 500, "/usr/bin/curl");
        let clock = Clock { wall_offset: 0, boot_offset: 1_000_000_000 };
        let rows =
            [(4_000_000_000, "/usr/bin/curl", 500), (3_999_999_999, "", 0), (60_000_000_000, "/usr/bin/curl", 500)];
        for (time, executable, start) in rows {
            let info = Processes::new(dir.path().to_owned()).describe(&process(9), time, &clock).unwrap();
            assert_eq!((info.executable.as_str(), info.start_ticks), (executable, start), "at {time}");
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
        assert_eq!((gone.executable.as_str(), gone.pid), ("", 8));
        assert_eq!(processes.describe(&process(0), 1, &Clock::default()), None);
    }

    #[test]
    fn our_own_start_time_is_read() {
        let pid = std::process::id();
        let time = super::super::clock::monotonic_now();
        let info = Processes::new("/proc".into()).describe(&process(pid), time, &Clock::now()).unwrap();
        assert_eq!(info.executable, std::env::current_exe().unwrap().display().to_string());
        assert!(info.start_ticks > 0);
    }
}
