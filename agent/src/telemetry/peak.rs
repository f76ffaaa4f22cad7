//! Lives: weir-agent, telemetry.
//! Called by: `tally`, for what is full for moments only.
//! May touch: its own atomics.
//! Never: forgets a height before whoever looks every quarter of a minute has seen it.

use std::sync::atomic::{AtomicU64, Ordering};

/// Values after which the height before the last is forgotten: 30 seconds of merge epochs.
const SPAN: u64 = 120;

/// The highest of the values of late: of between one and two spans.
#[derive(Debug, Default)]
pub struct Peak {
    noted: AtomicU64,
    current: AtomicU64,
    before: AtomicU64,
}

impl Peak {
    /// Notes the next value. One thread notes.
    pub fn note(&self, value: usize) {
        let value = u64::try_from(value).unwrap_or(u64::MAX);
        if self.noted.fetch_add(1, Ordering::Relaxed).is_multiple_of(SPAN) {
            self.before.store(self.current.swap(value, Ordering::Relaxed), Ordering::Relaxed);
        } else {
            self.current.fetch_max(value, Ordering::Relaxed);
        }
    }

    /// The highest.
    #[must_use]
    pub fn highest(&self) -> u64 {
        self.current.load(Ordering::Relaxed).max(self.before.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_height_is_seen_for_a_span_and_forgotten_after_two() {
        let peak = Peak::default();
        peak.note(7);
        for _ in 0..SPAN {
            peak.note(3);
            assert_eq!(peak.highest(), 7);
        }
        for _ in 0..SPAN {
            peak.note(3);
        }
        assert_eq!(peak.highest(), 3);
    }
}
