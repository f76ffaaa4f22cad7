//! Lives: weir-tests, in-kernel test runs: the loaded programs judge packets made here (`BPF_PROG_TEST_RUN`), row by row, and say
//! why in their counters and records.
//! Called by: cargo test; `cargo xtask test`.
//! May touch: a cgroup of the test's own, because the agent's loader wants one.
//! Never: a namespace or an interface.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's helpers fail by panicking, as its tests do"
)]

mod bench;
mod edge;
mod frames;
mod own;
mod slots;
mod sockets;

use weir_common::verdict::Verdict;

use crate::bench::Bench;

/// Instructions the verifier may look at for a program. It refuses a million; older kernels look at more of them for the same
/// program, so a program that grows past this needs another shape, not another number here.
const VERIFIER_BUDGET: u32 = 200_000;

#[test]
fn every_program_stays_within_its_verifier_budget() {
    let bench = Bench::new("budget", "", Verdict::Allow);
    let verified = bench.kernel.verified().unwrap_or_else(|error| panic!("{error}"));
    assert!(verified.len() >= 18, "a program says nothing: {verified:?}");
    for (program, instructions) in verified {
        println!("{program:18} {instructions:7}");
        assert!(instructions <= VERIFIER_BUDGET, "{program}: {instructions} of {VERIFIER_BUDGET}");
    }
}

#[test]
fn the_object_has_no_way_to_panic() {
    let object = weir_agent::kernel::object();
    let file = object::File::parse(object).unwrap();
    use object::{Object as _, ObjectSymbol as _};
    let panics: Vec<&str> =
        file.symbols().filter_map(|s| s.name().ok()).filter(|name| name.contains("panick")).collect();
    assert!(panics.is_empty(), "a kernel program can panic through {panics:?}");
}
