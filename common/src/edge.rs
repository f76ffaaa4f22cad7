//! Lives: kernel and host.
//! Called by: the XDP program for each frame; the agent, which says what is special about an interface.
//! May touch: nothing.
//! Never: a refusal here that every interface needs: those are not asked for.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bit of [`Edge::refuses`]: packets whose source is none that a packet on a wire can come from.
pub const MARTIAN: u32 = 1;
/// Bit of [`Edge::refuses`]: packets that come in with an address of this node or of a workload on it.
pub const SPOOFED: u32 = 1 << 1;
/// Bit of [`Edge::refuses`]: frames that are neither IP nor ARP.
pub const ETHERTYPE: u32 = 1 << 2;

/// What is special about an interface that XDP is attached to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Edge {
    /// What is refused beside what every interface refuses.
    pub refuses: u32,
    /// Number of the workload whose own interface it is, whose sources its other programs verify; 0 for none.
    pub workload: u32,
}

impl Edge {
    /// Nothing.
    pub const PLAIN: Self = Self { refuses: 0, workload: 0 };
}
