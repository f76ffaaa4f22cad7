//! Lives: kernel.
//! Called by: every program that judges.
//! May touch: the policy maps of the slot that was active when it was opened.
//! Never: reads the active word twice in a run; a run sees one generation (DESIGN.md D4).

use aya_ebpf::btf_maps::lpm_trie::Key;
use weir_common::{
    addr::{Addr, Protocol},
    decide::{Decision, Image, Query, Tables, from_cell, no_tables, to_ask},
    event::Endpoint,
    image::{Cell, Page},
    packet::Packet,
    source,
    verdict::{Direction, Reason},
};

use crate::maps::{self, Pages};

/// The generation this run judges by.
pub struct Active {
    slot: u32,
    pages: &'static Pages,
}

impl Active {
    /// The active generation, or `None` when none was ever written (fails closed).
    #[inline(always)]
    pub fn open() -> Option<Self> {
        let slot = (*maps::ACTIVE.get(0)? & 1) as u32;
        Some(Self { slot, pages: maps::TABLES.get(slot)? })
    }

    /// The rule that blocks `addr`, if one does.
    #[inline(always)]
    pub fn blocked(&self, addr: &Addr) -> Option<u32> {
        maps::BLOCKED.get(self.slot)?.get(&Key::new(128, *addr)).copied()
    }
}

impl Tables for Active {
    #[inline(always)]
    fn page(&self, index: u32) -> Option<&Page> {
        self.pages.get(index)
    }

    #[inline(always)]
    fn endpoint(&self, addr: &Addr) -> Option<Endpoint> {
        // SAFETY: no program writes this map, and the agent only adds to the slot in use; the value is copied at once.
        unsafe { maps::ENDPOINTS.get(self.slot)?.get(addr) }.copied()
    }

    #[inline(always)]
    fn cidr(&self, addr: &Addr) -> Option<u32> {
        maps::CIDRS.get(self.slot)?.get(&Key::new(128, *addr)).copied()
    }
}

/// What staged policies would answer, as a cell.
///
/// A global function (see `bytes::weir_parse_skb`): it takes numbers, among them the slot of this run, and is verified once.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn weir_staged(slot: u32, local: u32, remote_identity: u32, called: u32) -> u32 {
    let slot = slot & 1;
    let Some(pages) = maps::TABLES.get(slot) else { return 0 };
    let active = Active { slot, pages };
    let Some(image) = Image::open(&active) else { return 0 };
    let query = query_of(local, Addr::UNSPECIFIED, called);
    image.staged_cell(&query, remote_identity).0
}

/// A decision, the generation that made it (0 when there was none), and who the local side was in it.
pub struct Judged {
    pub decision: Decision,
    pub generation: u64,
    pub local_identity: u32,
}

impl Judged {
    /// Fails closed: there is nothing to judge by.
    const NO_TABLES: Self = Self { decision: no_tables(0), generation: 0, local_identity: 0 };

    /// A refusal that no policy speaks.
    #[inline(always)]
    pub fn refusal(reason: Reason) -> Self {
        let decision = Decision { reason, ..Self::NO_TABLES.decision };
        Self { decision, generation: generation(), local_identity: 0 }
    }
}

/// Judges one opening of `workload` by the active generation; without one, denies. The query's own `local` is not read.
///
/// A function of its own in the object: inlined, its parts would cost every caller's stack.
#[inline(never)]
pub fn judge(workload: u32, query: &Query) -> Judged {
    let (high, low) = query.remote.halves();
    let mut judged = Judged::NO_TABLES;
    let told = weir_judge(workload, called(query), high, low, &raw mut judged.generation);
    judged.decision = from_cell(Cell(told as u32), (told >> 32) as u16 as u32);
    judged.local_identity = (told >> 48) as u32;
    let beside = judged.generation;
    if beside & STAGED != 0 {
        let asked = called(query) & !0xffff | (beside >> PORT_SHIFT) as u16 as u32;
        let slot = (beside >> SLOT_SHIFT) as u32 & 1;
        let staged = weir_staged(slot, judged.local_identity, judged.decision.remote_identity, asked);
        judged.decision = judged.decision.with_staged(Cell(staged));
    }
    judged.decision.translated = beside & TRANSLATED != 0;
    judged.generation = beside & GENERATION;
    judged
}

/// In what [`weir_judge`] leaves beside the decision: staged policies are to be asked.
const STAGED: u64 = 1 << 63;
/// The slot that was read.
const SLOT_SHIFT: u32 = 62;
/// [`Decision::translated`].
const TRANSLATED: u64 = 1 << 61;
/// The port that staged policies are to be asked about.
const PORT_SHIFT: u32 = 44;
/// The generation's number, which is smaller.
const GENERATION: u64 = (1 << PORT_SHIFT) - 1;

/// The decision as a cell in the low half, then the peer's identity and the local one, 16 bits each. 0 is a cell that denies.
///
/// A global function (see `bytes::weir_parse_skb`): programs judge on several paths, and it is verified once for all of them. It
/// leaves one number beside the answer and no struct, for the sake of its callers' stacks.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn weir_judge(workload: u32, called: u32, high: u64, low: u64, beside: *mut u64) -> u64 {
    let Some(active) = Active::open() else { return 0 };
    let Some(image) = Image::open(&active) else { return 0 };
    let local = image.local(workload);
    let decision = image.decide_live(workload, &query_of(local, Addr::of_halves(high, low), called));
    if !beside.is_null() {
        let staged = match to_ask(decision.staged) {
            Some(port) => STAGED | u64::from(port) << PORT_SHIFT,
            None => 0,
        };
        let translated = if decision.translated { TRANSLATED } else { 0 };
        let slot = u64::from(active.slot) << SLOT_SHIFT;
        // SAFETY: not null, and the verifier checks that every caller hands memory of this size.
        unsafe { beside.write(image.generation() & GENERATION | slot | translated | staged) };
    }
    u64::from(decision.to_cell().0) | u64::from(decision.remote_identity as u16) << 32 | u64::from(local as u16) << 48
}

/// Port, protocol and direction, from the low end.
#[inline(always)]
fn called(query: &Query) -> u32 {
    u32::from(query.port) | u32::from(query.protocol.0) << 16 | (query.direction as u32) << 24
}

#[inline(always)]
fn query_of(local: u32, remote: Addr, called: u32) -> Query {
    let egress = called >> 24 == Direction::Egress as u32;
    let direction = if egress { Direction::Egress } else { Direction::Ingress };
    Query { local, direction, remote, protocol: Protocol((called >> 16) as u8), port: called as u16 }
}

/// Whether a packet that says it comes from one of `workload`'s addresses may do so.
#[inline(never)]
pub fn plausible(workload: u32, packet: &Packet) -> bool {
    let Some(active) = Active::open() else { return false };
    let Some(image) = Image::open(&active) else { return false };
    source::plausible(packet, &image, workload)
}

/// [`Endpoint::owner`] of an address; 0 where nobody here has it.
#[inline(always)]
pub fn owner(addr: &Addr) -> u32 {
    Active::open().and_then(|active| active.endpoint(addr)).map_or(0, |end| end.owner)
}

/// Flags of the active generation; none when there is none.
#[inline(always)]
pub fn flags() -> u64 {
    let Some(active) = Active::open() else { return 0 };
    Image::open(&active).map_or(0, |image| image.flags())
}

/// Number of the active generation; 0 when there is none.
#[inline(always)]
pub fn generation() -> u64 {
    let Some(active) = Active::open() else { return 0 };
    Image::open(&active).map_or(0, |image| image.generation())
}
