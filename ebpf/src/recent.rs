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

use aya_ebpf::programs::SockAddrContext;
use weir_common::{decide::Query, recent};

use crate::{atomic, bytes, maps, tables::Judged};

/// A question and its answer.
#[repr(C)]
pub struct Entry {
    sequence: u64,
    question: [u64; 4],
    answer: [u64; 4],
}

#[inline(always)]
fn place(question: [u64; 4]) -> Option<*mut Entry> {
    maps::RECENT.get_ptr_mut(recent::entry(question))
}

/// Fills in what was decided under this active word; `false` when it is not remembered.
///
/// A function of its own: what it needs of the stack is free again when the tables are looked at. ([`remember`] is none: one call
/// more from the egress programs is more than the stack has room for.)
#[inline(never)]
pub fn recall(active: u64, workload: u32, query: &Query, judged: &mut Judged) -> bool {
    look(active, workload, query, judged)
}

/// The same without a call, for programs with room on their stack.
#[inline(always)]
pub fn look(active: u64, workload: u32, query: &Query, judged: &mut Judged) -> bool {
    let question = recent::question(active, workload, query);
    let Some(entry) = place(question) else { return false };
    let [a, b, c, d] = question;
    // SAFETY: a live map value of this CPU; volatile, so that the reads stay between the two looks at the sequence.
    let (differs, said) = unsafe {
        let sequence = (&raw const (*entry).sequence).read_volatile();
        let asked = (&raw const (*entry).question).cast::<u64>();
        let [e, f, g, h] = [0, 1, 2, 3].map(|word| asked.add(word).read_volatile());
        let answer = (&raw const (*entry).answer).cast::<u64>();
        let said = [0, 1, 2, 3].map(|word| answer.add(word).read_volatile());
        let after = (&raw const (*entry).sequence).read_volatile();
        ((a ^ e) | (b ^ f) | (c ^ g) | (d ^ h) | (sequence ^ after) | (sequence & 1), said)
    };
    // The active word is never 0 once there is a generation, so an entry that was never written answers nothing.
    if differs != 0 {
        return false;
    }
    let Some((decision, local_identity, generation)) = recent::unpack(said) else { return false };
    *judged = Judged { decision, generation, local_identity };
    true
}

/// Keeps a decision until another takes its place.
#[inline(always)]
pub fn remember(active: u64, workload: u32, query: &Query, judged: &Judged) {
    let question = recent::question(active, workload, query);
    let Some(entry) = place(question) else { return };
    // SAFETY: as above.
    unsafe {
        let begun = &raw mut (*entry).sequence;
        let sequence = begun.read_volatile();
        // One step: a writer that comes in between would be taken back, and a number be used twice.
        if sequence & 1 == 1 || !atomic::swap_if(begun, sequence, sequence.wrapping_add(1)) {
            return;
        }
        let asked = (&raw mut (*entry).question).cast::<u64>();
        question.into_iter().zip(0..).for_each(|(value, word)| asked.add(word).write_volatile(value));
        let said = (&raw mut (*entry).answer).cast::<u64>();
        let words = recent::pack(&judged.decision, judged.local_identity, judged.generation);
        words.into_iter().zip(0..).for_each(|(value, word)| said.add(word).write_volatile(value));
        begun.write_volatile(sequence.wrapping_add(2));
    }
}

/// Says whether the socket's own program lets this call go on, and the caller lives in the very cgroup of the socket's workload.
/// For the root's program, which runs next, in the same call and on the same CPU: it would ask the same question again. Another task
/// that calls in between can only make the root's program ask.
///
/// The call is known by where the kernel keeps what it hands to both programs, which is on the caller's stack, and by its socket;
/// neither takes a call to find out, as a cookie does.
#[inline(always)]
pub fn vouch(ctx: &SockAddrContext, vouched: bool) {
    if let Some(cell) = maps::VOUCHED.get_ptr_mut(0) {
        let [call, socket] = bytes::call(ctx);
        // SAFETY: a live map value of this CPU.
        unsafe {
            (&raw mut (*cell)[0]).write_volatile(if vouched { call } else { 0 });
            (&raw mut (*cell)[1]).write_volatile(socket);
        }
    }
}

/// Whether the call was vouched for; once.
#[inline(always)]
pub fn vouched(ctx: &SockAddrContext) -> bool {
    let Some(vouched) = maps::VOUCHED.get_ptr_mut(0) else { return false };
    let [call, socket] = bytes::call(ctx);
    // SAFETY: as above.
    unsafe {
        let same =
            (&raw const (*vouched)[0]).read_volatile() == call && (&raw const (*vouched)[1]).read_volatile() == socket;
        (&raw mut (*vouched)[0]).write_volatile(0);
        same
    }
}
