//! Lives: weir-tests, in-kernel test runs: the loaded programs judge packets made here (`BPF_PROG_TEST_RUN`), row by row, and say
//! why in their counters and records.
//! Called by: cargo test; `cargo xtask test`.
//! May touch: a cgroup of the test's own, because the agent's loader wants one.
//! Never: a namespace or an interface, but for `syn`, whose answers take a listener to make.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's helpers fail by panicking, as its tests do"
)]

mod attacks_fragments;
mod attacks_headers;
mod attacks_limits;
mod attacks_policy;
mod attacks_sources;
mod bench;
mod bench_events;
mod bench_sets;
mod budget;
mod crowding;
mod differential;
mod edge;
mod frames;
mod generate;
mod grace;
mod limits;
mod own;
mod real;
mod reference;
mod sets;
mod slots;
mod sockets;
mod syn;

#[test]
fn the_object_has_no_way_to_panic() {
    let object = weir_agent::kernel::object();
    let file = object::File::parse(object).unwrap();
    use object::{Object as _, ObjectSymbol as _};
    let panics: Vec<&str> =
        file.symbols().filter_map(|s| s.name().ok()).filter(|name| name.contains("panick")).collect();
    assert!(panics.is_empty(), "a kernel program can panic through {panics:?}");
}
