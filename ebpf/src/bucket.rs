//! Lives: kernel.
//! Called by: the reply table and the memory of first fragments.
//! May touch: the bucket of four entries it is handed.
//! Never: lets two writers take one entry; CPUs, and a task and the softirq that interrupts it, fill one bucket at a time.
//!
//! Who gets an entry is settled by who changes its time first. Within a bucket the oldest entry goes.

use weir_common::event::Reply;

use crate::atomic;

/// Entries of a bucket.
const WAYS: usize = 4;
/// The time of an entry that is being written: no time at all, and so neither fresh nor old.
const WRITING: u64 = u64::MAX;
/// How often a place is looked for: each time in vain, somebody else has got one.
const TRIES: u32 = 4;

/// The tag of the entry with this one, but for the bits that are `ignored`; 0 if there is none, or none that is younger than `ttl`
/// nanoseconds.
///
/// # Safety
/// `entries` must come from a lookup of a bucket in this run.
#[inline(always)]
pub unsafe fn find(entries: *const Reply, tag: u64, ignored: u64, now: u64, ttl: u64) -> u64 {
    let mut way = 0;
    while way < WAYS {
        // SAFETY: a bucket has four entries; a torn read of another CPU's write can only miss or expire, not match.
        let entry = unsafe { entries.add(way).read() };
        if (entry.tag ^ tag) & !ignored == 0 {
            // Signed: another CPU's clock may be a moment ahead, and what is a moment old yet to come.
            let age = now.wrapping_sub(entry.sent_ns) as i64;
            let fresh = entry.sent_ns != WRITING && entry.sent_ns != 0 && age < ttl as i64;
            return if fresh { entry.tag } else { 0 };
        }
        way += 1;
    }
    0
}

/// Makes an entry of this time, in place of one with the same tag (but for the bits that are `ignored`), or of the oldest.
///
/// # Safety
/// As for [`find`].
#[inline(always)]
pub unsafe fn put(entries: *mut Reply, tag: u64, ignored: u64, sent_ns: u64) {
    let mut tries = 0;
    while tries < TRIES {
        tries += 1;
        let (mut way, mut place, mut seen, mut known) = (0, 0, WRITING, false);
        while way < WAYS {
            // SAFETY: as in `find`.
            let entry = unsafe { entries.add(way).read() };
            if (entry.tag ^ tag) & !ignored == 0 {
                (place, seen, known) = (way, entry.sent_ns, entry.tag == tag);
                break;
            }
            // Signed, as there.
            if entry.sent_ns != WRITING && (seen == WRITING || (entry.sent_ns.wrapping_sub(seen) as i64) < 0) {
                (place, seen) = (way, entry.sent_ns);
            }
            way += 1;
        }
        if seen == WRITING {
            continue;
        }
        // SAFETY: place is below four.
        unsafe {
            let slot = entries.add(place & (WAYS - 1));
            let time = &raw mut (*slot).sent_ns;
            if known {
                if atomic::swap_if(time, seen, sent_ns) {
                    return;
                }
            } else if atomic::swap_if(time, seen, WRITING) {
                (&raw mut (*slot).tag).write_volatile(tag);
                // Nobody else changes it meanwhile; in this way the tag is there before the time on every processor.
                atomic::swap_if(time, WRITING, sent_ns);
                return;
            }
        }
    }
}
