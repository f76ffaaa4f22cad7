//! Lives: host. One change, from its documents to the identities it concerns.
//! Called by: `compiler`.
//! May touch: the compiler's state, stage by stage, in the order of the functions below.
//! Never: looks at a workload, address or policy that the change does not concern, if there is a way to know.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use weir_common::addr::Addr;

use super::{
    DIRECTIONS,
    compiled::CompiledWorkload,
    compiler::{Changed, Compiler, Touched},
    faults::Problems,
    identities::{Key, Owner, Subject},
    parts::Group,
    port_rows::TooManyPorts,
    space::{OPEN, table},
    tables::{SetKey, UNSELECTED},
    terms::{Asked, count},
    workloads::{Holder, Moved, Placed},
};
use crate::{
    evaluate::{is_behind, loopback},
    fault::Fault,
    id::ResourceId,
    model::{ContainerPort, Entity, IpBlock, Peer, Prefix, Resource, ServiceRef, Spec, Timestamp},
};

/// What a change concerns, as the stages find out.
#[derive(Default)]
pub(super) struct Work {
    pub moved: Moved,
    /// Namespaces whose labels have changed.
    namespaces: BTreeSet<String>,
    /// Machines whose labels or presence have.
    pub nodes: BTreeSet<String>,
    /// Policies that are new, gone, or say something else.
    policies: BTreeSet<u32>,
    /// Names of ports that stand for something else.
    names: BTreeSet<String>,
    /// Services that something else is behind.
    services: BTreeSet<ServiceRef>,
    /// Whether the ranges of pods have changed.
    ranges: bool,
    /// Whether rate limits have.
    pub limits: bool,
    /// Whether address sets have.
    pub blocked: bool,
    /// Sets whose tables must be made anew.
    pub sets: BTreeSet<u32>,
    /// Workloads that have another subject or set.
    placed: BTreeSet<u32>,
    /// Subjects that selectors see differently.
    pub subjects: BTreeSet<u32>,
    pub touched: Touched,
}

impl Compiler {
    /// Takes a change over. `since`: the time before, when time has passed. An error leaves the state in pieces: the caller
    /// starts over.
    pub(super) fn update(
        &mut self,
        changed: &BTreeMap<ResourceId, Changed>,
        since: Option<Timestamp>,
    ) -> Result<Touched, Vec<Fault>> {
        let mut problems = Problems::default();
        let mut work = Work::default();
        if self.tables.sets.entries() == 0 {
            self.begin(&mut work);
        }
        self.documents(changed, &mut work);
        if let Some(since) = since.filter(|since| *since != self.context.now) {
            // A clock may be set back, too.
            let (from, to) = (since.min(self.context.now), since.max(self.context.now));
            let ends = self.policies.iter().filter(|(_, policy)| policy.expiries().any(|at| from < at && at <= to));
            work.policies.extend(ends.map(|(number, _)| number));
        }
        self.workloads.check(&work.moved, &mut problems);
        self.bind(&mut work);
        self.ask(&mut work).unwrap_or_else(|TooManyPorts| too_many_ports(&mut problems));
        self.limit(&mut work, &mut problems);
        self.describe(&mut work);
        let split = self.split(&mut work);
        self.identify(&mut work);
        if split {
            self.fill_space();
        }
        problems.none()?;
        self.fill(work)
    }

    /// The very first change: this host is an address in use, and the set that nobody selects has its table.
    fn begin(&mut self, work: &mut Work) {
        for address in &self.context.host_addresses {
            if loopback().iter().all(|prefix| !prefix.contains(address)) {
                self.workloads.addresses.entry(*address).or_default().host = true;
                work.moved.addresses.insert(*address);
            }
        }
        work.sets.insert(UNSELECTED);
        work.ranges = true;
    }

    /// Takes over what the documents say themselves.
    fn documents(&mut self, changed: &BTreeMap<ResourceId, Changed>, work: &mut Work) {
        for (id, Changed { old, new }) in changed {
            let (old, new) = (old.as_ref(), new.as_ref());
            match new.or(old).map(|resource| resource.spec()) {
                Some(Spec::Workload(_)) => self.workload(old, new, work),
                Some(Spec::Node(_)) => self.node(id, old, new, work),
                Some(Spec::Policy(_)) => {
                    let removed = new.is_none().then(|| self.policies.remove(id)).flatten();
                    work.policies.extend(removed.or_else(|| new.map(|new| self.policies.put(new))));
                }
                Some(Spec::RateLimit(_)) => {
                    work.limits = true;
                    replace(&mut self.rate_limits, id, new);
                }
                Some(Spec::AddressSet(_)) => {
                    work.blocked = true;
                    replace(&mut self.address_sets, id, new);
                    if new.is_none() {
                        self.rules.remove(id);
                    }
                }
                Some(Spec::Namespace) => drop(work.namespaces.insert(id.name.clone())),
                Some(Spec::Service(_)) => {
                    work.services.insert(ServiceRef { namespace: id.namespace.clone(), name: id.name.clone() });
                }
                Some(Spec::EndpointSlice(_)) => {
                    let named = [old, new].into_iter().flatten().filter_map(|slice| {
                        let Spec::EndpointSlice(slice) = slice.spec() else { return None };
                        slice.service.clone()
                    });
                    work.services.extend(named);
                }
                None => {}
            }
        }
    }

    fn workload(&mut self, old: Option<&Arc<Resource>>, new: Option<&Arc<Resource>>, work: &mut Work) {
        for (resource, more) in [(new, true), (old, false)] {
            let Some(Spec::Workload(workload)) = resource.map(|resource| resource.spec()) else { continue };
            if workload.host_network {
                continue;
            }
            for port in &workload.ports {
                if self.named.count(port, more) {
                    work.names.insert(port.name.clone());
                }
            }
            if let Some(node) = workload.node.as_ref().filter(|_| workload.cgroup.is_some())
                && count(&mut self.here, node.clone(), more)
            {
                work.nodes.insert(node.clone());
            }
        }
        self.workloads.replace(old, new, &mut work.moved);
    }

    fn node(&mut self, id: &ResourceId, old: Option<&Arc<Resource>>, new: Option<&Arc<Resource>>, work: &mut Work) {
        for (resource, more) in [(new, true), (old, false)] {
            let Some(Spec::Node(node)) = resource.map(|resource| resource.spec()) else { continue };
            for range in &node.pod_ranges {
                work.ranges |= count(&mut self.pod_ranges, *range, more);
            }
        }
        work.nodes.insert(id.name.clone());
        self.workloads.replace(old, new, &mut work.moved);
    }

    /// Finds the policies that select each local workload, and the workloads that are judged alike.
    fn bind(&mut self, work: &mut Work) {
        if work.policies.is_empty() && work.namespaces.is_empty() && work.names.is_empty() && !self.moves_here(work) {
            return;
        }
        let resources = &self.resources;
        let mut concerned: BTreeSet<u32> = BTreeSet::new();
        let all_local: Vec<u32> = self.workloads.local().collect();
        for number in all_local {
            let Some(placed) = self.workloads.get(number) else { continue };
            let Some(member) = placed.member(resources) else { continue };
            let anew = work.moved.workloads.contains(&number) || work.namespaces.contains(member.namespace);
            let in_force =
                |number: &u32| self.policies.get(*number).is_some_and(|bound| bound.policy.in_force(self.context.now));
            let bound: BTreeSet<u32> = if anew {
                self.policies.selecting(&member).into_iter().filter(in_force).collect()
            } else {
                let others = placed.bound.difference(&work.policies).copied();
                let asked = work.policies.iter().copied();
                let found = asked.filter(|policy| self.policies.selects(*policy, &member)).filter(in_force);
                others.chain(found).collect()
            };
            if anew || bound != placed.bound || !bound.is_disjoint(&work.policies) {
                concerned.insert(number);
            }
            if let Some(placed) = self.workloads.get_mut(number) {
                placed.bound = bound;
            }
        }
        // What has ceased to run here is judged here no more.
        let strayed = work.moved.workloads.iter().copied();
        let strayed = strayed.filter(|number| self.workloads.get(*number).is_some_and(|placed| !placed.is_local()));
        concerned.extend(strayed);
        self.sort_into_sets(&concerned, work);
    }

    /// Whether a workload that runs here, or did, is among those that have changed.
    fn moves_here(&self, work: &Work) -> bool {
        let here = |placed: &Placed| placed.set.is_some() || placed.is_local();
        let moved = work.moved.workloads.iter().filter_map(|number| self.workloads.get(*number));
        moved.chain(&work.moved.gone).any(here)
    }

    fn sort_into_sets(&mut self, concerned: &BTreeSet<u32>, work: &mut Work) {
        let mut groups: BTreeMap<(Option<u32>, Option<SetKey>), Vec<u32>> = BTreeMap::new();
        for number in concerned {
            let Some(placed) = self.workloads.get(*number) else { continue };
            let key = placed.is_local().then(|| self.set_key(placed));
            if placed.set.is_some() || key.is_some() {
                groups.entry((placed.set, key)).or_default().push(*number);
            }
        }
        for gone in &work.moved.gone {
            if let Some(set) = gone.set {
                groups.entry((Some(set), None)).or_default().push(u32::MAX);
            }
        }
        let (keys, members): (Vec<_>, Vec<_>) = groups.into_iter().unzip();
        let sized = keys.iter().zip(&members);
        let rekeyed = self.sets.rekey(
            sized.map(|((from, key), members)| Group { from: *from, key: key.clone(), size: members.len() }).collect(),
        );
        for (members, set) in members.iter().zip(&rekeyed.parts) {
            for number in members {
                let Some(placed) = self.workloads.get_mut(*number).filter(|placed| placed.set != *set) else {
                    continue;
                };
                placed.set = *set;
                work.placed.insert(*number);
            }
        }
        let left = keys.iter().filter_map(|(from, _)| *from).filter(|set| self.sets.key(*set).is_none());
        work.sets.extend(left.chain(rekeyed.changed));
        let asked = |key: &SetKey| key.bound.iter().any(|policy| work.policies.contains(policy));
        work.sets.extend(self.sets.iter().filter(|(_, key)| asked(key)).map(|(set, _)| set).collect::<Vec<_>>());
        work.sets.extend(self.tables.asking(&work.names));
    }

    /// What workloads must have in common to be judged alike.
    fn set_key(&self, placed: &Placed) -> SetKey {
        if placed.bound.is_empty() {
            return SetKey::default();
        }
        let policies = placed.bound.iter().filter_map(|number| self.policies.get(*number));
        let rules = policies.flat_map(|bound| &bound.policy.ingress);
        let names: BTreeSet<&String> = rules.flat_map(|rule| &rule.named_ports).map(|port| &port.name).collect();
        let workload = placed.workload();
        let ports = workload.map(|workload| workload.ports.as_slice()).unwrap_or_default();
        let ports: Vec<ContainerPort> = ports.iter().filter(|port| names.contains(&port.name)).cloned().collect();
        SetKey {
            bound: placed.bound.iter().copied().collect(),
            ports,
            node: workload.and_then(|workload| workload.node.clone()),
        }
    }

    /// Learns what the sets that have changed ask about, and numbers the rules of their policies.
    fn ask(&mut self, work: &mut Work) -> Result<(), TooManyPorts> {
        if !work.sets.is_empty() {
            self.number_rules(&work.policies);
        }
        for set in &work.sets {
            let asked = self.sets.key(*set).map(|key| {
                let bound = self.policies.list(&key.bound);
                DIRECTIONS.map(|direction| Asked::of(&bound, direction, self.context.now, &key.ports, &self.named))
            });
            self.tables.ask(*set, asked, &mut self.terms, &mut self.ports)?;
        }
        Ok(())
    }

    fn number_rules(&mut self, changed: &BTreeSet<u32>) {
        let bound: BTreeSet<u32> = self.sets.iter().flat_map(|(_, key)| &key.bound).copied().collect();
        let now: BTreeMap<u32, ResourceId> =
            bound.iter().filter_map(|number| Some((*number, self.policies.get(*number)?.id.clone()))).collect();
        for (number, id) in &self.in_force {
            if now.get(number) != Some(id) {
                self.rules.remove(id);
            }
        }
        for (number, id) in &now {
            if (changed.contains(number) || self.in_force.get(number) != Some(id))
                && let Some(bound) = self.policies.get(*number)
            {
                self.rules.put_policy(id, bound.policy);
            }
        }
        self.in_force = now;
    }

    /// Takes the rate limits over: the labels and ports they look at count like those of policies.
    fn limit(&mut self, work: &mut Work, problems: &mut Problems) {
        if !work.limits {
            return;
        }
        let old: Vec<_> = self.limits.selectors().cloned().collect();
        let list = self.rate_limits.values().cloned().collect();
        self.limits.replace(list, &self.context, &mut self.rules, &mut self.ports, problems);
        for selector in self.limits.selectors() {
            self.terms.relevant.workloads(selector, true);
        }
        old.iter().for_each(|selector| self.terms.relevant.workloads(selector, false));
    }

    /// Finds what selectors can tell of each workload that is new, or of which they look at something else now.
    fn describe(&mut self, work: &mut Work) {
        let mut concerned = work.moved.workloads.clone();
        for namespace in &work.namespaces {
            concerned.extend(self.workloads.of_namespace(namespace));
        }
        let relevant = &mut self.terms.relevant;
        let labels = std::mem::take(&mut relevant.changed_labels);
        let names = std::mem::take(&mut relevant.changed_names);
        let all = std::mem::take(&mut relevant.changed_namespaces);
        if all || !labels.is_empty() || !names.is_empty() {
            let has = |placed: &Placed| {
                let ports = placed.workload().map(|workload| workload.ports.as_slice()).unwrap_or_default();
                labels.iter().any(|key| placed.resource.labels().contains_key(key))
                    || ports.iter().any(|port| names.contains(&port.name))
            };
            let seen = self.workloads.iter().filter(|(_, placed)| all || has(placed));
            concerned.extend(seen.map(|(number, _)| number));
        }
        work.touched.workloads = concerned.len();
        let mut groups: BTreeMap<(Option<u32>, Option<Subject>), Vec<u32>> = BTreeMap::new();
        for number in concerned {
            let Some(placed) = self.workloads.get(number) else { continue };
            let Some(member) = placed.member(&self.resources) else { continue };
            let subject = Subject::of(&member, &self.terms.relevant);
            groups.entry((placed.subject, Some(subject))).or_default().push(number);
        }
        for gone in &work.moved.gone {
            if let Some(subject) = gone.subject {
                groups.entry((Some(subject), None)).or_default().push(u32::MAX);
            }
        }
        let (keys, members): (Vec<_>, Vec<_>) = groups.into_iter().unzip();
        let sized = keys.into_iter().zip(&members);
        let groups = sized.map(|((from, key), members)| Group { from, key, size: members.len() }).collect();
        let rekeyed = self.subjects.rekey(groups);
        work.subjects = rekeyed.changed;
        for (members, subject) in members.iter().zip(rekeyed.parts) {
            for number in members {
                let Some(placed) = self.workloads.get_mut(*number) else { continue };
                if placed.subject != subject {
                    placed.subject = subject;
                    work.placed.insert(*number);
                }
            }
        }
    }

    /// Splits the address space anew, if the blocks that rules name or the ranges of pods have changed.
    fn split(&mut self, work: &mut Work) -> bool {
        if !std::mem::take(&mut self.terms.changed_blocks) && !work.ranges {
            return false;
        }
        let blocks: BTreeMap<u32, &IpBlock> = (self.terms.parts.iter())
            .filter_map(|(number, term)| {
                let Peer::IpBlock { ip_block } = &term.peer else { return None };
                Some((number, ip_block))
            })
            .collect();
        let ranges: BTreeSet<Prefix> = self.pod_ranges.keys().copied().collect();
        let used = self.workloads.addresses.iter().filter(|(_, holder)| holder.region.is_some());
        self.space.split(&blocks, &ranges, used.map(|(address, holder)| (*address, holder.region)));
        let mut region_of = self.space.in_order();
        for (address, holder) in &mut self.workloads.addresses {
            let Some(old) = holder.region else { continue };
            let region = region_of(address);
            let renamed = holder.machine().is_none() && holder.workloads().is_empty();
            if old != region || (work.ranges && renamed) {
                holder.region = Some(region);
                work.moved.addresses.insert(*address);
            }
        }
        true
    }

    /// Gives every address and workload that is concerned its identity.
    fn identify(&mut self, work: &mut Work) {
        self.list_services(work);
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
            self.own_identity(number);
        }
    }

    fn address(&mut self, address: &Addr, work: &mut Work) {
        let listed = self.listed.contains(address);
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
    fn own_identity(&mut self, number: u32) {
        let Some(placed) = self.workloads.get(number) else { return };
        let (Some(owner), Some(workload)) = (owner_of(placed), placed.workload()) else { return };
        let first = workload.addresses.first();
        let region = first.and_then(|address| self.workloads.addresses.get(address)?.region).unwrap_or(OPEN);
        let services = self.services_of(Some(&placed.resource), first);
        let old = placed.identity;
        let identity = self.identities.change(old, Some(Key { owner, region, services }));
        let Some(placed) = self.workloads.get_mut(number) else { return };
        placed.identity = identity;
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
    fn fill_space(&mut self) {
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

fn replace(all: &mut BTreeMap<ResourceId, Arc<Resource>>, id: &ResourceId, new: Option<&Arc<Resource>>) {
    match new {
        Some(new) => drop(all.insert(id.clone(), Arc::clone(new))),
        None => drop(all.remove(id)),
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
        addresses: workload.addresses.clone(),
        labels: placed.resource.labels().clone(),
    })
}

fn too_many_ports(problems: &mut Problems) {
    problems.of_all("ports fall into more than 65536 classes".to_owned(), "use fewer distinct ports");
}
