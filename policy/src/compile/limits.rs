//! Lives: host.
//! Called by: `compile`.
//! May touch: nothing.
//! Never: changes the number that names a limit's state while its id stays; clients keep their history over edits.

use std::collections::BTreeMap;

use weir_common::{gcra::Limit, image::LimitEntry, maps::MAX_LIMITS};

use super::{atoms::Atoms, compiled::LimitInfo, faults::Problems, identities::Identities, rules::Numbering};
use crate::{
    Context,
    evaluate::port_matches,
    id::ResourceId,
    model::{Mode, PortMatch, Rate, RateLimit, Resource, Resources, Spec},
};

/// Every rate limit with its number.
pub struct Limits<'a> {
    list: Vec<(&'a Resource, &'a RateLimit)>,
    /// Entry by number; the first is none.
    pub entries: Vec<LimitEntry>,
    /// What each number stands for; the first is none.
    pub infos: Vec<LimitInfo>,
}

/// Which limits apply where.
pub struct Services {
    /// Service class of each identity, in the order of the list of identities.
    pub of_identity: Vec<u16>,
    /// By service class and atom: up to four limit numbers.
    pub words: Vec<u64>,
}

/// Limits that one packet can be charged against.
const LIMITS_PER_PACKET: usize = 4;

impl<'a> Limits<'a> {
    pub fn of(resources: &'a Resources, context: &Context, numbering: &Numbering, problems: &mut Problems) -> Self {
        let mut limits =
            Self { list: Vec::new(), entries: vec![LimitEntry::default()], infos: vec![LimitInfo::default()] };
        for resource in resources.iter() {
            let Spec::RateLimit(limit) = resource.spec() else { continue };
            let rule = numbering.single(resource.id());
            limits.entries.push(entry(resource.id(), limit, rule, context.tick_ns));
            limits.infos.push(LimitInfo { policy: resource.id().to_string(), rule });
            limits.list.push((resource, limit));
        }
        if limits.entries.len() > MAX_LIMITS as usize {
            let problem =
                format!("{} rate limits; the kernel's tables have room for {}", limits.list.len(), MAX_LIMITS - 1);
            problems.of_all(problem, "join limits that have the same numbers by a wider selector");
        }
        limits
    }

    /// The port entries they name.
    pub fn ports(&self) -> impl Iterator<Item = &'a PortMatch> {
        self.list.iter().flat_map(|(_, limit)| &limit.ports)
    }

    /// Sorts identities into service classes, and finds the limits for each class and atom.
    pub fn services(&self, identities: &Identities, atoms: &Atoms, problems: &mut Problems) -> Services {
        let mut known = BTreeMap::from([(Vec::new(), 0)]);
        let mut classes: Vec<Vec<usize>> = vec![Vec::new()];
        let mut services = Services { of_identity: Vec::new(), words: Vec::new() };
        for identity in &identities.list {
            let selecting: Vec<usize> = match identity.subject() {
                Some(subject) => self.selecting(subject.member()),
                None => Vec::new(),
            };
            let class = *known.entry(selecting).or_insert_with_key(|selecting| {
                classes.push(selecting.clone());
                // No more classes than identities, which 16 bits number.
                u16::try_from(classes.len() - 1).unwrap_or(u16::MAX)
            });
            services.of_identity.push(class);
        }
        if !self.list.is_empty() {
            let mut crowded = BTreeMap::new();
            services.words = classes.iter().flat_map(|class| self.row(class, atoms, &mut crowded)).collect();
            for (index, names) in crowded {
                let Some((resource, _)) = self.list.get(index) else { continue };
                let problem =
                    format!("with it, one packet is subject to more than {LIMITS_PER_PACKET} rate limits: {names}");
                problems.of(resource, "spec", "", problem, "narrow the selectors or ports of one of them");
            }
        }
        services
    }

    /// The limits that select a workload by its labels.
    fn selecting(&self, member: crate::evaluate::Member<'_>) -> Vec<usize> {
        let selects = |(resource, limit): &(&Resource, &RateLimit)| {
            let selector = limit.workload_selector.as_ref();
            resource.id().namespace == member.namespace
                && selector.is_some_and(|selector| selector.matches(member.labels))
        };
        self.list.iter().enumerate().filter(|(_, limit)| selects(limit)).map(|(index, _)| index).collect()
    }

    /// The limits of one service class, by atom. More than fit on an atom are noted under the last of them.
    fn row(&self, class: &[usize], atoms: &Atoms, crowded: &mut BTreeMap<usize, String>) -> Vec<u64> {
        let mut row = Vec::new();
        for (protocol, port) in &atoms.stands_for {
            let applies = |(index, (_, limit)): &(usize, &(&Resource, &RateLimit))| {
                let workload = limit.workload_selector.is_none() || class.contains(index);
                workload
                    && (limit.ports.is_empty() || limit.ports.iter().any(|entry| port_matches(entry, *protocol, *port)))
            };
            let applying: Vec<_> = self.list.iter().enumerate().filter(applies).collect();
            if let (true, Some((last, _))) = (applying.len() > LIMITS_PER_PACKET, applying.last()) {
                let names: Vec<_> = applying.iter().map(|(_, (resource, _))| resource.id().to_string()).collect();
                crowded.entry(*last).or_insert_with(|| names.join(", "));
            }
            let numbers = applying.iter().take(LIMITS_PER_PACKET).enumerate();
            row.push(numbers.fold(0, |word, (slot, (index, _))| word | (*index as u64 + 1) << (16 * slot)));
        }
        row
    }
}

fn entry(id: &ResourceId, limit: &RateLimit, rule: u32, tick_ns: u64) -> LimitEntry {
    let kernel = |rate: Option<Rate>| rate.map(|rate| Limit::new(rate.per_second, rate.burst));
    let (packets, bytes, connections) = (kernel(limit.packets), kernel(limit.bytes), kernel(limit.connections));
    let coarse =
        tick_ns > 0 && [packets, bytes, connections].iter().flatten().all(|limit| coarse_enough(limit, tick_ns));
    LimitEntry {
        packets,
        bytes,
        connections,
        prefix_v4: limit.client.prefix_v4,
        prefix_v6: limit.client.prefix_v6,
        audit: u8::from(limit.mode == Mode::Audit),
        coarse_clock: u8::from(coarse),
        rule,
        state: fnv1a(id.to_string().as_bytes()),
    }
}

/// Whether honest clients lose nothing when time moves in ticks: the burst must bridge the two ticks that jiffies may lag.
const fn coarse_enough(limit: &Limit, tick_ns: u64) -> bool {
    limit.tolerance_ns >= tick_ns.saturating_mul(2)
}

/// FNV-1a, 32 bits (RFC 9923).
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!([fnv1a(b""), fnv1a(b"a"), fnv1a(b"foobar")], [0x811c_9dc5, 0xe40c_292c, 0xbf9c_f968]);
    }
}
