//! Lives: kernel.
//! Called by: egress when an unconnected UDP client sends, ingress when a datagram arrives that no rule allows.
//! May touch: the reply table.
//! Never: lets one workload push out another's entries; each owns its buckets. Within its own, the oldest of four goes.

use weir_common::{
    addr::{Addr, Port},
    event::Reply,
    hash,
    maps::{MAX_WORKLOADS, REPLY_BUCKETS, REPLY_TTL_NS},
};

use crate::{emit, maps, settings};

/// Remembers that `cookie`'s socket sent to this peer, so that its answer may come in.
#[inline(always)]
pub fn expect(workload: u32, cookie: u64, peer: &Addr, port: Port) {
    store(workload, tag(cookie, peer, port));
}

/// Whether this peer was sent to within [`REPLY_TTL_NS`].
#[inline(always)]
pub fn expected(workload: u32, cookie: u64, peer: &Addr, port: Port) -> bool {
    find(workload, tag(cookie, peer, port))
}

/// Whether this is the first datagram of a socket (within the TTL): its task is then reported once.
#[inline(always)]
pub fn first_of_socket(workload: u32, cookie: u64) -> bool {
    let tag = tag(cookie, &Addr::UNSPECIFIED, Port([0; 2]));
    let known = find(workload, tag);
    if !known {
        store(workload, tag);
    }
    !known
}

#[inline(always)]
fn tag(cookie: u64, peer: &Addr, port: Port) -> u64 {
    let (high, low) = peer.halves();
    hash::keyed(settings::secret(), cookie ^ u64::from(port.number()) << 48, high, low) | 1
}

/// The bucket of `tag` among the workload's own.
#[inline(always)]
fn bucket(workload: u32, tag: u64) -> Option<*mut Reply> {
    let index = (workload & (MAX_WORKLOADS - 1)) * REPLY_BUCKETS + ((tag >> 1) as u32 & (REPLY_BUCKETS - 1));
    Some(maps::REPLIES.get_ptr_mut(index)?.cast::<Reply>())
}

#[inline(always)]
fn find(workload: u32, tag: u64) -> bool {
    let Some(entries) = bucket(workload, tag) else { return false };
    let now = emit::now();
    let mut way = 0;
    while way < 4 {
        // SAFETY: a bucket is four entries; a torn read of another CPU's write can only miss or expire, not match.
        let entry = unsafe { entries.add(way).read() };
        if entry.tag == tag {
            return now.wrapping_sub(entry.sent_ns) < REPLY_TTL_NS;
        }
        way += 1;
    }
    false
}

#[inline(always)]
fn store(workload: u32, tag: u64) {
    let Some(entries) = bucket(workload, tag) else { return };
    let now = emit::now();
    let (mut way, mut place, mut oldest) = (0, 0, u64::MAX);
    while way < 4 {
        // SAFETY: as in `find`.
        let entry = unsafe { entries.add(way).read() };
        if entry.tag == tag {
            place = way;
            break;
        }
        if entry.sent_ns < oldest {
            (place, oldest) = (way, entry.sent_ns);
        }
        way += 1;
    }
    // SAFETY: place is below four. The time goes last, so that a half-written entry looks old.
    unsafe {
        let slot = entries.add(place & 3);
        (&raw mut (*slot).tag).write_volatile(tag);
        (&raw mut (*slot).sent_ns).write_volatile(now);
    }
}
