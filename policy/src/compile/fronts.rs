//! Lives: host.
//! Called by: `lead`, which finds what is behind the addresses of services and who must be told when that changes.
//! May touch: nothing.
//! Never: asks what is behind a service; the evaluator says so (`evaluate::backends`).
//!
//! A socket calls a service by the service's address, and the translation comes after. So each port of such an address stands for
//! what is behind it: in the table of addresses it leads to the identity and port that are judged instead (`Addr::of_call`).

use std::collections::{BTreeMap, BTreeSet};

use rpds::RedBlackTreeMapSync;
use weir_common::{
    addr::{Addr, Protocol},
    event::Endpoint,
};

use super::{compiled::ServiceNames, parts::Parts, terms::count};
use crate::{
    evaluate::{Called, End, backends},
    id::ResourceId,
    model::{Resources, Service, ServiceRef},
};

/// Every address that a service has.
#[derive(Clone, Debug)]
pub struct Fronts {
    fronts: BTreeMap<Addr, Front>,
    numbers: Parts<Addr>,
    watch: Watch,
    /// Addresses that must be known for the services' sake, and to how many they are.
    used: BTreeMap<Addr, usize>,
    /// The second word of their entries in the table of addresses.
    pub words: RedBlackTreeMapSync<Addr, u32>,
    /// The services, as "namespace/name".
    pub names: ServiceNames,
    /// Ports that lead to ends of several classes, by what stands for these.
    pub mixed: usize,
}

/// An address of a service.
#[derive(Clone, Debug)]
pub struct Front {
    /// Its number in the keys of its ports.
    pub number: u32,
    /// What is behind its ports.
    pub calls: BTreeMap<(Protocol, u16), Call>,
    service: ResourceId,
    watched: Watched,
}

/// One port of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// What is behind it, each at its port.
    pub ends: Vec<(End, u16)>,
    /// The identities they had when it was looked at.
    pub identities: BTreeSet<u32>,
    /// The identity and port it leads to.
    pub leads_to: Option<(u32, u16)>,
    /// Whether that identity is there for this only.
    pub mixed: bool,
}

/// Whose changes make a difference to a front.
#[derive(Clone, Debug, Default)]
struct Watched {
    addresses: BTreeSet<Addr>,
    pods: BTreeSet<ResourceId>,
    /// The namespace whose pods its labels select.
    namespace: Option<String>,
}

/// Fronts by whose change makes a difference to them.
#[derive(Clone, Debug, Default)]
struct Watch {
    services: BTreeMap<ResourceId, BTreeSet<Addr>>,
    addresses: BTreeMap<Addr, BTreeSet<Addr>>,
    pods: BTreeMap<ResourceId, BTreeSet<Addr>>,
    namespaces: BTreeMap<String, BTreeSet<Addr>>,
    identities: BTreeMap<u32, BTreeSet<Addr>>,
}

/// What looking at a front again led to.
#[derive(Debug, Default)]
pub struct Looked {
    /// Addresses that are known for its sake now, or no longer.
    pub addresses: BTreeSet<Addr>,
    /// Ports that are no more: their keys, and the identities that were there for them only.
    pub gone: Vec<(Addr, Option<u32>)>,
}

impl Fronts {
    pub fn new() -> Self {
        Self {
            fronts: BTreeMap::new(),
            numbers: Parts::from(0),
            watch: Watch::default(),
            used: BTreeMap::new(),
            words: RedBlackTreeMapSync::new_sync(),
            names: ServiceNames::new_sync(),
            mixed: 0,
        }
    }

    /// Whether a service has an address.
    pub fn is_empty(&self) -> bool {
        self.fronts.is_empty()
    }

    /// Whether an address must be known, whoever has it.
    pub fn uses(&self, address: &Addr) -> bool {
        self.used.contains_key(address)
    }

    /// A front.
    pub fn get_mut(&mut self, address: &Addr) -> Option<&mut Front> {
        self.fronts.get_mut(address)
    }

    /// A front.
    pub fn get(&self, address: &Addr) -> Option<&Front> {
        self.fronts.get(address)
    }

    /// The fronts of a service, those it had and those it has.
    pub fn of_service(&self, resources: &Resources, name: &ServiceRef) -> BTreeSet<Addr> {
        let had = self.watch.services.get(&name.id()).into_iter().flatten();
        let has = resources.service(&name.id()).map(|service| service.addresses.as_slice()).unwrap_or_default();
        had.chain(has).copied().collect()
    }

    /// The fronts that a pod may be behind.
    pub fn of_pod<'f>(&'f self, id: &ResourceId) -> impl Iterator<Item = &'f Addr> + use<'f> {
        let named = self.watch.pods.get(id).into_iter().flatten();
        named.chain(self.watch.namespaces.get(&id.namespace).into_iter().flatten())
    }

    /// The fronts that something with this address is behind.
    pub fn of_address(&self, address: &Addr) -> impl Iterator<Item = &Addr> {
        self.watch.addresses.get(address).into_iter().flatten()
    }

    /// The fronts that something of this identity is behind.
    pub fn of_identity(&self, identity: u32) -> impl Iterator<Item = &Addr> {
        self.watch.identities.get(&identity).into_iter().flatten()
    }

    /// Looks again whose an address is, and what is behind it.
    pub fn look(&mut self, resources: &Resources, address: Addr) -> Looked {
        let old = self.fronts.remove(&address);
        let found = resources.service_at(&address).and_then(|id| Some((id, resources.service(id)?)));
        let mut looked = Looked::default();
        let mut new = found.map(|(id, service)| {
            let number = old.as_ref().map_or_else(|| self.numbers.hold(address).0, |old| old.number);
            let calls = calls(resources, id, service, address);
            let watched = watched(resources, id, service, &calls);
            Front { number, calls, service: id.clone(), watched }
        });
        let use_of = |front: &Option<Front>| {
            front.iter().flat_map(Front::uses).chain(front.is_some().then_some(address)).collect()
        };
        let (had, has): (BTreeSet<Addr>, BTreeSet<Addr>) = (use_of(&old), use_of(&new));
        if let Some(old) = old {
            self.watch.change(address, &old, false);
            if new.is_none() {
                self.numbers.release(old.number);
                self.words.remove_mut(&address);
                self.names.remove_mut(&address);
            }
            carry_over(old, new.as_mut(), &mut looked);
        }
        for (addresses, more) in [(&has, true), (&had, false)] {
            for used in addresses {
                if count(&mut self.used, *used, more) {
                    looked.addresses.insert(*used);
                }
            }
        }
        if let Some(new) = new {
            self.watch.change(address, &new, true);
            self.words.insert_mut(address, Endpoint::service(new.number));
            let name = format!("{}/{}", new.service.namespace, new.service.name);
            if self.names.get(&address).is_none_or(|known| **known != *name) {
                self.names.insert_mut(address, name.into());
            }
            self.fronts.insert(address, new);
        }
        looked
    }

    /// Remembers which identities are behind a front.
    pub fn remember(&mut self, address: Addr, old: &BTreeSet<u32>, new: &BTreeSet<u32>) {
        for identity in old.difference(new) {
            leave(&mut self.watch.identities, identity, address);
        }
        for identity in new.difference(old) {
            self.watch.identities.entry(*identity).or_default().insert(address);
        }
    }
}

/// What ports lead to stays until it is looked at again; ports that are no more are given up.
fn carry_over(old: Front, mut new: Option<&mut Front>, looked: &mut Looked) {
    for ((protocol, port), call) in old.calls {
        match new.as_mut().and_then(|new| new.calls.get_mut(&(protocol, port))) {
            Some(same) => *same = Call { ends: std::mem::take(&mut same.ends), ..call },
            None => {
                let identity = call.leads_to.map(|(identity, _)| identity).filter(|_| call.mixed);
                looked.gone.push((Addr::of_call(old.number, protocol, port), identity));
            }
        }
    }
}

impl Front {
    /// The identities behind any of its ports.
    pub fn identities(&self) -> BTreeSet<u32> {
        self.calls.values().flat_map(|call| &call.identities).copied().collect()
    }

    /// The addresses by which its ends are known.
    fn uses(&self) -> impl Iterator<Item = Addr> {
        let ends = self.calls.values().flat_map(|call| &call.ends);
        ends.filter_map(|(end, _)| match end {
            End::Address(address) => Some(*address),
            End::Workload(_) => None,
        })
    }
}

impl Watch {
    fn change(&mut self, address: Addr, front: &Front, more: bool) {
        let Watched { addresses, pods, namespace } = &front.watched;
        keep(&mut self.services, [&front.service], address, more);
        keep(&mut self.addresses, addresses, address, more);
        keep(&mut self.pods, pods, address, more);
        keep(&mut self.namespaces, namespace, address, more);
        keep(&mut self.identities, &front.identities(), address, more);
    }
}

fn keep<'k, K: Ord + Clone + 'k>(
    all: &mut BTreeMap<K, BTreeSet<Addr>>,
    keys: impl IntoIterator<Item = &'k K>,
    front: Addr,
    more: bool,
) {
    for key in keys {
        if more {
            all.entry(key.clone()).or_default().insert(front);
        } else {
            leave(all, key, front);
        }
    }
}

fn leave<K: Ord>(all: &mut BTreeMap<K, BTreeSet<Addr>>, key: &K, front: Addr) {
    if let Some(fronts) = all.get_mut(key) {
        fronts.remove(&front);
        if fronts.is_empty() {
            all.remove(key);
        }
    }
}

/// What is behind each port. A port with nothing behind it is none: nobody translates it.
fn calls(resources: &Resources, id: &ResourceId, service: &Service, address: Addr) -> BTreeMap<(Protocol, u16), Call> {
    let v4 = Some(address.as_v4().is_some());
    let behind = |(protocol, port)| {
        let found = backends(resources, id, Called { protocol, port, v4 });
        found.into_iter().map(|backend| (backend.end, backend.port)).collect::<Vec<_>>()
    };
    let ports: BTreeSet<_> = service.ports.iter().map(|port| (port.protocol, port.port)).collect();
    let ports = ports.into_iter().map(|port| (port, Call { ends: behind(port), ..Call::default() }));
    ports.filter(|(_, call)| !call.ends.is_empty()).collect()
}

/// Whose changes make a difference: what slices list, what labels may select, and the ends that were found.
fn watched(
    resources: &Resources,
    id: &ResourceId,
    service: &Service,
    calls: &BTreeMap<(Protocol, u16), Call>,
) -> Watched {
    let name = ServiceRef { namespace: id.namespace.clone(), name: id.name.clone() };
    let mut watched = Watched::default();
    let mut by_slices = false;
    for slice in resources.slices_of(&name) {
        by_slices = true;
        for endpoint in &slice.endpoints {
            watched.addresses.extend(&endpoint.addresses);
            watched.pods.extend(endpoint.pod.iter().cloned());
        }
    }
    for (end, _) in calls.values().flat_map(|call| &call.ends) {
        match end {
            End::Address(address) => drop(watched.addresses.insert(*address)),
            End::Workload(id) => drop(watched.pods.insert(id.clone())),
        }
    }
    watched.namespace = (!by_slices && service.selector.is_some()).then(|| id.namespace.clone());
    watched
}
