//! Lives: kernel; the object file that holds every program.
//! Called by: agent/src/kernel/load.rs, which loads it; each program is called by the kernel at its attach point.
//! May touch: what its modules say.
//! Never: panics; `panic_handler` exists because the language wants one, and CI refuses an object that references it.
#![no_std]
#![no_main]
#![allow(internal_features, reason = "BPF has compare-and-swap, core::sync::atomic does not offer it for this target")]
#![feature(asm_experimental_arch, core_intrinsics)]

mod adopted;
mod aims;
mod atomic;
mod bucket;
mod bytes;
mod chain;
mod connect;
mod drops;
mod egress;
mod emit;
mod fragments;
mod from_workload;
mod ingress;
mod kernel_drops;
mod limiter;
mod maps;
mod paid;
mod post_bind;
mod quotes;
mod recent;
mod replies;
mod sendmsg;
mod sets;
mod settings;
mod shown;
mod sk_lookup;
mod sock_create;
mod sock_ops;
mod syn;
mod tables;
mod task;
mod to_workload;
mod tracepoint;
mod who;
mod wire;
mod xdp;

/// Licence string the kernel reads: GPL-compatible, as several helpers demand.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
