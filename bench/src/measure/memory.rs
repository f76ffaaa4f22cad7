//! Lives: weir-bench.
//! Called by: the measurements of one size.
//! May touch: /proc/self.
//! Never: counts what the generator took: the peak is forgotten before what is measured begins.

use std::{fs, io};

/// Resident memory in bytes: now, and at most since [`forget_peak`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Now.
    pub now: u64,
    /// At most.
    pub peak: u64,
}

/// Lets the peak start again from what is resident now.
///
/// # Errors
/// /proc is not there or not writable.
pub fn forget_peak() -> io::Result<()> {
    fs::write("/proc/self/clear_refs", "5")
}

/// What the kernel says of this process.
///
/// # Errors
/// /proc is not there or says something unknown.
pub fn memory() -> io::Result<Memory> {
    let text = fs::read_to_string("/proc/self/status")?;
    let field = |name: &str| kibibytes(&text, name).ok_or_else(|| io::Error::other(format!("no {name} in /proc")));
    Ok(Memory { now: field("VmRSS:")? * 1024, peak: field("VmHWM:")? * 1024 })
}

fn kibibytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_seen_and_forgotten() {
        const SIZE: u64 = 64 << 20;
        forget_peak().unwrap();
        let before = memory().unwrap();
        // Not zero: pages that nobody wrote are not resident.
        drop(std::hint::black_box(vec![1u8; SIZE as usize]));
        let after = memory().unwrap();
        assert!(after.peak >= before.now + SIZE / 2, "{before:?} {after:?}");
        forget_peak().unwrap();
        assert!(memory().unwrap().peak < after.peak);
    }
}
