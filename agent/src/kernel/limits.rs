//! Lives: agent, user space.
//! Called by: `content`, for what a generation's limits need of this node; `Kernel`, for what they have counted.
//! May touch: nothing.
//! Never: names aya; misses a workload that a limit is about: one too many only pays for looking.

use std::collections::{BTreeMap, BTreeSet};

use weir_common::{
    decide::Image,
    image::{ACTIVE_LIMITS, ACTIVE_METERED, FLAG_LIMITS},
};
use weir_policy::{Compiled, CompiledWorkload, ResourceId};

/// Local workloads whose open connections are charged: limits on packets or bytes are about them, by who they are or by address.
pub(super) fn metered(compiled: &Compiled, numbers: &BTreeMap<ResourceId, u32>) -> BTreeSet<u32> {
    let Some(image) = Image::open(compiled).filter(|image| image.flags() & FLAG_LIMITS != 0) else {
        return BTreeSet::new();
    };
    let mut known = BTreeMap::new();
    let mut meters = |identity: u32| {
        let class = image.identity(identity).service_class;
        *known.entry(class).or_insert_with(|| class_meters(&image, class))
    };
    // Whoever has no address of its own shares those of the host.
    let at_host = (compiled.endpoints.values().any(|identity| meters(*identity))) || meters(0);
    let mut of = |workload: &CompiledWorkload| {
        let theirs = workload.addresses.iter().filter_map(|address| compiled.endpoints.get(address));
        meters(workload.identity) || (workload.addresses.is_empty() && at_host) || theirs.copied().any(&mut meters)
    };
    let local = numbers.iter().filter_map(|(id, number)| Some((compiled.workloads.get(id)?, *number)));
    local.filter(|(workload, _)| of(workload)).map(|(_, number)| number).collect()
}

/// Whether a limit on packets or bytes that sockets enforce is about a service class, on some port.
fn class_meters(image: &Image<'_, Compiled>, class: u16) -> bool {
    (0..image.atoms()).any(|atom| {
        let numbers = image.limits_of(class, image.atoms(), atom);
        let numbers = [0, 16, 32, 48].map(|shift| (numbers >> shift) as u16);
        let limits = numbers.into_iter().filter(|number| *number != 0).filter_map(|number| image.limit(number));
        limits.into_iter().any(|limit| limit.interfaces == 0 && limit.meters())
    })
}

/// What the active word says for the limits' sake.
pub(super) fn marks(compiled: &Compiled, metered: &BTreeSet<u32>) -> u64 {
    let limits = Image::open(compiled).is_some_and(|image| image.flags() & FLAG_LIMITS != 0);
    let mark = |set, mark| if set { mark } else { 0 };
    mark(limits, ACTIVE_LIMITS) | mark(!metered.is_empty(), ACTIVE_METERED)
}

/// Most entries of the section: as many pages as a small policy has.
const MOST: usize = 1 << 16;

/// The lists of interfaces that each interface is on, by its index modulo the length of the section.
pub(super) fn interfaces(compiled: &Compiled, present: &BTreeMap<u32, String>) -> Vec<u64> {
    let lists = |name: &str| {
        let on = |list: &BTreeSet<String>| list.iter().any(|pattern| super::interfaces::matches(pattern, name));
        let bits = compiled.interface_lists.iter().zip(0..32).filter(|(list, _)| on(list));
        bits.fold(0u32, |bits, (_, bit)| bits | 1 << bit)
    };
    let listed = present.iter().map(|(index, name)| (*index, lists(name))).filter(|(_, lists)| *lists != 0);
    let listed: Vec<(u32, u32)> = listed.collect();
    if listed.is_empty() {
        return Vec::new();
    }
    let mut length = listed.len().next_power_of_two();
    // Indices are handed out one after another, so few share a place for long.
    while length < MOST && collide(&listed, length) {
        length *= 2;
    }
    let mut words = vec![0; length];
    for (index, lists) in listed {
        if let Some(word) = words.get_mut(index as usize & (length - 1)) {
            *word = u64::from(index) | u64::from(lists) << 32;
        }
    }
    words
}

fn collide(listed: &[(u32, u32)], length: usize) -> bool {
    let places: BTreeSet<usize> = listed.iter().map(|(index, _)| *index as usize & (length - 1)).collect();
    places.len() < listed.len()
}
