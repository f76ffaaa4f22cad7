//! Lives: kernel and host.
//! Called by: the kernel programs, which remember decisions of late (`ebpf/src/recent.rs`).
//! May touch: nothing but its arguments.
//! Never: one form for two questions, or for two answers.

use crate::{
    decide::{Decision, Query},
    image::Cell,
    verdict::{Reason, Verdict},
};

/// Entries of a CPU's memory, a power of two.
pub const ENTRIES: u32 = 2048;
/// Odd, with bits everywhere (the golden ratio): spreads neighbouring questions.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
/// Another such number.
const OTHER_SPREAD: u64 = 0xc2b2_ae3d_27d4_eb4f;

/// A question as words, different for any two generations (by the active word), workloads, directions, protocols, ports or
/// addresses. The query's own `local` is not part of it: it follows from workload and generation.
#[inline(always)]
#[must_use]
pub const fn question(active: u64, workload: u32, query: &Query) -> [u64; 4] {
    let [a, b, c, d] = query.remote.words();
    let called = query.port as u64 | (query.protocol.0 as u64) << 16 | (query.direction as u64) << 24;
    [active, called | (workload as u64) << 32, a as u64 | (b as u64) << 32, c as u64 | (d as u64) << 32]
}

/// The entry a question is kept in.
#[inline(always)]
#[must_use]
pub const fn entry([active, called, high, low]: [u64; 4]) -> u32 {
    // The upper bits of a product depend on all of both factors. IPv4 addresses differ in `low` only.
    let mixed = (active ^ high.wrapping_mul(OTHER_SPREAD) ^ low ^ called).wrapping_mul(SPREAD);
    (mixed >> (u64::BITS - ENTRIES.ilog2())) as u32
}

/// What was answered: the decision, the local identity and the generation.
#[inline(always)]
#[must_use]
pub fn pack(decision: &Decision, local_identity: u32, generation: u64) -> [u64; 4] {
    // Field by field: what a decision gains must be kept here, or it would be forgotten the second time.
    let Decision { verdict, reason, rule, remote_identity, quiet, translated, refuse, staged } = *decision;
    let flags = u64::from(quiet) << 16 | u64::from(translated) << 17 | u64::from(refuse) << 18;
    let said = verdict as u64 | (reason as u64) << 8 | flags | u64::from(rule) << 32;
    [said, u64::from(remote_identity) | u64::from(local_identity) << 32, generation, u64::from(staged.0)]
}

/// The same, read back; `None` for words that [`pack`] does not make.
#[inline(always)]
#[must_use]
pub fn unpack([said, identities, generation, staged]: [u64; 4]) -> Option<(Decision, u32, u64)> {
    let decision = Decision {
        verdict: Verdict::from_u8(said as u8)?,
        reason: Reason::from_u8((said >> 8) as u8)?,
        rule: (said >> 32) as u32,
        remote_identity: identities as u32,
        quiet: said >> 16 & 1 == 1,
        translated: said >> 17 & 1 == 1,
        refuse: said >> 18 & 1 == 1,
        staged: Cell(staged as u32),
    };
    Some((decision, (identities >> 32) as u32, generation))
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec;

    use super::*;
    use crate::{
        addr::{Addr, Protocol},
        verdict::Direction,
    };

    fn ask(remote: [u8; 16], protocol: u8, port: u16, direction: Direction) -> Query {
        Query { local: 0, direction, remote: Addr(remote), protocol: Protocol(protocol), port }
    }

    #[test]
    fn every_bit_of_a_question_makes_another_one() {
        let asked = |active, workload, remote, protocol, port, direction| {
            question(active, workload, &ask(remote, protocol, port, direction))
        };
        let zero = asked(0, 0, [0; 16], 0, 0, Direction::Ingress);
        let mut all = vec![zero, asked(0, 0, [0; 16], 0, 0, Direction::Egress)];
        all.extend((0..64).map(|bit| asked(1 << bit, 0, [0; 16], 0, 0, Direction::Ingress)));
        all.extend((0..32).map(|bit| asked(0, 1 << bit, [0; 16], 0, 0, Direction::Ingress)));
        all.extend((0..8).map(|bit| asked(0, 0, [0; 16], 1 << bit, 0, Direction::Ingress)));
        all.extend((0..16).map(|bit| asked(0, 0, [0; 16], 0, 1 << bit, Direction::Ingress)));
        all.extend((0..128).map(|bit| asked(0, 0, (1u128 << bit).to_ne_bytes(), 0, 0, Direction::Ingress)));
        for (n, one) in all.iter().enumerate() {
            assert!(!all[..n].contains(one), "question {n} is one of those before it");
        }
    }

    #[test]
    fn answers_are_read_as_they_were_given() {
        for (verdict, reason) in Verdict::ALL.iter().flat_map(|v| Reason::ALL.iter().map(move |r| (*v, *r))) {
            for flags in 0..8 {
                let decision = Decision {
                    verdict,
                    reason,
                    rule: 0xff_ffff,
                    remote_identity: 0x1234_5678,
                    quiet: flags & 1 == 1,
                    translated: flags & 2 == 2,
                    refuse: flags & 4 == 4,
                    staged: Cell(0x8765_4321),
                };
                let given = pack(&decision, 0x9abc_def0, u64::MAX - 1);
                assert_eq!(unpack(given), Some((decision, 0x9abc_def0, u64::MAX - 1)));
            }
        }
        assert_eq!(unpack([0; 4]), None, "an entry that was never written answers nothing");
    }

    /// A service that calls every address of a network, and one that is called by them, must not crowd a few entries.
    #[test]
    fn neighbouring_questions_spread() {
        let mut used = [0u32; ENTRIES as usize];
        for n in 0..ENTRIES {
            let query = Query {
                local: 0,
                direction: Direction::Egress,
                remote: Addr::v4((0x0a00_0000 + n).to_be_bytes()),
                protocol: Protocol::TCP,
                port: 443,
            };
            used[entry(question(7, 3, &query)) as usize] += 1;
        }
        let (fullest, empty) = (used.iter().max().copied().unwrap(), used.iter().filter(|count| **count == 0).count());
        assert!(fullest <= 8 && empty < 1000, "fullest {fullest}, {empty} empty");
    }
}
