//! Lives: kernel.
//! Called by: every program that judges.
//! May touch: the policy maps of the slot that was active when it was opened.
//! Never: mixes generations in one decision; each is made by one reading of the active word (DESIGN.md D4).

use aya_ebpf::btf_maps::lpm_trie::Key;
use weir_common::{
    addr::Addr,
    decide::{Decision, Image, Query, Tables, no_tables},
    event::Endpoint,
    image::Page,
    packet::Packet,
    source,
    verdict::Reason,
};

use crate::{
    maps::{self, Pages},
    recent,
};

/// The generation this run judges by.
pub struct Active {
    /// Counts installs; its low bit is the slot.
    word: u64,
    slot: u32,
    pages: &'static Pages,
}

impl Active {
    /// The active generation, or `None` when none was ever written (fails closed).
    #[inline(always)]
    pub fn open() -> Option<Self> {
        let word = *maps::ACTIVE.get(0)?;
        let slot = (word & 1) as u32;
        Some(Self { word, slot, pages: maps::TABLES.get(slot)? })
    }

    /// The generation of an active word that was read before; `None` as above.
    #[inline(always)]
    pub fn of(word: u64) -> Option<Self> {
        let slot = (word & 1) as u32;
        Some(Self { word, slot, pages: maps::TABLES.get(slot)? })
    }

    /// The word it was opened by.
    #[inline(always)]
    pub const fn word(&self) -> u64 {
        self.word
    }

    /// The slot it is in.
    #[inline(always)]
    pub const fn slot(&self) -> u32 {
        self.slot
    }
}

impl Tables for Active {
    #[inline(always)]
    fn page(&self, index: u32) -> Option<&Page> {
        self.pages.get(index).map(Page::of)
    }

    #[inline(always)]
    fn endpoint(&self, addr: &Addr) -> Option<Endpoint> {
        // On the stack, because Linux 6.1 takes no key that lies in the memory a global function was handed.
        let key = *addr;
        // SAFETY: no program writes this map, and the agent only adds to the slot in use; the value is copied at once.
        let found = unsafe { maps::ENDPOINTS.get(self.slot)?.get(key) };
        found.map(|&[identity, owner]| Endpoint { identity, owner })
    }

    #[inline(always)]
    fn cidr(&self, addr: &Addr) -> Option<u32> {
        maps::CIDRS.get(self.slot)?.get(&Key::new(128, *addr)).copied()
    }
}

/// A decision, the generation that made it (0 when there was none), and who the local side was in it.
pub struct Judged {
    pub decision: Decision,
    pub generation: u64,
    pub local_identity: u32,
}

impl Judged {
    /// Fails closed: there is nothing to judge by.
    pub const NO_TABLES: Self = Self { decision: no_tables(0), generation: 0, local_identity: 0 };

    /// A refusal that no policy speaks.
    #[inline(always)]
    pub fn refusal(reason: Reason) -> Self {
        let decision = Decision { reason, ..Self::NO_TABLES.decision };
        Self { decision, generation: generation(), local_identity: 0 }
    }
}

/// Judges one opening of `workload` by the active generation; without one, denies. The query's own `local` is not read.
#[inline(always)]
pub fn judge(workload: u32, query: &Query) -> Judged {
    let mut judged = Judged::NO_TABLES;
    judge_again(workload, query, &mut judged);
    judged
}

/// The same in place of another decision, for programs without room for two on their stack.
#[inline(always)]
pub fn judge_again(workload: u32, query: &Query, judged: &mut Judged) {
    *judged = Judged::NO_TABLES;
    let _ = weir_judge(workload, query, judged);
}

/// The same for programs that judge at one place only and have room on their stack: without a call when it is remembered. Fills in
/// what is [`Judged::NO_TABLES`] before: a copy would wait for each of its parts to be stored.
#[inline(always)]
pub fn judge_at_once(workload: u32, query: &Query, judged: &mut Judged) {
    if !recent::look(word(), workload, query, judged) {
        let _ = weir_decide(workload, query, judged);
    }
}

/// A global function (see `bytes::weir_parse_skb`): programs judge at several places, and every path to each would be followed
/// through all of it. Leaves `to` as it is when there are no tables. The answer means nothing: the verifier wants one.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn weir_judge(workload: u32, query: *const Query, to: *mut Judged) -> u32 {
    if query.is_null() || to.is_null() {
        return 0;
    }
    // SAFETY: not null, and the verifier checks that every caller hands memory of this size.
    let query = unsafe { &*query };
    // SAFETY: as above.
    let judged = unsafe { &mut *to };
    if recent::recall(word(), workload, query, judged) {
        return 1;
    }
    weir_decide(workload, query, to)
}

/// The same by the tables, which it then remembers. What is in force may have changed since somebody looked for what is remembered:
/// then nothing of that counts.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn weir_decide(workload: u32, query: *const Query, to: *mut Judged) -> u32 {
    if query.is_null() || to.is_null() {
        return 0;
    }
    // SAFETY: not null, and the verifier checks that every caller hands memory of this size.
    let query = unsafe { &*query };
    // SAFETY: as above.
    let judged = unsafe { &mut *to };
    let Some(active) = Active::open() else { return 0 };
    let Some(image) = Image::open(&active) else { return 0 };
    let local_identity = image.local(workload);
    let decision = image.decide_as(local_identity, workload, query);
    *judged = Judged { decision, generation: image.generation(), local_identity };
    recent::remember(active.word, workload, query, judged);
    1
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

/// The active word: which generation is in force, and what it asks of every packet (`image::ACTIVE_LIMITS` and so on). 0 before the
/// first, under which nothing is remembered.
#[inline(always)]
pub fn word() -> u64 {
    maps::ACTIVE.get(0).copied().unwrap_or(0)
}

/// Whether packets of a workload's open connections are charged, in the generation of this active word.
#[inline(always)]
pub fn metered(word: u64, workload: u32) -> bool {
    let Some(active) = Active::of(word) else { return false };
    Image::open(&active).is_some_and(|image| image.metered(workload))
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
