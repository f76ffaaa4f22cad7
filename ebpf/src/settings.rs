//! Lives: kernel; read-only data the agent fills in before loading.
//! Called by: the limiter, the reply table, whoever reads the calling task or a socket, or shows a dropped packet.
//! May touch: its own statics, by volatile read (the compiler must not fold the zeros in).
//! Never: changes after load.

use weir_common::{
    hash::Secret,
    places::{DropPlaces, SocketPlaces, TaskPlaces},
};

#[unsafe(no_mangle)]
static SECRET_0: u64 = 0;
#[unsafe(no_mangle)]
static SECRET_1: u64 = 0;
/// Nanoseconds per jiffy, measured by the agent.
#[unsafe(no_mangle)]
static TICK_NS: u64 = 0;

/// Where the running kernel keeps what is recorded of a task.
#[unsafe(no_mangle)]
pub static TASK_PLACES: TaskPlaces = TaskPlaces::UNKNOWN;

/// Where it keeps what is recorded of a socket that a tracepoint names.
#[unsafe(no_mangle)]
pub static SOCKET_PLACES: SocketPlaces = SocketPlaces::UNKNOWN;

/// Where it keeps what is recorded of a packet that it drops.
#[unsafe(no_mangle)]
pub static DROP_PLACES: DropPlaces = DropPlaces::UNKNOWN;

/// What jiffies started at: they wrap five minutes after boot, so that whoever cannot cope finds out.
#[unsafe(no_mangle)]
static FIRST_JIFFY: u64 = 0;

/// How many bytes of a dropped packet are told; 0 for none, and then the verifier takes the code for it out.
#[unsafe(no_mangle)]
static DROP_BYTES: u32 = 0;

/// The secret of the keyed hash, drawn at load.
#[inline(always)]
pub fn secret() -> Secret {
    // SAFETY: both statics are initialised, aligned and only ever written before the program is loaded.
    unsafe { Secret(core::ptr::read_volatile(&SECRET_0), core::ptr::read_volatile(&SECRET_1)) }
}

/// Nanoseconds per jiffy.
#[inline(always)]
pub fn tick_ns() -> u64 {
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(&TICK_NS) }
}

/// What jiffies started at.
#[inline(always)]
pub fn first_jiffy() -> u64 {
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(&FIRST_JIFFY) }
}

/// How many bytes of a dropped packet are told.
#[inline(always)]
pub fn drop_bytes() -> u32 {
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(&DROP_BYTES) }
}
