//! Lives: host. One change: what the ports of services' addresses lead to.
//! Called by: `identify`, to learn which addresses matter for that; `fill`, once it is known who is of which class.
//! May touch: the fronts of services; the entries of their ports in the table of addresses; classes and identities that stand for
//!   several ends.
//! Never: looks at a service that the change does not concern.
//!
//! Ends of one class at one port are judged alike: the port of the service leads to one of them. Otherwise it leads to an identity
//! of its own, of a class whose cells are those of the worst of its ends (`tables`).

use std::collections::BTreeSet;

use weir_common::{addr::Addr, event::Endpoint};

use super::{
    classes::{Behind, Reclassed, Traits},
    compiler::Compiler,
    identities::{Key, Owner},
    space::OPEN,
    update::Work,
};
use crate::{evaluate::End, id::ResourceId};

impl Compiler {
    /// Notes the services that a workload is behind or may be.
    pub(super) fn behind(&self, id: &ResourceId, work: &mut Work) {
        work.fronts.extend(self.fronts.of_pod(id));
    }

    /// Finds what is behind the services that the change concerns. Addresses that matter for it are known from now on.
    pub(super) fn lead(&mut self, work: &mut Work) {
        for name in &work.services {
            work.fronts.extend(self.fronts.of_service(&self.resources, name));
        }
        if !self.fronts.is_empty() {
            work.fronts.extend(work.moved.addresses.iter().flat_map(|address| self.fronts.of_address(address)));
        }
        for address in &work.fronts {
            let looked = self.fronts.look(&self.resources, *address);
            for used in looked.addresses {
                self.workloads.addresses.entry(used).or_default();
                work.moved.addresses.insert(used);
            }
            for (key, identity) in looked.gone {
                self.endpoints.remove_mut(&key);
                self.fronts.words.remove_mut(&key);
                work.released.extend(identity);
            }
        }
    }

    /// Writes what the ports lead to whose ends have changed, or have other identities or classes.
    pub(super) fn settle(&mut self, work: &mut Work, reclassed: &mut Reclassed) {
        let by_address = work.identified.iter().flat_map(|address| self.fronts.of_address(address));
        let by_identity = reclassed.identities.iter().flat_map(|identity| self.fronts.of_identity(*identity));
        let by_pod = work.renamed.iter().flat_map(|id| self.fronts.of_pod(id));
        let concerned: BTreeSet<Addr> =
            by_address.chain(by_identity).chain(by_pod).chain(&work.fronts).copied().collect();
        for address in &concerned {
            self.settle_front(*address, work, reclassed);
        }
        work.settled = concerned;
        for identity in std::mem::take(&mut work.released) {
            self.release_mixed(identity, reclassed);
        }
        if self.fronts.mixed > 0 {
            let touched =
                |traits: &Traits| traits.behind.iter().any(|behind| reclassed.classes.contains(&behind.class));
            let mixed = self.classes.parts.iter().filter(|(_, traits)| touched(traits)).map(|(class, _)| class);
            reclassed.classes.extend(mixed.collect::<Vec<_>>());
        }
    }

    fn settle_front(&mut self, address: Addr, work: &mut Work, reclassed: &mut Reclassed) {
        let Some(mut front) = self.fronts.get(&address).cloned() else { return };
        let before = front.identities();
        for ((protocol, port), call) in &mut front.calls {
            let ends: Vec<(u32, u16)> =
                call.ends.iter().filter_map(|(end, port)| Some((self.identity_of(end)?, *port))).collect();
            let behind = ends.iter().map(|(identity, port)| Behind {
                class: self.classes.of(*identity),
                protocol: *protocol,
                port: *port,
            });
            let behind: BTreeSet<Behind> = behind.collect();
            let mixed = behind.len() > 1;
            let leads_to = match ends.first() {
                Some((_, port)) if mixed => Some((self.hold_mixed(behind, reclassed), *port)),
                first => first.copied(),
            };
            let old = call.leads_to.map(|(identity, _)| identity).filter(|_| call.mixed);
            work.released.extend(old);
            let key = Addr::of_call(front.number, *protocol, *port);
            if call.leads_to != leads_to {
                self.write_call(key, leads_to);
                work.touched.addresses += 1;
            }
            (call.identities, call.leads_to, call.mixed) =
                (ends.into_iter().map(|(identity, _)| identity).collect(), leads_to, mixed);
        }
        self.fronts.remember(address, &before, &front.identities());
        if let Some(slot) = self.fronts.get_mut(&address) {
            *slot = front;
        }
    }

    fn write_call(&mut self, key: Addr, leads_to: Option<(u32, u16)>) {
        let Some((identity, port)) = leads_to else {
            self.endpoints.remove_mut(&key);
            self.fronts.words.remove_mut(&key);
            return;
        };
        self.endpoints.insert_mut(key, identity);
        self.fronts.words.insert_mut(key, Endpoint::behind(port));
    }

    pub(super) fn identity_of(&self, end: &End) -> Option<u32> {
        match end {
            End::Address(address) => self.workloads.addresses.get(address)?.identity,
            End::Workload(id) => self.workloads.by_id(id)?.identity,
        }
    }

    /// One more port leads to these.
    fn hold_mixed(&mut self, behind: BTreeSet<Behind>, reclassed: &mut Reclassed) -> u32 {
        let traits = Traits { behind: behind.into_iter().collect(), ..Traits::default() };
        let (class, new) = self.classes.parts.hold(traits);
        let key = Key { owner: Owner::Behind { class }, region: OPEN, services: Vec::new() };
        let (identity, _) = self.identities.parts.hold(key);
        if new {
            self.classes.put(identity, Some(class));
            reclassed.classes.insert(class);
            reclassed.identities.insert(identity);
        }
        self.fronts.mixed += 1;
        identity
    }

    /// One port fewer.
    fn release_mixed(&mut self, identity: u32, reclassed: &mut Reclassed) {
        self.fronts.mixed -= 1;
        let class = self.classes.of(identity);
        self.classes.parts.release(class);
        if self.identities.parts.release(identity) {
            self.classes.put(identity, None);
            reclassed.identities.insert(identity);
        }
    }
}
