//! Lives: host.
//! Called by: `compiler`, when a rate limit, the ports that are asked about, or a workload has changed.
//! May touch: nothing.
//! Never: changes the number that names a limit's state while its id stays; clients keep their history over edits.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use weir_common::{
    gcra::Limit,
    image::{LimitEntry, Section},
    maps::MAX_LIMITS,
};

use super::{compiled::LimitInfo, faults::Problems, port_rows::PortRows, rules::Rules, words::Words};
use crate::{
    Context,
    evaluate::{Member, port_matches},
    id::ResourceId,
    model::{Mode, PortMatch, Rate, RateLimit, Resource, Selector, Spec},
};

/// Every rate limit with its number.
#[derive(Clone, Debug)]
pub struct Limits {
    list: Vec<Arc<Resource>>,
    /// What each number stands for; the first is none.
    pub infos: Arc<Vec<LimitInfo>>,
    /// Service class by the limits that select a workload.
    known: BTreeMap<Vec<usize>, u16>,
    /// How many classes have their row.
    written: usize,
    /// The entries by number.
    pub entries: Words,
    /// By service class and atom: up to four limit numbers.
    pub services: Words,
}

/// Limits that one packet can be charged against.
const LIMITS_PER_PACKET: usize = 4;

impl Limits {
    pub fn new() -> Self {
        let mut limits = Self {
            list: Vec::new(),
            infos: Arc::default(),
            known: BTreeMap::new(),
            written: 0,
            entries: Words::of(Section::Limits),
            services: Words::of(Section::Services),
        };
        limits.clear();
        limits
    }

    /// Takes all limits in, in order of id, in place of those before. The ports they name change with them.
    pub fn replace(
        &mut self,
        list: Vec<Arc<Resource>>,
        context: &Context,
        rules: &mut Rules,
        ports: &mut PortRows,
        problems: &mut Problems,
    ) {
        ports.count(&self.ports(), false);
        for gone in self.list.iter().filter(|old| list.iter().all(|new| new.id() != old.id())) {
            rules.remove(gone.id());
        }
        self.clear();
        let mut infos = vec![LimitInfo::default()];
        for (number, resource) in (1..).zip(&list) {
            let Spec::RateLimit(limit) = resource.spec() else { continue };
            let rule = rules.put_single(resource.id(), "limit");
            self.entries.set_wide(number, entry(resource.id(), limit, rule, context.tick_ns).to_words());
            infos.push(LimitInfo { policy: resource.id().to_string(), rule });
        }
        if infos.len() > MAX_LIMITS as usize {
            let problem = format!("{} rate limits; the kernel's tables have room for {}", list.len(), MAX_LIMITS - 1);
            problems.of_all(problem, "join limits that have the same numbers by a wider selector");
        }
        (self.list, self.infos) = (list, Arc::new(infos));
        ports.count(&self.ports(), true);
    }

    /// Whether there are any.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether some hold for every destination.
    pub fn hold_for_all(&self) -> bool {
        self.each().any(|(_, limit)| limit.workload_selector.is_none())
    }

    /// The selectors they look at workloads with.
    pub fn selectors(&self) -> impl Iterator<Item = &Selector> {
        self.each().filter_map(|(_, limit)| limit.workload_selector.as_ref())
    }

    /// The service class of a workload, or of anything else.
    pub fn class(&mut self, workload: Option<Member<'_>>) -> u16 {
        let selecting = workload.map(|member| self.selecting(member)).unwrap_or_default();
        // No more classes than identities, which 16 bits number.
        let next = u16::try_from(self.known.len()).unwrap_or(u16::MAX);
        *self.known.entry(selecting).or_insert(next)
    }

    /// Writes the rows of classes that are new; of all, if the atoms are.
    pub fn write(&mut self, renewed: bool, ports: &PortRows, problems: &mut Problems) {
        if renewed {
            self.written = 0;
        }
        if self.list.is_empty() {
            return self.services.truncate(0);
        }
        let new: Vec<(u16, Vec<usize>)> = (self.known.iter())
            .filter(|(_, class)| usize::from(**class) >= self.written)
            .map(|(selecting, class)| (*class, selecting.clone()))
            .collect();
        let mut crowded = BTreeMap::new();
        for (class, selecting) in new {
            let row = self.row(&selecting, ports, &mut crowded);
            let start = usize::from(class) * ports.stride() as usize;
            (start..).zip(row).for_each(|(place, word)| self.services.set(place, word));
        }
        self.written = self.known.len();
        for (index, names) in crowded {
            let Some(resource) = self.list.get(index) else { continue };
            let problem =
                format!("with it, one packet is subject to more than {LIMITS_PER_PACKET} rate limits: {names}");
            problems.of(resource, "spec", "", problem, "narrow the selectors or ports of one of them");
        }
    }

    /// No limits; whoever no limit selects is of class 0.
    fn clear(&mut self) {
        self.known = BTreeMap::from([(Vec::new(), 0)]);
        self.written = 0;
        self.entries.truncate(0);
        self.services.truncate(0);
        self.entries.set_wide(0, LimitEntry::default().to_words());
    }

    fn each(&self) -> impl Iterator<Item = (&Resource, &RateLimit)> {
        self.list.iter().filter_map(|resource| {
            let Spec::RateLimit(limit) = resource.spec() else { return None };
            Some((resource.as_ref(), limit))
        })
    }

    /// The port entries they name.
    fn ports(&self) -> BTreeSet<PortMatch> {
        self.each().flat_map(|(_, limit)| &limit.ports).copied().collect()
    }

    /// The limits that select a workload by its labels.
    fn selecting(&self, member: Member<'_>) -> Vec<usize> {
        let selects = |(resource, limit): &(&Resource, &RateLimit)| {
            let selector = limit.workload_selector.as_ref();
            resource.id().namespace == member.namespace
                && selector.is_some_and(|selector| selector.matches(member.labels))
        };
        self.each().enumerate().filter(|(_, limit)| selects(limit)).map(|(index, _)| index).collect()
    }

    /// The limits of one service class, by atom. More than fit on an atom are noted under the last of them.
    fn row(&self, class: &[usize], ports: &PortRows, crowded: &mut BTreeMap<usize, String>) -> Vec<u64> {
        let mut row = Vec::new();
        for (protocol, port) in &ports.atoms().stands_for {
            let applies = |(index, (_, limit)): &(usize, (&Resource, &RateLimit))| {
                let workload = limit.workload_selector.is_none() || class.contains(index);
                workload
                    && (limit.ports.is_empty() || limit.ports.iter().any(|entry| port_matches(entry, *protocol, *port)))
            };
            let applying: Vec<_> = self.each().enumerate().filter(applies).collect();
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
