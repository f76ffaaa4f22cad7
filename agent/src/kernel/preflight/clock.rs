//! Lives: agent, user space.
//! Called by: `doctor`.
//! May touch: the kernel's account of its clock, reading.
//! Never: adjusts it.
#![expect(unsafe_code, reason = "no safe wrapper of adjtimex; the one call is below")]

use std::{io, mem};

use nix::libc;

/// Whether somebody keeps the wall clock right (NTP, PTP, the hypervisor), by the kernel's own account.
///
/// # Errors
/// The kernel does not say.
pub fn is_synchronised() -> io::Result<bool> {
    // SAFETY: plain integers, for which zero is a value; `modes` of zero asks and changes nothing.
    let mut account: libc::timex = unsafe { mem::zeroed() };
    // SAFETY: the kernel writes one `timex` to the address it is given, which is one.
    let state = unsafe { libc::adjtimex(&mut account) };
    if state < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(account.status & libc::STA_UNSYNC == 0)
}
