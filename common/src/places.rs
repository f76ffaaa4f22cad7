//! Lives: kernel and host.
//! Called by: the kernel programs, which read the calling task, sockets at tracepoints, and packets that the kernel drops;
//!   `agent/src/kernel`, which finds out where their parts lie.
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

/// Where the running kernel keeps what is recorded of a socket that a tracepoint names: bytes from the start of each structure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, Immutable)]
#[repr(C)]
pub struct SocketPlaces {
    /// `sock_common.skc_state`, 8 bits.
    pub sock_state: u64,
    /// `sock_common.skc_cookie`, 64 bits; 0 while nobody has asked for it.
    pub sock_cookie: u64,
    /// `sock.sk_cgrp_data`, whose first member is a pointer to the cgroup.
    pub sock_cgroup: u64,
    /// `cgroup.kn`, a pointer.
    pub cgroup_kn: u64,
    /// `kernfs_node.id`, 64 bits.
    pub kernfs_node_id: u64,
    /// `cgroup.self`, the cgroup as a `cgroup_subsys_state`.
    pub cgroup_self: u64,
    /// `cgroup_subsys_state.parent`, a pointer to that of the cgroup above.
    pub css_parent: u64,
    /// `tcp_sock.bpf_sock_ops_cb_flags`, 8 bits: which callbacks `sock_ops` has asked for.
    pub tcp_callbacks: u64,
    /// `tcp_sock.bytes_acked`, 64 bits.
    pub tcp_bytes_acked: u64,
    /// `tcp_sock.bytes_received`, 64 bits.
    pub tcp_bytes_received: u64,
    /// `tcp_sock.segs_out`, 32 bits.
    pub tcp_segs_out: u64,
    /// `tcp_sock.segs_in`, 32 bits.
    pub tcp_segs_in: u64,
    /// `tcp_sock.srtt_us`, 32 bits: eight times the smoothed round-trip time.
    pub tcp_srtt_us: u64,
    /// `tcp_sock.total_retrans`, 32 bits.
    pub tcp_retransmits: u64,
}

impl SocketPlaces {
    /// Words of it.
    pub const WORDS: usize = size_of::<Self>() / 8;
    /// None are known: then no program that reads them is loaded.
    pub const UNKNOWN: Self = Self {
        sock_state: 0,
        sock_cookie: 0,
        sock_cgroup: 0,
        cgroup_kn: 0,
        kernfs_node_id: 0,
        cgroup_self: 0,
        css_parent: 0,
        tcp_callbacks: 0,
        tcp_bytes_acked: 0,
        tcp_bytes_received: 0,
        tcp_segs_out: 0,
        tcp_segs_in: 0,
        tcp_srtt_us: 0,
        tcp_retransmits: 0,
    };
}

/// Where the running kernel keeps what is recorded of a packet that it drops: bytes from the start of each structure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, Immutable)]
#[repr(C)]
pub struct DropPlaces {
    /// Whether `kfree_skb` names the socket that was to receive (since 6.11): then it is its fourth argument.
    pub names_receiver: u64,
    /// `sk_buff.sk`, a pointer.
    pub skb_sk: u64,
    /// `sk_buff.head`, a pointer.
    pub skb_head: u64,
    /// `sk_buff.network_header`, 16 bits: bytes from `head`.
    pub skb_network_header: u64,
    /// `sk_buff.protocol`, 16 bits as on the wire.
    pub skb_protocol: u64,
    /// `sk_buff.len`, 32 bits.
    pub skb_len: u64,
    /// Its number for want of a socket, which is also what it gives for what a program at `sk_lookup` refuses.
    pub no_socket: u64,
    /// Its number for no reason given, which is also what veth gives for what XDP refuses.
    pub not_specified: u64,
    /// Which of its numbers are recorded: a bit for each below 256. Not those that programs like Weir's cause, nor what
    /// is no drop. Above there are only subsystems' own, which all are.
    pub told: [u64; 4],
}

impl DropPlaces {
    /// Words of it.
    pub const WORDS: usize = size_of::<Self>() / 8;
    /// None are known.
    pub const UNKNOWN: Self = Self {
        names_receiver: 0,
        skb_sk: 0,
        skb_head: 0,
        skb_network_header: 0,
        skb_protocol: 0,
        skb_len: 0,
        no_socket: 0,
        not_specified: 0,
        told: [0; 4],
    };
}
