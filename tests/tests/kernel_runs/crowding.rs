//! Lives: weir-tests, in-kernel: what a crowd of clients does to the table of rate limits, computed.
//! Called by: `attacks_limits`, which measures the same; its printed table is in docs/limits.md.
//! May touch: nothing.
//! Never: draws a random number: these are shares of a table large enough that chance does not show.
//!
//! A client has one slot in each of two rows, and its level is the lower of the two: how many of its packets' worth of time the
//! slot is ahead of the clock. A packet that conforms lifts both slots to that level and one. So a slot reaches level `x` when it is
//! below and both slots of somebody's were at `x - 1` or above:
//!
//! ```text
//! d share(x) = hits x (share(x - 1) - share(x)) x share(x - 1)        share(0) = 1
//! ```
//! A newcomer finds the table at level `x` or above with `share(x)` squared.

/// Shares of one row's slots that are at level 0, 1, ... `burst` or above, after `hits` newcomers for each slot of a row have sent one
/// packet each, while no time passes.
#[must_use]
pub fn at_once(hits: f64, burst: usize) -> Vec<f64> {
    const STEP: f64 = 1e-3;
    let mut shares = vec![0.0; burst + 1];
    shares[0] = 1.0;
    for _ in 0..(hits / STEP).round() as usize {
        for level in (1..=burst).rev() {
            let below = shares[level - 1];
            shares[level] += STEP * (below - shares[level]) * below;
        }
    }
    shares
}

/// What a flood that goes on does.
#[derive(Clone, Copy, Debug)]
pub struct Crowd {
    /// Share of slots that are in use.
    pub busy: f64,
    /// Share of newcomers whose first packet is refused, though they keep to their limit.
    pub refused: f64,
}

/// Parts of a level that are told apart.
const GRAIN: usize = 32;
/// For so many times what one packet costs the flood goes on before it is looked at, and then while it is: near the load that
/// fills the table it fills slowly.
const SETTLES: usize = 200;

/// The same while time passes: `load` newcomers for each slot of a row in the time that one packet costs, each with one packet,
/// for good.
#[must_use]
pub fn lasting(load: f64, burst: usize) -> Crowd {
    let highest = burst * GRAIN;
    let mut shares = vec![0.0; highest + 1];
    shares[0] = 1.0;
    let (mut refused, mut looks) = (0.0, 0.0);
    let steps = (load * 20.0 / GRAIN as f64) as usize + 2;
    for tick in 0..2 * SETTLES * GRAIN {
        for _ in 0..steps {
            // Above this a packet would exceed the burst.
            let full = shares[highest - GRAIN + 1];
            if tick >= SETTLES * GRAIN {
                refused += full * full;
                looks += 1.0;
            }
            arrive(&mut shares, load / (GRAIN * steps) as f64, full);
        }
        // Time passes: all levels fall.
        shares.remove(1);
        shares.push(0.0);
    }
    Crowd { busy: shares[1], refused: refused / looks }
}

fn arrive(shares: &mut [f64], hits: f64, full: f64) {
    // From the top: what is below has to be as it was.
    for level in (1..shares.len()).rev() {
        let (now, below) = (shares[level], shares[level.saturating_sub(GRAIN)]);
        let refused = full * (full - now).max(0.0);
        shares[level] = (now + hits * (below * (below - now) - refused)).min(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::next;

    /// The same by throwing packets into a table.
    fn thrown(slots: usize, hits: f64, burst: u32) -> Vec<f64> {
        let mut rows = [vec![0; slots], vec![0; slots]];
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        for _ in 0..(slots as f64 * hits) as usize {
            let word = next(&mut state);
            let (a, b) = (word as u32 as usize % slots, (word >> 32) as usize % slots);
            let level = rows[0][a].min(rows[1][b]) + 1;
            if level <= burst {
                rows[0][a] = rows[0][a].max(level);
                rows[1][b] = rows[1][b].max(level);
            }
        }
        let share = |level| rows[0].iter().filter(|slot| **slot >= level).count() as f64 / slots as f64;
        (0..=burst).map(share).collect()
    }

    #[test]
    fn the_computed_shares_are_those_of_a_table_that_is_thrown_into() {
        for (hits, burst) in [(0.25, 3), (1.0, 4), (3.0, 4)] {
            let (computed, thrown) = (at_once(hits, burst), thrown(200_000, hits, burst as u32));
            for (level, (computed, thrown)) in computed.iter().zip(&thrown).enumerate() {
                assert!((computed - thrown).abs() < 0.005, "{hits} hits, level {level}: {computed} and {thrown}");
            }
        }
    }

    #[test]
    fn a_burst_of_a_few_makes_a_table_bear_what_fills_it_and_beyond_that_newcomers_share() {
        // (load, burst, refused at least, at most): the first four by hand from a simulation of single packets.
        let rows = [
            (0.3, 1, 0.055, 0.070),
            (0.9, 2, 0.019, 0.026),
            (2.0, 4, 0.23, 0.26),
            (4.0, 10, 0.62, 0.65),
            (1.2, 4, 0.0, 1e-6),
            (1.2, 10, 0.0, 1e-12),
        ];
        for (load, burst, least, most) in rows {
            let crowd = lasting(load, burst);
            assert!((least..=most).contains(&crowd.refused), "load {load}, burst {burst}: {crowd:?}");
        }
    }
}
