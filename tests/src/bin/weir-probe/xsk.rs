//! Lives: weir-probe, a frame sent by an XDP socket.
//! Called by: crafted, for the layer of that name.
//! May touch: one AF_XDP socket in copy mode on queue 0, and the memory it shares with the kernel.
//! Never: receives anything: no XDP program is attached, so none is given to it.
//!
//! Layouts: `include/uapi/linux/if_xdp.h`. Two pages are shared: the frame's (the "umem"), and the ring that says where the frame is.
#![expect(unsafe_code, reason = "neither nix nor socket2 know the options and rings of an XDP socket")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::{from_mut, null_mut};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::libc;
use nix::net::if_::if_nametoindex;

/// The umem: one chunk.
const CHUNK: usize = 4096;
/// Entries of each ring; the kernel wants all but the one for receiving.
const ENTRIES: u32 = 4;
/// How long the kernel may take to send one frame.
const PATIENCE: Duration = Duration::from_secs(1);

/// Sends one frame; comes back when the kernel has taken it off the ring.
pub fn send(interface: &str, frame: &[u8]) -> io::Result<usize> {
    if frame.len() > CHUNK {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let index = if_nametoindex(interface)?;
    // SAFETY: no pointers.
    let socket = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just opened, and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let umem = Shared::anonymous(CHUNK)?;
    umem.write(0, frame);
    // SAFETY: plain numbers, for which zeros are values.
    let mut register: libc::xdp_umem_reg = unsafe { std::mem::zeroed() };
    (register.addr, register.len, register.chunk_size) = (umem.at as u64, CHUNK as u64, CHUNK as u32);
    set(&socket, libc::XDP_UMEM_REG, register)?;
    for ring in [libc::XDP_UMEM_FILL_RING, libc::XDP_UMEM_COMPLETION_RING, libc::XDP_TX_RING] {
        set(&socket, ring, ENTRIES)?;
    }
    let offsets = offsets(&socket)?.tx;
    let length = offsets.desc as usize + ENTRIES as usize * size_of::<libc::xdp_desc>();
    let ring = Shared::of(&socket, length, libc::XDP_PGOFF_TX_RING)?;
    bind(&socket, index)?;
    // The descriptor at the ring's start: address in the umem, length, options.
    let length = (frame.len() as u32).to_ne_bytes();
    ring.write(offsets.desc as usize, &[[0; 4], [0; 4], length, [0; 4]].concat());
    ring.word(offsets.producer as usize).store(1, Ordering::Release);
    kick(&socket, ring.word(offsets.consumer as usize))?;
    Ok(frame.len())
}

fn set<T>(socket: &OwnedFd, option: i32, value: T) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the value lives for the call, and the length is its own.
    let done =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_XDP, option, (&raw const value).cast(), length) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn offsets(socket: &OwnedFd) -> io::Result<libc::xdp_mmap_offsets> {
    // SAFETY: plain numbers, for which zeros are values.
    let mut offsets: libc::xdp_mmap_offsets = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::xdp_mmap_offsets>() as libc::socklen_t;
    let (descriptor, to) = (socket.as_raw_fd(), from_mut(&mut offsets).cast());
    // SAFETY: the kernel writes as much as the length says at most.
    let done = unsafe { libc::getsockopt(descriptor, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS, to, &raw mut length) };
    if done == 0 { Ok(offsets) } else { Err(io::Error::last_os_error()) }
}

fn bind(socket: &OwnedFd, index: u32) -> io::Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: libc::XDP_COPY,
        sxdp_ifindex: index,
        sxdp_queue_id: 0,
        sxdp_shared_umem_fd: 0,
    };
    let length = size_of::<libc::sockaddr_xdp>() as libc::socklen_t;
    let deadline = Instant::now() + PATIENCE;
    loop {
        // SAFETY: the address lives for the call, and the length is its own.
        let done = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
        let error = io::Error::last_os_error();
        match done {
            0 => return Ok(()),
            // The kernel lets go of a queue some time after the socket that had it was closed.
            _ if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                sleep(Duration::from_millis(5))
            }
            _ => return Err(error),
        }
    }
}

/// Tells the kernel to look at the ring until it has.
fn kick(socket: &OwnedFd, consumer: &AtomicU32) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while consumer.load(Ordering::Acquire) == 0 {
        // SAFETY: no bytes, no address.
        let sent = unsafe { libc::send(socket.as_raw_fd(), null_mut(), 0, libc::MSG_DONTWAIT) };
        let error = io::Error::last_os_error();
        let again = matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS));
        if sent < 0 && !again {
            return Err(error);
        }
        if Instant::now() > deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Memory that the kernel looks at too.
struct Shared {
    at: *mut u8,
    length: usize,
}

impl Shared {
    fn anonymous(length: usize) -> io::Result<Shared> {
        Self::map(length, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    }

    fn of(socket: &OwnedFd, length: usize, offset: libc::off_t) -> io::Result<Shared> {
        Self::map(length, libc::MAP_SHARED | libc::MAP_POPULATE, socket.as_raw_fd(), offset)
    }

    fn map(length: usize, flags: i32, descriptor: i32, offset: libc::off_t) -> io::Result<Shared> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the kernel chooses where; nothing of ours is replaced.
        let at = unsafe { libc::mmap(null_mut(), length, access, flags, descriptor, offset) };
        if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Shared { at: at.cast(), length }) }
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.length, "outside of what is shared");
        // SAFETY: within the mapping, as was just seen, and nobody reads it yet.
        unsafe { self.at.add(offset).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset + 4 <= self.length && offset.is_multiple_of(4), "outside of what is shared");
        // SAFETY: within the mapping, aligned, and both sides use it as an atomic word.
        unsafe { AtomicU32::from_ptr(self.at.add(offset).cast()) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and whoever borrowed from it is gone.
        unsafe { libc::munmap(self.at.cast(), self.length) };
    }
}
