//! Lives: kernel.
//! Called by: every cgroup program, to learn whose socket this is.
//! May touch: attach-point storage and the table of callers.
//! Never: asks the calling task for a socket's identity (a moved process, a kernel thread or a passed socket would lie).

use aya_ebpf::helpers::{bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id};
use weir_common::event::Local;

use crate::maps;

/// The workload of the cgroup this program is attached to; unknown until the agent has written it.
#[inline(always)]
pub fn attached() -> Local {
    // SAFETY: the kernel guarantees the storage of the attach point for the whole run; the agent replaces it as a whole.
    unsafe { *maps::LOCAL.get_ptr_mut() }
}

/// How deep below the cgroup root a workload's directory is looked for.
const MAX_DEPTH: i32 = 12;

/// The workload the calling task lives in: the nearest known cgroup at or above its own.
#[inline(always)]
pub fn caller() -> Local {
    // SAFETY: helper without arguments.
    if let Some(local) = known(unsafe { bpf_get_current_cgroup_id() }) {
        return local;
    }
    let mut found = Local { workload: 0, reserved: 0 };
    let mut level = 1;
    while level < MAX_DEPTH {
        // SAFETY: helper; levels that do not exist answer 0.
        let id = unsafe { bpf_get_current_ancestor_cgroup_id(level) };
        if id == 0 {
            break;
        }
        if let Some(local) = known(id) {
            found = local;
        }
        level += 1;
    }
    found
}

#[inline(always)]
fn known(cgroup: u64) -> Option<Local> {
    // SAFETY: no program writes this map; the value is copied at once.
    unsafe { maps::CALLERS.get(cgroup) }.copied()
}
