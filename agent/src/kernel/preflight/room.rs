//! Lives: agent, user space.
//! Called by: `doctor`, for what can only be found out by doing it.
//! May touch: a cgroup without processes, which it makes; a network namespace of one thread, which ends with it.
//! Never: lets a process of others in.

use std::{
    fs,
    io::{self, Read as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process, thread,
    time::Duration,
};

use nix::sched::{CloneFlags, unshare};
use weir_common::addr::Protocol;

use super::LOOPBACK_INDEX;
use crate::kernel::{
    links,
    namespaces::Namespace,
    sockets::{Cut, Door, Living},
};

/// Longest wait for a connection inside the namespace to end.
const PATIENCE: Duration = Duration::from_secs(2);

/// An empty cgroup below the managed root, removed when dropped.
#[derive(Debug)]
pub struct Cell(PathBuf);

impl Cell {
    /// Makes one. Its name says whose it was, should this process be killed before it removes it.
    ///
    /// # Errors
    /// The tree cannot be written to.
    pub fn below(root: &Path) -> io::Result<Self> {
        let path = root.join(format!("weir-doctor-{}", process::id()));
        match fs::create_dir(&path) {
            // One that was killed left it; the kernel refuses to remove it while somebody is in it.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_dir(&path)?;
                fs::create_dir(&path)?;
            }
            other => other?,
        }
        Ok(Self(path))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        // Nobody has been in it, so nothing keeps it; if something does, its name tells a person.
        let _ = fs::remove_dir(&self.0);
    }
}

/// Does something on a thread in a network namespace of its own.
///
/// # Errors
/// The namespace cannot be made, which needs CAP_SYS_ADMIN, or what `work` returns.
pub fn in_a_namespace<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let body = || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        work()
    };
    thread::scope(|scope| scope.spawn(body).join()).unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
}

/// Opens a connection over the loopback of the calling thread's namespace, which must be one of its own, and cuts it.
///
/// # Errors
/// It could not be cut: the kernel has no `SOCK_DESTROY`, or does not let this process use it.
pub fn cut_a_connection() -> io::Result<()> {
    links::raise(LOOPBACK_INDEX)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    client.set_read_timeout(Some(PATIENCE))?;
    let end = |at: std::net::SocketAddr| (weir_policy::addr(at.ip()), at.port());
    let (local, remote) = (end(client.local_addr()?), end(client.peer_addr()?));
    let mut door = Door::open(&Namespace::of_this_thread()?)?;
    let connection = Living::known(Protocol::TCP, local, remote, None);
    match door.cut([&connection]).pop() {
        Some(Ok(Cut::Done)) => {}
        Some(Err(error)) => return Err(error),
        Some(Ok(Cut::Gone)) => return Err(io::Error::other("the kernel does not find a connection that is open")),
        None => return Err(io::Error::other("the kernel does not say what became of the connection")),
    }
    match client.read(&mut [0]) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::other("the connection goes on")),
    }
}
