//! Lives: agent, user space.
//! Called by: `Kernel::reconcile`.
//! May touch: the interfaces of the agent's network namespace that match a configured pattern.
//! Never: replaces another program; an occupied slot is reported and left alone.

use std::collections::BTreeMap;

use aya::{
    Ebpf,
    maps::{MapData, PerCpuHashMap, PerCpuValues},
    programs::{
        ProgramError, Xdp,
        xdp::{XdpLink, XdpMode as Mode},
    },
    util::nr_cpus,
};
use nix::net::if_::if_nameindex;
use weir_common::maps;

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
}

/// The mode of an interface that exists and could not be attached.
pub(super) const FAILED: &str = "failed";

/// What is attached where.
pub(super) struct Interfaces {
    seen: PerCpuHashMap<MapData, u32, [u64; 2]>,
    attached: BTreeMap<u32, Attached>,
    failed: BTreeMap<u32, String>,
}

struct Attached {
    /// Held for what dropping it does.
    _link: XdpLink,
    state: InterfaceState,
}

impl Interfaces {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        Ok(Self { seen: take(ebpf, maps::SEEN)?, attached: BTreeMap::new(), failed: BTreeMap::new() })
    }

    /// Attaches to what matches now and forgets what is gone.
    pub(super) fn reconcile(&mut self, ebpf: &mut Ebpf, options: &Options) -> Vec<InterfaceState> {
        let present = present();
        self.attached.retain(|index, _| present.contains_key(index));
        let mut states = Vec::new();
        for pattern in &options.interfaces {
            let matching: Vec<(u32, &String)> =
                present.iter().filter(|(_, name)| matches(pattern, name)).map(|(index, name)| (*index, name)).collect();
            if matching.is_empty() {
                let detail = "no interface of this name".to_owned();
                states.push(InterfaceState { name: pattern.clone(), index: 0, mode: "waiting", detail });
            }
            for (index, name) in matching {
                states.push(self.reconcile_one(ebpf, options.xdp_mode, index, name));
            }
        }
        states
    }

    fn reconcile_one(&mut self, ebpf: &mut Ebpf, mode: XdpMode, index: u32, name: &str) -> InterfaceState {
        if let Some(attached) = self.attached.get(&index) {
            return InterfaceState { name: name.to_owned(), ..attached.state.clone() };
        }
        match self.attach(ebpf, mode, index, name) {
            Ok(state) => {
                self.failed.remove(&index);
                state
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
        InterfaceState { name: name.to_owned(), index, mode: FAILED, detail }
    }

    fn attach(
        &mut self,
        ebpf: &mut Ebpf,
        mode: XdpMode,
        index: u32,
        name: &str,
    ) -> Result<InterfaceState, KernelError> {
        let zero = PerCpuValues::try_from(vec![[0u64; 2]; nr_cpus().map_or(1, |count| count)]);
        if let Ok(zero) = zero {
            self.seen.insert(index, zero, 0).map_err(error::map(maps::SEEN))?;
        }
        let (link, used, detail) = attach_xdp(ebpf, mode, index).map_err(|source| KernelError::Attach {
            program: attach::XDP,
            target: format!("interface {name}"),
            source,
        })?;
        if !detail.is_empty() {
            tracing::warn!(interface = name, detail, "native XDP is not possible here, using generic mode");
        }
        let state = InterfaceState { name: name.to_owned(), index, mode: used, detail };
        self.attached.insert(index, Attached { _link: link, state: state.clone() });
        Ok(state)
    }

    /// The interfaces that programs are attached to, by index.
    pub(super) fn names(&self) -> BTreeMap<u32, String> {
        self.attached.iter().map(|(index, attached)| (*index, attached.state.name.clone())).collect()
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
