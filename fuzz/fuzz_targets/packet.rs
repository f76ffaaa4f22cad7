//! Lives: libFuzzer's program for the target `packet`.
//! Called by: `cargo xtask fuzz`, through cargo-fuzz.
//! May touch: the bytes libFuzzer makes.
//! Never: checks anything itself: what must hold of a frame is in `fuzz/targets`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weir_fuzz_targets::packet(data));
