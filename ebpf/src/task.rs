//! Lives: kernel.
//! Called by: programs that run in the calling task (connect, sendmsg, sock_create, post_bind).
//! May touch: the `current` helpers.
//! Never: called from a packet hook, which runs in whatever task softirq interrupted.

use aya_ebpf::helpers::{
    bpf_get_current_cgroup_id, bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
};
use weir_common::event::Process;

/// The calling task.
#[inline(always)]
pub fn process() -> Process {
    Process {
        pid: (bpf_get_current_pid_tgid() >> 32) as u32,
        uid: bpf_get_current_uid_gid() as u32,
        comm: bpf_get_current_comm().unwrap_or([0; 16]),
        staged: 0,
        reserved: 0,
    }
}

/// The calling task's cgroup.
#[inline(always)]
pub fn cgroup() -> u64 {
    // SAFETY: helper without arguments.
    unsafe { bpf_get_current_cgroup_id() }
}
