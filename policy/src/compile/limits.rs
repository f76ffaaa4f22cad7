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
    image::{LIMIT_AUDITS, LIMIT_COARSE_CLOCK, LimitEntry, LimitRates, Section},
    maps::MAX_LIMITS,
};

use super::{compiled::LimitInfo, faults::Problems, port_rows::PortRows, rules::Rules, words::Words};
use crate::{
    Context,
    evaluate::{Member, PeerEnd, port_matches},
    id::ResourceId,
    model::{Mode, PortMatch, Prefix, Rate, RateLimit, Rates, Resource, Selector, Spec},
};

/// Every rate limit with its number.
#[derive(Clone, Debug)]
pub struct Limits {
    list: Vec<Arc<Resource>>,
    /// A limit keeps its number, under which the kernel counts what it did.
    pub numbers: BTreeMap<ResourceId, u16>,
    last: u16,
    /// What each number stands for; the first is none.
    pub infos: Arc<Vec<LimitInfo>>,
    /// Lists of interfaces that limits name.
    pub interfaces: Arc<Vec<BTreeSet<String>>>,
    /// Lists of labels that limits count clients by.
    keys: Vec<BTreeSet<String>>,
    /// Terms that stand for the addresses they name.
    pub held: Vec<u32>,
    /// Service class by the limits that select a destination.
    known: BTreeMap<Vec<usize>, u16>,
    /// How many classes have their row.
    written: usize,
    /// The entries by number.
    pub entries: Words,
    /// By service class and atom: up to four limit numbers.
    pub services: Words,
    /// By identity and client key: who it is to limits.
    pub clients: Words,
}

/// What limits look at, of ends.
#[derive(Clone, Debug, Default)]
pub struct LooksAt {
    pub selectors: Vec<Selector>,
    pub labels: Vec<String>,
    pub addresses: BTreeSet<Prefix>,
}

/// Limits that one packet can be charged against.
const LIMITS_PER_PACKET: usize = 4;
/// Lists of interfaces, which a word has bits for, and of labels.
const LISTS: usize = 32;

impl Limits {
    pub fn new() -> Self {
        let mut limits = Self {
            list: Vec::new(),
            numbers: BTreeMap::new(),
            last: 0,
            infos: Arc::default(),
            interfaces: Arc::default(),
            keys: Vec::new(),
            held: Vec::new(),
            known: BTreeMap::new(),
            written: 0,
            entries: Words::of(Section::Limits),
            services: Words::of(Section::Services),
            clients: Words::of(Section::Clients),
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
        self.list = list;
        self.number(problems);
        self.keys = lists(self.each().map(|(_, limit)| &limit.client.labels));
        let interfaces = lists(self.each().map(|(_, limit)| &limit.interfaces));
        for (what, lists) in [("interfaces", interfaces.len()), ("client.workloadLabels", self.keys.len())] {
            if lists > LISTS {
                let problem =
                    format!("rate limits have {lists} different lists of {what}; the tables have room for {LISTS}");
                problems.of_all(problem, "use the same list in several of them");
            }
        }
        let mut infos = vec![LimitInfo::default(); usize::from(self.numbers.values().max().copied().unwrap_or(0)) + 1];
        for resource in &self.list {
            let (Spec::RateLimit(limit), Some(number)) = (resource.spec(), self.numbers.get(resource.id())) else {
                continue;
            };
            let both = ["limit", "aggregate"];
            let named = if limit.aggregate.is_some() { both.as_slice() } else { &both[..1] };
            let rule = rules.put_several(resource.id(), named);
            let key = place(&self.keys, &limit.client.labels).map_or(0, |place| place + 1);
            let lists =
                place(&interfaces, &limit.interfaces).map_or(0, |place| 1u32.checked_shl(place.into()).unwrap_or(0));
            let entry =
                LimitEntry { rule, client_key: key, interfaces: lists, ..entry(resource.id(), limit, context.tick_ns) };
            self.entries.set_wide((*number).into(), entry.to_words());
            if let Some(info) = infos.get_mut(usize::from(*number)) {
                *info = LimitInfo { policy: resource.id().to_string(), rule };
            }
        }
        (self.infos, self.interfaces) = (Arc::new(infos), Arc::new(interfaces));
        ports.count(&self.ports(), true);
    }

    /// Whether there are any.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether some hold for every destination.
    pub fn hold_for_all(&self) -> bool {
        self.each().any(|(_, limit)| !selects_some(limit))
    }

    /// How many lists of labels clients are counted by.
    pub fn client_keys(&self) -> usize {
        self.keys.len()
    }

    /// Whether limits name addresses.
    pub fn names_addresses(&self) -> bool {
        !self.held.is_empty()
    }

    /// What they look at.
    pub fn looks_at(&self) -> LooksAt {
        LooksAt {
            selectors: self.each().filter_map(|(_, limit)| limit.workload_selector.clone()).collect(),
            labels: self.each().flat_map(|(_, limit)| limit.client.labels.clone()).collect(),
            addresses: self.each().flat_map(|(_, limit)| limit.addresses.clone()).collect(),
        }
    }

    /// The service class of an end, or of anything else.
    pub fn class(&mut self, end: Option<PeerEnd<'_>>) -> u16 {
        let selecting = end.map(|end| self.selecting(&end)).unwrap_or_default();
        // No more classes than identities, which 16 bits number.
        let next = u16::try_from(self.known.len()).unwrap_or(u16::MAX);
        *self.known.entry(selecting).or_insert(next)
    }

    /// Writes whom limits by workload charge for an identity.
    pub fn write_clients(&mut self, identity: u32, member: Option<Member<'_>>) {
        for (place, key) in (identity as usize * self.keys.len()..).zip(&self.keys) {
            self.clients.set(place, member.map_or(0, |member| client(key, &member)));
        }
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
        self.clients.truncate(0);
        self.entries.set_wide(0, LimitEntry::default().to_words());
    }

    /// Numbers the limits that are new. Numbers go round, so that one given back rests for as long as possible.
    fn number(&mut self, problems: &mut Problems) {
        if self.list.len() >= MAX_LIMITS as usize {
            let problem =
                format!("{} rate limits; the kernel's tables have room for {}", self.list.len(), MAX_LIMITS - 1);
            problems.of_all(problem, "join limits that have the same numbers by a wider selector");
            self.list.truncate(MAX_LIMITS as usize - 1);
        }
        let here: BTreeSet<&ResourceId> = self.list.iter().map(|resource| resource.id()).collect();
        self.numbers.retain(|id, _| here.contains(id));
        let mut taken: BTreeSet<u16> = self.numbers.values().copied().collect();
        for resource in &self.list {
            if self.numbers.contains_key(resource.id()) {
                continue;
            }
            let mut number = self.last;
            loop {
                number = number % (MAX_LIMITS as u16 - 1) + 1;
                // There are fewer limits than numbers.
                if taken.insert(number) {
                    break;
                }
            }
            self.last = number;
            self.numbers.insert(resource.id().clone(), number);
        }
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

    /// The limits that select an end by its labels or address.
    fn selecting(&self, end: &PeerEnd<'_>) -> Vec<usize> {
        let selects = |(resource, limit): &(&Resource, &RateLimit)| {
            let by_labels = limit.workload_selector.as_ref().is_none_or(|selector| {
                let own = |member: &Member<'_>| resource.id().namespace == member.namespace;
                end.member.is_some_and(|member| own(&member) && selector.matches(member.labels))
            });
            let holds = |prefix: &Prefix| end.address.is_some_and(|address| prefix.contains(&address));
            selects_some(limit) && by_labels && (limit.addresses.is_empty() || limit.addresses.iter().any(holds))
        };
        self.each().enumerate().filter(|(_, limit)| selects(limit)).map(|(index, _)| index).collect()
    }

    /// The limits of one service class, by atom. More than fit on an atom are noted under the last of them.
    fn row(&self, class: &[usize], ports: &PortRows, crowded: &mut BTreeMap<usize, String>) -> Vec<u64> {
        let mut row = Vec::new();
        for (protocol, port) in &ports.atoms().stands_for {
            let applies = |(index, (_, limit)): &(usize, (&Resource, &RateLimit))| {
                (!selects_some(limit) || class.contains(index))
                    && (limit.ports.is_empty() || limit.ports.iter().any(|entry| port_matches(entry, *protocol, *port)))
            };
            let applying: Vec<_> = self.each().enumerate().filter(applies).collect();
            if let (true, Some((last, _))) = (applying.len() > LIMITS_PER_PACKET, applying.last()) {
                let names: Vec<_> = applying.iter().map(|(_, (resource, _))| resource.id().to_string()).collect();
                crowded.entry(*last).or_insert_with(|| names.join(", "));
            }
            let numbers = applying.iter().filter_map(|(_, (resource, _))| self.numbers.get(resource.id()));
            let slots = numbers.take(LIMITS_PER_PACKET).enumerate();
            row.push(slots.fold(0, |word, (slot, number)| word | u64::from(*number) << (16 * slot)));
        }
        row
    }
}

/// Whether it is not about every destination.
fn selects_some(limit: &RateLimit) -> bool {
    limit.workload_selector.is_some() || !limit.addresses.is_empty()
}

/// The different lists that are not empty.
fn lists<'l>(all: impl Iterator<Item = &'l BTreeSet<String>>) -> Vec<BTreeSet<String>> {
    let lists: BTreeSet<_> = all.filter(|list| !list.is_empty()).collect();
    lists.into_iter().cloned().collect()
}

fn place(lists: &[BTreeSet<String>], list: &BTreeSet<String>) -> Option<u8> {
    let place = lists.iter().position(|known| known == list)?;
    u8::try_from(place).ok()
}

/// Names a client by its namespace and the values of these labels; 0 for a workload that lacks one of them.
fn client(labels: &BTreeSet<String>, member: &Member<'_>) -> u64 {
    let mut name = member.namespace.to_owned();
    for key in labels {
        let Some(value) = member.labels.get(key) else { return 0 };
        name.extend(["\0", key, "=", value]);
    }
    fnv1a_64(name.as_bytes()).max(1)
}

fn entry(id: &ResourceId, limit: &RateLimit, tick_ns: u64) -> LimitEntry {
    let (client, aggregate) = (kernel(&limit.rates), kernel(&limit.aggregate.unwrap_or_default()));
    let every = [client, aggregate].map(|rates| [rates.packets, rates.bytes, rates.connections]);
    let coarse = tick_ns > 0 && every.iter().flatten().flatten().all(|limit| coarse_enough(limit, tick_ns));
    let audits = if limit.mode == Mode::Audit { LIMIT_AUDITS } else { 0 };
    LimitEntry {
        client,
        aggregate,
        prefix_v4: limit.client.prefix_v4,
        prefix_v6: limit.client.prefix_v6,
        flags: audits | if coarse { LIMIT_COARSE_CLOCK } else { 0 },
        state: fnv1a(id.to_string().as_bytes()),
        ..LimitEntry::default()
    }
}

fn kernel(rates: &Rates) -> LimitRates {
    let kernel = |rate: Option<Rate>| rate.map(|rate| Limit::new(rate.per_second, rate.burst));
    LimitRates { packets: kernel(rates.packets), bytes: kernel(rates.bytes), connections: kernel(rates.connections) }
}

/// Whether honest clients lose nothing when time moves in ticks: the burst must bridge the two ticks that jiffies may lag.
const fn coarse_enough(limit: &Limit, tick_ns: u64) -> bool {
    limit.tolerance_ns >= tick_ns.saturating_mul(2)
}

/// FNV-1a, 32 bits (RFC 9923).
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// The same with 64 bits.
fn fnv1a_64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!([fnv1a(b""), fnv1a(b"a"), fnv1a(b"foobar")], [0x811c_9dc5, 0xe40c_292c, 0xbf9c_f968]);
        let wide = [0xcbf2_9ce4_8422_2325, 0xaf63_dc4c_8601_ec8c, 0x8594_4171_f739_67e8];
        assert_eq!([fnv1a_64(b""), fnv1a_64(b"a"), fnv1a_64(b"foobar")], wide);
    }
}
