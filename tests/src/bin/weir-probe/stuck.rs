//! Lives: weir-probe, its verb for a process that will not let go of a socket.
//! Called by: main, after the move into namespace and cgroup.
//! May touch: one TCP socket, one page of its own memory.
//! Never: waits longer than its options say: the page is filled then, and the lock let go.
#![expect(unsafe_code, reason = "a page whose first touch waits needs userfaultfd, which no crate here offers")]

use std::ffi::c_void;
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use nix::errno::Errno;
use nix::libc;
use weir_tests::report::{Attempt, Report, error_name};

use crate::{Bound, End};

const PAGE: usize = 4096;
/// `UFFD_API` and `UFFDIO_REGISTER_MODE_MISSING` (include/uapi/linux/userfaultfd.h).
const API: u64 = 0xaa;
const MISSING: u64 = 1;

#[repr(C)]
struct ApiArgument {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct RegisterArgument {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

/// Connects, then sends from a page that is not there: the kernel waits for it inside `send()`, with the socket locked.
#[derive(Args)]
pub struct Stuck {
    /// Connect to this
    #[arg(long, value_name = "ADDRESS:PORT")]
    to: SocketAddr,
    #[command(flatten)]
    bound: Bound,
}

impl Stuck {
    pub fn run(self) -> Result<()> {
        let end = End::new(&self.bound)?;
        let stream = TcpStream::connect(self.to).context("connecting")?;
        let (page, faults) = absent_page()?;
        let (socket, address) = (stream.as_raw_fd(), page.as_ptr() as usize);
        let sender = thread::spawn(move || send(socket, address));
        Report::Holding { connections: 1 }.print()?;
        while !end.reached() {
            thread::sleep(Duration::from_millis(5));
        }
        // Nobody answers faults any more: the page is filled as any other.
        drop(faults);
        let result = sender.join().unwrap_or(Err(Errno::UnknownErrno));
        let result = result.map_or_else(|error| error_name(&error.into()), |()| "ok".to_owned());
        Ok(Report::Attempt(Attempt { result, pid: std::process::id(), ..Attempt::default() }).print()?)
    }
}

fn send(socket: RawFd, page: usize) -> Result<(), Errno> {
    // SAFETY: the page is mapped for the process's life; the descriptor is open until the process ends.
    let sent = unsafe { libc::send(socket, page as *const c_void, PAGE, libc::MSG_NOSIGNAL) };
    Errno::result(sent).map(drop)
}

/// A page whose first touch waits until the descriptor is closed.
fn absent_page() -> Result<(NonNull<c_void>, OwnedFd)> {
    let length = NonZeroUsize::new(PAGE).context("a page has a length")?;
    // SAFETY: a new anonymous mapping of our own.
    let page = unsafe {
        nix::sys::mman::mmap_anonymous(
            None,
            length,
            nix::sys::mman::ProtFlags::PROT_READ | nix::sys::mman::ProtFlags::PROT_WRITE,
            nix::sys::mman::MapFlags::MAP_PRIVATE,
        )
    }
    .context("mapping a page")?;
    // SAFETY: a system call without pointers; the descriptor it returns is ours.
    let faults = unsafe {
        let descriptor = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC);
        if descriptor < 0 {
            bail!("userfaultfd: {}", Errno::last());
        }
        OwnedFd::from_raw_fd(RawFd::try_from(descriptor)?)
    };
    let mut api = ApiArgument { api: API, features: 0, ioctls: 0 };
    let mut register = RegisterArgument { start: page.as_ptr() as u64, len: PAGE as u64, mode: MISSING, ioctls: 0 };
    // SAFETY: the arguments are of the layout the kernel reads and writes, and live for the calls.
    unsafe {
        uffdio_api(faults.as_raw_fd(), &raw mut api).context("UFFDIO_API")?;
        uffdio_register(faults.as_raw_fd(), &raw mut register).context("UFFDIO_REGISTER")?;
    }
    Ok((page, faults))
}

nix::ioctl_readwrite!(uffdio_api, API, 0x3f, ApiArgument);
nix::ioctl_readwrite!(uffdio_register, API, 0x00, RegisterArgument);
