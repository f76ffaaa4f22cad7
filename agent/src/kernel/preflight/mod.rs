//! Lives: agent, user space.
//! Called by: `doctor`, with or without an agent running.
//! May touch: programs and maps of its own, a cgroup and a network namespace it makes for itself and removes; asks about the rest.
//! Never: attaches where anybody lives; leaves a program, link, map, cgroup or namespace behind.

mod clock;
mod room;

use std::{collections::BTreeSet, fs::File, io, path::Path};

use aya::{
    Ebpf,
    programs::{Xdp, loaded_links, loaded_programs, xdp::XdpMode as Mode},
    util::nr_cpus,
};
use nix::net::if_::if_nameindex;
use weir_common::places::TaskPlaces;

pub use super::query::{Found, cgroup_programs};
pub use clock::is_synchronised;
pub use room::{Cell, cut_a_connection, in_a_namespace};

use super::{
    adopted,
    attach::{self, ALONE_HOOKS, ROOT_PROGRAMS, STRICT_PROGRAMS, WIRE_PROGRAMS, WORKLOAD_HOOKS},
    cgroups,
    error::KernelError,
    interfaces, kernel_drops,
    links::{self, SlotMode},
    load,
    places::Places,
    wires,
};

/// Every program, loaded to see whether this kernel takes it. Dropping it unloads them.
pub struct Trial {
    ebpf: Ebpf,
    refused: Vec<KernelError>,
    /// What the kernel says of itself.
    places: Places,
    reads_tasks: bool,
}

impl Trial {
    /// Creates the maps and loads each program, going on after one that is refused. As the configuration
    /// asks: `chain` for those that stand in front of other XDP programs, `drop_bytes` of dropped packets shown, `kernel_drops` for the
    /// kernel's own drops to be told.
    ///
    /// # Errors
    /// The maps cannot be created: a privilege or a kernel feature is missing.
    pub fn load(chain: bool, drop_bytes: u32, kernel_drops: bool) -> Result<Self, KernelError> {
        let mut places = Places::of_running_kernel();
        places.drops = places.drops.filter(|_| kernel_drops);
        let first = Self::load_with(places.tasks, chain, drop_bytes, &places)?;
        // As the agent does at its start.
        let trial = if first.refused.is_empty() || places.tasks.known == 0 {
            first
        } else {
            Self::load_with(TaskPlaces::UNKNOWN, chain, drop_bytes, &places)?
        };
        Ok(Self { places, ..trial })
    }

    fn load_with(tasks: TaskPlaces, chain: bool, drop_bytes: u32, places: &Places) -> Result<Self, KernelError> {
        let mut ebpf = load::open(tasks, drop_bytes, places)?;
        let refused = attach::programs(chain).filter_map(|name| load::load_program(&mut ebpf, name).err()).collect();
        Ok(Self { ebpf, refused, places: Places::default(), reads_tasks: tasks.known != 0 })
    }

    /// What the kernel refused, with the telling lines of its verifier.
    #[must_use]
    pub fn refused(&self) -> &[KernelError] {
        &self.refused
    }

    /// Whether programs read the calling task themselves instead of asking by helpers.
    #[must_use]
    pub const fn reads_tasks(&self) -> bool {
        self.reads_tasks
    }

    /// Whether what the kernel drops by itself can be told: how many reasons it has, or why not. Loads one more program; attaches nothing, as the
    /// tracepoint is the host's.
    ///
    /// # Errors
    /// Why not.
    pub fn kernel_drops(&mut self) -> Result<usize, String> {
        let drops = self
            .places
            .drops
            .as_ref()
            .ok_or("it has no tracepoint that tells of a packet and the reason (since 5.17)")?;
        load::load_program(&mut self.ebpf, kernel_drops::PROGRAM).map_err(|error| error.to_string())?;
        Ok(drops.reasons.len())
    }

    /// Whether the ends of connections that are older than the programs can be told of, or why not. Loads one more program; attaches
    /// nothing.
    ///
    /// # Errors
    /// Why not.
    pub fn adopted_closes(&mut self) -> Result<(), String> {
        self.places.sockets.ok_or("it does not tell where the parts of a socket lie (CONFIG_DEBUG_INFO_BTF)")?;
        load::load_program(&mut self.ebpf, adopted::PROGRAM).map_err(|error| error.to_string())
    }

    /// How many programs are loaded, and how many instructions the verifier has looked at for them.
    #[must_use]
    pub fn sizes(&self) -> (usize, u64) {
        let infos = self.ebpf.programs().filter_map(|(_, program)| program.info().ok());
        infos.fold((0, 0), |(count, sum), info| {
            (count + 1, sum + u64::from(info.verified_instruction_count().unwrap_or(0)))
        })
    }

    /// The programs' tags: the kernel gives equal instructions equal ones, so those of an agent of this build have the same.
    #[must_use]
    pub fn tags(&self) -> BTreeSet<u64> {
        self.ebpf.programs().filter_map(|(_, program)| program.info().ok()).map(|info| info.tag()).collect()
    }

    /// Links every program for cgroups to `cell`, one after the other, and takes each off again. Those that could not be.
    ///
    /// # Errors
    /// The cgroup cannot be opened.
    pub fn in_cgroup(&mut self, cell: &Cell) -> io::Result<Vec<KernelError>> {
        let directory = File::open(cell.path())?;
        let target = cell.path().display().to_string();
        let link = |program| attach::to_cgroup(&mut self.ebpf, program, &directory, &target).map(drop).err();
        Ok(cgroup_hooks().into_iter().filter_map(link).collect())
    }

    /// Links the programs for network namespaces and interfaces inside the calling thread's namespace, which must be one of its own.
    ///
    /// # Errors
    /// The namespace cannot be opened.
    pub fn in_namespace(&mut self) -> io::Result<Vec<(&'static str, Result<(), KernelError>)>> {
        let namespace = File::open("/proc/thread-self/ns/net")?;
        let lookup = attach::to_namespace(&mut self.ebpf, attach::LOOKUP, &namespace, 0).map(drop);
        let wires = WIRE_PROGRAMS.into_iter().try_for_each(|(program, way)| {
            let linked = wires::link(&mut self.ebpf, program, LOOPBACK, way).map(drop);
            linked.map_err(|source| KernelError::Attach { program, target: "its loopback".to_owned(), source })
        });
        Ok(vec![("sk_lookup", lookup), ("tcx", wires), ("xdp", self.xdp())])
    }

    fn xdp(&mut self) -> Result<(), KernelError> {
        let program = self.ebpf.program_mut(attach::XDP).ok_or(KernelError::NoProgram(attach::XDP))?;
        let linked = <&mut Xdp>::try_from(program).and_then(|xdp| {
            let id = xdp.attach_to_if_index(LOOPBACK_INDEX, Mode::Skb)?;
            xdp.take_link(id)
        });
        let error = |source| KernelError::Attach { program: attach::XDP, target: "its loopback".to_owned(), source };
        linked.map(drop).map_err(error)
    }
}

/// Of every network namespace.
const LOOPBACK: &str = "lo";
const LOOPBACK_INDEX: u32 = 1;

/// Every program for cgroups, once.
fn cgroup_hooks() -> BTreeSet<&'static str> {
    let hooks = WORKLOAD_HOOKS.iter().chain(&ALONE_HOOKS).map(|hook| hook.program);
    let roots = ROOT_PROGRAMS.into_iter().chain(STRICT_PROGRAMS).map(|(program, _)| program);
    hooks.chain(roots).collect()
}

/// Why the agent would not take the directory as its cgroup root.
///
/// # Errors
/// What is wrong with it, and what to do.
pub fn check_root(path: &Path) -> Result<(), KernelError> {
    cgroups::check_root(path)
}

/// Whether the kernel says where the parts of a task lie, which makes programs faster.
#[must_use]
pub fn knows_tasks() -> bool {
    Places::of_running_kernel().tasks.known != 0
}

/// A program in the kernel, anybody's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Its id.
    pub id: u32,
    /// Its name, of which the kernel keeps 15 characters.
    pub name: String,
    /// Its kind, as `enum bpf_prog_type` has it.
    pub kind: String,
    /// Equal instructions have equal tags.
    pub tag: u64,
    /// Who loaded it.
    pub uid: Option<u32>,
}

/// Processors that tables have cells for.
#[must_use]
pub fn processors() -> usize {
    nr_cpus().unwrap_or(1)
}

/// Every program in the kernel.
///
/// # Errors
/// They cannot be listed, which needs CAP_SYS_ADMIN.
pub fn all_programs() -> io::Result<Vec<Loaded>> {
    let shown = loaded_programs().map(|info| {
        let info = info.map_err(io::Error::other)?;
        Ok(Loaded {
            id: info.id(),
            name: info.name_as_str().unwrap_or_default().to_owned(),
            kind: format!("{:?}", info.program_type()).trim_start_matches("BPF_PROG_TYPE_").to_lowercase(),
            tag: info.tag(),
            uid: info.created_by_uid(),
        })
    });
    shown.collect()
}

/// Every link in the kernel: its id, its kind, and the id of its program.
///
/// # Errors
/// They cannot be listed, which needs CAP_SYS_ADMIN.
pub fn all_links() -> io::Result<Vec<(u32, String, u32)>> {
    let shown = loaded_links().map(|info| {
        let info = info.map_err(io::Error::other)?;
        let kind = info.link_type().map_or_else(|_| "unknown".to_owned(), |kind| format!("{kind:?}").to_lowercase());
        Ok((info.id(), kind, info.program_id()))
    });
    shown.collect()
}

/// An interface of this network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The XDP program on it: its mode and id.
    pub xdp: Option<(&'static str, u32)>,
}

/// The interfaces of this network namespace.
///
/// # Errors
/// The kernel does not list them.
pub fn all_interfaces() -> io::Result<Vec<Interface>> {
    let named = if_nameindex()?;
    let shown = named.iter().map(|one| {
        let (index, name) = (one.index(), one.name().to_string_lossy().into_owned());
        let slot = links::xdp(index).ok().flatten();
        let mode = |mode| match mode {
            Some(SlotMode::Native) => "native",
            Some(SlotMode::Generic) => "generic",
            None => "another mode, or several",
        };
        Interface { index, name, xdp: slot.map(|slot| (mode(slot.mode), slot.program)) }
    });
    Ok(shown.collect())
}

/// Whether a configured name or pattern is an interface's.
#[must_use]
pub fn fits(pattern: &str, name: &str) -> bool {
    interfaces::matches(pattern, name)
}
