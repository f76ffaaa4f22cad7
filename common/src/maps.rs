//! Lives: kernel and host.
//! Called by: `ebpf/src/maps.rs`, which declares them, and `agent/src/kernel`, which opens them by these names.
//! May touch: nothing.
//! Never: a size or name of a map written a second time elsewhere.

/// Number of slots a generation can live in; the low bit of the active word picks one.
pub const SLOTS: u32 = 2;
/// Addresses a slot's endpoint table holds, and ports of addresses that services have.
pub const MAX_ENDPOINTS: u32 = 131_072;
/// Prefixes a slot's CIDR table holds.
pub const MAX_CIDRS: u32 = 65_536;
/// Buffers of a slot: address sets that are loaded without a generation of their own change from one to the other.
pub const SET_BUFFERS: u32 = 2;
/// Entries of [`SETS`] for one buffer: the images of the address sets in force.
pub const SET_IMAGES: u32 = 4;
/// Offset of the image for IPv4 addresses (`crate::sets::v4`).
pub const SET_V4: u32 = 0;
/// Offset of the image for IPv6 addresses (`crate::sets::v6`).
pub const SET_V6: u32 = 1;
/// Offset of the image that says which sets are asked about a packet (`crate::sets::scope`).
pub const SET_SCOPE: u32 = 2;
/// Bytes of the event ring buffer (a power of two, as the kernel demands).
pub const RING_BYTES: u32 = 8 * 1024 * 1024;
/// Events that one workload may add to the ring while more than three quarters of it are unread, for each [`RING_STEP`] that the agent
/// reads: with 136 bytes each in the ring, a sixteenth of the last quarter.
pub const RING_QUOTA: u32 = 963;
/// Bits by which the reader's position is shifted to tell how far it is: 1 MiB.
pub const RING_STEP: u32 = 20;
/// Distinct (peer, rule, ...) keys that one merge epoch counts apart beside [`EDGE_DROPS`]; the rest go to the fixed overflow cells.
pub const MAX_MERGED: u32 = 16_384;
/// Cells for drops at XDP that one epoch counts apart; the rest go to the fixed overflow cells. 4 MiB for both parities.
pub const EDGE_DROPS: u32 = 16_384;
/// Cells that are searched together: their tags are one cache line.
pub const EDGE_WAYS: u32 = 8;
/// Buckets of as many.
pub const EDGE_BUCKETS: u32 = EDGE_DROPS / EDGE_WAYS;
/// Entries of the list of an epoch's cells that are in use: how many, and their places.
pub const EDGE_CLAIMS: u32 = EDGE_DROPS + 1;
/// Words of rate limit state; two rows of half as many slots each (DESIGN.md D6: 16 bytes a client).
pub const LIMIT_SLOTS: u32 = 1 << if cfg!(feature = "next_layout") { 19 } else { 20 };
/// Workloads a node can host: the size of the reply table's per-workload shares.
pub const MAX_WORKLOADS: u32 = 1024;
/// Stands for the agent itself in the table of callers: the programs at the root of the managed tree let it pass, whatever they make of
/// processes that no workload names. It must reach its collector also where it runs inside the tree.
pub const AGENT: u32 = u32::MAX;
/// Buckets of four reply entries each that one workload owns.
pub const REPLY_BUCKETS: u32 = 128;
/// Rate limits whose passed and dropped packets are counted.
pub const MAX_LIMITS: u32 = 1024;
/// Rates of all clients together: three kinds for each limit, in rows of four.
pub const LIMIT_TOTALS: u32 = MAX_LIMITS * 4;
/// Addresses of the agent's own network namespace that the kernel programs know: listeners there may have connections opened by cookies.
pub const MAX_HERE: u32 = 4096;
/// Flows of which it is noted that XDP has charged their packets, on the way to the socket: 2 MiB.
pub const PAID_SLOTS: u32 = 1 << 18;
/// Cgroups the programs at the root of the managed tree can tell apart.
pub const MAX_CGROUPS: u32 = if cfg!(feature = "next_layout") { 16_384 } else { 8192 };
/// Living connections older than the programs whose end is told of: as many as the agent remembers openings of on a side.
pub const MAX_ADOPTED: u32 = 65_536;
/// Interfaces that belong to a workload: one each at most.
pub const MAX_INTERFACES: u32 = MAX_WORKLOADS;
/// How long an unanswered datagram keeps its reply allowed, in nanoseconds: 60 s, as conntrack implementations choose.
pub const REPLY_TTL_NS: u64 = 60_000_000_000;
/// Buckets of four first fragments each that XDP remembers: half a MiB.
pub const FRAGMENT_BUCKETS: u32 = 8192;
/// How long later fragments may follow their first, in nanoseconds: as long as Linux waits for them (`ipfrag_time`).
pub const FRAGMENT_TTL_NS: u64 = 30_000_000_000;
/// Interfaces that XDP is attached to.
pub const MAX_EDGES: u32 = 1024;
/// Entries of [`PLACE_HINTS`]; indices of interfaces count up.
pub const HINTS: u32 = 4096;

/// Single word: the active generation. Written by the agent, one atomic store per policy change.
pub const ACTIVE: &str = "ACTIVE";
/// Slot -> array of table pages.
pub const TABLES: &str = "TABLES";
/// Slot -> hash of address to endpoint.
pub const ENDPOINTS: &str = "ENDPOINTS";
/// Slot -> trie of prefix to identity.
pub const CIDRS: &str = "CIDRS";
/// (Slot x [`SET_BUFFERS`] + buffer) x [`SET_IMAGES`] + which -> lines of an image of the address sets, without its tables of fixed size.
pub const SETS: &str = "SETS";
/// Slot x [`SET_BUFFERS`] + buffer -> the tables of fixed size for IPv4 addresses.
pub const SET_TABLES_V4: &str = "SET_TABLES_V4";
/// The same for IPv6 addresses.
pub const SET_TABLES_V6: &str = "SET_TABLES_V6";
/// Slot -> the buffer in force. A program reads it once, so that it sees the images of one load together.
pub const SET_BUFFER: &str = "SET_BUFFER";
/// Packets and bytes that each address set refused, per CPU.
pub const SET_COUNTS: &str = "SET_COUNTS";
/// Attach-point storage: who the cgroup's workload is.
pub const LOCAL: &str = "LOCAL";
/// Cgroup id -> workload, for the programs at the root of the managed tree.
pub const CALLERS: &str = "CALLERS";
/// Index of a workload's interface -> workload, for the programs on it.
pub const INTERFACES: &str = "INTERFACES";
/// Cookie -> ends of a connection that is older than the programs.
pub const ADOPTED: &str = "ADOPTED";
/// Ring buffer of events.
pub const EVENTS: &str = "EVENTS";
/// Decisions by hook, verdict and reason, per CPU: first those of which records are made, then those by a quiet cell, of which none is.
pub const COUNTERS: &str = "COUNTERS";
/// Events that found the ring full, by the same cells, per CPU.
pub const LOST: &str = "LOST";
/// Merged decisions that found the merge table full, by the same cells, per CPU; cumulative.
pub const OVERFLOW: &str = "OVERFLOW";
/// Merge epoch (0 or 1) that the kernel writes; the agent flips it, waits, and reads the other.
pub const EPOCH: &str = "EPOCH";
/// Merged decisions of even epochs.
pub const MERGED_0: &str = "MERGED_0";
/// Merged decisions of odd epochs.
pub const MERGED_1: &str = "MERGED_1";
/// Written only to wait for a grace period.
pub const GRACE: &str = "GRACE";
/// The same for the thread that reads events.
pub const GRACE_EVENTS: &str = "GRACE_EVENTS";
/// Rate limit state.
pub const LIMIT_STATE: &str = "LIMIT_STATE";
/// Drops at XDP, counted together: cells of even epochs, then those of odd ones.
pub const EDGE_DROPPED: &str = "EDGE_DROPPED";
/// What stands for the drops in each of them, in buckets; 0 for a free one.
pub const EDGE_TAGS: &str = "EDGE_TAGS";
/// Which of them are in use, parity by parity.
pub const EDGE_CLAIMED: &str = "EDGE_CLAIMED";
/// Arrival times of limits on all clients together.
pub const TOTALS: &str = "TOTALS";
/// Packets that XDP has charged, on their way to the socket.
pub const PAID: &str = "PAID";
/// Per limit: packets and bytes passed and dropped, per CPU.
pub const LIMIT_STATS: &str = "LIMIT_STATS";
/// Per limit: until when its services' connections are opened by cookies.
pub const SYN_STATE: &str = "SYN_STATE";
/// Per limit: what became of openings while they were, per CPU.
pub const SYN_STATS: &str = "SYN_STATS";
/// Addresses of the agent's own network namespace.
pub const HERE: &str = "HERE";
/// Reply table for unconnected UDP clients.
pub const REPLIES: &str = "REPLIES";
/// First fragments that XDP let through to services with limits.
pub const FRAGMENTS: &str = "FRAGMENTS";
/// The place of each interface that XDP is attached to in [`EDGES`] and [`SEEN`].
pub const PLACES: &str = "PLACES";
/// The same, found without a hash where no other interface has the same place here: index in the high half, place in the low.
pub const PLACE_HINTS: &str = "PLACE_HINTS";
/// What is special about an interface, by its place.
pub const EDGES: &str = "EDGES";
/// The program that judges where XDP stands in front of a neighbour that takes frames in several buffers.
pub const CHAINED_FRAGS: &str = "CHAINED_FRAGS";
/// The same for neighbours that take frames in one buffer.
pub const CHAINED: &str = "CHAINED";
/// Those neighbours, by the interface's place: who takes frames in several buffers.
pub const NEIGHBOURS_FRAGS: &str = "NEIGHBOURS_FRAGS";
/// The same for who takes them in one.
pub const NEIGHBOURS: &str = "NEIGHBOURS";
/// As [`GRACE`], for interfaces.
pub const GRACE_NEIGHBOURS: &str = "GRACE_NEIGHBOURS";
/// Packets that XDP saw and passed, by the interface's place and CPU (not decisions: nothing is recorded for them).
pub const SEEN: &str = "SEEN";
