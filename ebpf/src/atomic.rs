//! Lives: kernel.
//! Called by: counters, merge tables and the limiter.
//! May touch: the map value it is handed.
//! Never: a plain increment; a task and a softirq share a CPU's cell and lose counts that way (DESIGN.md D8).
//!
//! Leans on `core::intrinsics`, which is unstable: `core::sync::atomic` offers no 64-bit operations for the BPF target.

use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd};

/// Adds to a map value.
///
/// # Safety
/// `cell` must come from a map lookup in this run.
#[inline(always)]
pub unsafe fn add(cell: *mut u64, amount: u64) {
    // SAFETY: the caller hands a live, aligned map value.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(cell, amount) };
}

/// Adds to a map value and tells what it was.
///
/// # Safety
/// `cell` must come from a map lookup in this run.
#[inline(always)]
pub unsafe fn fetch_add(cell: *mut u64, amount: u64) -> u64 {
    // SAFETY: the caller hands a live, aligned map value.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(cell, amount) }
}

/// Replaces `old` by `new`; `false` when the value was not `old` any more.
///
/// # Safety
/// `cell` must come from a map lookup in this run.
#[inline(always)]
pub unsafe fn swap_if(cell: *mut u64, old: u64, new: u64) -> bool {
    // SAFETY: the caller hands a live, aligned map value.
    unsafe { atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(cell, old, new).1 }
}
