//! Lives: weir-tests, the tables that documents make.
//! Called by: tests and benchmarks that load the kernel programs themselves.
//! May touch: nothing.
//! Never: compiles otherwise than the agent does.

use weir_common::verdict::Verdict;
use weir_policy::{Compiled, Context, Fault, Resources, Timestamp, compile, parse};

/// `generation` of `documents`, at the beginning of time, with what applies to `unknown` workloads. `tick_ns` is the kernel's tick
/// (`weir_agent::kernel::tick_ns`).
///
/// # Errors
/// The faults of the documents.
pub fn compiled(documents: &str, generation: u64, unknown: Verdict, tick_ns: u64) -> Result<Compiled, Vec<Fault>> {
    let mut resources = Resources::default();
    for resource in parse("test.yaml", documents)? {
        let _ = resources.insert(resource);
    }
    let context = Context {
        generation,
        unknown,
        unselected: Verdict::Allow,
        host_addresses: Vec::new(),
        tick_ns,
        now: Timestamp(0),
    };
    compile(&resources, &context)
}
