//! Lives: kernel.
//! Called by: the XDP program, once per packet while address sets are in force.
//! May touch: the images of the slot it is given, the sets' counts.
//! Never: reads a record for an address that no set holds, unless some set allows.
//!
//! What most packets take is in line; what holds an address is asked further in global functions, which the verifier checks once.

use weir_common::{
    image::FLAG_SETS_ALLOW,
    maps::{SET_BUFFERS, SET_IMAGES, SET_SCOPE, SET_V4, SET_V6},
    packet::Packet,
    sets::{
        Line, Lines, held,
        scope::{self, Going},
        v4, v6,
    },
};

use crate::{
    atomic, emit,
    limiter::AUDIT,
    maps::{self, SetLines, SetTablesV4, SetTablesV6},
};

/// The images for IPv4 addresses; one that is not there has no lines.
struct ImageV4 {
    tables: Option<&'static SetTablesV4>,
    place: u32,
}

/// The same for IPv6 addresses.
struct ImageV6 {
    tables: Option<&'static SetTablesV6>,
    place: u32,
}

/// The image that says which sets are asked.
struct ImageScope(Option<&'static SetLines>);

impl ImageV4 {
    #[inline(always)]
    fn of(place: u32) -> Self {
        Self { tables: maps::SET_TABLES_V4.get(place), place }
    }
}

impl ImageV6 {
    #[inline(always)]
    fn of(place: u32) -> Self {
        Self { tables: maps::SET_TABLES_V6.get(place), place }
    }
}

/// Where the images are that this run looks at, from beginning to end: a leaf of one load says nothing in the images of another.
#[inline(always)]
fn place(slot: u32) -> u32 {
    let buffer = match maps::SET_BUFFER.get_ptr(slot) {
        // SAFETY: a live map value; volatile because the agent writes it.
        Some(buffer) => (unsafe { buffer.read_volatile() }) & 1,
        None => 0,
    };
    slot * SET_BUFFERS + buffer
}

/// What an image has beside tables of fixed size.
#[inline(always)]
fn rest(place: u32, which: u32) -> Option<&'static SetLines> {
    maps::SETS.get(place * SET_IMAGES + which)
}

impl Lines for ImageV4 {
    type Line = Line;

    #[inline(always)]
    fn line(&self, index: u32) -> Option<&Line> {
        rest(self.place, SET_V4)?.get(index.wrapping_sub(v4::HEAP))
    }

    #[inline(always)]
    fn table(&self, index: u32) -> Option<&Line> {
        self.tables?.get(index)
    }
}

impl Lines for ImageV6 {
    type Line = Line;

    #[inline(always)]
    fn line(&self, index: u32) -> Option<&Line> {
        rest(self.place, SET_V6)?.get(index.wrapping_sub(v6::HEAP))
    }

    #[inline(always)]
    fn table(&self, index: u32) -> Option<&Line> {
        self.tables?.get(index)
    }
}

impl Lines for ImageScope {
    type Line = Line;

    #[inline(always)]
    fn line(&self, index: u32) -> Option<&Line> {
        self.0?.get(index)
    }

    #[inline(always)]
    fn table(&self, index: u32) -> Option<&Line> {
        self.line(index)
    }
}

/// What the sets say of a packet: 0 if they let it pass, else the reason in the low byte and the rule in the high half, as the
/// limiter's answers.
#[inline(always)]
pub fn refused(slot: u32, flags: u64, packet: &Packet) -> u64 {
    let place = place(slot);
    let leaf = match packet.src.as_v4() {
        Some(addr) => v4::find(&ImageV4::of(place), u32::from_be_bytes(addr)),
        None => {
            let (hi, lo) = packet.src.halves();
            if v6::is_near(&ImageV6::of(place), hi) { weir_find_v6(place, hi, lo) } else { 0 }
        }
    };
    if leaf == 0 && flags & FLAG_SETS_ALLOW == 0 {
        return 0;
    }
    weir_refused(place, leaf, packet)
}

/// The leaf of the longest prefix that holds an IPv6 address; 0 if none does.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn weir_find_v6(place: u32, hi: u64, lo: u64) -> u32 {
    let lengths = v6::lengths(&ImageV6::of(place), hi);
    v6::find(lengths, |length| weir_probe_v6(place, hi, lo, length))
}

/// The same for one length.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn weir_probe_v6(place: u32, hi: u64, lo: u64, length: u32) -> u32 {
    v6::probe(&ImageV6::of(place), hi, lo, length)
}

/// Asks which sets hold the packet's source and whether those that are asked let it pass; counts, where one does not.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn weir_refused(place: u32, leaf: u32, packet: *const Packet) -> u64 {
    if packet.is_null() {
        return 0;
    }
    // SAFETY: not null, and the verifier checks that every caller hands memory of this size.
    let packet = unsafe { &*packet };
    let held = match packet.src.as_v4() {
        Some(addr) => {
            let image = ImageV4::of(place);
            // What was found quickly may not say which set it was.
            held(&image, if leaf == 0 { 0 } else { v4::name(&image, u32::from_be_bytes(addr)) }, emit::now)
        }
        None => held(&ImageV6::of(place), leaf, emit::now),
    };
    let going =
        Going { protocol: packet.protocol, port: packet.dst_port.number(), any_port: packet.later_fragment != 0 };
    let answer = scope::judge(&ImageScope(rest(place, SET_SCOPE)), held, going);
    if answer != 0 {
        count((answer >> 8) as u8, packet.length);
    }
    // The set's number stands where a limit says that it only audits.
    answer & !(0xff00 | AUDIT)
}

#[inline(always)]
fn count(set: u8, bytes: u32) {
    let Some(count) = maps::SET_COUNTS.get_ptr_mut(u32::from(set)) else { return };
    let count = count.cast::<u64>();
    // SAFETY: a live map value of two words.
    unsafe {
        atomic::add(count, 1);
        atomic::add(count.add(1), u64::from(bytes));
    }
}
