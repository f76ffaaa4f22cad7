//! Lives: in the kernel (inside the eBPF programs) and on the host, from the same source.
//! Called by: `ebpf` for every verdict; `policy`, `agent` and the tests for compiling, explaining and checking them.
//! May touch: only what it is handed; lookups go through the [`decide::Tables`] trait.
//! Never: allocates, does I/O, reads a clock, panics.
#![no_std]

pub mod addr;
pub mod counters;
pub mod decide;
pub mod edge;
pub mod event;
pub mod gcra;
pub mod hash;
pub mod icmp;
pub mod image;
pub mod maps;
pub mod packet;
pub mod places;
mod ports;
pub mod recent;
pub mod sets;
pub mod source;
pub mod syn;
pub mod verdict;

/// Version of every layout in this crate that crosses the border between kernel and user space: events, tables, maps.
///
/// It rises with any change to them. Pinned state of another version is refused or migrated, never reinterpreted.
pub const ABI_VERSION: u32 = if cfg!(feature = "next_layout") { 11 } else { 10 };
