//! Lives: kernel.
//! Called by: programs that run in the calling task (connect, sendmsg, sock_create, post_bind).
//! May touch: the `current` helpers.
//! Never: called from a packet hook, which runs in whatever task softirq interrupted.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::{
    bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_get_current_uid_gid, generated::bpf_get_current_comm,
};
use weir_common::event::Process;

/// The calling task.
#[inline(always)]
pub fn process() -> Process {
    // Words, not bytes: an array of bytes would be copied one by one.
    let mut comm = MaybeUninit::<[u64; 2]>::uninit();
    // SAFETY: the helper fills all 16 bytes, padded with zeros, or with zeros alone when it fails.
    let comm = unsafe {
        bpf_get_current_comm(comm.as_mut_ptr().cast(), size_of::<[u64; 2]>() as u32);
        comm.assume_init()
    };
    Process {
        pid: (bpf_get_current_pid_tgid() >> 32) as u32,
        uid: bpf_get_current_uid_gid() as u32,
        comm: bytes_of(comm),
        staged: 0,
        reserved: 0,
    }
}

#[inline(always)]
const fn bytes_of(words: [u64; 2]) -> [u8; 16] {
    // SAFETY: the same 16 bytes.
    unsafe { core::mem::transmute(words) }
}

/// The calling task's cgroup.
#[inline(always)]
pub fn cgroup() -> u64 {
    // SAFETY: helper without arguments.
    unsafe { bpf_get_current_cgroup_id() }
}
