//! Lives: agent, user space.
//! Called by: `Kernel::reconcile`.
//! May touch: the interfaces of the agent's network namespace that match a configured pattern.
//! Never: replaces another program; an occupied slot is reported and left alone, or shared (`neighbours`) where that is asked for.

use std::collections::{BTreeMap, BTreeSet};

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, PerCpuArray, PerCpuValues},
    programs::{
        ProgramError, Xdp,
        links::FdLink,
        xdp::{XdpLink, XdpMode as Mode},
    },
    util::nr_cpus,
};
use nix::net::if_::if_nameindex;
use weir_common::{edge, maps};

use super::{
    Options, attach,
    counters::InterfaceSeen,
    error::{self, KernelError},
    generation::take,
    keep::{At, Keep, Kept},
    links,
    neighbours::{Chain, Neighbourhood, Where},
};
use crate::faults;

/// How XDP programs are attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpMode {
    /// Native where the driver can, else generic, with a notice; on a veth generic as long as no limit is in force and it is no workload's own.
    #[default]
    Auto,
    /// In the driver or not at all.
    Native,
    /// In the stack, after the packet is built: works everywhere, costs more.
    Generic,
}

/// Interfaces that XDP is to be attached to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceOption {
    /// Name, or pattern with `*` and `?`.
    pub name: String,
    /// What is refused there beside what contradicts itself: bits of [`weir_common::edge`].
    pub refuses: u32,
}

/// The words for what an interface may refuse, and their bits.
pub const REFUSALS: &[(&str, u32)] =
    &[("martian", edge::MARTIAN), ("spoofed", edge::SPOOFED), ("ethertype", edge::ETHERTYPE)];

/// One interface's attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceState {
    /// Interface name, or the pattern that matches none.
    pub name: String,
    /// Interface index; 0 when there is none.
    pub index: u32,
    /// native, generic, waiting or failed.
    pub mode: &'static str,
    /// Why, where that needs saying.
    pub detail: String,
    /// What is refused there beside what contradicts itself, in the words of the configuration.
    pub refuses: Vec<&'static str>,
}

/// Why a veth is attached in generic mode.
const UNNEEDED: &str =
    "a veth: native mode slows bulk transfers down there and may lose SYN cookies, and nothing needs it";
/// What is said of a veth in native mode that may lose answers.
const LOST: &str =
    "SYN protection may fail here: what a veth answers in native mode is lost unless its other end has XDP or GRO";

/// The mode of an interface whose packets the stack hands to the program.
const GENERIC: &str = "generic";

/// The mode of a program in the driver.
const NATIVE: &str = "native";

/// The mode of an interface that exists and could not be attached.
pub(super) const FAILED: &str = "failed";

impl InterfaceState {
    /// The same with a remark.
    fn with(self, remark: &str) -> Self {
        let detail = if self.detail.is_empty() { remark.to_owned() } else { format!("{}; {remark}", self.detail) };
        Self { detail, ..self }
    }
}

/// What the best mode of an interface depends on.
pub(super) struct Needs<'a> {
    /// The numbers of the workloads whose own interfaces are attached as such.
    pub owners: &'a BTreeMap<u32, u32>,
    /// Whether any limit is in force.
    pub limits: bool,
    /// Whether programs may answer what comes in by an interface of this name.
    pub answers: &'a dyn Fn(&str) -> bool,
}

/// What is attached where.
pub(super) struct Interfaces {
    /// Of interfaces that are there, attached or not for the moment: their counts go on.
    places: BTreeMap<u32, u32>,
    kernel_places: HashMap<MapData, u32, u32>,
    hints: Array<MapData, u64>,
    seen: PerCpuArray<MapData, [u64; 2]>,
    edges: Array<MapData, EdgeWords>,
    attached: BTreeMap<u32, Attached>,
    failed: BTreeMap<u32, String>,
    neighbourhood: Neighbourhood,
    /// The agent ends, and what is attached stays.
    stays: bool,
}

/// [`edge::Edge`] as words.
type EdgeWords = [u32; 2];

struct Attached {
    /// Where its entry in the table of edges stands, and what it says.
    place: u32,
    edge: EdgeWords,
    /// Whether it is a veth, and whether something needed native mode when its mode was chosen.
    is_veth: bool,
    native: bool,
    hold: Hold,
    state: InterfaceState,
}

/// By what a program stays on an interface.
enum Hold {
    /// Detaches when it is dropped.
    Alone(Kept),
    /// In front of somebody else's.
    Chained(Chain),
}

impl Interfaces {
    pub(super) fn take(ebpf: &mut Ebpf, options: &Options) -> Result<Self, KernelError> {
        Ok(Self {
            neighbourhood: Neighbourhood::take(ebpf, options)?,
            stays: false,
            places: BTreeMap::new(),
            kernel_places: take(ebpf, maps::PLACES)?,
            hints: take(ebpf, maps::PLACE_HINTS)?,
            seen: take(ebpf, maps::SEEN)?,
            edges: take(ebpf, maps::EDGES)?,
            attached: BTreeMap::new(),
            failed: BTreeMap::new(),
        })
    }

    /// Attaches to what matches now and forgets what is gone.
    pub(super) fn reconcile(
        &mut self,
        (ebpf, keep): (&mut Ebpf, &Keep),
        options: &Options,
        needs: &Needs<'_>,
    ) -> Vec<InterfaceState> {
        let present = present();
        // One that was renamed may fit no more.
        let wanted = |name: &String| options.interfaces.iter().any(|pattern| matches(&pattern.name, name));
        let unwanted = |index: &&u32| !present.get(index).is_some_and(wanted);
        let unwanted: Vec<u32> = self.attached.keys().filter(unwanted).copied().collect();
        self.let_go(unwanted);
        self.forget_others(&present);
        let mut states = Vec::new();
        for pattern in &options.interfaces {
            let matching: Vec<(u32, &String)> = present
                .iter()
                .filter(|(_, name)| matches(&pattern.name, name))
                .map(|(index, name)| (*index, name))
                .collect();
            if matching.is_empty() {
                let detail = "no interface of this name".to_owned();
                let refuses = words(pattern.refuses);
                states.push(InterfaceState { name: pattern.name.clone(), index: 0, mode: "waiting", detail, refuses });
            }
            for (index, name) in matching {
                let (owner, answers) = (needs.owners.get(&index).copied().unwrap_or(0), (needs.answers)(name));
                let edge = [refused_on(options, name), owner];
                let native = owner != 0 || needs.limits && !answers;
                let state = self.reconcile_one((ebpf, keep), (options.xdp_mode, native), (index, name), edge);
                let loses = |attached: &Attached| attached.is_veth && attached.state.mode == NATIVE;
                let loses = answers && self.attached.get(&index).is_some_and(loses);
                states.push(if loses { state.with(LOST) } else { state });
            }
        }
        states
    }

    /// Detaches from all of them; the next [`Self::reconcile`] attaches again.
    pub(super) fn detach(&mut self) {
        self.let_go(self.attached.keys().copied().collect());
    }

    /// Detaches from these; programs that were there first have their slots to themselves again.
    fn let_go(&mut self, indices: Vec<u32>) {
        let attached = indices.into_iter().filter_map(|index| self.attached.remove(&index));
        let chained = attached.filter_map(|Attached { place, hold, state, .. }| match hold {
            Hold::Alone(_) => None,
            Hold::Chained(chain) => Some((chain, place, state.name)),
        });
        self.neighbourhood.leave(chained.collect());
    }

    /// The entries of interfaces that are gone, after their programs.
    fn forget_others(&mut self, present: &BTreeMap<u32, String>) {
        let Self { places, kernel_places, hints, .. } = self;
        for (index, place) in places.extract_if(.., |index, _| !present.contains_key(index)) {
            // Already gone is what we want. A hint that stays names an index that no interface has.
            let _ = kernel_places.remove(&index);
            let entry = index & (maps::HINTS - 1);
            if hints.get(&entry, 0).is_ok_and(|hint| hint == hint_of(index, place)) {
                let _ = hints.set(entry, 0, 0);
            }
        }
    }

    fn reconcile_one(
        &mut self,
        (ebpf, keep): (&mut Ebpf, &Keep),
        (mode, native): (XdpMode, bool),
        (index, name): (u32, &str),
        edge: EdgeWords,
    ) -> InterfaceState {
        self.make_way(keep, (mode, native), edge, (index, name));
        let state = match self.attached.get_mut(&index) {
            Some(attached) => {
                // It may have been renamed since.
                name.clone_into(&mut attached.state.name);
                attached.say(&mut self.edges, edge).map(|()| attached.state.clone())
            }
            None => self.attach((ebpf, keep), (mode, native), (index, name), edge),
        };
        match state {
            Ok(state) => {
                self.failed.remove(&index);
                let [refuses, _] = edge;
                InterfaceState { name: name.to_owned(), refuses: words(refuses), ..state }
            }
            Err(error) => self.not_attached(index, name, error.to_string()),
        }
    }

    /// It is tried again at every reconcile, and said once for each cause.
    fn not_attached(&mut self, index: u32, name: &str, detail: String) -> InterfaceState {
        if self.failed.get(&index) != Some(&detail) {
            tracing::error!(interface = name, detail, "an interface is not attached");
            self.failed.insert(index, detail.clone());
        }
        InterfaceState { name: name.to_owned(), index, mode: FAILED, detail, refuses: Vec::new() }
    }

    /// Detaches from a veth whose mode is no longer the best one, and where generic mode may not be any more: an interface has one
    /// program in one mode, and the mode of a shared one is the neighbour's. Also from where somebody else has put Weir out. For the moment until the next is attached, sockets judge alone: address sets and `refuse` are asked by nobody.
    fn make_way(&mut self, keep: &Keep, (mode, native): (XdpMode, bool), edge: EdgeWords, (index, name): (u32, &str)) {
        let Some(attached) = self.attached.get_mut(&index) else { return };
        if let Hold::Alone(kept) = &mut attached.hold
            && !stands(keep, kept, (index, name))
        {
            self.let_go(vec![index]);
            return;
        }
        if let Hold::Chained(chain) = &attached.hold {
            if !self.neighbourhood.stands(chain) || hides(attached.state.mode, edge) {
                self.let_go(vec![index]);
            }
            return;
        }
        let better = mode == XdpMode::Auto && attached.is_veth && attached.native != native;
        if better || hides(attached.state.mode, edge) {
            tracing::info!(
                interface = name,
                native,
                "an interface changes its XDP mode: limits and a workload's interface need native mode, bulk transfers generic"
            );
            self.let_go(vec![index]);
        }
    }

    fn attach(
        &mut self,
        (ebpf, keep): (&mut Ebpf, &Keep),
        (mode, native): (XdpMode, bool),
        (index, name): (u32, &str),
        edge: EdgeWords,
    ) -> Result<InterfaceState, KernelError> {
        let place = self.places.get(&index).copied().unwrap_or_else(|| self.free_place());
        self.enter(index, place, edge)?;
        let is_veth = links::is_veth(index);
        let unneeded = mode == XdpMode::Auto && is_veth && !native;
        let before = take_over((ebpf, keep), (mode, unneeded), (index, name), edge)?;
        let alone = match before {
            Some(found) => Ok(found),
            None if unneeded => {
                let linked = attach_generic((ebpf, keep), edge, index, name);
                linked.map(|link| (link, GENERIC, UNNEEDED.to_owned()))
            }
            None => attach_xdp((ebpf, keep), (mode, edge), index, name),
        };
        let (hold, used, detail) = match alone {
            Ok((link, used, detail)) => (Hold::Alone(link), used, detail),
            Err(KernelError::Taken { .. }) => {
                let mode = (mode, hides(GENERIC, edge));
                let chain = self.neighbourhood.join(ebpf, mode, Where { index, name, place })?;
                let (used, detail) = (chain.mode(), chain.detail.clone());
                (Hold::Chained(chain), used, detail)
            }
            Err(other) => return Err(other),
        };
        let state = InterfaceState { name: name.to_owned(), index, mode: used, detail, refuses: Vec::new() };
        self.attached.insert(index, Attached { place, edge, is_veth, native, hold, state: state.clone() });
        Ok(state)
    }

    /// From here on nothing is detached any more: the agent ends.
    pub(super) const fn leave(&mut self) {
        self.stays = true;
    }

    /// Puts XDP programs back that agents before stood in front of, where this one does not.
    pub(super) fn restore(&mut self) {
        self.neighbourhood.restore();
    }

    /// Whether an interface has its program.
    pub(super) fn has(&self, index: u32) -> bool {
        self.attached.contains_key(&index)
    }

    /// Interfaces that should have one and have not.
    pub(super) fn has_failed(&self, index: u32) -> bool {
        self.failed.contains_key(&index)
    }

    /// The interfaces that programs are attached to, by index.
    pub(super) fn names(&self) -> BTreeMap<u32, String> {
        self.attached.iter().map(|(index, attached)| (*index, attached.state.name.clone())).collect()
    }

    /// Interfaces that have a place.
    pub(super) fn placed(&self) -> usize {
        self.places.len()
    }

    /// The lowest place that no interface has; the kernel's table of them has as many entries, and refuses one more.
    fn free_place(&self) -> u32 {
        let taken: BTreeSet<u32> = self.places.values().copied().collect();
        (0..maps::MAX_EDGES).find(|place| !taken.contains(place)).unwrap_or(0)
    }

    /// Makes an interface's entries, before any packet asks for them. One that had them keeps its counts.
    pub(super) fn enter(&mut self, index: u32, place: u32, edge: EdgeWords) -> Result<(), KernelError> {
        if !self.places.contains_key(&index) {
            // First: where there is no room for one more, `place` is another's.
            self.kernel_places.insert(index, place, 0).map_err(error::map(maps::PLACES))?;
            self.places.insert(index, place);
            if let Ok(zero) = PerCpuValues::try_from(vec![[0; 2]; nr_cpus().map_or(1, |count| count)]) {
                self.seen.set(place, zero, 0).map_err(error::map(maps::SEEN))?;
            }
        }
        self.edges.set(place, edge, 0).map_err(error::map(maps::EDGES))?;
        let entry = index & (maps::HINTS - 1);
        let hint = self.hints.get(&entry, 0).map_err(error::map(maps::PLACE_HINTS))?;
        if hint != 0 {
            return Ok(());
        }
        self.hints.set(entry, hint_of(index, place), 0).map_err(error::map(maps::PLACE_HINTS))
    }

    /// Packets seen and passed, by interface.
    pub(super) fn seen(&self) -> Result<Vec<InterfaceSeen>, KernelError> {
        let mut all = Vec::new();
        for (index, attached) in &self.attached {
            let values = self.seen.get(&attached.place, 0).map_err(error::map(maps::SEEN))?;
            let sum = |n: usize| values.iter().filter_map(|value| value.get(n)).sum();
            all.push(InterfaceSeen { index: *index, seen: sum(0), passed: sum(1) });
        }
        Ok(all)
    }
}

impl Drop for Interfaces {
    fn drop(&mut self) {
        if !self.stays {
            self.detach();
        }
    }
}

/// How the kernel programs are told of an interface's place.
fn hint_of(index: u32, place: u32) -> u64 {
    u64::from(index) << 32 | u64::from(place)
}

impl Attached {
    /// Says what is special about the interface, unless that was said.
    fn say(&mut self, edges: &mut Array<MapData, EdgeWords>, edge: EdgeWords) -> Result<(), KernelError> {
        if self.edge != edge {
            edges.set(self.place, edge, 0).map_err(error::map(maps::EDGES))?;
            self.edge = edge;
        }
        Ok(())
    }
}

/// What every pattern that fits the interface wants refused there.
fn refused_on(options: &Options, name: &str) -> u32 {
    let fitting = options.interfaces.iter().filter(|option| matches(&option.name, name));
    fitting.fold(0, |refuses, option| refuses | option.refuses)
}

impl InterfaceOption {
    /// What is refused there, in the words of the configuration.
    #[must_use]
    pub fn words(&self) -> Vec<&'static str> {
        words(self.refuses)
    }
}

/// The words for bits of [`weir_common::edge`].
fn words(refuses: u32) -> Vec<&'static str> {
    REFUSALS.iter().filter(|(_, bit)| refuses & bit != 0).map(|(word, _)| *word).collect()
}

/// Whether XDP in this mode would hide frames from the programs that judge a workload's interface: in generic mode the kernel copies
/// a packet without the length of its link header, and what comes after is shown the packet without it (`skb_pp_cow_data`, 6.18).
fn hides(used: &str, [_, owner]: EdgeWords) -> bool {
    used == GENERIC && owner != 0
}

/// Before anything is attached: even for a moment it would hide what the workload's programs judge.
fn attach_generic(
    (ebpf, keep): (&mut Ebpf, &Keep),
    edge: EdgeWords,
    index: u32,
    name: &str,
) -> Result<Kept, KernelError> {
    if hides(GENERIC, edge) {
        return Err(KernelError::Hidden { interface: name.to_owned() });
    }
    attach_as((ebpf, keep), (Mode::Skb, GENERIC), index, name)
}

fn attach_xdp(
    (ebpf, keep): (&mut Ebpf, &Keep),
    (mode, edge): (XdpMode, EdgeWords),
    index: u32,
    name: &str,
) -> Result<(Kept, &'static str, String), KernelError> {
    match mode {
        XdpMode::Generic => Ok((attach_generic((ebpf, keep), edge, index, name)?, GENERIC, String::new())),
        XdpMode::Native => Ok((attach_as((ebpf, keep), (Mode::Driver, NATIVE), index, name)?, NATIVE, String::new())),
        XdpMode::Auto => match attach_as((ebpf, keep), (Mode::Driver, NATIVE), index, name) {
            Ok(link) => Ok((link, NATIVE, String::new())),
            Err(KernelError::Attach { source, .. }) => {
                let link = attach_generic((ebpf, keep), edge, index, name)?;
                let detail = format!("the driver refused native mode: {}", error::causes(&source));
                tracing::warn!(interface = name, detail, "native XDP is not possible here, using generic mode");
                Ok((link, GENERIC, detail))
            }
            Err(other) => Err(other),
        },
    }
}

fn attach_as(
    (ebpf, keep): (&mut Ebpf, &Keep),
    (mode, word): (Mode, &str),
    index: u32,
    name: &str,
) -> Result<Kept, KernelError> {
    keep.hold(At::Xdp(index), word, || link(ebpf, mode, index, name))
}

fn link(ebpf: &mut Ebpf, mode: Mode, index: u32, name: &str) -> Result<FdLink, KernelError> {
    let program = ebpf.program_mut(attach::XDP).ok_or(KernelError::NoProgram(attach::XDP))?;
    let attached = <&mut Xdp>::try_from(program).and_then(|xdp| {
        error::program_point("attach.xdp")?;
        let id = xdp.attach_to_if_index(index, mode)?;
        FdLink::try_from(xdp.take_link(id)?).map_err(|_| ProgramError::UnexpectedProgramType)
    });
    attached.map_err(|source| match error::is_taken(&source) {
        true => KernelError::Taken { interface: name.to_owned() },
        false => KernelError::Attach { program: attach::XDP, target: format!("interface {name}"), source },
    })
}

/// Takes the slot over from an agent before, in place: at no time is it empty. `None`: there is none, or it is to have another mode.
fn take_over(
    (ebpf, keep): (&mut Ebpf, &Keep),
    (mode, unneeded): (XdpMode, bool),
    (index, name): (u32, &str),
    edge: EdgeWords,
) -> Result<Option<(Kept, &'static str, String)>, KernelError> {
    let Some((link, word)) = keep.xdp_before(index) else { return Ok(None) };
    // A slot that is somebody else's now, or a link whose interface is gone.
    let slot = links::xdp(index).ok().flatten().map(|slot| slot.program);
    let same = |link: &FdLink| slot.is_some() && slot == link.info().ok().map(|info| info.program_id());
    let Some(used) = [NATIVE, GENERIC].into_iter().find(|used| *used == word).filter(|_| same(&link)) else {
        return Ok(None);
    };
    let fits = match mode {
        XdpMode::Auto if unneeded => used == GENERIC,
        XdpMode::Auto => used == NATIVE || !links::is_veth(index),
        XdpMode::Native => used == NATIVE,
        XdpMode::Generic => used == GENERIC,
    };
    if !fits || hides(used, edge) {
        drop(link);
        keep.release_before(|pin| pin.at != At::Xdp(index));
        return Ok(None);
    }
    let program = ebpf.program_mut(attach::XDP).ok_or(KernelError::NoProgram(attach::XDP))?;
    let updated = <&mut Xdp>::try_from(program).and_then(|xdp| {
        let link = XdpLink::try_from(link).map_err(|_| ProgramError::UnexpectedProgramType)?;
        error::program_point("xdp.update")?;
        let id = xdp.attach_to_link(link)?;
        FdLink::try_from(xdp.take_link(id)?).map_err(|_| ProgramError::UnexpectedProgramType)
    });
    let target = || format!("interface {name}, in place of the agent before");
    let link = updated.map_err(|source| KernelError::Attach { program: attach::XDP, target: target(), source })?;
    faults::passed("xdp.updated");
    let detail = if unneeded { UNNEEDED.to_owned() } else { String::new() };
    Ok(Some((keep.pin(At::Xdp(index), used, link)?, used, detail)))
}

/// Whether the slot is as it was left; else it says so.
fn stands(keep: &Keep, kept: &mut Kept, (index, name): (u32, &str)) -> bool {
    let there = || Ok(links::xdp(index)?.into_iter().map(|slot| slot.program).collect());
    keep.stands_in(kept, attach::XDP, name, there)
}

fn present() -> BTreeMap<u32, String> {
    let Ok(interfaces) = if_nameindex() else { return BTreeMap::new() };
    interfaces
        .iter()
        .filter_map(|interface| Some((interface.index(), interface.name().to_str().ok()?.to_owned())))
        .collect()
}

/// Whether a name or pattern is an interface's.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    glob::Pattern::new(pattern).map_or(pattern == name, |pattern| pattern.matches(name))
}
