//! Lives: weir-probe, connections that io_uring makes.
//! Called by: ways.
//! May touch: one ring, one socket that it is lent.
//! Never: leaves a request in the ring when it returns.
#![expect(
    unsafe_code,
    reason = "a request names memory by address: what it names here lives until the ring has answered"
)]

use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use io_uring::{IoUring, opcode, squeue, types};
use nix::libc;
use socket2::{SockAddr, Socket};

/// How the ring is told.
#[derive(Clone, Copy)]
pub enum Ring {
    /// By a system call.
    Plain,
    /// By a thread of the kernel that looks by itself.
    Polled,
    /// By a system call, about a registered file.
    Fixed,
}

/// Connects, and waits for the answer.
pub fn connect(how: Ring, socket: &Socket, to: &SockAddr, timeout: Duration) -> io::Result<()> {
    let mut ring = match how {
        Ring::Polled => IoUring::builder().setup_sqpoll(50).build(4)?,
        Ring::Plain | Ring::Fixed => IoUring::new(4)?,
    };
    let request = match how {
        Ring::Fixed => {
            ring.submitter().register_files(&[socket.as_raw_fd()])?;
            opcode::Connect::new(types::Fixed(0), to.as_ptr().cast::<libc::sockaddr>(), to.len()).build()
        }
        Ring::Plain | Ring::Polled => {
            let socket = types::Fd(socket.as_raw_fd());
            opcode::Connect::new(socket, to.as_ptr().cast::<libc::sockaddr>(), to.len()).build()
        }
    };
    ask(&mut ring, &request)?;
    let deadline = Instant::now() + timeout;
    loop {
        ring.submit()?;
        if let Some(answer) = ring.completion().next() {
            return match answer.result() {
                0 => Ok(()),
                error => Err(io::Error::from_raw_os_error(-error)),
            };
        }
        if Instant::now() > deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn ask(ring: &mut IoUring, request: &squeue::Entry) -> io::Result<()> {
    // SAFETY: the address and the socket are borrowed by our caller's caller for as long as the ring lives: dropping it ends the
    // request.
    unsafe { ring.submission().push(request) }.map_err(io::Error::other)
}
