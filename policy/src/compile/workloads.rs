//! Lives: host.
//! Called by: `compiler`, for every document of a workload, pod or node.
//! May touch: nothing.
//! Never: lets the order in which documents came decide whose an address is.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use weir_common::addr::Addr;

use super::faults::Problems;
use crate::{
    evaluate::Member,
    id::ResourceId,
    model::{Resource, Resources, Spec, Workload, ip},
};

/// Every workload with an address or cgroup of its own, and every address in use.
#[derive(Clone, Debug, Default)]
pub struct Workloads {
    slots: Vec<Option<Placed>>,
    numbers: HashMap<ResourceId, u32>,
    free: BTreeSet<u32>,
    /// Workloads by cgroup.
    cgroups: BTreeMap<String, BTreeSet<u32>>,
    /// Workloads by interface.
    interfaces: BTreeMap<String, BTreeSet<u32>>,
    /// Workloads that run here.
    local: BTreeSet<u32>,
    /// Workloads of each namespace.
    namespaces: BTreeMap<String, BTreeSet<u32>>,
    /// Every address in use.
    pub addresses: BTreeMap<Addr, Holder>,
}

/// A workload and where the stages have put it.
#[derive(Clone, Debug)]
pub struct Placed {
    /// Its document.
    pub resource: Arc<Resource>,
    /// What selectors can tell of it.
    pub subject: Option<u32>,
    /// Of a workload that runs here: the policies that select it.
    pub bound: BTreeSet<u32>,
    /// Of a workload that runs here: those judged like it.
    pub set: Option<u32>,
    /// What policies can tell of it.
    pub identity: Option<u32>,
}

impl Placed {
    /// What its document says.
    pub fn workload(&self) -> Option<&Workload> {
        let Spec::Workload(workload) = self.resource.spec() else { return None };
        Some(workload)
    }

    /// Whether it runs here.
    pub fn is_local(&self) -> bool {
        self.workload().is_some_and(|workload| workload.cgroup.is_some())
    }

    /// The workload as selectors see it, with all of its labels.
    pub fn member<'a>(&'a self, resources: &'a Resources) -> Option<Member<'a>> {
        self.workload().map(|workload| Member::of(resources, &self.resource, workload))
    }
}

/// Who claims an address, and where the stages have put it.
#[derive(Clone, Debug, Default)]
pub struct Holder {
    /// Workloads that have it; more than one only if they are alike.
    workloads: Vec<u32>,
    /// Documents that say it is a machine's, each with the machine's name.
    machines: BTreeMap<ResourceId, String>,
    /// It is this host's own.
    pub host: bool,
    /// Its region.
    pub region: Option<u32>,
    /// Its identity.
    pub identity: Option<u32>,
}

impl Holder {
    /// The workloads that have it.
    pub fn workloads(&self) -> &[u32] {
        &self.workloads
    }

    /// The machine it is, unless it is a workload's.
    pub fn machine(&self) -> Option<&str> {
        self.machines.values().next().map(String::as_str).filter(|_| self.workloads.is_empty())
    }

    /// Whether nobody claims it any more.
    pub fn is_idle(&self) -> bool {
        self.workloads.is_empty() && self.machines.is_empty() && !self.host
    }
}

/// What a document put or took away.
#[derive(Debug, Default)]
pub struct Moved {
    /// The workloads that are new or say something else.
    pub workloads: BTreeSet<u32>,
    /// What is gone.
    pub gone: Vec<Placed>,
    /// Addresses that may be somebody else's now.
    pub addresses: BTreeSet<Addr>,
}

impl Workloads {
    /// A workload.
    pub fn get(&self, number: u32) -> Option<&Placed> {
        self.slots.get(number as usize).and_then(Option::as_ref)
    }

    /// A workload by its name.
    pub fn by_id(&self, id: &ResourceId) -> Option<&Placed> {
        self.get(*self.numbers.get(id)?)
    }

    /// A workload, to place it.
    pub fn get_mut(&mut self, number: u32) -> Option<&mut Placed> {
        self.slots.get_mut(number as usize).and_then(Option::as_mut)
    }

    /// Every workload.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Placed)> {
        (0..).zip(&self.slots).filter_map(|(number, slot)| slot.as_ref().map(|placed| (number, placed)))
    }

    /// Those that run here.
    pub fn local(&self) -> impl Iterator<Item = u32> {
        self.local.iter().copied()
    }

    /// Those of a namespace.
    pub fn of_namespace(&self, namespace: &str) -> impl Iterator<Item = u32> {
        self.namespaces.get(namespace).into_iter().flatten().copied()
    }

    /// Takes over what a document says that used to say something else.
    pub fn replace(&mut self, old: Option<&Arc<Resource>>, new: Option<&Arc<Resource>>, moved: &mut Moved) {
        for (resource, comes) in [(old, false), (new, true)] {
            let Some(resource) = resource else { continue };
            let Some((machine, addresses)) = resource.machine() else { continue };
            for address in addresses {
                let machines = &mut self.addresses.entry(*address).or_default().machines;
                if comes {
                    machines.insert(resource.id().clone(), machine.to_owned());
                } else {
                    machines.remove(resource.id());
                }
                moved.addresses.insert(*address);
            }
        }
        let (was, is) =
            (old.filter(|old| old.own_workload().is_some()), new.filter(|new| new.own_workload().is_some()));
        match (was.and_then(|old| self.numbers.get(old.id()).copied()), is) {
            (Some(number), Some(new)) => self.change(number, new, moved),
            (Some(number), None) => self.remove(number, moved),
            (None, Some(new)) => self.insert(new, moved),
            (None, None) => {}
        }
    }

    /// No two workloads may run in one cgroup, have one interface, or one of these addresses unless they are alike.
    pub fn check(&self, moved: &Moved, problems: &mut Problems) {
        let cgroup = |number: &u32| self.get(*number)?.workload()?.cgroup.as_ref();
        let cgroups: BTreeSet<&String> = moved.workloads.iter().filter_map(cgroup).collect();
        for cgroup in cgroups {
            let sharing = self.in_order(self.cgroups.get(cgroup).into_iter().flatten());
            let Some((first, others)) = sharing.split_first() else { continue };
            for other in others {
                let problem = format!("its cgroup is already {}'s", first.id());
                problems.of(other, "spec.cgroup", cgroup, problem, "give each workload a cgroup of its own");
            }
        }
        let interface = |number: &u32| self.get(*number)?.workload()?.interface.as_ref();
        let interfaces: BTreeSet<&String> = moved.workloads.iter().filter_map(interface).collect();
        for interface in interfaces {
            let sharing = self.in_order(self.interfaces.get(interface).into_iter().flatten());
            let Some((first, others)) = sharing.split_first() else { continue };
            for other in others {
                let problem = format!("its interface is already {}'s", first.id());
                problems.of(other, "spec.interface", interface, problem, "give each workload an interface of its own");
            }
        }
        for address in &moved.addresses {
            let sharing = self.in_order(self.addresses.get(address).into_iter().flat_map(Holder::workloads));
            let Some((first, others)) = sharing.split_first() else { continue };
            for other in others {
                if first.id().namespace != other.id().namespace || first.labels() != other.labels() {
                    conflict(first, other, address, problems);
                }
            }
        }
    }

    /// The workload an address is taken for: those that share it are alike, the first by name stands for them.
    pub fn owner(&self, holder: &Holder) -> Option<&Placed> {
        let sharing = holder.workloads.iter().filter_map(|number| self.get(*number));
        sharing.min_by_key(|placed| placed.resource.id())
    }

    fn in_order<'w>(&'w self, numbers: impl Iterator<Item = &'w u32>) -> Vec<&'w Arc<Resource>> {
        let mut list: Vec<_> = numbers.filter_map(|number| self.get(*number)).map(|placed| &placed.resource).collect();
        list.sort_unstable_by_key(|resource| resource.id());
        list
    }

    fn insert(&mut self, resource: &Arc<Resource>, moved: &mut Moved) {
        let number = self.free.pop_first().unwrap_or_else(|| {
            self.slots.push(None);
            // Fewer than 2^32: memory is full long before.
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        let resource = Arc::clone(resource);
        self.numbers.insert(resource.id().clone(), number);
        self.namespaces.entry(resource.id().namespace.clone()).or_default().insert(number);
        self.claim(number, &resource, moved);
        if let Some(slot) = self.slots.get_mut(number as usize) {
            *slot = Some(Placed { resource, subject: None, bound: BTreeSet::new(), set: None, identity: None });
        }
        moved.workloads.insert(number);
    }

    fn change(&mut self, number: u32, resource: &Arc<Resource>, moved: &mut Moved) {
        if let Some(old) = self.get(number).map(|placed| Arc::clone(&placed.resource)) {
            self.give_up(number, &old, moved);
        }
        self.claim(number, resource, moved);
        if let Some(placed) = self.get_mut(number) {
            placed.resource = Arc::clone(resource);
        }
        moved.workloads.insert(number);
    }

    fn remove(&mut self, number: u32, moved: &mut Moved) {
        let Some(placed) = self.slots.get_mut(number as usize).and_then(Option::take) else { return };
        let id = placed.resource.id();
        self.numbers.remove(id);
        if let Some(neighbours) = self.namespaces.get_mut(&id.namespace) {
            neighbours.remove(&number);
            if neighbours.is_empty() {
                self.namespaces.remove(&id.namespace);
            }
        }
        self.give_up(number, &Arc::clone(&placed.resource), moved);
        self.free.insert(number);
        moved.workloads.remove(&number);
        moved.gone.push(placed);
    }

    fn claim(&mut self, number: u32, resource: &Resource, moved: &mut Moved) {
        let Some(workload) = resource.own_workload() else { return };
        if let Some(cgroup) = &workload.cgroup {
            self.cgroups.entry(cgroup.clone()).or_default().insert(number);
            self.local.insert(number);
        }
        if let Some(interface) = &workload.interface {
            self.interfaces.entry(interface.clone()).or_default().insert(number);
        }
        for address in &workload.addresses {
            let holder = self.addresses.entry(*address).or_default();
            if !holder.workloads.contains(&number) {
                holder.workloads.push(number);
            }
            moved.addresses.insert(*address);
        }
    }

    fn give_up(&mut self, number: u32, resource: &Resource, moved: &mut Moved) {
        let Some(workload) = resource.own_workload() else { return };
        self.local.remove(&number);
        if let Some(cgroup) = &workload.cgroup
            && let Some(sharing) = self.cgroups.get_mut(cgroup)
        {
            sharing.remove(&number);
            if sharing.is_empty() {
                self.cgroups.remove(cgroup);
            }
        }
        if let Some(interface) = &workload.interface
            && let Some(sharing) = self.interfaces.get_mut(interface)
        {
            sharing.remove(&number);
            if sharing.is_empty() {
                self.interfaces.remove(interface);
            }
        }
        for address in &workload.addresses {
            if let Some(holder) = self.addresses.get_mut(address) {
                holder.workloads.retain(|other| *other != number);
            }
            moved.addresses.insert(*address);
        }
    }
}

fn conflict(first: &Resource, other: &Resource, address: &Addr, problems: &mut Problems) {
    let index = other.own_workload().and_then(|workload| workload.addresses.iter().position(|known| known == address));
    let field = format!("spec.addresses[{}]", index.unwrap_or_default());
    let problem = format!("the address is already {}'s, which has other labels", first.id());
    let remedy = "remove the address from one of the two, or give both the same labels";
    problems.of(other, &field, &ip(*address).to_string(), problem, remedy);
}
