//! Lives: weir-probe, its verb that takes a BPF link off whatever it is attached to.
//! Called by: main.
//! May touch: the one link whose pin it is given; as `bpftool link detach` does.
//! Never: removes the pin.

#![expect(unsafe_code, reason = "no crate here has BPF_LINK_DETACH; the two calls are below")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use nix::libc;

/// `enum bpf_cmd` (include/uapi/linux/bpf.h).
const BPF_OBJ_GET: i32 = 7;
const BPF_LINK_DETACH: i32 = 34;

/// Detaches a pinned link.
#[derive(Args)]
pub struct Detach {
    /// Its pin
    #[arg(long, value_name = "FILE")]
    pin: PathBuf,
}

/// Of `union bpf_attr`: pathname, descriptor and flags of an object, or the descriptor of a link.
#[repr(C)]
struct Attribute {
    first: u64,
    second: u64,
}

impl Detach {
    pub fn run(self) -> Result<()> {
        let path = CString::new(self.pin.as_os_str().as_bytes()).context("a path with a zero byte")?;
        let fd = bpf(BPF_OBJ_GET, &Attribute { first: path.as_ptr() as u64, second: 0 }).context("opening the pin")?;
        // SAFETY: the kernel has just made it for this call.
        let link = unsafe { OwnedFd::from_raw_fd(fd) };
        let descriptor = u64::from(link.as_raw_fd().cast_unsigned());
        bpf(BPF_LINK_DETACH, &Attribute { first: descriptor, second: 0 }).context("detaching")?;
        Ok(())
    }
}

fn bpf(command: i32, attribute: &Attribute) -> io::Result<i32> {
    // SAFETY: the kernel reads the attribute within its size, and what it points to: a string that lives on.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, attribute, size_of::<Attribute>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done as i32) }
}
