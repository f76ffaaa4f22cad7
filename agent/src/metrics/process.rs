//! Lives: weir-agent, metrics.
//! Called by: `families`, at each scrape.
//! May touch: what `/proc/self` says of this process.
//! Never: fails a scrape: what cannot be read has no value.

use std::fs;

use nix::time::{ClockId, clock_gettime};

/// Processor time of all threads, user's and kernel's, in seconds.
pub fn cpu_seconds() -> Option<f64> {
    let time = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).ok()?;
    let (seconds, rest) = (u64::try_from(time.tv_sec()).ok()?, u32::try_from(time.tv_nsec()).ok()?);
    Some(std::time::Duration::new(seconds, rest).as_secs_f64())
}

/// Memory that is resident, in bytes. The kernel's tables are not part of it.
pub fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix(" kB")?;
    kilobytes.parse::<u64>().ok()?.checked_mul(1024)
}

/// Descriptors that are open.
pub fn open_descriptors() -> Option<u64> {
    // One of them is that of the folder itself.
    let entries = fs::read_dir("/proc/self/fd").ok()?.count();
    u64::try_from(entries).ok()?.checked_sub(1)
}

/// Descriptors that may be open.
pub fn most_descriptors() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    limits.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_itself() {
        let before = open_descriptors().unwrap();
        let held: Vec<fs::File> = (0..7).map(|_| fs::File::open("/proc/self/status").unwrap()).collect();
        // Other tests of this process open and close theirs.
        assert!(open_descriptors().unwrap() + 20 > before + held.len() as u64);
        assert!(most_descriptors().unwrap() > held.len() as u64);
        let page = resident_bytes().unwrap();
        assert!(page > 1 << 20 && page < 1 << 40, "{page}");
        let (begin, mut turns) = (cpu_seconds().unwrap(), 0u64);
        while cpu_seconds().unwrap() < begin + 0.01 {
            turns += 1;
        }
        assert!(turns > 0);
    }
}
