//! Lives: agent, user space.
//! Called by: `Kernel::install`.
//! May touch: the idle slot of the policy maps, and the active word.
//! Never: writes into a map that a program may be reading: first a grace period, then the slot that is not active.
//!
//! ```text
//!   active = 6 (slot 0)      write slot 1      store active = 7      wait a grace period      next time: write slot 0
//! ```
//! The wait is part of the install: when it returns, nothing still judges by the generation before, so what that let through can
//! be found on its socket (`revoke`).
//! The active word is a counter of installs; its low bit is the slot, its high bits say what is asked of every packet. The
//! generation's own number is in its image. A slot keeps its
//! maps from one install to the next, and only what differs from what it holds is written; what it holds is two generations old.

use std::collections::BTreeMap;

use aya::{
    Ebpf,
    maps::{Array, ArrayOfMaps, MapData, MapError},
};
use weir_common::maps;
use weir_policy::{Compiled, ResourceId, sets::Loaded};

use super::{
    content::Content,
    error::{self, KernelError},
    sets::Sets,
    slot::{Endpoints, Pages, ReadBack, Slot, Tries, Written},
};
use crate::faults;

/// The two slots and the word that picks one.
pub(super) struct Slots {
    active: Array<MapData, u64>,
    outer: Outer,
    sets: Sets,
    /// `None`: never written, or not known to hold what it should.
    slots: [Option<Slot>; maps::SLOTS as usize],
    grace: Grace,
    /// The last switch was not waited for: a program may still be in the slot that is not active.
    unsettled: bool,
    installs: u64,
    generation: u64,
}

/// Slot -> map.
struct Outer {
    tables: ArrayOfMaps<MapData, Pages>,
    endpoints: ArrayOfMaps<MapData, Endpoints>,
    cidrs: ArrayOfMaps<MapData, Tries>,
}

impl Slots {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        let outer = Outer {
            tables: take(ebpf, maps::TABLES)?,
            endpoints: take(ebpf, maps::ENDPOINTS)?,
            cidrs: take(ebpf, maps::CIDRS)?,
        };
        let sets = Sets::take(ebpf, super::load::random_word())?;
        let (active, grace) = (take(ebpf, maps::ACTIVE)?, Grace::take(ebpf, maps::GRACE)?);
        Ok(Self { active, outer, sets, slots: [None, None], grace, unsettled: false, installs: 0, generation: 0 })
    }

    /// The generation in force; 0 before the first.
    pub(super) const fn generation(&self) -> u64 {
        self.generation
    }

    /// The slot in force.
    const fn number(&self) -> u32 {
        (self.installs & 1) as u32
    }

    /// Takes over address sets that were loaded since, without another generation.
    pub(super) fn reload_sets(&mut self, compiled: &Compiled, loaded: &Loaded) -> Result<(), KernelError> {
        if self.unsettled {
            self.grace.wait()?;
            self.unsettled = false;
        }
        let slot = self.number();
        if self.sets.reload(slot, compiled, loaded)? {
            self.settle();
            // What is not given back now is when the next load takes its place.
            if !self.unsettled
                && let Err(error) = self.sets.retire(slot)
            {
                tracing::warn!(%error, "the address sets before keep their memory until the next ones are loaded");
            }
        }
        Ok(())
    }

    /// Addresses and prefixes that the slot in force holds.
    pub(super) fn entries(&self) -> (usize, usize) {
        let [even, odd] = &self.slots;
        let slot = if self.number() == 0 { even } else { odd };
        slot.as_ref().map_or((0, 0), Slot::entries)
    }

    /// The address sets.
    pub(super) const fn sets(&self) -> &Sets {
        &self.sets
    }

    /// The same, to change single entries.
    pub(super) const fn sets_mut(&mut self) -> &mut Sets {
        &mut self.sets
    }

    /// Makes the idle slot hold `compiled` and switches to it. Also the numbers of the address sets that are new.
    pub(super) fn install(
        &mut self,
        compiled: &Compiled,
        numbers: &BTreeMap<ResourceId, u32>,
        present: &BTreeMap<u32, String>,
        loaded: &Loaded,
    ) -> Result<(Written, Vec<u32>), KernelError> {
        let next = self.installs + 1;
        let number = (next & 1) as u32;
        let content = Content::of(compiled, numbers, present);
        let marks = content.marks;
        if self.unsettled {
            self.grace.wait()?;
            self.unsettled = false;
        }
        let [even, odd] = &mut self.slots;
        let place = if number == 0 { even } else { odd };
        // Taken out: an error on the way leaves the slot unknown, and the next install writes it from nothing.
        let kept = place.take().filter(|slot| slot.fits(&content));
        let (slot, written) = match kept {
            Some(mut slot) => {
                let written = slot.write(content)?;
                (slot, written)
            }
            None => self.outer.renew(number, content)?,
        };
        let sets = self.sets.prepare(number, compiled, loaded)?;
        error::map_point("install.switch").map_err(error::map(maps::ACTIVE))?;
        self.active.set(0, next | marks, 0).map_err(error::map(maps::ACTIVE))?;
        *place = Some(slot);
        self.installs = next;
        self.generation = compiled.generation;
        faults::passed("install.switched");
        let new_sets = self.sets.commit();
        self.settle();
        Ok((Written { sets, ..written }, new_sets))
    }

    /// Waits for the programs that read the active word before the switch. The new generation is in force whatever comes of it.
    fn settle(&mut self) {
        let waited =
            error::map_point("install.grace").map_err(error::map(maps::GRACE)).and_then(|()| self.grace.wait());
        if let Err(error) = &waited {
            tracing::warn!(%error, "programs that judge by the generation before were not waited for; the next install does");
        }
        self.unsettled = waited.is_err();
    }

    /// Forgets what the slots hold: the next installs write them whole, as after an error.
    pub(super) fn forget(&mut self) {
        self.slots = [None, None];
        self.sets.forget();
    }

    /// What the active slot's maps hold, asked of the kernel.
    pub(super) fn read_back(&self) -> Result<ReadBack, KernelError> {
        self.outer.read_back(self.number(), self.sets.digest())
    }
}

impl Outer {
    /// Gives a slot new maps with all of `content`.
    fn renew(&mut self, number: u32, content: Content) -> Result<(Slot, Written), KernelError> {
        let mut slot = Slot::create(&content)?;
        let written = Written { whole: true, ..slot.write(content)? };
        let lead = || error::map_point("install.lead");
        lead().and_then(|()| self.endpoints.set(number, &slot.endpoints, 0)).map_err(error::map(maps::ENDPOINTS))?;
        lead().and_then(|()| self.cidrs.set(number, &slot.cidrs, 0)).map_err(error::map(maps::CIDRS))?;
        lead().and_then(|()| self.tables.set(number, &slot.tables, 0)).map_err(error::map(maps::TABLES))?;
        Ok((slot, written))
    }

    fn read_back(&self, number: u32, sets: u64) -> Result<ReadBack, KernelError> {
        let tables = self.tables.get(&number, 0).map_err(error::map(maps::TABLES))?;
        let endpoints = self.endpoints.get(&number, 0).map_err(error::map(maps::ENDPOINTS))?;
        let cidrs = self.cidrs.get(&number, 0).map_err(error::map(maps::CIDRS))?;
        ReadBack::of(&tables, &endpoints, &cidrs, sets)
    }
}

/// Waits until every program that was running has finished: the kernel returns from an update of a map of maps only then.
pub(super) struct Grace {
    outer: ArrayOfMaps<MapData, Array<MapData, u64>>,
    inner: Array<MapData, u64>,
}

impl Grace {
    pub(super) fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Self, KernelError> {
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
