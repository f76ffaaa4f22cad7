//! Lives: agent, user space.
//! Called by: `Kernel::reconcile`.
//! May touch: the interfaces of the agent's network namespace that match a configured pattern.
//! Never: replaces another program; an occupied slot is reported and left alone.

use std::collections::{BTreeMap, BTreeSet};

use aya::{
    Ebpf,
    maps::{Array, MapData, PerCpuHashMap, PerCpuValues},
    programs::{
        ProgramError, Xdp,
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
};

/// How XDP programs are attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpMode {
    /// Native where the driver can, else generic, with a notice.
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

/// The mode of an interface that exists and could not be attached.
pub(super) const FAILED: &str = "failed";

/// What is attached where.
pub(super) struct Interfaces {
    seen: PerCpuHashMap<MapData, u32, [u64; 3]>,
    edges: Array<MapData, EdgeWords>,
    attached: BTreeMap<u32, Attached>,
    failed: BTreeMap<u32, String>,
}

/// [`edge::Edge`] as words.
type EdgeWords = [u32; 2];

struct Attached {
    /// Where its entry in the table of edges stands, and what it says.
    place: u32,
    edge: EdgeWords,
    /// Held for what dropping it does.
    _link: XdpLink,
    state: InterfaceState,
}

impl Interfaces {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        let (seen, edges) = (take(ebpf, maps::SEEN)?, take(ebpf, maps::EDGES)?);
        Ok(Self { seen, edges, attached: BTreeMap::new(), failed: BTreeMap::new() })
    }

    /// Attaches to what matches now and forgets what is gone. `owners` are the numbers of the workloads whose own interfaces are
    /// attached as such.
    pub(super) fn reconcile(
        &mut self,
        ebpf: &mut Ebpf,
        options: &Options,
        owners: &BTreeMap<u32, u32>,
    ) -> Vec<InterfaceState> {
        let present = present();
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
                let edge = [refused_on(options, name), owners.get(&index).copied().unwrap_or(0)];
                states.push(self.reconcile_one(ebpf, options.xdp_mode, (index, name), edge));
            }
        }
        states
    }

    /// Interfaces that are gone, after their programs.
    fn forget_others(&mut self, present: &BTreeMap<u32, String>) {
        self.attached.retain(|index, _| present.contains_key(index));
        let gone: Vec<u32> = self.seen.keys().filter_map(Result::ok).filter(|id| !present.contains_key(id)).collect();
        for index in gone {
            // Already gone is what we want.
            let _ = self.seen.remove(&index);
        }
    }

    fn reconcile_one(
        &mut self,
        ebpf: &mut Ebpf,
        mode: XdpMode,
        (index, name): (u32, &str),
        edge: EdgeWords,
    ) -> InterfaceState {
        let state = match self.attached.get_mut(&index) {
            Some(attached) => attached.say(&mut self.edges, edge).map(|()| attached.state.clone()),
            None => self.attach(ebpf, mode, (index, name), edge),
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

    fn attach(
        &mut self,
        ebpf: &mut Ebpf,
        mode: XdpMode,
        (index, name): (u32, &str),
        edge: EdgeWords,
    ) -> Result<InterfaceState, KernelError> {
        let place = self.free_place();
        self.enter(index, place, edge)?;
        let (link, used, detail) = attach_xdp(ebpf, mode, index).map_err(|source| KernelError::Attach {
            program: attach::XDP,
            target: format!("interface {name}"),
            source,
        })?;
        if !detail.is_empty() {
            tracing::warn!(interface = name, detail, "native XDP is not possible here, using generic mode");
        }
        let state = InterfaceState { name: name.to_owned(), index, mode: used, detail, refuses: Vec::new() };
        self.attached.insert(index, Attached { place, edge, _link: link, state: state.clone() });
        Ok(state)
    }

    /// The interfaces that programs are attached to, by index.
    pub(super) fn names(&self) -> BTreeMap<u32, String> {
        self.attached.iter().map(|(index, attached)| (*index, attached.state.name.clone())).collect()
    }

    /// The lowest place that no attached interface has; the table of counters has as many entries, and refuses one more.
    fn free_place(&self) -> u32 {
        let taken: BTreeSet<u32> = self.attached.values().map(|attached| attached.place).collect();
        (0..maps::MAX_EDGES).find(|place| !taken.contains(place)).unwrap_or(0)
    }

    /// Makes an interface's entries, before any packet asks for them.
    pub(super) fn enter(&mut self, index: u32, place: u32, edge: EdgeWords) -> Result<(), KernelError> {
        // Counters first: where there is no room for one more, `place` is another's.
        let zero = PerCpuValues::try_from(vec![[0, 0, u64::from(place)]; nr_cpus().map_or(1, |count| count)]);
        if let Ok(zero) = zero {
            self.seen.insert(index, zero, 0).map_err(error::map(maps::SEEN))?;
        }
        self.edges.set(place, edge, 0).map_err(error::map(maps::EDGES))
    }

    /// Packets seen and passed, by interface.
    pub(super) fn seen(&self) -> Result<Vec<InterfaceSeen>, KernelError> {
        let mut all = Vec::new();
        for index in self.attached.keys() {
            let values = self.seen.get(index, 0).map_err(error::map(maps::SEEN))?;
            let sum = |n: usize| values.iter().filter_map(|value| value.get(n)).sum();
            all.push(InterfaceSeen { index: *index, seen: sum(0), passed: sum(1) });
        }
        Ok(all)
    }
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

/// The words for bits of [`weir_common::edge`].
fn words(refuses: u32) -> Vec<&'static str> {
    REFUSALS.iter().filter(|(_, bit)| refuses & bit != 0).map(|(word, _)| *word).collect()
}

fn attach_xdp(ebpf: &mut Ebpf, mode: XdpMode, index: u32) -> Result<(XdpLink, &'static str, String), ProgramError> {
    let program = ebpf.program_mut(attach::XDP).ok_or(ProgramError::UnexpectedProgramType)?;
    let xdp: &mut Xdp = program.try_into()?;
    let mut attach = |mode| xdp.attach_to_if_index(index, mode).and_then(|id| xdp.take_link(id));
    match mode {
        XdpMode::Generic => Ok((attach(Mode::Skb)?, "generic", String::new())),
        XdpMode::Native => Ok((attach(Mode::Driver)?, "native", String::new())),
        XdpMode::Auto => match attach(Mode::Driver) {
            Ok(link) => Ok((link, "native", String::new())),
            Err(refused) => Ok((
                attach(Mode::Skb)?,
                "generic",
                format!("the driver refused native mode: {}", error::causes(&refused)),
            )),
        },
    }
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
