//! Lives: host.
//! Called by: `compiler`, when an address set has changed.
//! May touch: nothing.
//! Never: drops an entry; how the kernel's images are made of them is `sets`' to know.

use std::{collections::BTreeMap, sync::Arc};

use weir_common::sets::MAX_SETS;

use super::{compiled::CompiledSet, faults::Problems, rules::Rules};
use crate::{
    id::ResourceId,
    model::{AddressSet, PortMatch, Resource, SetAction, Spec},
    sets::{Entries, NEVER, PortScope},
};

/// The sets in order of name, each with its rule.
pub fn compiled(
    sets: &BTreeMap<ResourceId, Arc<Resource>>,
    rules: &mut Rules,
    problems: &mut Problems,
) -> Vec<CompiledSet> {
    if sets.len() > MAX_SETS as usize {
        let problem = format!("{} address sets; the kernel tells {MAX_SETS} apart", sets.len());
        problems.of_all(problem, "join sets that do the same");
    }
    let compiled = sets.iter().filter_map(|(id, resource)| {
        let Spec::AddressSet(set) = resource.spec() else { return None };
        let rule = rules.put_single(id, set.action.name());
        Some(compiled_set(id, set, rule))
    });
    compiled.collect()
}

fn compiled_set(id: &ResourceId, set: &AddressSet, rule: u32) -> CompiledSet {
    let entries: Entries = set.addresses.iter().map(|prefix| (*prefix, NEVER)).collect();
    CompiledSet {
        name: id.name.clone(),
        blocks: set.action == SetAction::Block,
        rule,
        ports: set.ports.iter().map(port_scope).collect(),
        entries: Arc::new(entries),
    }
}

fn port_scope(entry: &PortMatch) -> PortScope {
    let (first, last) = entry.ports.unwrap_or((0, u16::MAX));
    PortScope { protocol: entry.protocol, first, last }
}
