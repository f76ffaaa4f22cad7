//! Lives: libFuzzer's program for the target `proto`.
//! Called by: `cargo xtask fuzz`, through cargo-fuzz.
//! May touch: the bytes libFuzzer makes.
//! Never: checks anything itself: what must hold of a message is in `fuzz/targets`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weir_fuzz_targets::proto(data));
