//! Lives: host.
//! Called by: `compile`.
//! May touch: nothing.
//! Never: gives one number to ends that some rule could tell apart, or two to ends that none can.

use std::collections::{BTreeMap, BTreeSet};

use weir_common::{
    addr::Addr,
    image::{FIRST_IDENTITY, MAX_IDENTITIES, reserved},
    maps::{MAX_CIDRS, MAX_ENDPOINTS},
};

use super::{
    compiled::CompiledWorkload,
    faults::Problems,
    prefixes::own_addresses,
    subjects::{Subject, Subjects},
};
use crate::{
    Context,
    evaluate::{NodeEnd, PeerEnd, block_holds, entity_of, entity_of_range, is_behind, loopback},
    model::{Entity, IpBlock, Labels, Peer, Prefix, Resource, Resources, ServiceRef},
};

/// What rules can tell about an end: who it is, and which blocks hold its address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    owner: Owner,
    blocks: Vec<usize>,
    services: Vec<ServiceRef>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    Entity(Entity),
    Node(Machine),
    Subject(Subject),
}

/// A machine of the cluster, which is also an entity.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Machine {
    name: String,
    labels: Labels,
    entity: Entity,
}

impl Machine {
    fn of(resources: &Resources, context: &Context, address: &Addr, name: &str) -> Self {
        let labels = resources.node_labels(name).cloned().unwrap_or_default();
        Self { name: name.to_owned(), labels, entity: entity_of(resources, context, address) }
    }
}

/// One identity, with an address that stands for all of its addresses.
pub struct Identity {
    owner: Owner,
    address: Option<Addr>,
    services: Vec<ServiceRef>,
    /// Its number.
    pub number: u32,
}

impl Identity {
    /// The identity as the evaluator sees the other end.
    pub fn end(&self) -> PeerEnd<'_> {
        let nobody = PeerEnd {
            member: None,
            address: self.address,
            entity: None,
            node: None,
            services: &self.services,
            itself: None,
        };
        match &self.owner {
            Owner::Subject(subject) => PeerEnd { member: Some(subject.member()), ..nobody },
            Owner::Entity(entity) => PeerEnd { entity: Some(*entity), ..nobody },
            Owner::Node(machine) => PeerEnd {
                entity: Some(machine.entity),
                node: Some(NodeEnd { name: &machine.name, labels: Some(&machine.labels) }),
                ..nobody
            },
        }
    }

    /// The workloads it is, if any.
    pub fn subject(&self) -> Option<&Subject> {
        match &self.owner {
            Owner::Subject(subject) => Some(subject),
            Owner::Entity(_) | Owner::Node(_) => None,
        }
    }
}

/// Every identity of the generation.
pub struct Identities {
    /// By number, the world first.
    pub list: Vec<Identity>,
    /// Number of each subject as the local side.
    pub local: BTreeMap<Subject, u32>,
    /// Identity by exact address.
    pub endpoints: BTreeMap<Addr, u32>,
    /// Identity by longest prefix.
    pub cidrs: Vec<(Prefix, u32)>,
    subjects: Vec<Subject>,
}

impl Identities {
    pub fn of(resources: &Resources, context: &Context, subjects: &Subjects<'_>, problems: &mut Problems) -> Self {
        let blocks = blocks(subjects);
        let held = |addr: &Addr| -> Vec<usize> {
            blocks.iter().enumerate().filter(|(_, block)| block_holds(block, addr)).map(|(index, _)| index).collect()
        };
        let services = services(subjects);
        let behind = |workload: Option<&Resource>, addr: Option<&Addr>| -> Vec<ServiceRef> {
            services
                .iter()
                .filter(|name| is_behind(resources, name, workload, addr))
                .map(|name| (*name).clone())
                .collect()
        };
        let mut keys: BTreeMap<Key, Option<Addr>> = BTreeMap::new();
        for entity in [Entity::World, Entity::Host] {
            keys.insert(Key { owner: Owner::Entity(entity), blocks: Vec::new(), services: Vec::new() }, None);
        }
        let by_workload: Vec<_> =
            resources.workloads().map(|(resource, workload)| subjects.subject(resources, resource, workload)).collect();
        let mut exact: BTreeMap<Addr, Key> = BTreeMap::new();
        for ((resource, workload), subject) in resources.workloads().zip(&by_workload) {
            let owner = Owner::Subject(subject.clone());
            keys.entry(Key { owner: owner.clone(), blocks: Vec::new(), services: Vec::new() }).or_insert(None);
            for addr in &workload.addresses {
                let services = behind(Some(resource), Some(addr));
                exact.insert(*addr, Key { owner: owner.clone(), blocks: held(addr), services });
            }
        }
        let listed = services.iter().flat_map(|name| resources.slices_of(name)).flat_map(|slice| &slice.endpoints);
        let listed: Vec<Addr> = listed.flat_map(|endpoint| endpoint.addresses.iter().copied()).collect();
        for (addr, name) in resources.node_addresses() {
            let owner = || Owner::Node(Machine::of(resources, context, &addr, name));
            let key = || Key { owner: owner(), blocks: held(&addr), services: behind(None, Some(&addr)) };
            exact.entry(addr).or_insert_with(key);
        }
        for addr in context.host_addresses.iter().chain(&listed) {
            let entity = entity_of(resources, context, addr);
            if entity == Entity::Host || listed.contains(addr) {
                let services = behind(None, Some(addr));
                exact.entry(*addr).or_insert_with(|| Key {
                    owner: Owner::Entity(entity),
                    blocks: held(addr),
                    services,
                });
            }
        }
        let split: Vec<_> = own_addresses(&boundaries(resources, &blocks))
            .into_iter()
            .map(|(prefix, addr)| {
                let owner = Owner::Entity(entity_of_range(resources, &addr));
                (prefix, addr, Key { owner, blocks: held(&addr), services: Vec::new() })
            })
            .collect();
        let addressed = exact.iter().chain(split.iter().map(|(_, addr, key)| (addr, key)));
        for (addr, key) in addressed {
            // In no block, an address tells rules nothing; leaving it out keeps workloads without one the same.
            keys.entry(key.clone()).or_insert_with(|| (!key.blocks.is_empty()).then_some(*addr));
        }
        Self::numbered(keys, exact, split, by_workload, problems)
    }

    fn numbered(
        keys: BTreeMap<Key, Option<Addr>>,
        exact: BTreeMap<Addr, Key>,
        split: Vec<(Prefix, Addr, Key)>,
        subjects: Vec<Subject>,
        problems: &mut Problems,
    ) -> Self {
        let mut numbers = BTreeMap::new();
        let mut list = Vec::new();
        let mut local = BTreeMap::new();
        let mut next = FIRST_IDENTITY;
        for (key, address) in keys {
            let number = match &key.owner {
                Owner::Entity(Entity::World) if key.blocks.is_empty() && key.services.is_empty() => reserved::WORLD,
                Owner::Entity(Entity::Host) if key.blocks.is_empty() && key.services.is_empty() => reserved::HOST,
                Owner::Entity(_) | Owner::Node(_) | Owner::Subject(_) => {
                    next += 1;
                    next - 1
                }
            };
            if let (Owner::Subject(subject), true) = (&key.owner, key.blocks.is_empty() && key.services.is_empty()) {
                local.insert(subject.clone(), number);
            }
            list.push(Identity { owner: key.owner.clone(), address, services: key.services.clone(), number });
            numbers.insert(key, number);
        }
        list.sort_by_key(|identity| identity.number);
        let number = |key: &Key| numbers.get(key).copied().unwrap_or(reserved::WORLD);
        let endpoints: BTreeMap<_, _> = exact.iter().map(|(addr, key)| (*addr, number(key))).collect();
        let cidrs = table(split.iter().map(|(prefix, _, key)| (*prefix, number(key))));
        let sizes = [
            ("identities", list.len(), (MAX_IDENTITIES - FIRST_IDENTITY) as usize),
            ("addresses", endpoints.len(), MAX_ENDPOINTS as usize),
            ("prefixes", cidrs.len(), MAX_CIDRS as usize),
        ];
        for (what, given, most) in sizes.into_iter().filter(|(_, given, most)| given > most) {
            let problem = format!("{given} {what}; the kernel's tables have room for {most}");
            problems.of_all(problem, "use fewer distinct labels and prefixes in policies, or fewer workloads");
        }
        Self { list, local, endpoints, cidrs, subjects }
    }

    /// Every workload with its identity.
    pub fn workloads(&self, resources: &Resources) -> Vec<CompiledWorkload> {
        let with_subject = resources.workloads().zip(&self.subjects);
        let compiled = with_subject.map(|((resource, workload), subject)| CompiledWorkload {
            id: resource.id().clone(),
            identity: self.local.get(subject).copied().unwrap_or(reserved::UNKNOWN),
            cgroup: workload.cgroup.clone(),
            addresses: workload.addresses.clone(),
            labels: resource.labels().clone(),
        });
        compiled.collect()
    }
}

/// The blocks that policies in force here name.
fn blocks<'a>(subjects: &Subjects<'a>) -> Vec<&'a IpBlock> {
    let policies = subjects.policies();
    let rules = policies.iter().flat_map(|bound| bound.policy.ingress.iter().chain(&bound.policy.egress));
    let blocks: BTreeSet<_> = rules
        .flat_map(|rule| &rule.peers)
        .filter_map(|peer| match peer {
            Peer::IpBlock { ip_block } => Some(ip_block),
            Peer::Workloads { .. }
            | Peer::Entity { .. }
            | Peer::Nodes { .. }
            | Peer::Service { .. }
            | Peer::Unknown => None,
        })
        .collect();
    blocks.into_iter().collect()
}

/// The services that policies in force here name, in order.
fn services<'a>(subjects: &Subjects<'a>) -> Vec<&'a ServiceRef> {
    let policies = subjects.policies();
    let rules = policies.iter().flat_map(|bound| bound.policy.ingress.iter().chain(&bound.policy.egress));
    let named = rules.flat_map(|rule| &rule.peers).filter_map(|peer| match peer {
        Peer::Service { service } => Some(service),
        Peer::Workloads { .. } | Peer::IpBlock { .. } | Peer::Entity { .. } | Peer::Nodes { .. } | Peer::Unknown => {
            None
        }
    });
    named.collect::<BTreeSet<_>>().into_iter().collect()
}

/// Every prefix at whose edge something changes.
fn boundaries(resources: &Resources, blocks: &[&IpBlock]) -> BTreeSet<Prefix> {
    let named = blocks.iter().flat_map(|block| block.except.iter().chain([&block.cidr])).copied();
    named.chain(loopback()).chain([Prefix::V4]).chain(resources.pod_ranges().copied()).collect()
}

/// The prefix table, less the entries that only repeat what the enclosing one says.
fn table(entries: impl Iterator<Item = (Prefix, u32)>) -> Vec<(Prefix, u32)> {
    let mut outer_first: Vec<_> = entries.collect();
    outer_first.sort_by_key(|(prefix, _)| (prefix.bits, prefix.addr));
    let mut table: BTreeMap<Prefix, u32> = BTreeMap::new();
    for (prefix, number) in outer_first {
        let enclosing = (0..prefix.bits).rev().find_map(|bits| table.get(&Prefix::new(prefix.addr, bits)).copied());
        if enclosing.unwrap_or(reserved::WORLD) != number {
            table.insert(prefix, number);
        }
    }
    table.into_iter().collect()
}
