//! Lives: kernel.
//! Called by: programs at raw tracepoints, and `who`, for sockets that those name.
//! May touch: the kernel's memory, by the helper that reads any address or fails.
//! Never: believes a place that the agent has not looked up on the running kernel (`weir_common::places`).

use aya_ebpf::{EbpfContext as _, helpers::bpf_probe_read_kernel, programs::RawTracePointContext};

/// An argument of the tracepoint.
#[inline(always)]
pub fn argument(ctx: &RawTracePointContext, number: usize) -> u64 {
    // SAFETY: the verifier checks that the tracepoint has this argument.
    unsafe { ctx.as_ptr().cast::<u64>().add(number).read_volatile() }
}

/// Reads what lies at a place in the kernel's memory.
#[inline(always)]
pub fn read<T>(from: u64, place: u64) -> Option<T> {
    // SAFETY: the helper reads any address, or fails.
    unsafe { bpf_probe_read_kernel((from + place) as *const T) }.ok()
}

/// A word of [`crate::settings::SOCKET_PLACES`]: for the verifier a constant.
macro_rules! socket_place {
    ($field:ident) => {
        // SAFETY: initialised, aligned, and only ever written before the program is loaded.
        unsafe { (&raw const crate::settings::SOCKET_PLACES.$field).read_volatile() }
    };
}
pub(crate) use socket_place;
