//! Lives: kernel, for measurements only; an object of its own, which the agent neither holds nor loads.
//! Called by: tests/tests/kernel_runs, bench_sets.rs and bench_events.rs, by `BPF_PROG_TEST_RUN`.
//! May touch: maps of its own.
//! Never: is attached anywhere.
//!
//! A run looks up 64 addresses: in nothing, in the images of the address sets as XDP does it, and in the kernel's own trie. Or it does
//! nothing, or sends one event of the agent's size, without a thought, or with the time.
#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, BPF_RB_NO_WAKEUP},
    btf_maps::{Array, ArrayOfMaps, LpmTrie, RingBuf, lpm_trie::Key},
    helpers::bpf_ktime_get_ns,
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use weir_common::{
    addr::Addr,
    maps::{RING_BYTES, SET_V4, SET_V6},
    sets::{Line, Lines, v4, v6},
};

/// As in the real object.
type SetLines = Array<Line, 1, { 1 << 12 | 1 << 10 }>;
type TablesV4 = Array<Line, { v4::HEAP as usize }, { 1 << 10 }>;
type TablesV6 = Array<Line, { v6::HEAP as usize }, { 1 << 10 }>;

#[btf_map]
static SETS: ArrayOfMaps<SetLines, 4> = ArrayOfMaps::new();
#[btf_map]
static SET_TABLES_V4: ArrayOfMaps<TablesV4, 4> = ArrayOfMaps::new();
#[btf_map]
static SET_TABLES_V6: ArrayOfMaps<TablesV6, 4> = ArrayOfMaps::new();
#[btf_map]
static TRIE: LpmTrie<Addr, u32, 2_000_000, { BPF_F_NO_PREALLOC as usize }> = LpmTrie::new();
/// What is looked up.
#[btf_map]
static ADDRS: Array<Addr, 65_536> = Array::new();
/// Where the next run begins, and how many were found so far.
#[btf_map]
static STATE: Array<[u64; 2], 1> = Array::new();

const EACH: u32 = 64;

struct ImageV4(Option<&'static TablesV4>);

impl Lines for ImageV4 {
    type Line = Line;

    #[inline(always)]
    fn line(&self, index: u32) -> Option<&Line> {
        SETS.get(SET_V4)?.get(index.wrapping_sub(v4::HEAP))
    }

    #[inline(always)]
    fn table(&self, index: u32) -> Option<&Line> {
        self.0?.get(index)
    }
}

struct ImageV6(Option<&'static TablesV6>);

impl Lines for ImageV6 {
    type Line = Line;

    #[inline(always)]
    fn line(&self, index: u32) -> Option<&Line> {
        SETS.get(SET_V6)?.get(index.wrapping_sub(v6::HEAP))
    }

    #[inline(always)]
    fn table(&self, index: u32) -> Option<&Line> {
        self.0?.get(index)
    }
}

#[inline(always)]
fn run(look: impl Fn(&Addr) -> u32) -> u32 {
    let Some(state) = STATE.get_ptr_mut(0) else { return 0 };
    // SAFETY: a live map value; one run at a time.
    let state = unsafe { &mut *state };
    let start = state[0] as u32;
    let mut found = 0;
    for index in 0..EACH {
        let Some(addr) = ADDRS.get(start.wrapping_add(index) & 0xffff) else { return 0 };
        found += u64::from(look(addr) != 0);
    }
    state[0] = u64::from(start.wrapping_add(EACH));
    state[1] += found;
    2
}

#[xdp]
fn empty(_: XdpContext) -> u32 {
    run(|addr| addr.words()[3])
}

#[xdp]
fn sets_v4(_: XdpContext) -> u32 {
    run(|addr| match addr.as_v4() {
        Some(addr) => v4::find(&ImageV4(SET_TABLES_V4.get(0)), u32::from_be_bytes(addr)),
        None => 0,
    })
}

#[xdp]
fn sets_v6(_: XdpContext) -> u32 {
    run(|addr| {
        let (hi, lo) = addr.halves();
        if v6::is_near(&ImageV6(SET_TABLES_V6.get(0)), hi) { bench_find_v6(hi, lo) } else { 0 }
    })
}

#[xdp]
fn trie(_: XdpContext) -> u32 {
    run(|addr| TRIE.get(&Key::new(128, *addr)).copied().unwrap_or(0))
}

/// An event, as far as the ring knows.
type Bytes = [u64; 16];

#[btf_map]
static RING: RingBuf<Bytes, { RING_BYTES as usize }> = RingBuf::new();

#[xdp]
fn nothing(_: XdpContext) -> u32 {
    2
}

#[xdp]
fn event(_: XdpContext) -> u32 {
    send([7; 16])
}

#[xdp]
fn event_with_time(_: XdpContext) -> u32 {
    let mut event = [7; 16];
    // SAFETY: helper without arguments.
    event[0] = unsafe { bpf_ktime_get_ns() };
    send(event)
}

#[inline(always)]
fn send(event: Bytes) -> u32 {
    let Some(mut entry) = RING.reserve(0) else { return 1 };
    entry.write(event);
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
    2
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn bench_find_v6(hi: u64, lo: u64) -> u32 {
    let lengths = v6::lengths(&ImageV6(SET_TABLES_V6.get(0)), hi);
    v6::find(lengths, |length| bench_probe_v6(hi, lo, length))
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn bench_probe_v6(hi: u64, lo: u64, length: u32) -> u32 {
    v6::probe(&ImageV6(SET_TABLES_V6.get(0)), hi, lo, length)
}

/// Licence string the kernel reads.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
