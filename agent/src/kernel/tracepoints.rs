//! Lives: agent, user space.
//! Called by: `kernel_drops` and `adopted`, which attach a program each; `Kernel`, for what programs have missed and are measured by.
//! May touch: programs at raw tracepoints of the host's.
//! Never: keeps an agent from starting: what is told from there is one matter, and enforcement is another.
//!
//! Nothing of it is pinned: without an agent there is nobody to tell.
#![expect(unsafe_code, reason = "aya does not tell how often a program was passed over; the one call is below")]

use std::{
    io, mem,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
};

use aya::{Ebpf, programs::RawTracePoint};
use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_prog_info};
use nix::libc;

use super::{adopted, kernel_drops, load};

/// Programs at tracepoints, by their names in the object.
const PROGRAMS: [&str; 2] = [kernel_drops::PROGRAM, adopted::PROGRAM];

/// Loads a program and attaches it for as long as it is loaded.
pub(super) fn attach(ebpf: &mut Ebpf, program: &'static str, tracepoint: &str) -> Result<(), String> {
    load::load_program(ebpf, program).map_err(|error| weir_transport::why(&error))?;
    let program = ebpf.program_mut(program).ok_or("the object has no such program")?;
    let program: &mut RawTracePoint = program.try_into().map_err(|error| format!("{error}"))?;
    // aya keeps the link as long as the program.
    program.attach(tracepoint).map(drop).map_err(|error| error.to_string())
}

/// These programs, and those here that are loaded.
pub(super) fn with(ebpf: &Ebpf, programs: impl Iterator<Item = &'static str>) -> impl Iterator<Item = &'static str> {
    let loaded = |name: &&str| ebpf.program(name).is_some_and(|program| program.fd().is_ok());
    programs.chain(PROGRAMS.into_iter().filter(loaded))
}

/// How often the program was not run, because it was just running on that CPU. 0 where it is not loaded, and where the kernel
/// does not say (before 5.12).
pub(super) fn missed(ebpf: &Ebpf, program: &str) -> u64 {
    let program = ebpf.program(program).and_then(|program| program.fd().ok());
    program.and_then(|program| info(program.as_fd()).ok()).map_or(0, |info| info.recursion_misses)
}

fn info(program: BorrowedFd<'_>) -> io::Result<bpf_prog_info> {
    // SAFETY: integers all through, for which zero is a value.
    let (mut attr, mut info): (bpf_attr, bpf_prog_info) = unsafe { (mem::zeroed(), mem::zeroed()) };
    attr.info.bpf_fd = program.as_raw_fd().cast_unsigned();
    attr.info.info_len = size_of::<bpf_prog_info>() as u32;
    attr.info.info = &raw mut info as u64;
    let command = bpf_cmd::BPF_OBJ_GET_INFO_BY_FD as libc::c_int;
    // SAFETY: the kernel writes at most `info_len` bytes of what lives on; no place for lists is named in it, so it writes none.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut attr, size_of::<bpf_attr>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(info) }
}
