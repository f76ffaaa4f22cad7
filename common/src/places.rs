//! Lives: kernel and host.
//! Called by: the kernel programs, which read the calling task; `agent/src/kernel`, which finds out where its parts lie.
//! May touch: nothing.
//! Never: a place that is the same on two kernels: the agent asks the running one.

use zerocopy::{Immutable, IntoBytes};

/// Where the running kernel keeps what is recorded of a task: bytes from the start of each structure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, Immutable)]
#[repr(C)]
pub struct TaskPlaces {
    /// 0 where the others are not known: then helpers answer, a call for each question.
    pub known: u64,
    /// `task_struct.cgroups`, a pointer.
    pub task_cgroups: u64,
    /// `css_set.dfl_cgrp`, a pointer.
    pub css_set_dfl_cgrp: u64,
    /// `cgroup.kn`, a pointer.
    pub cgroup_kn: u64,
    /// `kernfs_node.id`, 64 bits.
    pub kernfs_node_id: u64,
    /// `task_struct.tgid`, 32 bits.
    pub task_tgid: u64,
    /// `task_struct.comm`, 16 bytes, zeros after the name.
    pub task_comm: u64,
    /// `task_struct.cred`, a pointer.
    pub task_cred: u64,
    /// `cred.uid`, 32 bits, as the initial user namespace counts.
    pub cred_uid: u64,
}

impl TaskPlaces {
    /// Words of it.
    pub const WORDS: usize = size_of::<Self>() / 8;
    /// None are known.
    pub const UNKNOWN: Self = Self {
        known: 0,
        task_cgroups: 0,
        css_set_dfl_cgrp: 0,
        cgroup_kn: 0,
        kernfs_node_id: 0,
        task_tgid: 0,
        task_comm: 0,
        task_cred: 0,
        cred_uid: 0,
    };
}
