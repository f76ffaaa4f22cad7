//! Lives: host.
//! Called by: the agent, which installs it; `weir_common::decide`, which reads it as the kernel reads the maps.
//! May touch: nothing.
//! Never: changed after the compiler has made it; generations share what they have in common, so that one costs little.

use std::{collections::BTreeSet, sync::Arc};

use rpds::RedBlackTreeMapSync;
use serde::{Deserialize, Serialize};
use weir_common::{addr::Addr, decide::Tables, event::Endpoint, image::Page};

use super::itself::OwnAnswers;
use crate::{
    id::ResourceId,
    model::{Labels, Prefix, SynProtection},
    sets::{Entries, PortScope},
};

/// Identity by exact address, in order of address. A copy shares what it has in common.
pub type Endpoints = RedBlackTreeMapSync<Addr, u32>;

/// Services by address, as "namespace/name".
pub type ServiceNames = RedBlackTreeMapSync<Addr, Arc<str>>;

/// One generation, ready to be written into a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// Its number.
    pub generation: u64,
    /// The image.
    pub pages: Vec<Arc<Page>>,
    /// Identity by exact address.
    pub endpoints: Endpoints,
    /// The marks of addresses that services have, and of their ports, which stand among the addresses too: the second words of
    /// their entries (`weir_common::event::Endpoint`).
    pub services: Endpoints,
    /// What pods that run here are answered when they call themselves by a service, if it is not what all like them are. The
    /// agent, who has the pods' numbers, puts it among the addresses (`Compiled::own_answers`).
    pub themselves: OwnAnswers,
    /// The services by their addresses.
    pub service_names: ServiceNames,
    /// Identity by longest prefix, in order of prefix.
    pub cidrs: Arc<Vec<(Prefix, u32)>>,
    /// The address sets, in order of name.
    pub sets: Arc<Vec<CompiledSet>>,
    /// Rule by number; the first is none.
    pub rules: Arc<Vec<RuleInfo>>,
    /// Every workload, by id.
    pub workloads: RedBlackTreeMapSync<ResourceId, Arc<CompiledWorkload>>,
    /// Rate limit by number; the first is none, and so are numbers that are free. A limit keeps its number while it is there.
    pub limits: Arc<Vec<LimitInfo>>,
    /// Lists of interfaces that limits name, by number: names and patterns.
    pub interface_lists: Arc<Vec<BTreeSet<String>>>,
    /// Addresses of the agent's own network namespace.
    pub host_addresses: Vec<Addr>,
    /// How large the tables are.
    pub sizes: Sizes,
}

/// What a rule number stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleInfo {
    /// The resource, as "Policy/shop/api".
    pub policy: String,
    /// The rule in it, as `ingress[0] from-web`, "default ingress", "limit" or "block".
    pub rule: String,
}

/// An address set, with what its document lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompiledSet {
    /// Its name.
    pub name: String,
    /// Whether it blocks what it holds; else nothing else may pass.
    pub blocks: bool,
    /// Its rule number.
    pub rule: u32,
    /// What it is asked about; empty: everything.
    pub ports: Vec<PortScope>,
    /// What the document lists.
    pub entries: Arc<Entries>,
}

/// What a limit number stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitInfo {
    /// The resource, as "RateLimit/shop/api-clients".
    pub policy: String,
    /// Its rule number.
    pub rule: u32,
    /// When connections are opened by SYN cookies; absent: never.
    pub syn_protection: Option<SynProtection>,
    /// Of `auto`: new connections a second above which they are.
    pub syn_threshold: Option<u64>,
    /// Interfaces it is asked on, by name or pattern; empty: all.
    pub interfaces: BTreeSet<String>,
}

impl LimitInfo {
    /// Whether the number stands for a limit.
    #[must_use]
    pub fn is_some(&self) -> bool {
        !self.policy.is_empty()
    }
}

/// A workload as the agent attaches and reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompiledWorkload {
    /// Its name.
    pub id: ResourceId,
    /// Its identity as the local side.
    pub identity: u32,
    /// Its directory below the cgroup root; `None`: it runs elsewhere.
    pub cgroup: Option<String>,
    /// The node's end of its network interface, if it is to be judged there too.
    pub interface: Option<String>,
    /// Its addresses.
    pub addresses: Vec<Addr>,
    /// Its labels.
    pub labels: Labels,
}

/// How many there are of what the tables are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizes {
    /// Ends that policies in force here may tell apart.
    pub identities: usize,
    /// Groups of identities that they do tell apart.
    pub classes: usize,
    /// Groups of local workloads that the same policies select.
    pub sets: usize,
    /// Peers that rules in force here name.
    pub terms: usize,
    /// Groups of ports that rules in force here tell apart.
    pub atoms: usize,
    /// Verdicts.
    pub cells: usize,
    /// Rules in force here, the defaults among them.
    pub rules: usize,
    /// Exact addresses, ports of services and own answers among them.
    pub endpoints: usize,
    /// Address prefixes.
    pub cidrs: usize,
    /// Pages of the image, 4 KiB each.
    pub pages: usize,
}

impl Tables for Compiled {
    fn page(&self, index: u32) -> Option<&Page> {
        self.pages.get(index as usize).map(Arc::as_ref)
    }

    /// Which workload has which number is the agent's to know: here nobody owns an address.
    fn endpoint(&self, addr: &Addr) -> Option<Endpoint> {
        let owner = self.services.get(addr).copied().unwrap_or(0);
        self.endpoints.get(addr).map(|identity| Endpoint { identity: *identity, owner })
    }

    fn cidr(&self, addr: &Addr) -> Option<u32> {
        longest(&self.cidrs, addr)
    }
}

impl Compiled {
    /// The workloads that run here, in order of id.
    #[must_use]
    pub fn local(&self) -> Vec<Arc<CompiledWorkload>> {
        self.workloads.values().filter(|workload| workload.cgroup.is_some()).cloned().collect()
    }

    /// The rule of the set whose prefix is the longest among those that block the address; of equal ones, the first by name. Only
    /// what the documents list is known here.
    #[must_use]
    pub fn blocked_by(&self, addr: &Addr) -> Option<u32> {
        let blocking = self.sets.iter().filter(|set| set.blocks && set.ports.is_empty());
        let holding = blocking.filter_map(|set| Some((set.entries.longest(addr)?, set.rule)));
        // `max_by_key` would take the last of equal ones.
        holding.reduce(|best, next| if next.0 > best.0 { next } else { best }).map(|(_, rule)| rule)
    }
}

/// The value of the longest prefix that holds the address; `table` is in order of prefix.
pub fn longest(table: &[(Prefix, u32)], addr: &Addr) -> Option<u32> {
    (0..=128).rev().find_map(|bits| {
        let wanted = Prefix::new(*addr, bits);
        let index = table.binary_search_by(|(prefix, _)| prefix.cmp(&wanted)).ok()?;
        table.get(index).map(|(_, value)| *value)
    })
}
