//! Lives: agent, user space.
//! Called by: `Kernel::install`.
//! May touch: the idle slot of the policy maps, and the active word.
//! Never: writes into a map that a program may be reading; every generation gets inner maps of its own.
//!
//! ```text
//!   active = 6 (slot 0)      write slot 1      store active = 7      next time: wait a grace period, write slot 0
//! ```
//! The active word is a counter of installs; its low bit is the slot. The generation's own number is in its image.

use std::{borrow::BorrowMut, collections::BTreeMap};

use aya::{
    Ebpf,
    maps::{Array, ArrayOfMaps, HashMap, InnerMap, LpmTrie, MapData, MapError, lpm_trie::Key},
};
use weir_common::{
    image::{PAGE_WORDS, Page, Section, header},
    maps,
};
use weir_policy::{Compiled, Prefix, ResourceId};

use super::error::{self, KernelError};

type Words = [u64; PAGE_WORDS];
type Pages = Array<MapData, Words>;
type Endpoints = HashMap<MapData, [u8; 16], u32>;
type Prefixes = LpmTrie<MapData, [u8; 16], u32>;

/// `BPF_F_INNER_MAP`: inner arrays may differ in length. The same flag stands in the kernel programs' template.
const BPF_F_INNER_MAP: u32 = 1 << 12;
/// `BPF_F_NO_PREALLOC`.
const BPF_F_NO_PREALLOC: u32 = 1;

/// The two slots and the word that picks one.
pub(super) struct Slots {
    active: Array<MapData, u64>,
    tables: ArrayOfMaps<MapData, Pages>,
    endpoints: ArrayOfMaps<MapData, Endpoints>,
    cidrs: ArrayOfMaps<MapData, Prefixes>,
    blocked: ArrayOfMaps<MapData, Prefixes>,
    grace: Grace,
    installs: u64,
    generation: u64,
}

impl Slots {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        Ok(Self {
            active: take(ebpf, maps::ACTIVE)?,
            tables: take(ebpf, maps::TABLES)?,
            endpoints: take(ebpf, maps::ENDPOINTS)?,
            cidrs: take(ebpf, maps::CIDRS)?,
            blocked: take(ebpf, maps::BLOCKED)?,
            grace: Grace::take(ebpf, maps::GRACE)?,
            installs: 0,
            generation: 0,
        })
    }

    /// The generation in force; 0 before the first.
    pub(super) const fn generation(&self) -> u64 {
        self.generation
    }

    /// Writes `compiled` into the idle slot and switches to it.
    pub(super) fn install(
        &mut self,
        compiled: &Compiled,
        numbers: &BTreeMap<ResourceId, u32>,
    ) -> Result<(), KernelError> {
        let next = self.installs + 1;
        let slot = (next & 1) as u32;
        // A program that read the active word before the last switch may still be in the slot we are about to reuse.
        self.grace.wait()?;
        let pages = pages_of(&with_workloads(compiled, numbers)).map_err(error::map(maps::TABLES))?;
        let endpoints = endpoints_of(compiled).map_err(error::map(maps::ENDPOINTS))?;
        let cidrs = prefixes_of(&compiled.cidrs, maps::MAX_CIDRS).map_err(error::map(maps::CIDRS))?;
        let blocked = prefixes_of(&compiled.blocked, maps::MAX_BLOCKED).map_err(error::map(maps::BLOCKED))?;
        put(&mut self.endpoints, slot, &endpoints).map_err(error::map(maps::ENDPOINTS))?;
        put(&mut self.cidrs, slot, &cidrs).map_err(error::map(maps::CIDRS))?;
        put(&mut self.blocked, slot, &blocked).map_err(error::map(maps::BLOCKED))?;
        put(&mut self.tables, slot, &pages).map_err(error::map(maps::TABLES))?;
        self.active.set(0, next, 0).map_err(error::map(maps::ACTIVE))?;
        self.installs = next;
        self.generation = compiled.generation;
        Ok(())
    }
}

fn put<T: BorrowMut<MapData>, V: InnerMap>(
    outer: &mut ArrayOfMaps<T, V>,
    slot: u32,
    inner: &V,
) -> Result<(), MapError> {
    outer.set(slot, inner, 0)
}

/// The compiled image with the section that says which identity each workload number has in this generation.
fn with_workloads(compiled: &Compiled, numbers: &BTreeMap<ResourceId, u32>) -> Vec<Page> {
    let mut pages = compiled.pages.clone();
    let entries = numbers.values().max().map_or(0, |highest| highest + 1);
    let first_page = pages.len() as u64;
    let mut words = vec![0u64; (entries as usize).div_ceil(2)];
    for workload in &compiled.workloads {
        let Some(number) = numbers.get(&workload.id) else { continue };
        if let Some(word) = words.get_mut(*number as usize / 2) {
            *word |= u64::from(workload.identity) << (32 * (number & 1));
        }
    }
    if let Some(word) =
        pages.first_mut().and_then(|page| page.words.get_mut((header::SECTIONS + Section::Workloads as u32) as usize))
    {
        *word = first_page | u64::from(entries) << 32;
    }
    for chunk in words.chunks(PAGE_WORDS) {
        let mut page = Page::zeroed();
        for (to, from) in page.words.iter_mut().zip(chunk) {
            *to = *from;
        }
        pages.push(page);
    }
    pages
}

fn pages_of(pages: &[Page]) -> Result<Pages, MapError> {
    let mut map = Pages::create(pages.len() as u32, BPF_F_INNER_MAP)?;
    let empty = Page::zeroed();
    for (index, page) in pages.iter().enumerate() {
        if *page != empty {
            map.set(index as u32, page.words, 0)?;
        }
    }
    Ok(map)
}

fn endpoints_of(compiled: &Compiled) -> Result<Endpoints, MapError> {
    let mut map = Endpoints::create(maps::MAX_ENDPOINTS, BPF_F_NO_PREALLOC)?;
    for (addr, identity) in &compiled.endpoints {
        map.insert(addr.0, identity, 0)?;
    }
    Ok(map)
}

fn prefixes_of(prefixes: &[(Prefix, u32)], capacity: u32) -> Result<Prefixes, MapError> {
    let mut map = Prefixes::create(capacity, BPF_F_NO_PREALLOC)?;
    for (prefix, value) in prefixes {
        map.insert(&Key::new(u32::from(prefix.bits), prefix.addr.0), value, 0)?;
    }
    Ok(map)
}

/// Waits until every program that was running has finished: the kernel returns from an update of a map of maps only then.
pub(super) struct Grace {
    outer: ArrayOfMaps<MapData, Array<MapData, u64>>,
    inner: Array<MapData, u64>,
}

impl Grace {
    fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Self, KernelError> {
        let inner = Array::create(1, 0).map_err(error::map(name))?;
        Ok(Self { outer: take(ebpf, name)?, inner })
    }

    /// The one for the thread that reads events; two maps, so that neither thread waits for the other's lock.
    pub(super) fn open(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        Self::take(ebpf, maps::GRACE_EVENTS)
    }

    pub(super) fn wait(&mut self) -> Result<(), KernelError> {
        self.outer.set(0, &self.inner, 0).map_err(error::map(maps::GRACE))
    }
}

/// Takes a map out of the loaded object under its type.
pub(super) fn take<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, KernelError>
where
    T: TryFrom<aya::maps::Map, Error = MapError>,
{
    let map = ebpf.take_map(name).ok_or(KernelError::NoMap(name))?;
    T::try_from(map).map_err(error::map(name))
}
