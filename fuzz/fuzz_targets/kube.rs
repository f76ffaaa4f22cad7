//! Lives: libFuzzer's program for the target `kube`.
//! Called by: `cargo xtask fuzz`, through cargo-fuzz.
//! May touch: the bytes libFuzzer makes.
//! Never: checks anything itself: what must hold of a document is in `fuzz/targets`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weir_fuzz_targets::kube(data));
