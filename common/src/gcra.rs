//! Lives: kernel (the limiter) and host (tests, `explain`).
//! Called by: the limiter, once per kind of limit a packet is charged against.
//! May touch: nothing but its arguments; the caller owns the slot and the compare-and-swap.
//! Never: loses precision that an honest client would feel; costs are rounded to the nearest nanosecond per charge.
//!
//! GCRA, the generic cell rate algorithm (ITU-T I.371): a client is one number, the theoretical arrival time at which it
//! would have used up what it was given. A packet moves it on by its cost; one that would move it further than the burst
//! allows into the future does not conform.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A limit as the kernel applies it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Limit {
    /// Nanoseconds one unit costs, times 2^16 (so that 10 Gbit/s in bytes still has four digits).
    pub interval_q16: u64,
    /// Nanoseconds the arrival time may run ahead of the clock: burst x interval. 0 means: nothing passes.
    pub tolerance_ns: u64,
}

/// Fraction bits of [`Limit::interval_q16`].
const FRACTION_BITS: u32 = 16;
/// The longest interval and tolerance kept: an hour, so that sums stay far from overflow.
const CEILING_NS: u64 = 3_600_000_000_000;
/// Units of one charge that count: more than any packet has bytes.
const MAX_UNITS: u32 = 1 << 20;

impl Limit {
    /// The limit for `per_second` units a second with bursts of `burst` units.
    ///
    /// A rate or burst of 0 lets nothing pass. A burst beyond an hour's worth is cut to an hour's worth.
    #[must_use]
    pub const fn new(per_second: u64, burst: u64) -> Self {
        if per_second == 0 || burst == 0 {
            return Self { interval_q16: CEILING_NS << FRACTION_BITS, tolerance_ns: 0 };
        }
        let interval_q16 = ((1_000_000_000u128 << FRACTION_BITS) / per_second as u128) as u64;
        // Rounded up: a tolerance a nanosecond short of the cost of one unit would let nothing pass at burst 1.
        let tolerance = (burst as u128 * 1_000_000_000u128).div_ceil(per_second as u128);
        let tolerance_ns = if tolerance > CEILING_NS as u128 { CEILING_NS } else { tolerance as u64 };
        Self { interval_q16, tolerance_ns }
    }

    /// Nanoseconds that `units` cost, rounded to the nearest; at most an hour.
    #[inline(always)]
    #[must_use]
    pub const fn cost_ns(&self, units: u32) -> u64 {
        // In two halves and with bounded units, because BPF has no 128-bit product to saturate with.
        let units = if units > MAX_UNITS { MAX_UNITS as u64 } else { units as u64 };
        let whole = (self.interval_q16 >> FRACTION_BITS) * units;
        let part = (self.interval_q16 & ((1 << FRACTION_BITS) - 1)) * units;
        let cost = whole + ((part + (1 << (FRACTION_BITS - 1))) >> FRACTION_BITS);
        if cost > CEILING_NS { CEILING_NS } else { cost }
    }
}

/// The arrival time after charging `cost_ns` at `now_ns`, or `None` if that does not conform.
///
/// Times are compared by their signed difference, so a slot that was never written, or long ago, counts as idle.
#[inline(always)]
#[must_use]
pub const fn charge(arrival_ns: u64, now_ns: u64, cost_ns: u64, tolerance_ns: u64) -> Option<u64> {
    let start = later(arrival_ns, now_ns);
    let next = start.wrapping_add(cost_ns);
    if next.wrapping_sub(now_ns) > tolerance_ns { None } else { Some(next) }
}

/// The later of two times, by signed difference.
#[inline(always)]
#[must_use]
pub const fn later(a: u64, b: u64) -> u64 {
    if (a.wrapping_sub(b) as i64) > 0 { a } else { b }
}

/// The earlier of two times, by signed difference.
#[inline(always)]
#[must_use]
pub const fn earlier(a: u64, b: u64) -> u64 {
    if (a.wrapping_sub(b) as i64) > 0 { b } else { a }
}

/// Four limit numbers of 16 bits, less those that are among `others`. What is left is in the order it was, without gaps at its low
/// end.
#[inline(always)]
#[must_use]
pub const fn without(numbers: u64, others: u64) -> u64 {
    let (mut left, mut shift, mut rest) = (0, 0, numbers);
    while rest != 0 {
        let number = rest & 0xffff;
        rest >>= 16;
        let (a, b, c, d) = (others & 0xffff, others >> 16 & 0xffff, others >> 32 & 0xffff, others >> 48);
        if number != a && number != b && number != c && number != d {
            left |= number << (shift & 63);
            shift += 16;
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(limit: Limit, gap_ns: u64, packets: u64, units: u32) -> u64 {
        let (mut arrival, mut passed) = (0, 0);
        for n in 0..packets {
            let now = 1_000_000_000 + n * gap_ns;
            if let Some(next) = charge(arrival, now, limit.cost_ns(units), limit.tolerance_ns) {
                arrival = next;
                passed += 1;
            }
        }
        passed
    }

    #[test]
    fn a_flood_passes_its_rate_and_its_burst_and_no_more() {
        // (per second, burst, gap of the flood, packets, units, expected to pass)
        let rows = [
            (1000, 100, 10_000, 1_000_000, 1, 10_100),
            (100, 1, 100_000, 100_000, 1, 1000),
            (1_000_000, 1500, 100_000, 100_000, 100, 100_015),
        ];
        for (rate, burst, gap, packets, units, expected) in rows {
            let passed = run(Limit::new(rate, burst), gap, packets, units);
            let off = passed.abs_diff(expected.min(packets));
            assert!(off <= 2, "{rate}/s burst {burst}: passed {passed}, expected {expected}");
        }
    }

    #[test]
    fn limits_that_two_lists_share_stand_in_the_second_no_more() {
        let rows = [
            (0, 0, 0),
            (0x0003_0002_0001, 0, 0x0003_0002_0001),
            (0x0003_0002_0001, 0x0002, 0x0003_0001),
            (0x0004_0003_0002_0001, 0x0001_0002_0003_0004, 0),
            (0x0004_0003_0002_0001, 0x0005_0000_0000_0000, 0x0004_0003_0002_0001),
            (0x0004_0003_0002_0001, 0x0001_0000_0000_0004, 0x0003_0002),
        ];
        for (numbers, others, left) in rows {
            assert_eq!(without(numbers, others), left, "{numbers:#x} without {others:#x}");
        }
    }

    #[test]
    fn extremes_behave() {
        assert_eq!(run(Limit::new(0, 5), 1000, 1000, 1), 0);
        assert_eq!(run(Limit::new(5, 0), 1000, 1000, 1), 0);
        assert_eq!(run(Limit::new(1 << 63, 1 << 63), 1, 1000, u32::MAX), 1000);
        assert_eq!(run(Limit::new(1, 1), 1_000_000_000, 10, 1), 10);
        assert_eq!(run(Limit::new(1, u64::MAX), 1, 1000, 1), 1000);
    }

    proptest! {
        /// Whatever the spacing, a client never passes more than burst + rate x time (+1 for the packet on the edge).
        #[test]
        fn never_more_than_burst_plus_rate(rate in 1u64..2_000_000, burst in 1u64..5_000, gaps in prop::collection::vec(0u64..3_000_000, 1..400)) {
            let limit = Limit::new(rate, burst);
            let (mut arrival, mut now, mut passed) = (0, 5_000_000_000u64, 0u64);
            let first = now;
            for gap in gaps {
                now += gap;
                if let Some(next) = charge(arrival, now, limit.cost_ns(1), limit.tolerance_ns) {
                    arrival = next;
                    passed += 1;
                }
            }
            let seconds = (now - first) as f64 / 1e9;
            // Rounding a cost to whole nanoseconds is worth at most half a nanosecond per packet.
            let exact = burst as f64 + rate as f64 * seconds;
            prop_assert!(passed as f64 <= exact * (1.0 + 0.6e-9 * rate as f64) + 1.0, "passed {passed} of {exact}");
        }

        /// A client that keeps to the rate loses nothing.
        #[test]
        fn an_honest_client_loses_nothing(rate in 1u64..500_000, burst in 1u64..100, packets in 1u64..300) {
            let limit = Limit::new(rate, burst);
            let gap = 1_000_000_000u64.div_ceil(rate) + 1;
            prop_assert_eq!(run(limit, gap, packets, 1), packets);
        }
    }
}
