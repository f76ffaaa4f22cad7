//! Lives: host.
//! Called by: whoever asks the tables about one workload that runs here: the agent, which explains and judges living connections
//! again; `weirctl`; the tests.
//! May touch: nothing.
//! Never: decides otherwise than the kernel does, which knows every workload by a number and has its own addresses and answers.

use weir_common::{
    addr::{Addr, Protocol},
    decide::{Decision, Image, Query, Tables},
    event::Endpoint,
    image::Page,
    verdict::Direction,
};

use super::compiled::{Compiled, CompiledWorkload};
use crate::id::{Kind, ResourceId};

/// The number of the workload that is asked about, for as long as the question takes.
const ASKED: u32 = 1;

/// The tables as the kernel has them for one of the workloads that run here.
#[derive(Clone, Copy, Debug)]
pub struct OwnTables<'c> {
    compiled: &'c Compiled,
    workload: &'c CompiledWorkload,
}

impl Compiled {
    /// The tables as the kernel has them for this workload.
    #[must_use]
    pub const fn seen_by<'c>(&'c self, workload: &'c CompiledWorkload) -> OwnTables<'c> {
        OwnTables { compiled: self, workload }
    }

    /// What stands in the table of addresses for a workload alone, once it has this number: what it is answered when it calls
    /// itself by a service.
    pub fn own_answers(&self, id: &ResourceId, number: u32) -> impl Iterator<Item = (Addr, Endpoint)> + use<'_> {
        let own = self.themselves.get(id).into_iter().flat_map(|own| own.iter());
        own.map(move |(key, answer)| (key.called_by(number), *answer))
    }
}

impl OwnTables<'_> {
    /// Judges one opening of the workload. `None`: the tables are not readable.
    #[must_use]
    pub fn decide(&self, direction: Direction, remote: Addr, protocol: Protocol, port: u16) -> Option<Decision> {
        let query = Query { local: self.workload.identity, direction, remote, protocol, port };
        Some(Image::open(self)?.decide_for(ASKED, &query))
    }

    /// Only pods have addresses that policies cannot keep them from, and an address that two of them claim is nobody's own.
    fn is_own(&self, addr: &Addr) -> bool {
        let claims = |other: &CompiledWorkload| other.cgroup.is_some() && other.addresses.contains(addr);
        let pod = self.workload.id.kind == Kind::Pod && self.workload.addresses.contains(addr);
        pod && self.compiled.workloads.values().filter(|other| claims(other)).count() == 1
    }
}

impl Tables for OwnTables<'_> {
    fn page(&self, index: u32) -> Option<&Page> {
        self.compiled.page(index)
    }

    fn endpoint(&self, addr: &Addr) -> Option<Endpoint> {
        let end = match self.compiled.endpoint(addr) {
            Some(end) => end,
            None if *addr == addr.called_by(ASKED) => {
                return self.compiled.themselves.get(&self.workload.id)?.get(&addr.called_by_all()).copied();
            }
            None => return None,
        };
        // What is called by a service's address is what is behind it, even if a pod claims the address too.
        Some(if !end.is_service() && self.is_own(addr) { Endpoint { owner: ASKED, ..end } } else { end })
    }

    fn cidr(&self, addr: &Addr) -> Option<u32> {
        self.compiled.cidr(addr)
    }
}
