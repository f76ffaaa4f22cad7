//! Lives: kernel.
//! Called by: every program that has something to report.
//! May touch: counters, the event ring, the merge tables.
//! Never: counts a decision without exactly one of submitted, merged, overflowed, lost or quiet; samples.

use aya_ebpf::{
    bindings::{BPF_NOEXIST, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    btf_maps::PerCpuArray,
    helpers::{bpf_ktime_get_ns, bpf_ringbuf_query},
};
use weir_common::{
    addr::{Addr, Port, Protocol},
    counters,
    decide::{Decision, Query},
    event::{Event, Kind, Local, MergeKey, MergeValue, Process, Totals},
    maps::{MAX_WORKLOADS, RING_BYTES, RING_QUOTA, RING_STEP},
    verdict::{Direction, Hook},
};

use crate::{atomic, maps, settings, tables::Judged, task::Task};

/// Unread bytes in the ring from which on the reader is woken; below, its timer finds them (a wake-up costs 9 us).
const WAKE_BYTES: u64 = 64 * 1024;
/// An event that names a process wakes the reader at most this often: it looks the process up in /proc, which must still be there.
const WAKE_EVERY_NS: u64 = 1_000_000;
/// Entries of the table of processes the reader was woken for; the first is the time of the last wake-up.
pub const WOKEN_ENTRIES: u32 = 1024;
/// About a second, in powers of two of nanoseconds: for so long a process counts as known.
const SECOND_SHIFT: u32 = 30;
/// Which bits of the clock pick the events that look how full the ring is.
const LOOK_SHIFT: u32 = 4;
const LOOK_MASK: u64 = 15;
const BPF_RB_AVAIL_DATA: u64 = 0;
const BPF_RB_CONS_POS: u64 = 2;
/// Unread bytes from which on the ring is scarce.
const SCARCE_BYTES: u64 = RING_BYTES as u64 / 4 * 3;

/// What a decision was about.
#[derive(Clone, Copy)]
pub struct Subject {
    pub hook: Hook,
    pub direction: Direction,
    pub local: Local,
    pub local_addr: Addr,
    pub remote_addr: Addr,
    pub local_port: Port,
    pub remote_port: Port,
    pub protocol: Protocol,
    pub cookie: u64,
    pub tcp_flags: u8,
    pub ifindex: u32,
}

impl Subject {
    /// A packet from `src` to `dst`, which goes to or comes from `local` by its direction.
    #[inline(always)]
    pub const fn of_packet(
        hook: Hook,
        direction: Direction,
        local: Local,
        protocol: Protocol,
        src: (Addr, Port),
        dst: (Addr, Port),
    ) -> Self {
        let (ours, theirs) = match direction {
            Direction::Ingress => (dst, src),
            Direction::Egress => (src, dst),
        };
        Self {
            hook,
            direction,
            local,
            local_addr: ours.0,
            remote_addr: theirs.0,
            local_port: ours.1,
            remote_port: theirs.1,
            protocol,
            cookie: 0,
            tcp_flags: 0,
            ifindex: 0,
        }
    }
}

/// The question a subject asks in its own direction. The local identity is filled in by `tables::judge`.
#[inline(always)]
pub fn question(subject: &Subject) -> Query {
    let port = match subject.direction {
        Direction::Ingress => subject.local_port,
        Direction::Egress => subject.remote_port,
    };
    Query {
        local: 0,
        direction: subject.direction,
        remote: subject.remote_addr,
        protocol: subject.protocol,
        port: port.number(),
    }
}

/// The other side's direction.
#[inline(always)]
pub const fn opposite(direction: Direction) -> Direction {
    match direction {
        Direction::Ingress => Direction::Egress,
        Direction::Egress => Direction::Ingress,
    }
}

/// The calling task, for hooks that run in one.
#[repr(C)]
pub struct Caller {
    pub process: Process,
    pub cgroup: u64,
}

impl Caller {
    /// For hooks that do not run in the task that matters.
    pub const NONE: Self =
        Self { process: Process { pid: 0, uid: 0, comm: [0; 16], staged: 0, reserved: 0 }, cgroup: 0 };

    /// The calling task.
    #[inline(always)]
    pub fn current() -> Self {
        let mut caller = Self::NONE;
        let _ = weir_caller(&raw mut caller);
        caller
    }

    /// A task, without a call of ours.
    #[inline(always)]
    pub fn of(task: Task) -> Self {
        Self { process: task.process(), cgroup: task.cgroup() }
    }
}

/// A global function (see `bytes::weir_parse_skb`). The answer means nothing: the verifier wants one.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn weir_caller(to: *mut Caller) -> u32 {
    if to.is_null() {
        return 0;
    }
    // SAFETY: not null, and the verifier checks that every caller hands memory of this size.
    unsafe { to.write(Caller::of(Task::current())) };
    1
}

/// Counts a refusal of what the calling task asks, and sends it as one event.
#[inline(never)]
pub fn refused(subject: &Subject, judged: &Judged) {
    verdict(subject, judged, &Caller::current());
}

/// Counts a decision and sends it as one event.
#[inline(never)]
pub fn verdict(subject: &Subject, judged: &Judged, caller: &Caller) {
    if counted_only(subject, &judged.decision) {
        return;
    }
    let decision = &judged.decision;
    if share_is_used(subject.local.workload) {
        return count(&maps::LOST, cell_of(subject, decision));
    }
    let detail = detail_of(&Process { staged: decision.staged.0, ..caller.process });
    let event = event(Kind::Verdict, subject, judged.generation, caller.cgroup, detail);
    let event = Event {
        rule: decision.rule,
        local_identity: judged.local_identity,
        remote_identity: decision.remote_identity,
        verdict: decision.verdict as u8,
        reason: decision.reason as u8,
        ..event
    };
    if !submit(event, caller.process.pid) {
        count(&maps::LOST, cell_of(subject, decision));
    }
}

/// Counts a decision; whether that is all, because the rule wants no record (`log: false`).
#[inline(always)]
pub fn counted_only(subject: &Subject, decision: &Decision) -> bool {
    let cell = cell_of(subject, decision);
    count(&maps::COUNTERS, if decision.quiet { counters::quiet(cell) } else { cell });
    decision.quiet
}

/// Sends something that is not a decision (an attempt, a bind, a close); whether there was room. `process`: as in `submit`.
#[inline(always)]
fn note(kind: Kind, subject: &Subject, cgroup: u64, old_state: u8, detail: [u8; 32], process: u32) -> bool {
    if share_is_used(subject.local.workload) {
        return false;
    }
    let event = event(kind, subject, 0, cgroup, detail);
    submit(Event { old_state, ..event }, process)
}

/// Names the process behind what follows on this socket. Lost quietly: the agent then only misses an attribution, which it reports as
/// unknown.
#[inline(always)]
pub fn named(kind: Kind, subject: &Subject, caller: &Caller) {
    let _ = note(kind, subject, caller.cgroup, 0, detail_of(&caller.process), caller.process.pid);
}

/// Hands over what a connection came to.
#[inline(always)]
pub fn closed(subject: &Subject, old_state: u8, totals: Totals) {
    // SAFETY: `Totals` is 32 bytes without padding (checked where it is declared), any bytes are a valid array.
    let totals = unsafe { core::mem::transmute::<Totals, [u8; 32]>(totals) };
    if !note(Kind::Close, subject, 0, old_state, totals, 0) {
        count(&maps::LOST, counters::CLOSES);
    }
}

/// Counts a decision about a packet together with equal ones of this epoch. Whether the packet is to be shown (`shown`): the first of
/// those that are refused, where that is asked for.
#[inline(always)]
pub fn merged(subject: &Subject, judged: &Judged, bytes: u32) -> bool {
    let first = weir_merged(subject, judged, bytes) == FIRST;
    settings::drop_bytes() != 0 && first && !judged.decision.verdict.passes()
}

/// Answer of [`weir_merged`]: the first of its kind in this epoch.
const FIRST: u32 = 2;

/// A global function (see `bytes::weir_parse_skb`): the packet programs call it at many places.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn weir_merged(subject: *const Subject, judged: *const Judged, bytes: u32) -> u32 {
    if subject.is_null() || judged.is_null() {
        return 0;
    }
    // SAFETY: not null, and the verifier checks that every caller hands memory of this size.
    let (subject, judged) = unsafe { (&*subject, &*judged) };
    if counted_only(subject, &judged.decision) {
        return 1;
    }
    let key = key_of(subject, judged);
    let epoch = maps::EPOCH.get(0).copied().unwrap_or(0);
    let done = if epoch & 1 == 0 {
        merge_into(&maps::MERGED_0, &key, subject, bytes, epoch)
    } else {
        merge_into(&maps::MERGED_1, &key, subject, bytes, epoch)
    };
    match done {
        Some(true) => FIRST,
        Some(false) => 1,
        None => {
            overflowed(cell_of(subject, &judged.decision));
            1
        }
    }
}

/// Counts a decision that found no room in the merge tables. The sum last: who sees it move sees what moved it.
#[inline(always)]
pub fn overflowed(cell: u32) {
    count(&maps::OVERFLOW, cell);
    count(&maps::OVERFLOW, counters::ANY);
}

/// What a decision about a packet is counted under.
#[inline(always)]
pub fn key_of(subject: &Subject, judged: &Judged) -> MergeKey {
    MergeKey {
        local: subject.local_addr,
        remote: subject.remote_addr,
        generation: judged.generation,
        rule: judged.decision.rule,
        local_identity: judged.local_identity,
        remote_identity: judged.decision.remote_identity,
        workload: subject.local.workload,
        ifindex: subject.ifindex,
        local_port: subject.local_port,
        remote_port: if merges_ports(subject) { Port([0; 2]) } else { subject.remote_port },
        hook: subject.hook as u8,
        direction: subject.direction as u8,
        verdict: judged.decision.verdict as u8,
        reason: judged.decision.reason as u8,
        protocol: subject.protocol.0,
        reserved: [0; 3],
        staged: judged.decision.staged.0,
        padding: 0,
    }
}

/// Whether a flood would vary the peer's port and so fill the table with one client.
#[inline(always)]
fn merges_ports(subject: &Subject) -> bool {
    match subject.hook {
        Hook::Xdp | Hook::ToWorkload => true,
        Hook::Kernel => matches!(subject.direction, Direction::Ingress),
        _ => subject.protocol == Protocol::TCP,
    }
}

type Merged = aya_ebpf::btf_maps::HashMap<MergeKey, MergeValue, { weir_common::maps::MAX_MERGED as usize }>;

/// Adds to the key's value, making it first if needed; whether it was, and `None` when the table is full.
#[expect(clippy::needless_borrows_for_generic_args, reason = "by value, EMPTY would be copied onto the stack")]
#[inline(always)]
fn merge_into(table: &Merged, key: &MergeKey, subject: &Subject, bytes: u32, epoch: u32) -> Option<bool> {
    let now = now();
    if let Some(value) = table.get_ptr_mut(key) {
        // SAFETY: a live map value; another CPU may add at the same time, so every field is added or plainly overwritten.
        unsafe { bump(value, bytes, subject.cookie, subject.remote_port, subject.tcp_flags, now) };
        return Some(false);
    }
    // Until the epoch is over a full table stays full, and another attempt would be in vain.
    let (full, found) = (maps::EPOCH.get_ptr_mut(1), epoch.wrapping_add(1));
    // SAFETY: a live map value; volatile because other CPUs write it.
    if full.is_some_and(|full| unsafe { full.read_volatile() } == found) {
        return None;
    }
    // Another CPU may have been first: then the insert fails and the lookup finds its entry.
    let inserted = table.insert(key, &EMPTY, BPF_NOEXIST as u64);
    let first = inserted.is_ok();
    match table.get_ptr_mut(key) {
        Some(value) => {
            // SAFETY: as above; the agent reads it only after a grace period.
            unsafe {
                if first {
                    (&raw mut (*value).first_ns).write(now);
                }
                bump(value, bytes, subject.cookie, subject.remote_port, subject.tcp_flags, now);
            }
            Some(first)
        }
        None => {
            if let (Some(full), Err(NO_ROOM)) = (full, inserted) {
                // SAFETY: as above.
                unsafe { full.write_volatile(found) };
            }
            None
        }
    }
}

/// `E2BIG`.
const NO_ROOM: i32 = -7;

/// What a new key starts with; read-only data instead of 48 bytes of stack.
static EMPTY: MergeValue =
    MergeValue { count: 0, bytes: 0, first_ns: 0, last_ns: 0, cookie: 0, last_port: 0, tcp_flags: 0 };

/// # Safety
/// `value` must come from a lookup in this run.
#[inline(always)]
pub unsafe fn bump(value: *mut MergeValue, bytes: u32, cookie: u64, port: Port, tcp_flags: u8, now: u64) {
    // SAFETY: the fields are aligned u64/u32 of a live map value.
    unsafe {
        atomic::add(&raw mut (*value).count, 1);
        atomic::add(&raw mut (*value).bytes, u64::from(bytes));
        (&raw mut (*value).last_ns).write(now);
        (&raw mut (*value).cookie).write(cookie);
        (&raw mut (*value).last_port).write(u32::from(port.number()));
        let flags = (&raw mut (*value).tcp_flags).read();
        (&raw mut (*value).tcp_flags).write(flags | u32::from(tcp_flags));
    }
}

#[inline(always)]
fn cell_of(subject: &Subject, decision: &Decision) -> u32 {
    cell_at(subject.hook, decision)
}

/// Where decisions of this kind are counted.
#[inline(always)]
pub fn cell_at(hook: Hook, decision: &Decision) -> u32 {
    counters::cell(hook, decision.verdict, decision.reason)
}

/// Counts one.
#[inline(always)]
pub fn count<const CELLS: usize>(map: &PerCpuArray<u64, CELLS>, cell: u32) {
    if let Some(cell) = map.get_ptr_mut(cell) {
        // SAFETY: a live map value of this run.
        unsafe { atomic::add(cell, 1) };
    }
}

#[inline(always)]
fn event(kind: Kind, subject: &Subject, generation: u64, cgroup: u64, detail: [u8; 32]) -> Event {
    Event {
        time_ns: now(),
        generation,
        cookie: subject.cookie,
        cgroup,
        local: subject.local_addr,
        remote: subject.remote_addr,
        rule: 0,
        local_identity: 0,
        remote_identity: 0,
        workload: subject.local.workload,
        local_port: subject.local_port,
        remote_port: subject.remote_port,
        kind: kind as u8,
        hook: subject.hook as u8,
        direction: subject.direction as u8,
        verdict: 0,
        reason: 0,
        protocol: subject.protocol.0,
        tcp_flags: subject.tcp_flags,
        old_state: 0,
        ifindex: subject.ifindex,
        detail,
    }
}

/// The bytes of a process as an event carries them.
#[inline(always)]
fn detail_of(process: &Process) -> [u8; 32] {
    // SAFETY: `Process` is 32 bytes without padding (checked where it is declared), any bytes are a valid array.
    unsafe { core::mem::transmute::<Process, [u8; 32]>(*process) }
}

/// `false` when the ring was full. `process`: whom the reader must look up soon, 0 for nobody.
#[inline(always)]
fn submit(event: Event, process: u32) -> bool {
    let Some(mut entry) = maps::EVENTS.reserve(0) else { return false };
    let now = event.time_ns;
    entry.write(event);
    let wake = is_filling(now) || (process != 0 && wake_is_due(now, process));
    entry.submit(u64::from(if wake { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP }));
    true
}

/// Whether enough is unread that the reader should not wait for its timer. Asked for one event in sixteen, picked by the clock:
/// the threshold is hundreds of events.
#[inline(always)]
pub fn is_filling(now: u64) -> bool {
    if now >> LOOK_SHIFT & LOOK_MASK != 0 {
        return false;
    }
    let unread = ring(BPF_RB_AVAIL_DATA);
    if let Some(scarce) = maps::SCARCE.get_ptr_mut(0) {
        // SAFETY: a live map value; volatile because other CPUs write it, and whoever looks last is right.
        unsafe { scarce.write_volatile(u32::from(unread > SCARCE_BYTES)) };
    }
    unread >= WAKE_BYTES
}

/// Whether more than three quarters of the ring are unread.
#[inline(always)]
pub fn ring_is_scarce() -> bool {
    maps::SCARCE.get(0).copied().unwrap_or(0) != 0 && ring(BPF_RB_AVAIL_DATA) > SCARCE_BYTES
}

/// What the ring says of itself.
#[inline(always)]
fn ring(what: u64) -> u64 {
    // SAFETY: helper on a map of ours.
    unsafe { bpf_ringbuf_query((&raw const maps::EVENTS).cast_mut().cast(), what) }
}

/// Whether a workload has what one may have of a ring that is more than three quarters full, since the reader was last a step further: so one
/// that floods leaves room for the others. Two CPUs may begin a step at the same time and forget a few events, which only gives a little
/// more. Asked before the event is made, and no function of its own: that takes stack, and `sendmsg` has none left.
#[inline(always)]
fn share_is_used(workload: u32) -> bool {
    if maps::SCARCE.get(0).copied().unwrap_or(0) == 0 {
        return false;
    }
    let unread = ring(BPF_RB_AVAIL_DATA);
    let Some(share) = maps::RING_SHARES.get_ptr_mut(workload % MAX_WORKLOADS) else { return false };
    if unread <= SCARCE_BYTES {
        if let Some(scarce) = maps::SCARCE.get_ptr_mut(0) {
            // SAFETY: as in `is_filling`.
            unsafe { scarce.write_volatile(0) };
        }
        return false;
    }
    let step = (ring(BPF_RB_CONS_POS) >> RING_STEP) << 32;
    // SAFETY: a live map value; volatile because other CPUs write it.
    let seen = unsafe { share.read_volatile() };
    if seen >> 32 << 32 != step {
        // SAFETY: as above.
        unsafe { share.write_volatile(step | 1) };
        return false;
    }
    if seen & 0xffff_ffff >= u64::from(RING_QUOTA) {
        return true;
    }
    // SAFETY: a live map value of this run.
    unsafe { atomic::add(share, 1) };
    false
}

/// Whether the reader is to be woken for this process: the last wake-up is long enough ago, and was not for the same process a
/// moment ago, which the reader knows by now. Two CPUs may both find it so; that costs one wake-up more.
#[inline(always)]
fn wake_is_due(now: u64, process: u32) -> bool {
    let place = 1 + process % (WOKEN_ENTRIES - 1);
    let (Some(last), Some(known)) = (maps::WOKEN.get_ptr_mut(0), maps::WOKEN.get_ptr_mut(place)) else { return false };
    let seconds = now >> SECOND_SHIFT;
    let mark = u64::from(process) << 32 | seconds & 0xffff_ffff;
    // SAFETY: live map values; a torn or lost write only moves a wake-up.
    unsafe {
        if known.read_volatile() == mark || now.wrapping_sub(last.read_volatile()) < WAKE_EVERY_NS {
            return false;
        }
        known.write_volatile(mark);
        last.write_volatile(now);
    }
    true
}

/// `CLOCK_MONOTONIC` in nanoseconds.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}
