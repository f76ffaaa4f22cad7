//! Lives: agent, user space.
//! Called by: `generation`, for each install; `Kernel`, when entries change without one.
//! May touch: the images of the address sets, through a mapping of their maps.
//! Never: writes into an image in force what is not right after each single store; builds one for a slot when there already is one.
//!
//! Both slots lead to the same images while sets stay as they are. Other sets make new images, for the idle slot; an entry more or
//! less is stored into those in force. What is loaded without another generation goes into the idle buffer of the slot in force, and
//! one store makes that the one that programs look at: a program reads it once, and so sees one load's images, never two's.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd as _, AsRawFd as _},
    sync::Arc,
};

use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues},
};
use nix::time::{ClockId, clock_gettime};
use weir_common::{
    maps::{self, SET_BUFFERS, SET_IMAGES, SET_SCOPE, SET_V4, SET_V6, SLOTS},
    sets::{Line, MAX_SETS, v4, v6},
};
use weir_policy::{
    Compiled, CompiledSet, Prefix,
    sets::{Entries, Full, Loaded, Scope, Source, V4, V6},
};

use super::{
    error::{self, KernelError},
    generation::take,
    mapped::{self, Mapped},
};

/// The images of the address sets, and which of them each slot leads to.
pub(super) struct Sets {
    outer: Outer,
    buffers: Array<MapData, u32>,
    numbers: BTreeMap<String, u32>,
    current: Images,
    /// Made for an install that is under way.
    pending: Option<(BTreeMap<String, u32>, Option<Images>)>,
    led: [Led; SLOTS as usize],
    made: u64,
    seed: u64,
}

/// The images of some sets.
#[derive(Default)]
struct Images {
    /// 0: those of no sets.
    id: u64,
    parts: Vec<Part>,
    v4: Option<(V4, Mapped)>,
    v6: Option<(V6, Mapped)>,
}

/// A set as it went into an image.
#[derive(Clone, PartialEq, Eq)]
struct Part {
    name: String,
    set: u32,
    blocks: bool,
    plain: bool,
    entries: Arc<Entries>,
    /// Of what was loaded.
    revision: u64,
}

/// What a slot leads to.
#[derive(Default)]
struct Led {
    buffer: u32,
    images: u64,
    scopes: Vec<Scope>,
    scope: Option<mapped::Array>,
}

/// The maps of maps that lead to images.
struct Outer {
    images: MapOfMaps,
    tables: [MapOfMaps; 2],
}

/// An array of maps, by the descriptors of those. Of its own type aya has no way to make an entry lead to nothing again.
type MapOfMaps = HashMap<MapData, u32, u32>;

impl Sets {
    pub(super) fn take(ebpf: &mut Ebpf, seed: u64) -> Result<Self, KernelError> {
        let (outer, buffers) = (Outer::take(ebpf)?, take(ebpf, maps::SET_BUFFER)?);
        let led = Default::default();
        Ok(Self {
            outer,
            buffers,
            numbers: BTreeMap::new(),
            current: Images::default(),
            pending: None,
            led,
            made: 0,
            seed,
        })
    }

    /// Makes the idle slot lead to images of these sets; how many images were made.
    pub(super) fn prepare(&mut self, slot: u32, compiled: &Compiled, loaded: &Loaded) -> Result<usize, KernelError> {
        self.pending = None;
        let numbers = number(&self.numbers, &compiled.sets);
        let parts = parts(&compiled.sets, &numbers, loaded);
        let images = if parts == self.current.parts { None } else { Some(self.build(parts, loaded)?) };
        let made =
            images.iter().map(|images| usize::from(images.v4.is_some()) + usize::from(images.v6.is_some())).sum();
        self.lead(slot, images.as_ref())?;
        self.scope(slot, scopes(&compiled.sets, &numbers))?;
        self.pending = Some((numbers, images));
        Ok(made)
    }

    /// The slot that was prepared is in force; the numbers of sets that are new, whose counts begin anew.
    pub(super) fn commit(&mut self) -> Vec<u32> {
        let Some((numbers, images)) = self.pending.take() else { return Vec::new() };
        let new = numbers.iter().filter(|(name, number)| self.numbers.get(*name) != Some(number));
        let new = new.map(|(_, number)| *number).collect();
        self.numbers = numbers;
        self.current = images.unwrap_or_else(|| std::mem::take(&mut self.current));
        new
    }

    /// Takes over what was loaded, in the slot in force: new images in its idle buffer, which one store puts in force. No program may
    /// be in that buffer any more. `false`: there is nothing new.
    pub(super) fn reload(&mut self, slot: u32, compiled: &Compiled, loaded: &Loaded) -> Result<bool, KernelError> {
        let parts = parts(&compiled.sets, &self.numbers, loaded);
        if parts == self.current.parts {
            return Ok(false);
        }
        let images = self.build(parts, loaded)?;
        let Some(led) = self.led.get_mut(slot as usize) else { return Ok(false) };
        let buffer = led.buffer ^ 1;
        self.outer.put(place(slot, buffer), &images)?;
        self.outer.put_scope(place(slot, buffer), led.scope.as_ref())?;
        error::map_point("set.switch").map_err(error::map(maps::SET_BUFFER))?;
        self.buffers.set(slot, buffer, 0).map_err(error::map(maps::SET_BUFFER))?;
        (led.buffer, led.images) = (buffer, images.id);
        self.current = images;
        Ok(true)
    }

    /// Gives back what was in force before a reload of this slot: its idle buffer's images, and what the other slot still leads to,
    /// once no program is in any of them any more.
    pub(super) fn retire(&mut self, slot: u32) -> Result<(), KernelError> {
        let mut idle = Vec::new();
        for (number, led) in (0..).zip(&mut self.led) {
            idle.push(place(number, led.buffer ^ 1));
            if number != slot && led.images != self.current.id {
                led.images = 0;
                idle.push(place(number, led.buffer));
            }
        }
        idle.into_iter().try_for_each(|place| self.outer.put(place, &Images::default()))
    }

    /// Takes over that an entry of `prefix` was added, removed, or got another end. `false`: there is no room for it.
    pub(super) fn change(&mut self, loaded: &Loaded, prefix: Prefix) -> bool {
        let parts = self.current.parts.clone();
        let sources = sources(&parts, loaded);
        let done = if prefix.is_v4() {
            self.current.v4.as_mut().map_or(Err(Full), |(image, map)| image.change(map, &sources, prefix))
        } else {
            self.current.v6.as_mut().map_or(Err(Full), |(image, map)| image.change(map, &sources, prefix))
        };
        done.is_ok()
    }

    /// Number by name, of the sets in force.
    pub(super) const fn numbers(&self) -> &BTreeMap<String, u32> {
        &self.numbers
    }

    /// Bytes of the images in force.
    pub(super) fn bytes(&self) -> usize {
        let v4 = self.current.v4.as_ref().map_or(0, |(_, map)| map.bytes());
        v4 + self.current.v6.as_ref().map_or(0, |(_, map)| map.bytes())
    }

    /// What the images in force hold, as a number: for tests.
    pub(super) fn digest(&self) -> u64 {
        let v4 = self.current.v4.as_ref().map_or(0, |(_, map)| map.digest());
        v4 ^ self.current.v6.as_ref().map_or(0, |(_, map)| map.digest().rotate_left(1))
    }

    /// Forgets what the slots lead to: the next installs make everything anew.
    pub(super) fn forget(&mut self) {
        self.current = Images::default();
        for led in &mut self.led {
            led.images = 0;
            led.scopes.clear();
        }
    }

    fn build(&mut self, parts: Vec<Part>, loaded: &Loaded) -> Result<Images, KernelError> {
        error::map_point("install.image").map_err(error::map(maps::SETS))?;
        let sources = sources(&parts, loaded);
        let v4 = V4::build(&sources).map(|image| mapped(image, v4::HEAP)).transpose()?;
        let v6 = V6::build(&sources, self.seed).map(|image| mapped(image, v6::HEAP)).transpose()?;
        self.made += 1;
        Ok(Images { id: self.made, parts, v4, v6 })
    }

    /// Makes a slot lead to `images`, or else to those in force.
    fn lead(&mut self, slot: u32, images: Option<&Images>) -> Result<(), KernelError> {
        let images = images.unwrap_or(&self.current);
        let Some(led) = self.led.get_mut(slot as usize) else { return Ok(()) };
        if led.images == images.id {
            return Ok(());
        }
        // Until both are there the slot leads to neither set of images for certain.
        led.images = 0;
        self.outer.put(place(slot, led.buffer), images)?;
        led.images = images.id;
        Ok(())
    }

    fn scope(&mut self, slot: u32, scopes: Vec<Scope>) -> Result<(), KernelError> {
        let Some(led) = self.led.get_mut(slot as usize).filter(|led| led.scopes != scopes) else { return Ok(()) };
        led.scopes.clear();
        let map = mapped::Array::of(&Scope::image(&scopes)).map_err(error::map(maps::SETS))?;
        self.outer.put_scope(place(slot, led.buffer), Some(&map))?;
        (led.scopes, led.scope) = (scopes, Some(map));
        Ok(())
    }
}

impl Outer {
    fn take(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        let mut take = |name| {
            let Some(Map::ArrayOfMaps(data)) = ebpf.take_map(name) else { return Err(KernelError::NoMap(name)) };
            MapOfMaps::try_from(Map::HashMap(data)).map_err(error::map(name))
        };
        Ok(Self { images: take(maps::SETS)?, tables: [take(maps::SET_TABLES_V4)?, take(maps::SET_TABLES_V6)?] })
    }

    /// Makes a buffer lead to these images.
    fn put(&mut self, place: u32, images: &Images) -> Result<(), KernelError> {
        let maps = [images.v4.as_ref().map(|(_, map)| map), images.v6.as_ref().map(|(_, map)| map)];
        let kinds = [(SET_V4, maps::SET_TABLES_V4), (SET_V6, maps::SET_TABLES_V6)];
        for ((map, tables), (which, name)) in maps.into_iter().zip(&mut self.tables).zip(kinds) {
            lead(tables, place, map.map(Mapped::tables)).map_err(error::map(name))?;
            lead(&mut self.images, place * SET_IMAGES + which, map.map(Mapped::rest))
                .map_err(error::map(maps::SETS))?;
        }
        Ok(())
    }

    /// Makes a buffer lead to this scope.
    fn put_scope(&mut self, place: u32, scope: Option<&mapped::Array>) -> Result<(), KernelError> {
        lead(&mut self.images, place * SET_IMAGES + SET_SCOPE, scope).map_err(error::map(maps::SETS))
    }
}

/// Number of a buffer.
const fn place(slot: u32, buffer: u32) -> u32 {
    slot * SET_BUFFERS + buffer
}

/// Makes an entry lead to a map, or to none.
fn lead(outer: &mut MapOfMaps, entry: u32, map: Option<&mapped::Array>) -> Result<(), MapError> {
    error::map_point("install.set")?;
    match map {
        Some(map) => outer.insert(entry, map.data().fd().as_fd().as_raw_fd().cast_unsigned(), 0),
        None => match outer.remove(&entry) {
            Err(error) if is_missing(&error) => Ok(()),
            removed => removed,
        },
    }
}

fn is_missing(error: &MapError) -> bool {
    matches!(error, MapError::SyscallError(error) if error.io_error.kind() == io::ErrorKind::NotFound)
}

/// An image in maps of its own.
fn mapped<T>((image, lines): (T, Vec<Line>), tables: u32) -> Result<(T, Mapped), KernelError> {
    Ok((image, Mapped::of(&lines, tables).map_err(error::map(maps::SETS))?))
}

/// A set keeps its number while it is there. There are no more sets than numbers: the compiler refuses them.
fn number(before: &BTreeMap<String, u32>, sets: &[CompiledSet]) -> BTreeMap<String, u32> {
    let kept = sets.iter().filter_map(|set| Some((set.name.clone(), *before.get(&set.name)?)));
    let mut numbers: BTreeMap<String, u32> = kept.collect();
    for set in sets {
        let free = (0..MAX_SETS).find(|number| numbers.values().all(|taken| taken != number));
        if let (Some(free), false) = (free, numbers.contains_key(&set.name)) {
            numbers.insert(set.name.clone(), free);
        }
    }
    numbers
}

fn parts(sets: &[CompiledSet], numbers: &BTreeMap<String, u32>, loaded: &Loaded) -> Vec<Part> {
    let part = |set: &CompiledSet| {
        Some(Part {
            name: set.name.clone(),
            set: *numbers.get(&set.name)?,
            blocks: set.blocks,
            plain: set.blocks && set.ports.is_empty(),
            entries: Arc::clone(&set.entries),
            revision: loaded.get(&set.name).map_or(0, |loaded| loaded.revision),
        })
    };
    sets.iter().filter_map(part).collect()
}

fn scopes(sets: &[CompiledSet], numbers: &BTreeMap<String, u32>) -> Vec<Scope> {
    let scope = |set: &CompiledSet| {
        let CompiledSet { blocks, rule, ref ports, .. } = *set;
        Some(Scope { set: *numbers.get(&set.name)?, blocks, rule, ports: ports.clone() })
    };
    sets.iter().filter_map(scope).collect()
}

fn sources<'s>(parts: &'s [Part], loaded: &'s Loaded) -> Vec<Source<'s>> {
    let shift = monotonic_less_wall();
    let of = |part: &'s Part, entries, shift| {
        let Part { set, blocks, plain, .. } = *part;
        Source { set, blocks, plain, shift, entries }
    };
    let listed = parts.iter().map(|part| of(part, &*part.entries, 0));
    let more = parts.iter().filter_map(|part| Some(of(part, &loaded.get(&part.name)?.entries, shift)));
    listed.chain(more).collect()
}

/// What to add to a time by the wall clock to have it by the one that the programs read; wraps. Taken anew for each image: a clock
/// that is set moves no entry's end by the time that passes.
fn monotonic_less_wall() -> u64 {
    let read = |clock| {
        let time = clock_gettime(clock).ok()?;
        Some(
            u64::try_from(time.tv_sec())
                .ok()?
                .wrapping_mul(1_000_000_000)
                .wrapping_add(u64::try_from(time.tv_nsec()).ok()?),
        )
    };
    let (monotonic, wall) = (read(ClockId::CLOCK_MONOTONIC), read(ClockId::CLOCK_REALTIME));
    monotonic.unwrap_or(0).wrapping_sub(wall.unwrap_or(0))
}

/// Packets and bytes that a set has refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetCount {
    /// Packets.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What each of these numbers has refused.
pub(super) fn counts<'n>(
    ebpf: &Ebpf,
    numbers: impl Iterator<Item = (&'n String, &'n u32)>,
) -> Result<BTreeMap<String, SetCount>, KernelError> {
    let map = ebpf.map(maps::SET_COUNTS).ok_or(KernelError::NoMap(maps::SET_COUNTS))?;
    let map: PerCpuArray<_, [u64; 2]> = PerCpuArray::try_from(map).map_err(error::map(maps::SET_COUNTS))?;
    let count = |(name, number): (&String, &u32)| -> Result<_, MapError> {
        let cpus = map.get(number, 0)?;
        let sum = cpus.iter().fold(SetCount::default(), |sum, [packets, bytes]| SetCount {
            packets: sum.packets + packets,
            bytes: sum.bytes + bytes,
        });
        Ok((name.clone(), sum))
    };
    numbers.map(count).collect::<Result<_, _>>().map_err(error::map(maps::SET_COUNTS))
}

/// Lets the counts of these numbers begin anew.
pub(super) fn clear(ebpf: &mut Ebpf, numbers: &[u32]) -> Result<(), KernelError> {
    error::map_point("install.counts").map_err(error::map(maps::SET_COUNTS))?;
    let map = ebpf.map_mut(maps::SET_COUNTS).ok_or(KernelError::NoMap(maps::SET_COUNTS))?;
    let mut map: PerCpuArray<_, [u64; 2]> = PerCpuArray::try_from(map).map_err(error::map(maps::SET_COUNTS))?;
    for number in numbers {
        let cpus = map.get(number, 0).map_err(error::map(maps::SET_COUNTS))?.len();
        let zero =
            PerCpuValues::try_from(vec![[0; 2]; cpus]).map_err(|source| error::map(maps::SET_COUNTS)(source.into()))?;
        map.set(*number, zero, 0).map_err(error::map(maps::SET_COUNTS))?;
    }
    Ok(())
}
