//! Lives: weir-probe, sockets that were made in another place than they are used in.
//! Called by: main, after the move into namespace and cgroup: there the socket is made, or a child is told where to make it.
//! May touch: one socket, its own cgroup membership and namespaces; one child of its own.
//! Never: leaves the child behind.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use weir_tests::report::Attempt;

use crate::attempt::{WORDS, report};
use crate::enter_cgroup;

/// How socket and process come to be in different places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum How {
    /// The process moves into another cgroup after `socket()`
    Moved,
    /// The process moves after `connect()`
    MovedConnected,
    /// A process in another cgroup hands the socket over (SCM_RIGHTS)
    Handed,
    /// The process enters a new network namespace after `socket()`
    NewNet,
    /// The process enters new user and network namespaces before `socket()`
    NewUser,
}

#[derive(Args)]
pub struct Elsewhere {
    /// How
    #[arg(long, value_enum)]
    how: How,
    /// The other cgroup: where the process moves, or where the socket it is handed was made
    #[arg(long, value_name = "DIR")]
    other: Option<PathBuf>,
    /// The peer
    #[arg(long, value_name = "ADDRESS:PORT")]
    to: SocketAddr,
    /// UDP, with `sendto()`
    #[arg(long)]
    udp: bool,
    /// Wait this long for the answer
    #[arg(long, default_value_t = 700)]
    timeout_ms: u64,
}

impl Elsewhere {
    pub fn run(self) -> Result<()> {
        let other = || self.other.as_deref().context("which other cgroup? add --other");
        let socket = match self.how {
            How::Handed => received(other()?, &self)?,
            How::NewUser => {
                unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET).context("entering new namespaces")?;
                open(self.to, self.udp)?
            }
            How::Moved | How::MovedConnected | How::NewNet => open(self.to, self.udp)?,
        };
        let timeout = Duration::from_millis(self.timeout_ms);
        if self.how == How::MovedConnected {
            socket.connect_timeout(&self.to.into(), timeout)?;
        }
        match self.how {
            How::Moved | How::MovedConnected => enter_cgroup(other()?)?,
            How::NewNet => unshare(CloneFlags::CLONE_NEWNET).context("entering a new network namespace")?,
            How::Handed | How::NewUser => {}
        }
        report(|attempt| self.exchange(socket, attempt, timeout))
    }

    fn exchange(&self, mut socket: Socket, attempt: &mut Attempt, timeout: Duration) -> io::Result<()> {
        let to = SockAddr::from(self.to);
        socket.set_read_timeout(Some(timeout))?;
        if self.udp && self.how != How::MovedConnected {
            attempt.sent = socket.send_to(WORDS, &to)? as u64;
        } else {
            if self.how != How::MovedConnected {
                socket.connect_timeout(&to, timeout)?;
            }
            socket.write_all(WORDS)?;
            attempt.sent = WORDS.len() as u64;
        }
        let mut buffer = [0; 64];
        attempt.received = socket.read(&mut buffer)? as u64;
        Ok(())
    }
}

fn open(to: SocketAddr, udp: bool) -> io::Result<Socket> {
    let (style, protocol) = if udp { (Type::DGRAM, Protocol::UDP) } else { (Type::STREAM, Protocol::TCP) };
    Socket::new(Domain::for_address(to), style, Some(protocol))
}

/// Starts this program in the other cgroup, with a pair of sockets for its standard input, and takes what it hands out.
fn received(cgroup: &std::path::Path, what: &Elsewhere) -> Result<Socket> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--cgroup").arg(cgroup).args(["hand-out", "--to", &what.to.to_string()]);
    if what.udp {
        command.arg("--udp");
    }
    let mut child = command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null()).spawn()?;
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let mut byte = [0];
    let mut buffers = [IoSliceMut::new(&mut byte)];
    let message = recvmsg::<()>(ours.as_raw_fd(), &mut buffers, Some(&mut space), MsgFlags::empty())?;
    let found = message.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::ScmRights(sockets) => sockets.first().copied(),
        _ => None,
    });
    child.wait()?;
    let Some(socket) = found else { bail!("no socket was handed over") };
    Ok(own(socket))
}

#[expect(unsafe_code, reason = "the kernel hands descriptors over as numbers")]
fn own(socket: RawFd) -> Socket {
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Socket::from(unsafe { OwnedFd::from_raw_fd(socket) })
}

#[derive(Args)]
pub struct HandOut {
    /// The peer the socket is for
    #[arg(long, value_name = "ADDRESS:PORT")]
    to: SocketAddr,
    /// UDP
    #[arg(long)]
    udp: bool,
}

impl HandOut {
    /// Makes a socket and sends it by the socket that is standard input.
    pub fn run(self) -> Result<()> {
        let socket = open(self.to, self.udp)?;
        let sockets = [socket.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&sockets)];
        let stdin = io::stdin();
        sendmsg::<()>(stdin.as_fd().as_raw_fd(), &[IoSlice::new(b"s")], &rights, MsgFlags::empty(), None)?;
        Ok(())
    }
}
