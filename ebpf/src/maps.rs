//! Lives: kernel. Every map, with its size, key, value and who writes it.
//! Called by: the programs; agent/src/kernel opens them by name (names: `weir_common::maps`).
//! May touch: nothing itself.
//! Never: declared elsewhere; sized by a number that is not in `weir_common::maps`.

#![expect(
    deprecated,
    reason = "the newer CGRP_STORAGE names the task's cgroup; only CGROUP_STORAGE names the attach point (DESIGN.md D3)"
)]

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, ArrayOfMaps, CgroupStorage, HashMap, LpmTrie, PerCpuArray, ProgramArray, RingBuf},
    macros::btf_map,
};
use weir_common::{
    addr::Addr,
    counters,
    edge::Edge,
    event::{Adopted, EdgeDrop, Event, LimitStats, Local, MergeKey, MergeValue, ReplyBucket, SynStats},
    image::PAGE_WORDS,
    maps::{
        EDGE_BUCKETS, EDGE_CLAIMS, EDGE_DROPS, EDGE_WAYS, FRAGMENT_BUCKETS, HINTS, LIMIT_SLOTS, LIMIT_TOTALS,
        MAX_ADOPTED, MAX_CGROUPS, MAX_CIDRS, MAX_EDGES, MAX_ENDPOINTS, MAX_HERE, MAX_INTERFACES, MAX_LIMITS,
        MAX_MERGED, MAX_WORKLOADS, PAID_SLOTS, REPLY_BUCKETS, RING_BYTES, SET_BUFFERS, SET_IMAGES, SLOTS,
    },
    sets::{Count, Line, MAX_SETS, v4, v6},
};

use crate::{
    aims::{self, Aim},
    emit,
    recent::Entry,
    syn::Scratch,
};

/// Lets inner arrays differ in length from the template (kernel 5.10): an image has as many pages as it needs.
const BPF_F_INNER_MAP: usize = 1 << 12;
/// Lets the agent map an array's values into its own memory (kernel 5.5).
const BPF_F_MMAPABLE: usize = 1 << 10;
const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

/// [`weir_common::image::Page`]s of one slot's image. Written by the agent while the slot is idle.
///
/// Values of inner maps are plain numbers to the kernel: Linux 6.1 would look for a timer in a structure, find none, and then take no
/// other map in this one's place but one of which it was told the same; the agent makes its maps without types.
pub type Pages = Array<[u64; PAGE_WORDS], 1, BPF_F_INNER_MAP>;
/// Addresses of one slot, each with the words of its [`weir_common::event::Endpoint`].
pub type Endpoints = HashMap<Addr, [u32; 2], { MAX_ENDPOINTS as usize }, NO_PREALLOC>;
/// Prefixes of one slot, each with its identity.
pub type Cidrs = LpmTrie<Addr, u32, { MAX_CIDRS as usize }>;
/// Lines of one image of the address sets. Written by the agent through a mapping of its own, in use or not: each store leaves it
/// one that can be read.
pub type SetLines = Array<Line, 1, { BPF_F_INNER_MAP | BPF_F_MMAPABLE }>;
/// The lines that every image for IPv4 addresses begins with. All arrays of this kind have this length, so that the kernel reads them
/// without calling a function.
pub type SetTablesV4 = Array<Line, { v4::HEAP as usize }, BPF_F_MMAPABLE>;
/// The same for IPv6 addresses.
pub type SetTablesV6 = Array<Line, { v6::HEAP as usize }, BPF_F_MMAPABLE>;

/// The active generation; its low bit is the slot. Written by the agent.
#[btf_map]
pub static ACTIVE: Array<u64, 1> = Array::new();
/// Slot -> image. Written by the agent.
#[btf_map]
pub static TABLES: ArrayOfMaps<Pages, { SLOTS as usize }> = ArrayOfMaps::new();
/// Slot -> addresses. Written by the agent.
#[btf_map]
pub static ENDPOINTS: ArrayOfMaps<Endpoints, { SLOTS as usize }> = ArrayOfMaps::new();
/// Slot -> CIDR peers. Written by the agent.
#[btf_map]
pub static CIDRS: ArrayOfMaps<Cidrs, { SLOTS as usize }> = ArrayOfMaps::new();
/// Slot, buffer and kind -> image of the address sets, from its `HEAP` on. Written by the agent.
#[btf_map]
pub static SETS: ArrayOfMaps<SetLines, { (SLOTS * SET_BUFFERS * SET_IMAGES) as usize }> = ArrayOfMaps::new();
/// Slot and buffer -> tables of fixed size. Written by the agent.
#[btf_map]
pub static SET_TABLES_V4: ArrayOfMaps<SetTablesV4, { (SLOTS * SET_BUFFERS) as usize }> = ArrayOfMaps::new();
/// The same for IPv6.
#[btf_map]
pub static SET_TABLES_V6: ArrayOfMaps<SetTablesV6, { (SLOTS * SET_BUFFERS) as usize }> = ArrayOfMaps::new();
/// Slot -> the buffer of its address sets. Written by the agent, one store for each load.
#[btf_map]
pub static SET_BUFFER: Array<u32, { SLOTS as usize }> = Array::new();
/// By the address set's number: what it refused. Written by XDP.
#[btf_map]
pub static SET_COUNTS: PerCpuArray<Count, { MAX_SETS as usize }> = PerCpuArray::new();

/// Decisions of late, by CPU. Written and read by the programs, through `recent`.
#[btf_map]
pub static RECENT: PerCpuArray<Entry, { weir_common::recent::ENTRIES as usize }> = PerCpuArray::new();

/// Limits on destinations of late, by CPU. Written and read by XDP, through `aims`.
#[btf_map]
pub static AIMS: PerCpuArray<Aim, { aims::ENTRIES as usize }> = PerCpuArray::new();

/// The call of which the socket's own program has said all there is to say. Written and read by the programs.
#[btf_map]
pub static VOUCHED: PerCpuArray<[u64; 2], 1> = PerCpuArray::new();

/// The last packet that this CPU refused, and that the kernel is about to drop as if by itself. Written and read by the programs.
#[btf_map]
pub static OWN_DROP: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Who the attach point's cgroup is. Written by the agent after attaching, read by every cgroup program.
#[btf_map]
pub static LOCAL: CgroupStorage<Local> = CgroupStorage::new();
/// Cgroup id -> workload, for the root programs, which judge by the calling task. Written by the agent.
#[btf_map]
pub static CALLERS: HashMap<u64, Local, { MAX_CGROUPS as usize }, NO_PREALLOC> = HashMap::new();

/// Index of a workload's interface -> workload, for the programs there. Written by the agent.
#[btf_map]
pub static INTERFACES: HashMap<u32, Local, { MAX_INTERFACES as usize }, NO_PREALLOC> = HashMap::new();

/// Cookie of a living TCP socket that is older than the programs -> its ends. Written by the agent, emptied by the program that tells of
/// their closes.
#[btf_map]
pub static ADOPTED: HashMap<u64, Adopted, { MAX_ADOPTED as usize }, NO_PREALLOC> = HashMap::new();

/// Events. Written by the programs, read by the agent.
#[btf_map]
pub static EVENTS: RingBuf<Event, { RING_BYTES as usize }> = RingBuf::new();
/// When the reader was last woken for the sake of a process, and for which ones of late. Written by the programs.
#[btf_map]
pub static WOKEN: Array<u64, { emit::WOKEN_ENTRIES as usize }> = Array::new();
/// Whether more than three quarters of the ring were unread when that was last looked at. Written by the programs.
#[btf_map]
pub static SCARCE: Array<u32, 1> = Array::new();
/// By workload: how far the reader was (upper half), and the events since then (lower half), while the ring is scarce. Written by the
/// programs.
#[btf_map]
pub static RING_SHARES: Array<u64, { MAX_WORKLOADS as usize }> = Array::new();
/// Decisions by cell (`weir_common::counters`). Written by the programs.
#[btf_map]
pub static COUNTERS: PerCpuArray<u64, { counters::DECISIONS }> = PerCpuArray::new();
/// Decisions whose event found no room in the ring, by cell; and closes. Written by the programs.
#[btf_map]
pub static LOST: PerCpuArray<u64, { counters::CELLS }> = PerCpuArray::new();
/// The merge epoch, whose low bit picks the table that programs write: written by the agent. And the one after that in which a table
/// was last found full: written by the programs.
#[btf_map]
pub static EPOCH: Array<u32, 2> = Array::new();
/// Merged decisions of even epochs. Written by the programs, emptied by the agent.
#[btf_map]
pub static MERGED_0: HashMap<MergeKey, MergeValue, { MAX_MERGED as usize }> = HashMap::new();
/// Merged decisions of odd epochs.
#[btf_map]
pub static MERGED_1: HashMap<MergeKey, MergeValue, { MAX_MERGED as usize }> = HashMap::new();
/// Drops at XDP: cells of even epochs, then those of odd ones. Written by XDP, emptied by the agent.
#[btf_map]
pub static EDGE_DROPPED: Array<EdgeDrop, { 2 * EDGE_DROPS as usize }> = Array::new();
/// What stands for the drops in each of them; 0 for a free one. Written by XDP, cleared by the agent.
#[btf_map]
pub static EDGE_TAGS: Array<[u64; EDGE_WAYS as usize], { 2 * EDGE_BUCKETS as usize }> = Array::new();
/// Of each parity how many cells are in use, and which. Written by XDP, emptied by the agent.
#[btf_map]
pub static EDGE_CLAIMED: Array<u64, { 2 * EDGE_CLAIMS as usize }> = Array::new();
/// Decisions that found the merge table full, by cell. Cumulative; written by the programs.
#[btf_map]
pub static OVERFLOW: PerCpuArray<u64, { counters::CELLS }> = PerCpuArray::new();

/// No program reads it: the agent waits for a grace period by writing it (map-in-map updates return after one).
#[btf_map]
pub static GRACE: ArrayOfMaps<Array<u64, 1>, 1> = ArrayOfMaps::new();
/// The same for the thread that reads events.
#[btf_map]
pub static GRACE_EVENTS: ArrayOfMaps<Array<u64, 1>, 1> = ArrayOfMaps::new();

/// Arrival times of all clients together, by limit number and kind. Written by XDP and ingress.
#[btf_map]
pub static TOTALS: Array<u64, { LIMIT_TOTALS as usize }> = Array::new();
/// What XDP has charged, by flow. Written by XDP, taken away by ingress.
#[btf_map]
pub static PAID: Array<u64, { PAID_SLOTS as usize }> = Array::new();
/// Rate limit state: theoretical arrival times in two rows. Written by XDP and ingress.
#[btf_map]
pub static LIMIT_STATE: Array<u64, { LIMIT_SLOTS as usize }> = Array::new();
/// By limit number. Written by XDP and ingress.
#[btf_map]
pub static LIMIT_STATS: PerCpuArray<LimitStats, { MAX_LIMITS as usize }> = PerCpuArray::new();
/// Until when SYNs are answered by cookies, by limit number; 0: not. Written by XDP.
#[btf_map]
pub static SYN_STATE: Array<u64, { MAX_LIMITS as usize }> = Array::new();
/// What became of SYNs while they were, by limit number. Written by XDP.
#[btf_map]
pub static SYN_STATS: PerCpuArray<SynStats, { MAX_LIMITS as usize }> = PerCpuArray::new();
/// The headers of the packet that is looked at. Written by XDP.
#[btf_map]
pub static SYN_SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();
/// Addresses of the agent's network namespace. Written by the agent.
#[btf_map]
pub static HERE: HashMap<Addr, u32, { MAX_HERE as usize }, NO_PREALLOC> = HashMap::new();
/// Expected replies, `REPLY_BUCKETS` buckets per workload, so that a workload can only push out its own. Written by egress.
#[btf_map]
pub static REPLIES: Array<ReplyBucket, { (MAX_WORKLOADS * REPLY_BUCKETS) as usize }> = Array::new();
/// Fragments that XDP let through to services with limits, each with its port. Written by XDP.
#[btf_map]
pub static FRAGMENTS: Array<ReplyBucket, { FRAGMENT_BUCKETS as usize }> = Array::new();
/// Index of an interface that XDP is attached to -> its place in `SEEN` and `EDGES`. Written by the agent.
#[btf_map]
pub static PLACES: HashMap<u32, u32, { MAX_EDGES as usize }> = HashMap::new();
/// The same by the index's low bits, where no other has them: index in the high half. Written by the agent.
#[btf_map]
pub static PLACE_HINTS: Array<u64, { HINTS as usize }> = Array::new();
/// Packets seen and passed, by the interface's place. Cleared by the agent, counted by XDP.
#[btf_map]
pub static SEEN: PerCpuArray<[u64; 2], { MAX_EDGES as usize }> = PerCpuArray::new();
/// What is special about an interface: apart from its counters, so that it can change without touching them. Written by the agent.
#[btf_map]
pub static EDGES: Array<Edge, { MAX_EDGES as usize }> = Array::new();

/// `chain::xdp_chained_frags`, for as long as the agent lives: the kernel empties an array of programs that nobody holds open or
/// pinned. Written by the agent.
#[btf_map]
pub static CHAINED_FRAGS: ProgramArray<1> = ProgramArray::new();
/// By the interface's place: whose slot it was first. Written by the agent, which pins it.
#[btf_map]
pub static NEIGHBOURS_FRAGS: ProgramArray<{ MAX_EDGES as usize }> = ProgramArray::new();
/// The same for programs that take frames in one buffer only: the kernel does not let the two kinds call each other.
#[btf_map]
pub static CHAINED: ProgramArray<1> = ProgramArray::new();
/// The same for programs that take frames in one buffer only.
#[btf_map]
pub static NEIGHBOURS: ProgramArray<{ MAX_EDGES as usize }> = ProgramArray::new();
/// As `GRACE`, for interfaces.
#[btf_map]
pub static GRACE_NEIGHBOURS: ArrayOfMaps<Array<u64, 1>, 1> = ArrayOfMaps::new();
