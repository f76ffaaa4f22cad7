//! Lives: kernel.
//! Called by: XDP for each packet, and `cgroup_skb/ingress` for those of workloads that a limit is about.
//! May touch: rate limit state and statistics.
//! Never: takes a lock, allocates, evicts, or admits a packet because a compare-and-swap was lost (DESIGN.md D6); charges what it
//! can tell was charged before (`paid`).
//!
//! A client's state is two rows of arrival times. It has one slot in each; the earlier of the two is its estimate, because a
//! collision can only push a slot further into the future. The other one is raised and then the earlier one advanced, each by
//! compare-and-swap. All clients together have one arrival time for each limit and kind, which nothing collides with: it is added to.
//!
//! ```text
//! packet ─ aims or weir_limit ─► its limits ─ weir_charge, for each ─► the client's rates; then, if all conform, the aggregates
//! ```
//! Clients first: one that exceeds its own limit takes nothing from what all of them have together.

use aya_ebpf::helpers::bpf_jiffies64;
use weir_common::{
    decide::{Decision, Image},
    event::LimitStats,
    gcra::{self, Limit},
    hash,
    image::{
        ACTIVE_LIMITS, LIMIT_AGGREGATE, LIMIT_AUDITS, LIMIT_COARSE_CLOCK, LIMIT_KEY, LIMIT_STATE, LimitEntry, Page,
    },
    maps::LIMIT_SLOTS,
    packet::Packet,
    verdict::{Reason, Verdict},
};

use crate::{atomic, emit, maps, paid, settings, tables::Active};

const ROW: u32 = LIMIT_SLOTS / 2;
/// Lost swaps that are tried again before the packet is refused.
const TRIES: u32 = 5;

/// Marks a limit that only audits in the answers here, beside the reason in the low byte and the rule in the high half.
pub const AUDIT: u64 = 1 << 8;

/// Charges the limits of these numbers at XDP; the first exhausted decides. 0 if none is, else the reason, whether to audit only, and the
/// rule.
#[inline(always)]
pub fn exceeded_at_xdp(active: u64, packet: &Packet, numbers: u64, ifindex: u32) -> u64 {
    let said = weir_list(active, packet, numbers, u64::from(ifindex) << 32 | 1);
    if said == 0 || said & AUDIT != 0 {
        paid::leave(packet);
    }
    said
}

/// Charges every limit on the packet's destination, and on the workload whose socket it arrives at (a number, which may be 0); answers
/// likewise. `packets`: segments that were merged count one by one.
#[inline(always)]
pub fn exceeded(active: u64, packet: &Packet, workload: u32, packets: u32) -> u64 {
    if active & ACTIVE_LIMITS == 0 { 0 } else { weir_limit(active, packet, workload, packets) }
}

/// The limits on a packet at XDP, up to four numbers, from the tables.
#[inline(always)]
pub fn find(active: u64, packet: &Packet) -> u64 {
    weir_limits_of(active, packet, AT_XDP, 1)
}

/// In place of a workload's number: at XDP.
const AT_XDP: u32 = u32::MAX;
/// Mark of a workload's number: its own limits are asked for, not those of the packet's address.
const OWN: u32 = 1 << 16;

/// A global function: the verifier checks it once, whatever calls it.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn weir_limit(active: u64, packet: *const Packet, workload: u32, packets: u32) -> u64 {
    if packet.is_null() {
        return 0;
    }
    let (mut audited, mut asked) = (0, workload);
    loop {
        let numbers = weir_limits_of(active, packet, asked, packets);
        let said = if numbers == 0 { 0 } else { weir_list(active, packet, numbers, u64::from(packets)) };
        if said != 0 {
            audited = said;
            if said & AUDIT == 0 {
                return said;
            }
        }
        if asked & OWN != 0 {
            return audited;
        }
        asked |= OWN;
    }
}

/// Charges up to four limits: the rates of clients, then those of all together of the limits that are left. `place`: the interface in
/// the high half (0 at a socket), packets in the low.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn weir_list(active: u64, packet: *const Packet, mut numbers: u64, place: u64) -> u64 {
    let (mut rest, mut audited, mut whose) = (0, 0, if numbers >> 16 == 0 { OF_CLIENT | ALONE } else { OF_CLIENT });
    loop {
        while numbers != 0 {
            let number = numbers as u32 & 0xffff;
            numbers >>= 16;
            let answer = if number == 0 { 0 } else { weir_charge(active, packet, number | whose, place) };
            if answer == DONE {
                return 0;
            }
            if answer == 0 {
                rest = rest << 16 | u64::from(number);
            } else if answer & AUDIT == 0 {
                return answer;
            } else {
                audited = answer;
            }
        }
        if whose == OF_ALL {
            return audited;
        }
        (numbers, rest, whose) = (rest, 0, OF_ALL);
    }
}

/// The limits to charge: those on the packet's destination address, unless XDP has charged them; or with [`OWN`] those on the socket's
/// workload that are not among them, as where several share an address it tells nothing about whose packet it is.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn weir_limits_of(word: u64, packet: *const Packet, workload: u32, packets: u32) -> u64 {
    if packet.is_null() {
        return 0;
    }
    // SAFETY: as in `weir_limit`.
    let packet = unsafe { &*packet };
    let Some(active) = Active::of(word) else { return 0 };
    let Some(image) = Image::open(&active) else { return 0 };
    let Some(atom) = image.atom(packet.protocol, packet.dst_port.number()) else { return 0 };
    let class = image.identity(image.identify(&packet.dst)).service_class;
    let by_address = image.limits_of(class, image.atoms(), atom);
    if workload == AT_XDP {
        return by_address;
    }
    if workload & OWN == 0 {
        return if by_address != 0 && paid::take(packet, packets) { 0 } else { by_address };
    }
    let own = image.identity(image.local(workload & !OWN)).service_class;
    if own == class { 0 } else { gcra::without(image.limits_of(own, image.atoms(), atom), by_address) }
}

/// Mark of the number of a limit: its rates of one client are charged.
const OF_CLIENT: u32 = 0;
/// Likewise: those of all clients together.
const OF_ALL: u32 = 1 << 16;
/// Likewise: no other limit is charged for the packet.
const ALONE: u32 = 1 << 17;
/// In place of an answer: the packet conforms to the only limit on it, which has no rates of all clients together.
const DONE: u64 = 1 << 9;

/// Charges the packet against one limit: 0 (or [`DONE`]) if it conforms, else as [`exceeded`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn weir_charge(word: u64, packet: *const Packet, marked: u32, place: u64) -> u64 {
    if packet.is_null() {
        return 0;
    }
    // SAFETY: as in `weir_limit`.
    let packet = unsafe { &*packet };
    let Some(active) = Active::of(word) else { return 0 };
    let Some(image) = Image::open(&active) else { return 0 };
    let Some((page, first)) = image.limit_page(marked as u16) else { return 0 };
    let entry = LimitEntry::with_key(page.word(first + LIMIT_KEY), page.word(first + LIMIT_STATE));
    if entry.interfaces & !image.interface_lists((place >> 32) as u32) == entry.interfaces && entry.interfaces != 0 {
        return 0;
    }
    let (now, of_all) = (clock(&entry), marked & OF_ALL != 0);
    let (hash, rates) = if of_all {
        (u64::from(marked & 0xffff) << 2, first + LIMIT_AGGREGATE)
    } else {
        let (high, low) = client_of(&image, &entry, packet);
        (hash::keyed(settings::secret(), high, low, u64::from(entry.state) << 8), first)
    };
    let charge = Charge { page, rates, hash, now, of_all };
    let reason = charge.first_exceeded(packet, place as u32);
    let of_all_kinds = [1, 3, 5].map(|tolerance| page.word(first + LIMIT_AGGREGATE + tolerance));
    let done = marked & ALONE != 0 && LimitEntry::sets_none(of_all_kinds);
    if reason != 0 || of_all || done {
        record(u32::from(marked as u16), packet.length, place as u32, reason == 0);
    }
    if reason == 0 {
        return if done { DONE } else { 0 };
    }
    let audits = if entry.flags & LIMIT_AUDITS == 0 { 0 } else { AUDIT };
    u64::from(reason) | audits | u64::from(entry.rule + u32::from(of_all)) << 32
}

/// Kinds of rates.
const KINDS: u32 = 3;

/// Who is charged what, and when.
struct Charge<'a> {
    page: &'a Page,
    /// Where the rates start there.
    rates: u32,
    /// Of one client, its hash; of all, the limit's place among totals.
    hash: u64,
    now: u64,
    of_all: bool,
}

impl Charge<'_> {
    /// Connections, packets, bytes: their places are 2, 0, 1.
    #[inline(always)]
    fn first_exceeded(&self, packet: &Packet, packets: u32) -> u8 {
        let mut step = if packet.opens_tcp() { 0 } else { 1 };
        while step < KINDS {
            let (kind, units, reason) = match step {
                0 => (2, 1, Reason::RateLimitConnections),
                1 => (0, packets, Reason::RateLimitPackets),
                _ => (1, packet.length, Reason::RateLimitBytes),
            };
            if !self.conforms(kind, units) {
                return reason as u8;
            }
            step += 1;
        }
        0
    }

    /// Whether `units` conform to the rate of this kind; one that is not set holds nothing back.
    #[inline(always)]
    fn conforms(&self, kind: u32, units: u32) -> bool {
        let (interval, tolerance) = (self.page.word(self.rates + 2 * kind), self.page.word(self.rates + 2 * kind + 1));
        // No `Option` across this: see `Image::identify`.
        let limit = LimitEntry::limit(interval, tolerance).unwrap_or(Limit { interval_q16: 0, tolerance_ns: u64::MAX });
        if limit.tolerance_ns == u64::MAX {
            return true;
        }
        let cost = limit.cost_ns(units);
        let conforms = if self.of_all {
            weir_advance_total(self.hash + u64::from(kind), self.now, cost, limit.tolerance_ns)
        } else {
            // An odd number for each kind, so that they have places of their own.
            let place = self.hash.wrapping_mul(2 * u64::from(kind) + 1).rotate_left(kind * 11);
            weir_advance(place, self.now, cost, limit.tolerance_ns)
        };
        conforms == 1
    }
}

/// The client that sent the packet: a workload with its kind, or the addresses that count as one.
#[inline(always)]
fn client_of(image: &Image<'_, Active>, entry: &LimitEntry, packet: &Packet) -> (u64, u64) {
    if entry.client_key != 0 {
        let client = image.client(image.identify(&packet.src), u32::from(entry.client_key) - 1);
        if client != 0 {
            return (client, u64::MAX);
        }
    }
    let v4 = packet.src.as_v4().is_some();
    packet.src.masked(if v4 { 96 + u32::from(entry.prefix_v4) } else { u32::from(entry.prefix_v6) }).halves()
}

/// Jiffies where the compiler found them exact enough for the limit's burst, else nanoseconds. Both count from boot: an edit may take a
/// limit from one to the other, and its clients' times must mean the same.
#[inline(always)]
fn clock(entry: &LimitEntry) -> u64 {
    if entry.flags & LIMIT_COARSE_CLOCK != 0 {
        // SAFETY: helper without arguments.
        unsafe { bpf_jiffies64() }.wrapping_sub(settings::first_jiffy()).wrapping_mul(settings::tick_ns())
    } else {
        emit::now()
    }
}

/// Advances the arrival time of the client at `place`: 1 if it conforms, 0 if it exceeds.
///
/// A global function with numbers only: the verifier checks it once instead of once per limit and kind, whose paths multiply.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn weir_advance(place: u64, now: u64, cost: u64, tolerance: u64) -> u32 {
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
        // The other row first, and never lower: were the binding one ahead of it for a moment, this would be the estimate, and another
        // CPU be let through by the same time.
        // SAFETY: as above.
        let raised = gcra::later(others, next) == others || unsafe { atomic::swap_if(other, others, next) };
        // SAFETY: as above.
        if raised && unsafe { atomic::swap_if(binding, estimate, next) } {
            return 1;
        }
        tries += 1;
    }
    0
}

/// Advances the arrival time of all clients together: 1 if that conforms, 0 if it exceeds.
///
/// Every packet of a service comes here, from all CPUs: adding and taking back loses no race, where swaps would lose many.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn weir_advance_total(place: u64, now: u64, cost: u64, tolerance: u64) -> u32 {
    let Some(total) = maps::TOTALS.get_ptr_mut(place as u32) else { return 0 };
    // SAFETY: a live map value; volatile because other CPUs write it.
    let arrival = unsafe { total.read_volatile() };
    let Some(next) = gcra::charge(arrival, now, cost, tolerance) else { return 0 };
    if next.wrapping_sub(cost) != arrival {
        // It was idle. Who loses this finds it at another CPU's now.
        // SAFETY: as above.
        let _ = unsafe { atomic::swap_if(total, arrival, now) };
    }
    // SAFETY: as above.
    let before = unsafe { atomic::fetch_add(total, cost) };
    if before.wrapping_add(cost).wrapping_sub(now) as i64 <= tolerance as i64 {
        return 1;
    }
    // SAFETY: as above.
    unsafe { atomic::add(total, cost.wrapping_neg()) };
    0
}

#[inline(always)]
fn record(number: u32, bytes: u32, packets: u32, passed: bool) {
    let Some(stats) = maps::LIMIT_STATS.get_ptr_mut(number) else { return };
    let stats: *mut LimitStats = stats;
    // SAFETY: a live map value of this run.
    unsafe {
        if passed {
            atomic::add(&raw mut (*stats).passed_packets, u64::from(packets));
            atomic::add(&raw mut (*stats).passed_bytes, u64::from(bytes));
        } else {
            atomic::add(&raw mut (*stats).exceeded_packets, u64::from(packets));
            atomic::add(&raw mut (*stats).exceeded_bytes, u64::from(bytes));
        }
    }
}

/// What an answer of [`exceeded`] comes to, for records.
#[inline(always)]
pub fn decision(answer: u64, remote_identity: u32) -> Decision {
    let verdict = if answer & AUDIT == 0 { Verdict::Deny } else { Verdict::Audit };
    let reason = Reason::from_u8(answer as u8).unwrap_or(Reason::NoTables);
    Decision { rule: (answer >> 32) as u32, ..Decision::plain(verdict, reason, remote_identity) }
}
