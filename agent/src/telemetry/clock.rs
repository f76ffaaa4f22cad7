//! Lives: weir-agent, telemetry.
//! Called by: `join` and `process`, to translate the kernel's time.
//! May touch: the system's clocks.
//! Never: calls a clock per event; the offsets are refreshed once in a while, so that a corrected wall clock is followed.

use nix::time::{ClockId, clock_gettime};

/// How the kernel's event time (`CLOCK_MONOTONIC`) relates to other clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// Wall clock minus monotonic, nanoseconds.
    pub wall_offset: i64,
    /// Time since boot, suspension included, minus monotonic: process start times are counted so.
    pub boot_offset: i64,
}

/// Readings taken; the one with the least time between its two ends counts.
const READINGS: usize = 4;

impl Clock {
    /// Reads the clocks.
    #[must_use]
    pub fn now() -> Self {
        Self { wall_offset: offset(ClockId::CLOCK_REALTIME), boot_offset: offset(ClockId::CLOCK_BOOTTIME) }
    }

    /// The wall clock at a monotonic time; 0 stays 0.
    #[must_use]
    pub fn wall(&self, monotonic_ns: u64) -> u64 {
        if monotonic_ns == 0 { 0 } else { monotonic_ns.saturating_add_signed(self.wall_offset) }
    }

    /// Time since boot at a monotonic time.
    #[must_use]
    pub fn boot(&self, monotonic_ns: u64) -> u64 {
        monotonic_ns.saturating_add_signed(self.boot_offset)
    }
}

/// The wall clock now, nanoseconds since the Unix epoch.
#[must_use]
pub fn wall_now() -> u64 {
    u64::try_from(read(ClockId::CLOCK_REALTIME)).unwrap_or(0)
}

/// `CLOCK_MONOTONIC` now, nanoseconds.
#[must_use]
pub fn monotonic_now() -> u64 {
    u64::try_from(read(ClockId::CLOCK_MONOTONIC)).unwrap_or(0)
}

fn offset(clock: ClockId) -> i64 {
    let reading = |_| {
        let (before, other, after) = (read(ClockId::CLOCK_MONOTONIC), read(clock), read(ClockId::CLOCK_MONOTONIC));
        (after - before, other - before - (after - before) / 2)
    };
    (0..READINGS).map(reading).min().map_or(0, |(_, offset)| offset)
}

fn read(clock: ClockId) -> i64 {
    clock_gettime(clock).map_or(0, |time| time.tv_sec().saturating_mul(1_000_000_000).saturating_add(time.tv_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_monotonic_time_becomes_the_wall_time_of_the_same_moment() {
        let clock = Clock::now();
        let (wall, translated) = (wall_now(), clock.wall(monotonic_now()));
        assert!(translated.abs_diff(wall) < 50_000_000, "{wall} {translated}");
        assert_eq!(clock.wall(0), 0);
    }
}
