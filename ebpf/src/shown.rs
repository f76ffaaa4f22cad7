//! Lives: kernel.
//! Called by: the packet programs, for the first of equal drops in an epoch, where the agent asks for their bytes.
//! May touch: packet bytes through `bytes`, the event ring, the counter of what finds no room there.
//! Never: takes room in the ring that decisions need; shows a packet that passes, or one whose rule wants no record.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP, xdp_md},
    maps::ring_buf::RingBufEntry,
};
use weir_common::{counters, event::DropBytes};

use crate::{
    bytes,
    emit::{self, Subject},
    maps,
    tables::Judged,
};

/// A packet at a cgroup_skb hook, which starts at its IP header.
#[inline(always)]
pub fn packet(skb: *mut __sk_buff, subject: &Subject, judged: &Judged) {
    let _ = weir_shown_skb(skb, 0, subject, judged);
}

/// A frame at TC.
#[inline(always)]
pub fn frame(skb: *mut __sk_buff, subject: &Subject, judged: &Judged) {
    let _ = weir_shown_skb(skb, bytes::tc_start(skb), subject, judged);
}

/// A frame at XDP.
#[inline(always)]
pub fn at_xdp(frame: *mut xdp_md, subject: &Subject, judged: &Judged) {
    let _ = weir_shown_frame(frame, subject, judged);
}

/// The same, counted in a cell of its own.
#[inline(always)]
pub fn at_edge(frame: *mut xdp_md, cell: u32) {
    let _ = weir_shown_edge(frame, cell);
}

/// A global function (see `bytes::weir_parse_skb`). The answer means nothing, as those of the others here.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn weir_shown_skb(skb: *mut __sk_buff, start: u32, subject: *const Subject, judged: *const Judged) -> u32 {
    // The most that stands before an IP packet is less.
    if subject.is_null() || judged.is_null() || start > 64 {
        return 0;
    }
    let Some(mut entry) = room() else { return 0 };
    // SAFETY: not null, and the verifier checks that every caller hands memory of this size; the entry is a whole `DropBytes`.
    let length = unsafe {
        let to = entry.as_mut_ptr();
        (&raw mut (*to).key).write(emit::key_of(&*subject, &*judged));
        bytes::copy_skb(skb, start, (&raw mut (*to).bytes).cast())
    };
    done(entry, length)
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn weir_shown_frame(frame: *mut xdp_md, subject: *const Subject, judged: *const Judged) -> u32 {
    if subject.is_null() || judged.is_null() {
        return 0;
    }
    let Some(mut entry) = room() else { return 0 };
    // SAFETY: as above.
    let length = unsafe {
        let to = entry.as_mut_ptr();
        (&raw mut (*to).key).write(emit::key_of(&*subject, &*judged));
        bytes::copy_frame(frame, (&raw mut (*to).bytes).cast())
    };
    done(entry, length)
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn weir_shown_edge(frame: *mut xdp_md, cell: u32) -> u32 {
    let Some(drop) = maps::EDGE_DROPPED.get_ptr(cell) else { return 0 };
    let Some(mut entry) = room() else { return 0 };
    // SAFETY: a live map value whose key this run has written; the entry as above.
    let length = unsafe {
        let to = entry.as_mut_ptr();
        (&raw mut (*to).key).write((&raw const (*drop).key).read());
        bytes::copy_frame(frame, (&raw mut (*to).bytes).cast())
    };
    done(entry, length)
}

/// Room for one in the ring. While that is scarce none is taken, whoever asks: what is left is for decisions.
#[inline(always)]
fn room() -> Option<RingBufEntry<DropBytes>> {
    let entry = if emit::ring_is_scarce() { None } else { maps::EVENTS.reserve_untyped::<DropBytes>(0) };
    if entry.is_none() {
        emit::count(&maps::LOST, counters::CLOSES);
    }
    entry
}

/// Hands it over; one of which nothing could be read is given back.
#[inline(always)]
fn done(mut entry: RingBufEntry<DropBytes>, length: u32) -> u32 {
    if length == 0 {
        entry.discard(0);
        return 0;
    }
    let now = emit::now();
    // SAFETY: as above.
    unsafe {
        let to = MaybeUninit::as_mut_ptr(&mut entry);
        (&raw mut (*to).time_ns).write(now);
        (&raw mut (*to).length).write(length);
        (&raw mut (*to).padding).write(0);
    }
    entry.submit(u64::from(if emit::is_filling(now) { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP }));
    length
}
