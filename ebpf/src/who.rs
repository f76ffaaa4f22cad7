//! Lives: kernel.
//! Called by: every cgroup program, and those at tracepoints, to learn whose socket this is.
//! May touch: attach-point storage and the table of callers; a socket that a tracepoint names, by reading.
//! Never: asks the calling task for a socket's identity (a moved process, a kernel thread or a passed socket would lie).

use aya_ebpf::{
    helpers::{
        bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_skb_ancestor_cgroup_id, bpf_skb_cgroup_id,
    },
    programs::SkBuffContext,
};
use weir_common::{event::Local, maps::AGENT};

use crate::{
    maps,
    tracepoint::{read, socket_place},
};

/// The workload of the cgroup this program is attached to; unknown until the agent has written it, right after the attachment. Until then
/// who asks refuses nothing: what the node says of strangers is for the root's programs, and a workload may be under an earlier agent's.
#[inline(always)]
pub fn attached() -> Local {
    // SAFETY: the kernel guarantees the storage of the attach point for the whole run; the agent replaces it as a whole.
    unsafe { *maps::LOCAL.get_ptr_mut() }
}

/// Whether a program at a workload's cgroup has not been told yet whose that is.
#[inline(always)]
pub const fn is_untold(local: &Local) -> bool {
    local.workload == UNKNOWN.workload
}

/// How deep below the cgroup root a workload's directory is looked for.
const MAX_DEPTH: i32 = 12;

/// Nobody we know.
pub const UNKNOWN: Local = Local::of(0, 0);

/// Whether the packet's socket belongs to a cgroup at or below a workload's, whose own program has judged the packet.
#[inline(always)]
pub fn packet_has_workload(ctx: &SkBuffContext) -> bool {
    // SAFETY: helpers on the program's own context; levels that do not exist answer 0.
    if known(unsafe { bpf_skb_cgroup_id(ctx.skb.skb) }).is_some() {
        return true;
    }
    let mut level = 1;
    while level < MAX_DEPTH {
        // SAFETY: as above.
        let id = unsafe { bpf_skb_ancestor_cgroup_id(ctx.skb.skb, level) };
        if id == 0 {
            return false;
        }
        if known(id).is_some() {
            return true;
        }
        level += 1;
    }
    false
}

/// The workload the calling task lives in: the nearest known cgroup at or above its own.
#[inline(always)]
pub fn caller() -> Local {
    // SAFETY: helper without arguments.
    if let Some(local) = known(unsafe { bpf_get_current_cgroup_id() }) {
        return local;
    }
    let mut found = UNKNOWN;
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

/// States of sockets that are no full ones (include/net/tcp_states.h): what would be their cgroup is something else.
const TIME_WAIT: u8 = 6;
const NEW_SYN_RECV: u8 = 12;

/// The workload in whose cgroup, or in one below it, a socket was made: the nearest. For tracepoints, which no helper tells.
#[inline(always)]
pub fn of_socket(socket: u64) -> Option<Local> {
    if socket == 0 {
        return None;
    }
    let state: u8 = read(socket, socket_place!(sock_state))?;
    if state == TIME_WAIT || state == NEW_SYN_RECV {
        return None;
    }
    let mut group: u64 = read(socket, socket_place!(sock_cgroup))?;
    let mut level = 0;
    while level < MAX_DEPTH {
        let node: u64 = read(group, socket_place!(cgroup_kn))?;
        if let Some(local) = known(read(node, socket_place!(kernfs_node_id))?) {
            return (local.workload != AGENT).then_some(local);
        }
        let above: u64 = read(group, socket_place!(cgroup_self) + socket_place!(css_parent))?;
        if above == 0 {
            return None;
        }
        group = above - socket_place!(cgroup_self);
        level += 1;
    }
    None
}

/// The workload of a cgroup itself, not of one above it.
#[inline(always)]
pub fn known(cgroup: u64) -> Option<Local> {
    // SAFETY: no program writes this map; the value is copied at once.
    unsafe { maps::CALLERS.get(cgroup) }.copied()
}
