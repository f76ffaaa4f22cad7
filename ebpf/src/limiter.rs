//! Lives: kernel.
//! Called by: the XDP program, once per limit a packet falls under.
//! May touch: rate limit state and statistics.
//! Never: takes a lock, allocates, evicts, or admits a packet because a compare-and-swap was lost (DESIGN.md D6).
//!
//! State is two rows of arrival times. A client has one slot in each; the earlier of the two is its estimate, because a
//! collision can only push a slot further into the future. The earlier slot is advanced by compare-and-swap.

use aya_ebpf::helpers::bpf_jiffies64;
use weir_common::{
    addr::Addr,
    decide::{Image, Tables},
    event::LimitStats,
    gcra::{self, Limit},
    hash,
    image::LimitEntry,
    maps::LIMIT_SLOTS,
    packet::Packet,
    verdict::Reason,
};

use crate::{atomic, emit, maps, settings};

const ROW: u32 = LIMIT_SLOTS / 2;
/// Lost swaps that are tried again before the packet is refused.
const TRIES: u32 = 3;

/// Marks a limit that only audits in the answer of [`exceeded`], beside the reason in the low byte and the rule in the high half.
pub const AUDIT: u64 = 1 << 8;

/// Charges the packet against limit `number`. 0 if it conforms, else the reason, whether to audit only, and the rule.
#[inline(always)]
pub fn exceeded<T: Tables>(image: &Image<'_, T>, number: u16, packet: &Packet) -> u64 {
    let (Some(key), Some(state)) = (image.limit_word(number, 6), image.limit_word(number, 7)) else { return 0 };
    // Only what is not a limit is unpacked here; the limits are fetched one by one, for the sake of the stack.
    let entry = LimitEntry::from_words([0, 0, 0, 0, 0, 0, key, state]);
    let charge = Charge { client: client_of(&entry, &packet.src), now: clock(&entry), state: entry.state };
    let reason = first_exceeded(image, number, &charge, packet);
    record(number, packet.length, reason == 0);
    if reason == 0 {
        return 0;
    }
    u64::from(reason) | u64::from(entry.rule) << 32 | if entry.audit == 0 { 0 } else { AUDIT }
}

/// Who is charged, and when.
struct Charge {
    client: Addr,
    now: u64,
    state: u32,
}

#[inline(always)]
fn first_exceeded<T: Tables>(image: &Image<'_, T>, number: u16, charge: &Charge, packet: &Packet) -> u8 {
    if packet.opens_tcp() && !conforms(image, number, Reason::RateLimitConnections, charge, 1) {
        return Reason::RateLimitConnections as u8;
    }
    if !conforms(image, number, Reason::RateLimitPackets, charge, 1) {
        return Reason::RateLimitPackets as u8;
    }
    if !conforms(image, number, Reason::RateLimitBytes, charge, packet.length) {
        return Reason::RateLimitBytes as u8;
    }
    0
}

/// Whether `units` conform to the limit of this kind; one that is not set holds nothing back.
#[inline(always)]
fn conforms<T: Tables>(image: &Image<'_, T>, number: u16, kind: Reason, who: &Charge, units: u32) -> bool {
    let word = match kind {
        Reason::RateLimitPackets => 0,
        Reason::RateLimitBytes => 2,
        _ => 4,
    };
    let (Some(interval), Some(tolerance)) = (image.limit_word(number, word), image.limit_word(number, word + 1)) else {
        return true;
    };
    match LimitEntry::limit(interval, tolerance) {
        Some(limit) => charge(&limit, kind as u8, who, units),
        None => true,
    }
}

/// The client the source address belongs to.
#[inline(always)]
fn client_of(entry: &LimitEntry, src: &Addr) -> Addr {
    let bits = if src.as_v4().is_some() { 96 + u32::from(entry.prefix_v4) } else { u32::from(entry.prefix_v6) };
    src.masked(bits)
}

/// Jiffies where the compiler found them exact enough for the limit's burst, else nanoseconds.
#[inline(always)]
fn clock(entry: &LimitEntry) -> u64 {
    if entry.coarse_clock == 1 {
        // SAFETY: helper without arguments.
        unsafe { bpf_jiffies64() }.wrapping_mul(settings::tick_ns())
    } else {
        emit::now()
    }
}

/// Charges `units` to the client; `false` when that exceeds the limit.
#[inline(always)]
fn charge(limit: &Limit, kind: u8, who: &Charge, units: u32) -> bool {
    let (high, low) = who.client.halves();
    let place = hash::keyed(settings::secret(), high, low, u64::from(who.state) << 8 | u64::from(kind));
    weir_charge(place, who.now, limit.cost_ns(units), limit.tolerance_ns) == 1
}

/// Advances the arrival time of the client at `place`: 1 if it conforms, 0 if it exceeds.
///
/// A global function with numbers only: the verifier checks it once instead of once per limit and kind, whose paths multiply.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn weir_charge(place: u64, now: u64, cost: u64, tolerance: u64) -> u32 {
    let first = maps::LIMIT_STATE.get_ptr_mut(place as u32 & (ROW - 1));
    let second = maps::LIMIT_STATE.get_ptr_mut(ROW + ((place >> 32) as u32 & (ROW - 1)));
    let (Some(first), Some(second)) = (first, second) else { return 0 };
    let mut tries = 0;
    while tries < TRIES {
        // SAFETY: live map values; volatile because other CPUs write them.
        let (a, b) = unsafe { (first.read_volatile(), second.read_volatile()) };
        let estimate = gcra::earlier(a, b);
        let Some(next) = gcra::charge(estimate, now, cost, tolerance) else { return 0 };
        let (binding, other, others) = if estimate == a { (first, second, b) } else { (second, first, a) };
        // SAFETY: as above.
        if unsafe { atomic::swap_if(binding, estimate, next) } {
            // SAFETY: as above. A lost race here only lowers the other row, which is not the binding one.
            unsafe { other.write_volatile(gcra::later(others, next)) };
            return 1;
        }
        tries += 1;
    }
    0
}

#[inline(always)]
fn record(number: u16, bytes: u32, passed: bool) {
    let Some(stats) = maps::LIMIT_STATS.get_ptr_mut(u32::from(number)) else { return };
    let stats: *mut LimitStats = stats;
    // SAFETY: a live map value of this run.
    unsafe {
        if passed {
            atomic::add(&raw mut (*stats).passed_packets, 1);
            atomic::add(&raw mut (*stats).passed_bytes, u64::from(bytes));
        } else {
            atomic::add(&raw mut (*stats).exceeded_packets, 1);
            atomic::add(&raw mut (*stats).exceeded_bytes, u64::from(bytes));
        }
    }
}
