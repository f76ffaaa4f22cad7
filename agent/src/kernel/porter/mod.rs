//! Lives: agent, user space.
//! Called by: `runtime`, which starts the porter; `namespaces`, `sockets` and `telemetry`, which ask it.
//! May touch: the porter, a process of its own, by one socket.
//! Never: needs a privilege for what it asks; hands over anything but numbers of processes and files of network namespaces.
//!
//! Looking into other users' processes and entering their network namespaces takes CAP_SYS_PTRACE and CAP_SYS_ADMIN, and a process
//! fenced in by Landlock may do neither. So a small process beside the agent does it ([`serve`]), and nobody else holds those two.
//! Where none was started - in tests of parts - the asker does it itself.

mod serve;
mod wire;

use std::{
    fs::File,
    io::{self, ErrorKind},
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::process::CommandExt as _,
    },
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use caps::{CapSet, CapsHashSet};
use netlink_sys::Socket;
use nix::sys::{
    socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt},
    time::{TimeVal, TimeValLike as _},
};

pub use serve::serve;
pub(super) use serve::{client_ports, knock};
use wire::{Ask, Line};

/// Longest wait for an answer, which takes some ten microseconds unless the processor is very busy.
const PATIENCE: Duration = Duration::from_secs(5);

/// There is one for the process, as there is one seal.
static PORTER: OnceLock<Mutex<Line>> = OnceLock::new();

/// Starts the porter: this program again, which reads from its standard input what it is asked. It ends when this process does.
///
/// # Errors
/// It cannot be started.
pub fn start() -> io::Result<Child> {
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).map_err(io::Error::from)?;
    let patience = TimeVal::milliseconds(i64::try_from(PATIENCE.as_millis()).unwrap_or(i64::MAX));
    setsockopt(&ours, sockopt::ReceiveTimeout, &patience)?;
    setsockopt(&ours, sockopt::SendTimeout, &patience)?;
    bequeath();
    let child = Command::new("/proc/self/exe")
        .arg0("weir-porter")
        .arg("--porter")
        .env_clear()
        .stdin(theirs)
        .stdout(Stdio::null())
        .spawn()?;
    if PORTER.set(Mutex::new(Line::new(ours))).is_err() {
        return Err(io::Error::new(ErrorKind::AlreadyExists, "there is a porter already"));
    }
    Ok(child)
}

/// Lets a child have what this thread has, where the agent is not root: `seal` takes it back.
fn bequeath() {
    let held = caps::read(None, CapSet::Permitted).unwrap_or_default();
    let needed: CapsHashSet = held.into_iter().filter(|one| serve::KEPT.contains(one)).collect();
    // Root's children have it anyway.
    let _ = caps::set(None, CapSet::Inheritable, &needed).and_then(|()| caps::set(None, CapSet::Ambient, &needed));
}

/// Whether there is a porter to ask.
fn ask(ask: Ask, with: Option<BorrowedFd<'_>>) -> Option<io::Result<(Vec<u8>, Option<OwnedFd>)>> {
    let line = PORTER.get()?;
    Some(line.lock().unwrap_or_else(PoisonError::into_inner).ask(&ask, with))
}

/// The ids of the network namespaces of processes, in their order; `None` for one that has ended.
pub(super) fn namespaces_of(pids: &[u32]) -> Vec<Option<u64>> {
    // What fits into a message.
    let some = |pids: &[u32]| -> Vec<Option<u64>> {
        let answer = ask(Ask::Ids(pids.to_vec()), None);
        let answer = answer.map_or_else(|| Ok(serve::ids(pids)), |answer| answer.map(|(bytes, _)| bytes));
        let bytes = answer.unwrap_or_else(|error| {
            tracing::warn!(%error, "the network namespaces of processes cannot be asked for");
            Vec::new()
        });
        let (ids, _) = bytes.as_chunks::<8>();
        let mut ids: Vec<_> = ids.iter().map(|id| Some(u64::from_ne_bytes(*id)).filter(|id| *id != 0)).collect();
        ids.resize(pids.len(), None);
        ids
    };
    pids.chunks(wire::MOST_PIDS).flat_map(some).collect()
}

/// The network namespace of a process.
pub(super) fn namespace(pid: u32) -> io::Result<File> {
    match ask(Ask::Open(pid), None) {
        None => serve::open(pid),
        Some(answer) => answer.and_then(file).map(File::from),
    }
}

/// A sock_diag socket inside a network namespace.
pub(super) fn door(namespace: &File) -> io::Result<Option<Socket>> {
    ask(Ask::Door, Some(namespace.as_fd())).map(|answer| answer.and_then(file).map(serve::socket)).transpose()
}

/// What the network namespace's own ports for clients are, as the kernel writes it.
pub(super) fn ports(namespace: &File) -> io::Result<Option<String>> {
    let said = ask(Ask::Ports, Some(namespace.as_fd()));
    said.map(|answer| answer.map(|(text, _)| String::from_utf8_lossy(&text).into_owned())).transpose()
}

/// What `/proc` says of a process: its `stat`, in which all may read, but for where its arguments lie, and the path of its program. `root` is `/proc`, except in tests.
///
/// # Errors
/// There is no such process, or it may not be looked at.
pub fn look(root: &Path, pid: u32) -> io::Result<(String, String)> {
    let bytes = match (root == Path::new("/proc")).then(|| ask(Ask::Look(pid), None)).flatten() {
        None => serve::look(root, pid),
        Some(answer) => answer.map(|(bytes, _)| bytes),
    }?;
    let text = String::from_utf8_lossy(&bytes);
    // The first line may hold anything but this byte: names of tasks and paths end before one.
    let (stat, program) = text.split_once('\0').ok_or(ErrorKind::InvalidData)?;
    Ok((stat.to_owned(), program.to_owned()))
}

fn file((_, file): (Vec<u8>, Option<OwnedFd>)) -> io::Result<OwnedFd> {
    file.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "the porter has sent no file"))
}
