//! Lives: host. One change: which identity addresses, workloads and pieces of the address space have.
//! Called by: `update`, last.
//! May touch: identities, endpoints, prefixes, and the descriptions of workloads.
//! Never: lets go of an identity before the one that follows it is held: a number that is still wanted stays.

use std::{collections::BTreeSet, sync::Arc};

use weir_common::addr::Addr;

use super::{
    compiled::CompiledWorkload,
    compiler::Compiler,
    identities::{Key, Owner},
    space::{OPEN, table},
    tables::UNSELECTED,
    update::Work,
    workloads::{Holder, Placed},
};
use crate::{
    evaluate::is_behind,
    model::{Entity, Resource, ServiceRef},
};

impl Compiler {
    /// Gives every address and workload that is concerned its identity.
    pub(super) fn identify(&mut self, work: &mut Work) {
        self.list_services(work);
        self.lead(work);
        let placed = work.placed.iter().chain(&work.moved.workloads).filter_map(|number| self.workloads.get(*number));
        let theirs = placed.filter_map(Placed::workload).flat_map(|workload| &workload.addresses).copied();
        let mut addresses: BTreeSet<Addr> = theirs.collect();
        addresses.extend(&work.moved.addresses);
        let mut owners = work.placed.clone();
        owners.extend(&work.moved.workloads);
        for address in addresses {
            self.address(&address, work);
            if let Some(holder) = self.workloads.addresses.get(&address) {
                owners.extend(holder.workloads());
            }
        }
        for gone in std::mem::take(&mut work.moved.gone) {
            self.identities.change(gone.identity, None);
            self.described.remove_mut(gone.resource.id());
        }
        for number in owners {
            self.own_identity(number, work);
        }
    }

    fn address(&mut self, address: &Addr, work: &mut Work) {
        let listed = self.listed.contains(address) || self.fronts.uses(address);
        let Some(holder) = self.workloads.addresses.get(address).filter(|holder| listed || !holder.is_idle()) else {
            let Some(holder) = self.workloads.addresses.remove(address) else { return };
            if let Some(region) = holder.region {
                self.space.regions.release(region);
            }
            if holder.identity.is_some() {
                self.identities.change(holder.identity, None);
                self.endpoints.remove_mut(address);
                work.touched.addresses += 1;
            }
            return;
        };
        let region = holder.region.unwrap_or_else(|| self.space.region(address));
        if holder.region.is_none() {
            self.space.regions.join(region);
        }
        let (key, old) = (self.key(address, holder, region), holder.identity);
        let identity = self.identities.change(old, Some(key));
        if let Some(holder) = self.workloads.addresses.get_mut(address) {
            (holder.region, holder.identity) = (Some(region), identity);
        }
        if let Some(number) = identity.filter(|_| identity != old) {
            self.endpoints.insert_mut(*address, number);
            work.identified.insert(*address);
            work.touched.addresses += 1;
        }
    }

    /// What rules can tell of an address in use.
    fn key(&self, address: &Addr, holder: &Holder, region: u32) -> Key {
        let by_range = self.space.entity(address);
        let placed = self.workloads.owner(holder);
        let owner = match (placed.and_then(owner_of), holder.machine()) {
            (Some(owner), _) => owner,
            (None, Some(name)) => {
                let host = if holder.host { Entity::Host } else { Entity::Node };
                let entity = if by_range == Entity::Loopback { by_range } else { host };
                Owner::Node { name: name.to_owned(), entity }
            }
            (None, None) if holder.host => Owner::Entity(Entity::Host),
            (None, None) => Owner::Entity(by_range),
        };
        let services = self.services_of(placed.map(|placed| placed.resource.as_ref()), Some(address));
        Key { owner, region, services }
    }

    /// The identity a workload has for itself: that of its first address, unless another has the address.
    fn own_identity(&mut self, number: u32, work: &mut Work) {
        let Some(placed) = self.workloads.get(number) else { return };
        let (Some(owner), Some(workload)) = (owner_of(placed), placed.workload()) else { return };
        let first = workload.addresses.first();
        let region = first.and_then(|address| self.workloads.addresses.get(address)?.region).unwrap_or(OPEN);
        let services = self.services_of(Some(&placed.resource), first);
        let old = placed.identity;
        let identity = self.identities.change(old, Some(Key { owner, region, services }));
        let Some(placed) = self.workloads.get_mut(number) else { return };
        placed.identity = identity;
        if identity != old {
            work.renamed.insert(placed.resource.id().clone());
        }
        let Some(compiled) = identity.and_then(|identity| compiled_workload(placed, identity)) else { return };
        if self.described.get(&compiled.id).is_none_or(|known| **known != compiled) {
            self.described.insert_mut(compiled.id.clone(), Arc::new(compiled));
        }
    }

    /// The services that an end is behind, of those that rules name.
    fn services_of(&self, workload: Option<&Resource>, address: Option<&Addr>) -> Vec<ServiceRef> {
        let named = self.terms.relevant.services.keys();
        named.filter(|name| is_behind(&self.resources, name, workload, address)).cloned().collect()
    }

    /// Finds whom it concerns when a service that rules name, or no longer do, leads elsewhere.
    fn list_services(&mut self, work: &mut Work) {
        let mut concerned = std::mem::take(&mut self.terms.relevant.changed_services);
        concerned.extend(work.services.iter().filter(|name| self.terms.relevant.services.contains_key(*name)).cloned());
        if concerned.is_empty() {
            return;
        }
        let endpoints = |name| self.resources.slices_of(name).flat_map(|slice| &slice.endpoints);
        let named = self.terms.relevant.services.keys().flat_map(endpoints);
        let listed: BTreeSet<Addr> = named.flat_map(|endpoint| endpoint.addresses.iter().copied()).collect();
        for address in self.listed.symmetric_difference(&listed) {
            self.workloads.addresses.entry(*address).or_default();
        }
        work.moved.addresses.extend(self.listed.union(&listed));
        self.listed = listed;
        for name in concerned {
            work.placed.extend(self.workloads.of_namespace(&name.namespace));
        }
    }

    /// Gives every piece of the address space its identity.
    pub(super) fn fill_space(&mut self) {
        let before = std::mem::take(&mut self.pieces);
        let mut entries = Vec::new();
        for piece in self.space.pieces() {
            let key = Key { owner: Owner::Entity(piece.entity), region: piece.region, services: Vec::new() };
            if let Some(identity) = self.identities.change(None, Some(key)) {
                self.pieces.push(identity);
                entries.push((piece.prefix, identity));
            }
        }
        for old in before {
            self.identities.change(Some(old), None);
        }
        let cidrs = table(entries.into_iter());
        if *self.cidrs != cidrs {
            self.cidrs = Arc::new(cidrs);
        }
    }
}

fn owner_of(placed: &Placed) -> Option<Owner> {
    Some(Owner::Workload { subject: placed.subject?, set: placed.set.unwrap_or(UNSELECTED) })
}

fn compiled_workload(placed: &Placed, identity: u32) -> Option<CompiledWorkload> {
    let workload = placed.workload()?;
    Some(CompiledWorkload {
        id: placed.resource.id().clone(),
        identity,
        cgroup: workload.cgroup.clone(),
        interface: workload.interface.clone(),
        addresses: workload.addresses.clone(),
        labels: placed.resource.labels().clone(),
    })
}
