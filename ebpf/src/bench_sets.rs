//! Lives: kernel, for a measurement only; an object of its own, which the agent neither holds nor loads.
//! Called by: tests/tests/kernel_runs/bench_sets.rs, by `BPF_PROG_TEST_RUN`.
//! May touch: maps of its own.
//! Never: is attached anywhere.
//!
//! Each run looks up 64 addresses: in nothing, in the images of the address sets as XDP does it, and in the kernel's own trie.
#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, ArrayOfMaps, LpmTrie, lpm_trie::Key},
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use weir_common::{
    addr::Addr,
    maps::{SET_V4, SET_V6},
    sets::{Line, Lines, v4, v6},
};

type SetLines = Array<Line, 1, { 1 << 12 | 1 << 10 }>;

/// As in the real object.
#[btf_map]
static SETS: ArrayOfMaps<SetLines, 4> = ArrayOfMaps::new();
#[btf_map]
static TRIE: LpmTrie<Addr, u32, 2_000_000, { BPF_F_NO_PREALLOC as usize }> = LpmTrie::new();
/// What is looked up.
#[btf_map]
static ADDRS: Array<Addr, 65_536> = Array::new();
/// Where the next run begins, and how many were found so far.
#[btf_map]
static STATE: Array<[u64; 2], 1> = Array::new();

const EACH: u32 = 64;

struct Image(Option<&'static SetLines>);

impl Lines for Image {
    type Line = Line;

    #[inline(always)]
    fn line(&self, index: u32) -> Option<&Line> {
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
        Some(addr) => v4::find(&Image(SETS.get(SET_V4)), u32::from_be_bytes(addr)),
        None => 0,
    })
}

#[xdp]
fn sets_v6(_: XdpContext) -> u32 {
    run(|addr| {
        let (hi, lo) = addr.halves();
        bench_find_v6(hi, lo)
    })
}

#[xdp]
fn trie(_: XdpContext) -> u32 {
    run(|addr| TRIE.get(&Key::new(128, *addr)).copied().unwrap_or(0))
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn bench_find_v6(hi: u64, lo: u64) -> u32 {
    let lengths = v6::lengths(&Image(SETS.get(SET_V6)), hi);
    v6::find(lengths, |length| bench_probe_v6(hi, lo, length))
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn bench_probe_v6(hi: u64, lo: u64, length: u32) -> u32 {
    v6::probe(&Image(SETS.get(SET_V6)), hi, lo, length)
}

/// Licence string the kernel reads.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
