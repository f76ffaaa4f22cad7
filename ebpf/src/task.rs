//! Lives: kernel.
//! Called by: programs that run in the calling task (connect, sendmsg, sock_create, post_bind, sock_ops when it connects).
//! May touch: the task itself where the agent knows where its parts lie (`weir_common::places`), else the `current` helpers.
//! Never: called from a packet hook, which runs in whatever task softirq interrupted.
//!
//! Why not helpers alone: one call names the task, and its parts are loads. A helper for each of cgroup, name, process and user takes
//! 140 ns together, a third of what a record adds to `connect()`: each calls further functions, and every return is dear.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::{
    bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
    generated::{bpf_get_current_comm, bpf_get_current_task_btf},
};
use weir_common::event::Process;

use crate::settings::TASK_PLACES;

/// A word of [`TASK_PLACES`]: for the verifier a constant.
macro_rules! place {
    ($field:ident) => {
        // SAFETY: initialised, aligned, and only ever written before the program is loaded.
        unsafe { (&raw const TASK_PLACES.$field).read_volatile() }
    };
}

/// Whether the agent knows where a task's parts lie.
#[inline(always)]
pub fn known() -> bool {
    place!(known) != 0
}

/// The calling task.
#[derive(Clone, Copy)]
pub struct Task(*const u8);

impl Task {
    /// The calling task.
    #[inline(always)]
    pub fn current() -> Self {
        // SAFETY: helper without arguments.
        Self(if known() { unsafe { bpf_get_current_task_btf() as *const u8 } } else { core::ptr::null() })
    }

    /// Its cgroup.
    #[inline(always)]
    pub fn cgroup(self) -> u64 {
        if !known() {
            // SAFETY: helper without arguments.
            return unsafe { bpf_get_current_cgroup_id() };
        }
        let set: *const u8 = load(self.0, place!(task_cgroups));
        let group: *const u8 = load(set, place!(css_set_dfl_cgrp));
        let node: *const u8 = load(group, place!(cgroup_kn));
        load(node, place!(kernfs_node_id))
    }

    /// What a record says of it.
    #[inline(always)]
    pub fn process(self) -> Process {
        if !known() {
            return asked();
        }
        let comm: [u64; 2] = [load(self.0, place!(task_comm)), load(self.0, place!(task_comm) + 8)];
        let cred: *const u8 = load(self.0, place!(task_cred));
        Process {
            pid: load(self.0, place!(task_tgid)),
            uid: load(cred, place!(cred_uid)),
            comm: bytes_of(comm),
            staged: 0,
            reserved: 0,
        }
    }
}

/// A part of one of the kernel's structures.
#[inline(always)]
fn load<T>(from: *const u8, place: u64) -> T {
    // SAFETY: the verifier knows what `from` points at, and refuses a program that reads anything but a `T` there. RCU keeps it for
    // the whole run. Volatile, so that it stays one load of its own size.
    unsafe { from.add(place as usize).cast::<T>().read_volatile() }
}

/// The same by helpers.
#[inline(always)]
fn asked() -> Process {
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
