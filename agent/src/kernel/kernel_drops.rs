//! Lives: agent, user space.
//! Called by: `Kernel::load`, once, before the agent is sealed; `Kernel`, for what the program has missed; `preflight`.
//! May touch: one program and the tracepoint `skb:kfree_skb`.
//! Never: keeps an agent from starting: what the kernel itself drops is watched where it lets us.

use std::{collections::BTreeMap, sync::Arc};

use aya::Ebpf;

use super::{places::Drops, tracepoints};

/// The program's name in the object.
pub(super) const PROGRAM: &str = "kernel_drop";
/// What it is attached to.
const TRACEPOINT: &str = "kfree_skb";

/// Why the kernel drops packets, by its own numbers; empty where that is not watched.
pub type DropReasons = BTreeMap<u32, Arc<str>>;

/// Watches what the kernel drops. `drops`: what the kernel says of that, as the programs were opened with.
pub(super) fn watch(ebpf: &mut Ebpf, drops: Option<Drops>) -> DropReasons {
    let Some(drops) = drops else {
        tracing::info!("this kernel does not tell what it drops and why: its own drops are in no record");
        return DropReasons::new();
    };
    match tracepoints::attach(ebpf, PROGRAM, TRACEPOINT) {
        Ok(()) => drops.reasons.into_iter().map(|(number, name)| (number, Arc::from(name))).collect(),
        Err(reason) => {
            tracing::info!(
                reason,
                "what this kernel drops by itself cannot be watched: its own drops are in no record"
            );
            DropReasons::new()
        }
    }
}
