//! Lives: host.
//! Called by: the agent for every change; `compile`, for everything at once.
//! May touch: its own state.
//! Never: keeps half a change; what cannot be in force leaves everything as it was.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rpds::RedBlackTreeMapSync;
use serde::{Deserialize, Serialize};
use weir_common::{
    addr::Addr,
    image::{
        Cell, FLAG_LIMITS, FLAG_LIMITS_ALL, FLAG_QUIET, FLAG_REFUSE, FLAG_SETS, FLAG_SETS_ALLOW, FLAG_STAGED, FLAG_SYN,
        MAGIC, PAGE_WORDS, Page, Section, header,
    },
    verdict::Reason,
};

use super::{
    classes::Classes,
    compiled::{Compiled, CompiledSet, CompiledWorkload, Sizes},
    fronts::Fronts,
    identities::{Identities, Subject},
    itself::Themselves,
    limits::Limits,
    parts::Parts,
    policies::Policies,
    port_rows::PortRows,
    rules::Rules,
    space::Space,
    tables::{SetKey, Tables, UNSELECTED},
    terms::{NamedPorts, Terms},
    words::Words,
    workloads::Workloads,
};
use crate::{
    Context,
    fault::Fault,
    id::ResourceId,
    model::{Prefix, Resource, Resources, Timestamp},
};

/// The tables of a node, and everything it takes to change them at the cost of the change.
#[derive(Clone, Debug)]
pub struct Compiler {
    pub(super) context: Context,
    pub(super) resources: Resources,
    pub(super) policies: Policies,
    pub(super) workloads: Workloads,
    pub(super) named: NamedPorts,
    /// Nodes whose pods run here, and how many do.
    pub(super) here: BTreeMap<String, usize>,
    pub(super) sets: Parts<SetKey>,
    /// The policies that select somebody here.
    pub(super) in_force: BTreeMap<u32, ResourceId>,
    pub(super) terms: Terms,
    pub(super) subjects: Parts<Subject>,
    pub(super) pod_ranges: BTreeMap<Prefix, usize>,
    pub(super) space: Space,
    /// Addresses that a service which rules name lists, whoever has them.
    pub(super) listed: BTreeSet<Addr>,
    /// The addresses that services have.
    pub(super) fronts: Fronts,
    /// What those are answered who call themselves by one.
    pub(super) themselves: Themselves,
    pub(super) identities: Identities,
    /// Identities of the pieces of the address space.
    pub(super) pieces: Vec<u32>,
    pub(super) classes: Classes,
    pub(super) ports: PortRows,
    pub(super) tables: Tables,
    pub(super) rules: Rules,
    pub(super) limits: Limits,
    pub(super) rate_limits: BTreeMap<ResourceId, Arc<Resource>>,
    pub(super) address_sets: BTreeMap<ResourceId, Arc<Resource>>,
    pub(super) identity_words: Words,
    pub(super) endpoints: RedBlackTreeMapSync<Addr, u32>,
    pub(super) cidrs: Arc<Vec<(Prefix, u32)>>,
    pub(super) compiled_sets: Arc<Vec<CompiledSet>>,
    pub(super) described: RedBlackTreeMapSync<ResourceId, Arc<CompiledWorkload>>,
}

/// A change of one resource.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "edits are few and gone as soon as they are applied")]
pub enum Edit {
    /// It is there, in place of one of the same id.
    Put(Resource),
    /// It is gone.
    Remove(ResourceId),
}

/// What a change touched: how many of each had to be looked at or written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Touched {
    /// Workloads whose place was looked up.
    pub workloads: usize,
    /// Addresses that have another identity, or none any more.
    pub addresses: usize,
    /// Identities that are new, gone, or mean something else.
    pub identities: usize,
    /// Classes that are new or have other traits.
    pub classes: usize,
    /// Sets whose tables were made anew.
    pub sets: usize,
    /// Cells that were computed.
    pub cells: usize,
    /// Pages of the image that were written, the header's among them.
    pub pages: usize,
}

/// What a resource was and is.
pub(super) struct Changed {
    pub old: Option<Arc<Resource>>,
    pub new: Option<Arc<Resource>>,
}

impl Compiler {
    /// The tables of no resources.
    #[must_use]
    pub fn new(context: Context) -> Self {
        let mut compiler = Self::blank(context);
        // Without resources nothing can be at fault.
        drop(compiler.update(&BTreeMap::new(), None));
        compiler
    }

    /// The tables of these resources.
    ///
    /// # Errors
    /// Every reason why they cannot be in force together, each at the document it is about.
    pub fn of(resources: &Resources, context: Context) -> Result<Self, Vec<Fault>> {
        Self::with(resources, context, BTreeMap::new())
    }

    /// The same where limits have numbers already.
    fn with(resources: &Resources, context: Context, numbers: BTreeMap<ResourceId, u16>) -> Result<Self, Vec<Fault>> {
        let mut compiler = Self { resources: resources.clone(), ..Self::blank(context) };
        compiler.limits.numbers = numbers;
        let all = resources.shared().map(|new| (new.id().clone(), Changed { old: None, new: Some(Arc::clone(new)) }));
        compiler.update(&all.collect(), None)?;
        Ok(compiler)
    }

    /// These resources in another context, from scratch. What the kernel keeps about limits goes on under their numbers.
    ///
    /// # Errors
    /// As for [`Compiler::of`].
    pub fn again(&self, resources: &Resources, context: Context) -> Result<Self, Vec<Fault>> {
        Self::with(resources, context, self.limits.numbers.clone())
    }

    /// Changes resources, all of them or none; the generation's number is one higher then.
    ///
    /// # Errors
    /// Every reason why what there would be cannot be in force together; nothing has changed then.
    pub fn apply(&mut self, edits: impl IntoIterator<Item = Edit>) -> Result<Touched, Vec<Fault>> {
        self.apply_at(self.context.now, edits)
    }

    /// Changes resources as [`Compiler::apply`] does, and lets time pass as [`Compiler::advance`] does, in one generation.
    ///
    /// # Errors
    /// Every reason why what there would be cannot be in force together; nothing has changed then.
    pub fn apply_at(&mut self, now: Timestamp, edits: impl IntoIterator<Item = Edit>) -> Result<Touched, Vec<Fault>> {
        let before = self.context.clone();
        self.context.now = now;
        let mut changed: BTreeMap<ResourceId, Changed> = BTreeMap::new();
        for edit in edits {
            let (id, new) = match edit {
                Edit::Put(resource) => (resource.id().clone(), Some(Arc::new(resource))),
                Edit::Remove(id) => (id, None),
            };
            let old = self.resources.exchange(&id, new.clone());
            changed.entry(id).or_insert(Changed { old, new: None }).new = new;
        }
        changed.retain(|_, change| change.old != change.new);
        self.context.generation += 1;
        let result = self.update(&changed, Some(before.now));
        if result.is_err() {
            for (id, change) in changed {
                self.resources.exchange(&id, change.old);
            }
            self.start_over(before);
        }
        result
    }

    /// Lets time pass: what has expired by now is in force no more.
    ///
    /// # Errors
    /// Every reason why what is left cannot be in force together; nothing has changed then.
    pub fn advance(&mut self, now: Timestamp) -> Result<Touched, Vec<Fault>> {
        self.apply_at(now, [])
    }

    /// What is in force.
    #[must_use]
    pub const fn resources(&self) -> &Resources {
        &self.resources
    }

    /// What the node adds to them.
    #[must_use]
    pub const fn context(&self) -> &Context {
        &self.context
    }

    /// When the next policy or rule expires.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Timestamp> {
        let expiries = self.policies.iter().flat_map(|(_, policy)| policy.expiries());
        expiries.filter(|at| *at > self.context.now).min()
    }

    /// The generation as it is now. Costs as many pointers as there are pages.
    #[must_use]
    pub fn compiled(&self) -> Compiled {
        let pages = self.pages();
        Compiled {
            generation: self.context.generation,
            sizes: Sizes { pages: pages.len(), ..self.sizes() },
            pages,
            endpoints: self.endpoints.clone(),
            services: self.fronts.words.clone(),
            themselves: self.themselves.answers.clone(),
            service_names: self.fronts.names.clone(),
            cidrs: Arc::clone(&self.cidrs),
            sets: Arc::clone(&self.compiled_sets),
            rules: Arc::clone(&self.rules.infos),
            workloads: self.described.clone(),
            limits: Arc::clone(&self.limits.infos),
            interface_lists: Arc::clone(&self.limits.interfaces),
            host_addresses: self.context.host_addresses.clone(),
        }
    }

    fn blank(context: Context) -> Self {
        let mut sets = Parts::from(1);
        sets.pin(UNSELECTED, SetKey::default());
        Self {
            context,
            resources: Resources::default(),
            policies: Policies::default(),
            workloads: Workloads::default(),
            named: NamedPorts::default(),
            here: BTreeMap::new(),
            sets,
            in_force: BTreeMap::new(),
            terms: Terms::new(),
            subjects: Parts::from(0),
            pod_ranges: BTreeMap::new(),
            space: Space::new(),
            listed: BTreeSet::new(),
            fronts: Fronts::new(),
            themselves: Themselves::default(),
            identities: Identities::new(),
            pieces: Vec::new(),
            classes: Classes::new(),
            ports: PortRows::new(),
            tables: Tables::new(),
            rules: Rules::new(),
            limits: Limits::new(),
            rate_limits: BTreeMap::new(),
            address_sets: BTreeMap::new(),
            identity_words: Words::of(Section::Identities),
            endpoints: RedBlackTreeMapSync::new_sync(),
            cidrs: Arc::default(),
            compiled_sets: Arc::default(),
            described: RedBlackTreeMapSync::new_sync(),
        }
    }

    /// Back to what was in force before a change that failed midway.
    fn start_over(&mut self, context: Context) {
        let resources = std::mem::take(&mut self.resources);
        // What the kernel counts of limits goes on under their numbers.
        let numbers = std::mem::take(&mut self.limits.numbers);
        // It was in force before, so it can be.
        *self = Self::with(&resources, context.clone(), numbers).unwrap_or_else(|_| Self::new(context));
    }

    /// The image: the header's page, then each section from a page of its own.
    fn pages(&self) -> Vec<Arc<Page>> {
        let limits = if self.limits.is_empty() { 0 } else { FLAG_LIMITS };
        let limits = if self.limits.hold_for_all() { limits | FLAG_LIMITS_ALL } else { limits };
        let limits = if self.limits.protect() { limits | FLAG_SYN } else { limits };
        let sets = if self.compiled_sets.is_empty() { 0 } else { FLAG_SETS };
        let allow = if self.compiled_sets.iter().all(|set| set.blocks) { 0 } else { FLAG_SETS_ALLOW };
        let quiet = if self.policies.any_quiet() { FLAG_QUIET } else { 0 };
        let staged = if self.tables.any_staged() { FLAG_STAGED } else { 0 };
        let refuse = if self.tables.any_refusing() { FLAG_REFUSE } else { 0 };
        let unknown = Cell::new(self.context.unknown, Reason::UnknownWorkload, 0);
        let mut front = vec![
            (header::MAGIC, MAGIC),
            (header::GENERATION, self.context.generation),
            (header::FLAGS, limits | sets | allow | quiet | staged | refuse),
            (header::UNKNOWN, u64::from(unknown.0)),
            (header::ATOMS, u64::from(self.ports.stride())),
            (header::CLIENT_KEYS, self.limits.client_keys() as u64),
        ];
        let mut pages = vec![Arc::new(Page::zeroed())];
        for section in Section::ALL {
            let entries = self.section(section).map_or(0, Words::entries);
            front.push((header::SECTIONS + section as u32, pages.len() as u64 | (entries as u64) << 32));
            pages.extend(self.section(section).into_iter().flat_map(Words::pages));
        }
        let mut page = Page::zeroed();
        for (word, value) in front {
            if let Some(slot) = page.words.get_mut(word as usize % PAGE_WORDS) {
                *slot = value;
            }
        }
        if let Some(first) = pages.first_mut() {
            *first = Arc::new(page);
        }
        pages
    }

    fn section(&self, section: Section) -> Option<&Words> {
        Some(match section {
            Section::Identities => &self.identity_words,
            Section::Ports => &self.ports.ports,
            Section::PortRows => &self.ports.words,
            Section::Sets => &self.tables.sets,
            Section::StagedSets => &self.tables.staged_sets,
            Section::Cells => &self.tables.cells,
            Section::Services => &self.limits.services,
            Section::Limits => &self.limits.entries,
            Section::Clients => &self.limits.clients,
            // The agent's to fill: only it knows which numbers workloads and interfaces have on this node.
            Section::Workloads | Section::Interfaces => return None,
        })
    }

    fn sizes(&self) -> Sizes {
        Sizes {
            identities: self.identities.parts.len(),
            classes: self.classes.parts.len(),
            sets: self.sets.len(),
            terms: self.terms.parts.len(),
            atoms: self.ports.atoms().stands_for.len(),
            cells: self.tables.cells_in_use(),
            rules: self.rules.len(),
            endpoints: self.endpoints.size() + self.themselves.size,
            cidrs: self.cidrs.len(),
            pages: 0,
        }
    }
}
