//! Lives: agent, user space.
//! Called by: `Kernel::load`, once, before the agent is sealed; `Kernel`, for what the program has missed and is measured by; `preflight`.
//! May touch: one program and the tracepoint `skb:kfree_skb`.
//! Never: keeps an agent from starting: what the kernel itself drops is watched where it lets us, and enforcement is another matter.
//!
//! Nothing of it is pinned: without an agent there is nobody to tell.
#![expect(unsafe_code, reason = "aya does not tell how often a program was passed over; the one call is below")]

use std::{
    collections::BTreeMap,
    io, mem,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
    sync::Arc,
};

use aya::{Ebpf, programs::RawTracePoint};
use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_prog_info};
use nix::libc;

use super::{load, places::Drops};

/// The program's name in the object.
pub(super) const PROGRAM: &str = "kernel_drop";
/// What it is attached to.
const TRACEPOINT: &str = "kfree_skb";

/// Why the kernel drops packets, by its own numbers; empty where that is not watched.
pub type DropReasons = BTreeMap<u32, Arc<str>>;

/// Watches what the kernel drops. `drops`: what the kernel says of that, as the programs were opened with.
pub(super) fn watch(ebpf: &mut Ebpf, drops: Option<Drops>) -> DropReasons {
    let Some(drops) = drops else {
        tracing::info!("this kernel does not tell what it drops and why: its own drops are in no record");
        return DropReasons::new();
    };
    match attach(ebpf) {
        Ok(()) => drops.reasons.into_iter().map(|(number, name)| (number, Arc::from(name))).collect(),
        Err(reason) => {
            tracing::info!(
                reason,
                "what this kernel drops by itself cannot be watched: its own drops are in no record"
            );
            DropReasons::new()
        }
    }
}

fn attach(ebpf: &mut Ebpf) -> Result<(), String> {
    load::load_program(ebpf, PROGRAM).map_err(|error| weir_transport::why(&error))?;
    let program = ebpf.program_mut(PROGRAM).ok_or("the object has no such program")?;
    let program: &mut RawTracePoint = program.try_into().map_err(|error| format!("{error}"))?;
    // aya keeps the link as long as the program.
    program.attach(TRACEPOINT).map(drop).map_err(|error| error.to_string())
}

/// These programs, and the one here where it is loaded.
pub(super) fn with(ebpf: &Ebpf, programs: impl Iterator<Item = &'static str>) -> impl Iterator<Item = &'static str> {
    let loaded = ebpf.program(PROGRAM).is_some_and(|program| program.fd().is_ok());
    programs.chain(loaded.then_some(PROGRAM))
}

/// How many drops the program was not run for, because it was just running on that CPU. 0 where it is not loaded, and where the kernel
/// does not say (before 5.12).
pub(super) fn missed(ebpf: &Ebpf) -> u64 {
    let program = ebpf.program(PROGRAM).and_then(|program| program.fd().ok());
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
