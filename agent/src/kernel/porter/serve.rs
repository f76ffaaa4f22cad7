//! Lives: the porter, a process that the agent starts of itself; what it does is done by the asker where there is none.
//! Called by: `main`; `porter`.
//! May touch: `/proc` of other processes, reading; network namespaces, in which it opens sock_diag sockets.
//! Never: writes to a file, speaks to the network, starts anything: its own seal forbids it; outlives the agent.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, IntoRawFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::Path,
};

use caps::Capability;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};
use nix::sched::{CloneFlags, setns};

use super::wire::{Ask, Line};
use crate::kernel::{seal, threads};

/// What it holds. NET_ADMIN: a socket cuts only if who has opened it might.
pub(super) const KEPT: [Capability; 3] =
    [Capability::CAP_SYS_ADMIN, Capability::CAP_SYS_PTRACE, Capability::CAP_NET_ADMIN];

/// Answers until nobody can ask any more.
///
/// # Errors
/// The agent's end is not at standard input, this network namespace cannot be entered again, or the seal does not hold.
pub fn serve() -> io::Result<()> {
    let line = Line::new(io::stdin().as_fd().try_clone_to_owned()?);
    // Names it in lists of processes; of no other use.
    let _ = fs::write("/proc/self/comm", "weir-porter");
    threads::hurry();
    let home = File::open("/proc/self/ns/net")?;
    seal::close_porter(&KEPT)?;
    while let Some((ask, number, with)) = line.next()? {
        let mut entered = Entered { home: &home, left: Ok(()) };
        let done = match ask {
            None => Err(io::ErrorKind::InvalidInput.into()),
            Some(ask) => entered.answer(ask, with.as_ref().map(OwnedFd::as_fd)),
        };
        // In the wrong namespace it must not answer anybody.
        entered.left?;
        match done {
            Ok((bytes, file)) => line.answer(number, Ok((bytes, file.as_ref().map(OwnedFd::as_fd))))?,
            Err(error) => line.answer(number, Err(error))?,
        }
    }
    Ok(())
}

/// This process, and whether it is where it belongs.
struct Entered<'a> {
    home: &'a File,
    left: io::Result<()>,
}

impl Entered<'_> {
    fn answer(&mut self, ask: Ask, with: Option<BorrowedFd<'_>>) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
        match ask {
            Ask::Ids(pids) => Ok((ids(&pids), None)),
            Ask::Open(pid) => Ok((Vec::new(), Some(open(pid)?.into()))),
            Ask::Look(pid) => Ok((look(Path::new("/proc"), pid)?, None)),
            Ask::Door => self.inside(with, || Ok((Vec::new(), Some(file(knock()?))))),
            Ask::Ports => self.inside(with, || Ok((client_ports()?.into_bytes(), None))),
        }
    }

    fn inside<T>(&mut self, at: Option<BorrowedFd<'_>>, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let at = at.ok_or(io::ErrorKind::InvalidInput)?;
        setns(at, CloneFlags::CLONE_NEWNET)?;
        let done = work();
        self.left = setns(self.home, CloneFlags::CLONE_NEWNET).map_err(io::Error::from);
        done
    }
}

/// Eight bytes for each; zeros for one that has ended.
pub(super) fn ids(pids: &[u32]) -> Vec<u8> {
    let id = |pid| fs::metadata(format!("/proc/{pid}/ns/net")).map_or(0, |metadata| metadata.ino());
    pids.iter().flat_map(|pid| id(pid).to_ne_bytes()).collect()
}

pub(super) fn open(pid: u32) -> io::Result<File> {
    File::open(format!("/proc/{pid}/ns/net"))
}

/// `stat`, a zero byte, and the program's path, which is empty where it cannot be told.
pub(super) fn look(root: &Path, pid: u32) -> io::Result<Vec<u8>> {
    use std::os::unix::ffi::OsStringExt as _;
    let place = root.join(pid.to_string());
    let mut said = fs::read(place.join("stat"))?;
    said.push(0);
    said.extend(fs::read_link(place.join("exe")).map(|path| path.into_os_string().into_vec()).unwrap_or_default());
    Ok(said)
}

/// A way to ask for sockets of this thread's namespace, and to cut them.
pub(in crate::kernel) fn knock() -> io::Result<Socket> {
    let socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

pub(in crate::kernel) fn client_ports() -> io::Result<String> {
    fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
}

#[expect(unsafe_code, reason = "netlink-sys takes and gives its socket by number only")]
fn file(socket: Socket) -> OwnedFd {
    // SAFETY: the socket is open, and gives up its descriptor here.
    unsafe { OwnedFd::from_raw_fd(socket.into_raw_fd()) }
}

#[expect(unsafe_code, reason = "netlink-sys takes and gives its socket by number only")]
pub(super) fn socket(file: OwnedFd) -> Socket {
    debug_assert!(file.as_raw_fd() >= 0);
    // SAFETY: the descriptor is open, and given up here.
    unsafe { Socket::from_raw_fd(file.into_raw_fd()) }
}
