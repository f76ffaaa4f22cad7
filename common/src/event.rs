//! Lives: kernel and host.
//! Called by: the kernel programs when they report; the agent when it reads the ring, the merge tables and attach-point storage.
//! May touch: nothing.
//! Never: padding, `bool`, `usize` or pointers in a record; zerocopy refuses to compile padding.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{
    addr::{Addr, Port},
    image::Cell,
};

/// What an [`Event`] reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A decision: counted in the counters, becomes one record.
    Verdict = 1,
    /// A process called `connect()` on a TCP socket and was let through; names the process for the verdict that follows at
    /// `sock_ops`. Not a decision.
    Attempt = 2,
    /// A process bound a socket; names the process for verdicts on what arrives there. Not a decision.
    Bound = 3,
    /// A TCP connection ended; carries the kernel's counters. Not a decision.
    Close = 4,
}

impl Kind {
    /// The kind a byte stands for.
    #[must_use]
    pub const fn from_u8(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Verdict),
            2 => Some(Self::Attempt),
            3 => Some(Self::Bound),
            4 => Some(Self::Close),
            _ => None,
        }
    }
}

/// One record of the ring buffer: 128 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Event {
    /// [`Process`] for verdicts, attempts and binds; [`Totals`] for closes.
    #[cfg(feature = "next_layout")]
    pub detail: [u8; 32],
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub time_ns: u64,
    /// Generation that judged.
    pub generation: u64,
    /// Socket cookie; for an ingress verdict the listener's.
    pub cookie: u64,
    /// Cgroup of the calling task, where the hook runs in a task; else 0.
    pub cgroup: u64,
    /// The local side.
    pub local: Addr,
    /// The peer.
    pub remote: Addr,
    /// Rule number in `generation`; 0 names none.
    pub rule: u32,
    /// Identity of the local workload.
    pub local_identity: u32,
    /// Identity of the peer.
    pub remote_identity: u32,
    /// Number of the local workload on this node (see [`Local`]).
    pub workload: u32,
    /// The local side's port.
    pub local_port: Port,
    /// The peer's port.
    pub remote_port: Port,
    /// [`Kind`].
    pub kind: u8,
    /// [`crate::verdict::Hook`].
    pub hook: u8,
    /// [`crate::verdict::Direction`].
    pub direction: u8,
    /// [`crate::verdict::Verdict`].
    pub verdict: u8,
    /// [`crate::verdict::Reason`].
    pub reason: u8,
    /// IP protocol number.
    pub protocol: u8,
    /// TCP flags of the judged packet (low 8 bits of RFC 9293 section 3.1), or 0.
    pub tcp_flags: u8,
    /// For a close: the TCP state before it (`include/net/tcp_states.h`), else 0.
    pub old_state: u8,
    /// Interface the packet came in on (XDP), else 0.
    pub ifindex: u32,
    /// [`Process`] for verdicts, attempts and binds; [`Totals`] for closes.
    #[cfg(not(feature = "next_layout"))]
    pub detail: [u8; 32],
}

const _: () = assert!(size_of::<Event>() == 128);

/// The calling task. All zero where the hook does not run in one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Process {
    /// Process id (thread group id) in the initial pid namespace.
    pub pid: u32,
    /// User id in the initial user namespace.
    pub uid: u32,
    /// The task's name, NUL-padded.
    pub comm: [u8; 16],
    /// Not of the task: what staged policies would make of a verdict, as a cell (`Decision::staged`); 0 where they agree.
    pub staged: u32,
    /// Zero.
    pub reserved: u32,
}

/// The kernel's own counters of a TCP connection when it closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Totals {
    /// Bytes the peer acknowledged (`tcp_sock.bytes_acked`): counts SYN and FIN.
    pub bytes_acked: u64,
    /// Bytes received in order (`tcp_sock.bytes_received`): counts the FIN.
    pub bytes_received: u64,
    /// Segments sent.
    pub segments_out: u32,
    /// Segments received.
    pub segments_in: u32,
    /// Smoothed round-trip time, microseconds.
    pub rtt_us: u32,
    /// Segments retransmitted.
    pub retransmits: u32,
}

/// The ends of a TCP connection that is older than the programs, as the agent has found them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Adopted {
    /// The local side.
    pub local: Addr,
    /// The peer.
    pub remote: Addr,
    /// The local side's port.
    pub local_port: Port,
    /// The peer's port.
    pub remote_port: Port,
    /// [`crate::verdict::Direction`] in which it was opened.
    pub direction: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

const _: () = assert!(size_of::<Process>() == 32 && size_of::<Totals>() == 32);

impl Event {
    /// The process part of a verdict, attempt or bind.
    #[must_use]
    pub fn process(&self) -> Process {
        zerocopy::transmute!(self.detail)
    }

    /// The counters of a close.
    #[must_use]
    pub fn totals(&self) -> Totals {
        zerocopy::transmute!(self.detail)
    }
}

/// Equal decisions that are counted together in the kernel, for packets that come in floods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MergeKey {
    /// Zero.
    #[cfg(feature = "next_layout")]
    pub padding: u32,
    /// What staged policies would decide, as a cell; 0 where they agree.
    #[cfg(feature = "next_layout")]
    pub staged: u32,
    /// The local side (the packet's destination for XDP).
    pub local: Addr,
    /// The peer (the packet's source for XDP).
    pub remote: Addr,
    /// Generation that judged.
    pub generation: u64,
    /// Rule number in `generation`.
    pub rule: u32,
    /// Identity of the local workload.
    pub local_identity: u32,
    /// Identity of the peer.
    pub remote_identity: u32,
    /// Number of the local workload on this node.
    pub workload: u32,
    /// Interface the packet came in on (XDP), else 0.
    pub ifindex: u32,
    /// The local side's port.
    pub local_port: Port,
    /// The peer's port for UDP; 0 for TCP and XDP, where a flood varies it (the last one is in the value).
    pub remote_port: Port,
    /// [`crate::verdict::Hook`].
    pub hook: u8,
    /// [`crate::verdict::Direction`].
    pub direction: u8,
    /// [`crate::verdict::Verdict`].
    pub verdict: u8,
    /// [`crate::verdict::Reason`].
    pub reason: u8,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub reserved: [u8; 3],
    /// What staged policies would decide, as a cell; 0 where they agree.
    #[cfg(not(feature = "next_layout"))]
    pub staged: u32,
    /// Zero.
    #[cfg(not(feature = "next_layout"))]
    pub padding: u32,
}

const _: () = assert!(size_of::<MergeKey>() == 80);

/// What a merge key stands for in one epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MergeValue {
    /// First decision, `CLOCK_MONOTONIC` nanoseconds.
    #[cfg(feature = "next_layout")]
    pub first_ns: u64,
    /// Decisions.
    pub count: u64,
    /// Bytes of the IP packets.
    pub bytes: u64,
    /// First decision, `CLOCK_MONOTONIC` nanoseconds.
    #[cfg(not(feature = "next_layout"))]
    pub first_ns: u64,
    /// Last decision, `CLOCK_MONOTONIC` nanoseconds.
    pub last_ns: u64,
    /// Socket cookie of the last one, where there is a socket.
    pub cookie: u64,
    /// The peer's port in the last one.
    pub last_port: u32,
    /// TCP flags seen, or-ed together.
    pub tcp_flags: u32,
}

const _: () = assert!(size_of::<MergeValue>() == 48);

/// Most bytes of a dropped packet that are told.
pub const MAX_DROP_BYTES: usize = 128;

/// The second kind of record in the ring, told from an [`Event`] by its size: how the first packet of equal drops of an epoch begins. Not
/// a decision; the drop is counted under its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DropBytes {
    /// What the drop is counted under.
    pub key: MergeKey,
    /// `CLOCK_MONOTONIC`, nanoseconds: not before the first drop of the key's epoch.
    pub time_ns: u64,
    /// How many bytes count, 1 to [`MAX_DROP_BYTES`].
    pub length: u32,
    /// Zero.
    pub padding: u32,
    /// From the IP header on; of what is no IP packet, what follows the Ethernet header.
    pub bytes: [u8; MAX_DROP_BYTES],
}

const _: () = assert!(size_of::<DropBytes>() == 224);

/// Equal drops at XDP in one epoch. What every packet touches is in the first half.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EdgeDrop {
    /// What they come to.
    pub value: MergeValue,
    /// What tells them from others.
    pub key: MergeKey,
}

const _: () = assert!(size_of::<EdgeDrop>() == 128);

/// Attach-point storage: which workload a cgroup belongs to. All zero until the agent has written it.
///
/// It names no identity: identities belong to a generation, and one write to the active word must change everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Local {
    /// What a version of another layout takes for the workload. Not more words: the deepest program's stack is full.
    #[cfg(feature = "next_layout")]
    pub cgroup: u32,
    /// The workload's number on this node, 1 to [`crate::maps::MAX_WORKLOADS`] - 1; 0 is unknown.
    pub workload: u32,
    /// At an attach point the low half of the cgroup's own id: a caller in that very cgroup needs no further look. Else 0.
    #[cfg(not(feature = "next_layout"))]
    pub cgroup: u32,
}

impl Local {
    /// The cgroup of a workload.
    #[must_use]
    pub const fn of(workload: u32, cgroup: u32) -> Self {
        Self { workload, cgroup }
    }
}

/// One entry of the reply table: which peer a client's socket expects an answer from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Reply {
    /// Keyed hash of socket cookie, peer address and port; 0 is free.
    pub tag: u64,
    /// Time of the last datagram sent, `CLOCK_MONOTONIC` nanoseconds.
    pub sent_ns: u64,
}

/// Four entries that are searched together; one cache line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ReplyBucket {
    /// The entries.
    pub entries: [Reply; 4],
}

/// Traffic charged against one limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LimitStats {
    /// Packets within the limit.
    pub passed_packets: u64,
    /// Their bytes.
    pub passed_bytes: u64,
    /// Packets beyond it.
    pub exceeded_packets: u64,
    /// Their bytes.
    pub exceeded_bytes: u64,
}

/// What became of openings of the services that a limit protects against floods of SYNs, while it did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SynStats {
    /// SYNs answered by a cookie.
    pub answered: u64,
    /// Handshakes that a client completed with one.
    pub completed: u64,
    /// SYNs left to the stack: the kernel gave no cookie. `net.ipv4.tcp_syncookies` is 1 and the listener has room, or it is 0; or the
    /// listener has more connections waiting than it takes.
    pub no_cookie: u64,
    /// Likewise: nobody listens there.
    pub no_listener: u64,
    /// Likewise: the address is none of this network namespace.
    pub elsewhere: u64,
    /// Likewise: IP options, extension headers, fragments, a group of stations.
    pub unusual: u64,
    /// Likewise: the kernel refused the headers, or the frame could not be changed.
    pub failed: u64,
}

/// Value of an address in [`crate::maps::ENDPOINTS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Endpoint {
    /// Who has it, as the remote side.
    pub identity: u32,
    /// Number of the local workload whose own address it is; 0 for none. With [`NATIVE`], that workload's policies judge what it
    /// sends to itself; without, it reaches the address whatever they say. Or one of three marks, see [`Self::service`],
    /// [`Self::behind`] and [`Self::itself`].
    pub owner: u32,
}

/// Mark of an address that a service has; the number of that address follows.
const SERVICE: u32 = 1 << 31;
/// Mark of what is behind a port of such an address; the port it leads to follows, and [`ITSELF`].
const BEHIND: u32 = 1 << 30;
/// Bit beside the port: some local workload is behind it, and has an entry of its own under [`Addr::called_by`].
pub const ITSELF: u32 = 1 << 16;

impl Endpoint {
    /// The owner's word of a service's address. Who calls it is judged by what stands under [`Addr::of_call`], if anything does,
    /// as translation happens after the socket.
    #[must_use]
    pub const fn service(number: u32) -> u32 {
        SERVICE | number
    }

    /// The owner's word of what is behind a port of a service's address: the port it leads to.
    #[must_use]
    pub const fn behind(port: u16) -> u32 {
        BEHIND | port as u32
    }

    /// Whether this is a service's address.
    #[inline(always)]
    #[must_use]
    pub const fn is_service(self) -> bool {
        self.owner & SERVICE != 0
    }

    /// Whether this is what is behind a port of a service's address, and no address that packets have.
    #[inline(always)]
    #[must_use]
    pub const fn is_behind(self) -> bool {
        self.owner & (SERVICE | BEHIND) == BEHIND
    }

    /// What is answered to a workload that calls itself by a service: the cell, and the one of staged policies. Such a cell never
    /// speaks of more than rules, defaults and no policy, so its upper bits are free for the mark.
    #[must_use]
    pub const fn itself(cell: Cell, staged: Cell) -> Self {
        Self { identity: staged.0, owner: BEHIND | cell.0 }
    }

    /// The cells of [`Self::itself`].
    #[inline(always)]
    #[must_use]
    pub const fn cells(self) -> (Cell, Cell) {
        (Cell(self.owner & !BEHIND), Cell(self.identity))
    }

    /// Whether this is what is behind a port, and some local workload has an entry of its own there.
    #[inline(always)]
    #[must_use]
    pub const fn has_itself(self) -> bool {
        self.owner & (SERVICE | BEHIND | ITSELF) == BEHIND | ITSELF
    }

    /// The number of the local workload whose own address it is, and no other's; 0 for none.
    #[inline(always)]
    #[must_use]
    pub const fn sole_owner(self) -> u32 {
        if self.owner == SHARED || self.owner & (SERVICE | BEHIND) != 0 { 0 } else { self.owner & !NATIVE }
    }

    /// What follows the mark: the number of the service's address, or the port a service's port leads to.
    #[inline(always)]
    #[must_use]
    pub const fn number(self) -> u32 {
        self.owner & !(SERVICE | BEHIND)
    }
}

/// Bit of [`Endpoint::owner`]: the owner is no pod, and isolates itself from itself if its policies say so.
pub const NATIVE: u32 = 1 << 29;
/// [`Endpoint::owner`] of an address that several local workloads have: whoever has its identity may send from it.
pub const SHARED: u32 = NATIVE | (NATIVE - 1);

/// Key of a prefix in [`crate::maps::CIDRS`]: the kernel's `bpf_lpm_trie_key` for 128 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C, packed)]
pub struct PrefixKey {
    /// Bits that count, 0 to 128; an IPv4 /n is 96 + n.
    pub bits: u32,
    /// The address.
    pub addr: Addr,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        addr::Protocol,
        verdict::{Reason, Verdict},
    };

    #[test]
    fn an_answer_of_ones_own_is_read_as_it_was_given_and_is_nobodys_address() {
        for reason in [Reason::Rule, Reason::Default, Reason::NoPolicy] {
            for verdict in [Verdict::Allow, Verdict::Deny, Verdict::Audit] {
                let cell = Cell::new(verdict, reason, crate::image::MAX_RULES - 1).quietly();
                let entry = Endpoint::itself(cell, Cell(0x1234_5678));
                assert_eq!(entry.cells(), (cell, Cell(0x1234_5678)), "{verdict:?} {reason:?}");
                // Packets may name its key as an address: then it is one that nobody has.
                assert!(entry.is_behind() && !entry.is_service(), "{verdict:?} {reason:?}");
            }
        }
    }

    #[test]
    fn only_a_marked_port_has_own_answers_and_their_keys_are_their_own() {
        let marked = |owner| Endpoint { identity: 1, owner }.has_itself();
        let rows = [Endpoint::behind(u16::MAX), Endpoint::service(0), Endpoint::service(ITSELF), SHARED, NATIVE | 7, 0];
        assert_eq!(rows.map(marked), [false; 6]);
        assert!(marked(Endpoint::behind(80) | ITSELF));
        assert_eq!(Endpoint { identity: 1, owner: Endpoint::behind(80) | ITSELF }.number() as u16, 80);
        let all = Addr::of_call(3, Protocol::TCP, 80);
        for number in [0, 1, 1023] {
            assert!(all.called_by(number) != all && all.called_by(number).called_by_all() == all, "{number}");
        }
    }
}
