//! Lives: kernel. What this CPU has decided lately.
//! Called by: `tables::judge`, before and after it looks at the tables.
//! May touch: its own map, of which every CPU has its own.
//! Never: answers for another question, or by another generation: the whole question is compared, the active word with it.
//!
//! A decision takes nine lookups through helpers, and every call and return is dear where the processor's own mitigations are on
//! (100 ns and more); a connection asks the same question at connect, at the root and when the SYN leaves. One direct-mapped
//! table, so that a hit costs one lookup. Nothing depends on it: what it has forgotten is decided again, and a workload that fills
//! it with questions of its own makes others slower, not more or less allowed. A new generation is another active word, which no
//! older entry was written under.
//!
//! ```text
//!   sequence: even ── a writer begins: odd ── it has finished: even, two more
//! ```
//! A program can be interrupted between any two instructions by another one on its CPU (a task by a softirq, or by a task), never
//! by one on another CPU. So a reader that saw the same even number before and after saw one entry, and a writer that sees an odd
//! one leaves it to the writer it has interrupted.

use weir_common::{
    decide::{Decision, Query},
    verdict::{Reason, Verdict},
};

use crate::{maps, tables::Judged};

/// A question and its answer.
#[repr(C)]
pub struct Entry {
    sequence: u64,
    question: [u64; 4],
    answer: [u64; 3],
}

/// A question, as words that are all compared.
pub struct Question([u64; 4]);

/// Entries of a CPU, a power of two.
pub const ENTRIES: usize = 2048;
/// Odd, with bits everywhere (the golden ratio): spreads neighbouring questions.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

impl Question {
    /// Never equal for two generations, workloads, directions, protocols, ports or addresses.
    #[inline(always)]
    pub fn new(active: u64, workload: u32, query: &Query) -> Self {
        let [a, b, c, d] = query.remote.words();
        let called = u64::from(query.port) | u64::from(query.protocol.0) << 16 | (query.direction as u64) << 24;
        let remote = [u64::from(a) | u64::from(b) << 32, u64::from(c) | u64::from(d) << 32];
        Self([active, called | u64::from(workload) << 32, remote[0], remote[1]])
    }

    #[inline(always)]
    fn place(&self) -> Option<*mut Entry> {
        let [active, called, high, low] = self.0;
        let mixed = (active ^ high.rotate_left(7) ^ low).wrapping_mul(SPREAD) ^ called;
        let mixed = (mixed ^ mixed >> 32).wrapping_mul(SPREAD);
        maps::RECENT.get_ptr_mut((mixed >> 40) as u32 & (ENTRIES as u32 - 1))
    }
}

/// What was decided, if it is remembered.
#[inline(always)]
pub fn recall(question: &Question) -> Option<Judged> {
    let entry = question.place()?;
    let [a, b, c, d] = question.0;
    // SAFETY: a live map value of this CPU; volatile, so that the reads stay between the two looks at the sequence.
    let (differs, said) = unsafe {
        let sequence = (&raw const (*entry).sequence).read_volatile();
        let asked = (&raw const (*entry).question).cast::<u64>();
        let [e, f, g, h] = [0, 1, 2, 3].map(|word| asked.add(word).read_volatile());
        let answer = (&raw const (*entry).answer).cast::<u64>();
        let said = [0, 1, 2].map(|word| answer.add(word).read_volatile());
        let after = (&raw const (*entry).sequence).read_volatile();
        ((a ^ e) | (b ^ f) | (c ^ g) | (d ^ h) | (sequence ^ after) | (sequence & 1), said)
    };
    // The active word is never 0 once there is a generation, so an entry that was never written answers nothing.
    if differs != 0 { None } else { answer(said) }
}

/// Keeps a decision until another takes its place.
#[inline(always)]
pub fn remember(question: &Question, judged: &Judged) {
    let Some(entry) = question.place() else { return };
    // SAFETY: as above.
    unsafe {
        let sequence = (&raw const (*entry).sequence).read_volatile();
        if sequence & 1 == 1 {
            return;
        }
        (&raw mut (*entry).sequence).write_volatile(sequence.wrapping_add(1));
        let asked = (&raw mut (*entry).question).cast::<u64>();
        question.0.into_iter().zip(0..).for_each(|(value, word)| asked.add(word).write_volatile(value));
        let said = (&raw mut (*entry).answer).cast::<u64>();
        words(judged).into_iter().zip(0..).for_each(|(value, word)| said.add(word).write_volatile(value));
        (&raw mut (*entry).sequence).write_volatile(sequence.wrapping_add(2));
    }
}

#[inline(always)]
fn words(judged: &Judged) -> [u64; 3] {
    let Decision { verdict, reason, rule, remote_identity, quiet } = judged.decision;
    let said = verdict as u64 | (reason as u64) << 8 | u64::from(quiet) << 16 | u64::from(rule) << 32;
    [said, u64::from(remote_identity) | u64::from(judged.local_identity) << 32, judged.generation]
}

#[inline(always)]
fn answer([said, identities, generation]: [u64; 3]) -> Option<Judged> {
    let decision = Decision {
        verdict: Verdict::from_u8(said as u8)?,
        reason: Reason::from_u8((said >> 8) as u8)?,
        rule: (said >> 32) as u32,
        remote_identity: identities as u32,
        quiet: said >> 16 & 1 == 1,
    };
    Some(Judged { decision, generation, local_identity: (identities >> 32) as u32 })
}
