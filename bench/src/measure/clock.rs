//! Lives: weir-bench.
//! Called by: every measurement.
//! May touch: the CPU clock of the thread that asks.
//! Never: counts the time in which others had the processor.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// CPU time that this thread has used.
///
/// # Errors
/// The system has no such clock; Linux has.
pub fn cpu() -> nix::Result<Duration> {
    Ok(Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?))
}

/// Runs and tells the CPU time beside the result, which the caller drops outside of the time.
///
/// # Errors
/// See [`cpu`].
pub fn timed<T>(work: impl FnOnce() -> T) -> nix::Result<(Duration, T)> {
    let start = cpu()?;
    let result = work();
    Ok((cpu()?.saturating_sub(start), result))
}

/// The middle one; zero of none.
#[must_use]
pub fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Milliseconds, for people and JSON.
#[must_use]
pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        let rows: [(&[u64], u64); 4] = [(&[], 0), (&[7], 7), (&[9, 1, 5], 5), (&[4, 1, 3, 2], 3)];
        for (times, middle) in rows {
            let times = times.iter().copied().map(Duration::from_millis).collect();
            assert_eq!(median(times), Duration::from_millis(middle));
        }
    }

    #[test]
    fn waiting_is_not_work() {
        let (time, ()) = timed(|| std::thread::sleep(Duration::from_millis(50))).unwrap();
        assert!(time < Duration::from_millis(40), "{time:?}");
    }
}
