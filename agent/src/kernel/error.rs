//! Lives: agent, user space, at the edge to the kernel.
//! Called by: everything in `kernel`.
//! May touch: nothing.
//! Never: a bare string for a cause; each error says what was tried, on which object, and what to look at.

use std::{error::Error, fmt::Write as _, io, path::PathBuf};

use aya::{EbpfError, maps::MapError, programs::ProgramError, sys::SyscallError};

use crate::faults;

/// What can go wrong between the agent and the kernel.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The object or its maps were refused.
    #[error("loading the kernel programs failed: {source}; {}", needs(source))]
    Object {
        /// The system's word for it.
        #[from]
        source: EbpfError,
    },
    /// The object lacks a program this version attaches.
    #[error("the object has no program `{0}`: agent and kernel programs are of different builds")]
    NoProgram(&'static str),
    /// The object lacks a map this version opens.
    #[error("the object has no map `{0}`: agent and kernel programs are of different builds")]
    NoMap(&'static str),
    /// The verifier refused a program.
    #[error("the kernel refused program `{program}`: {}{}", word(cause), below(verifier))]
    Program {
        /// Its name.
        program: &'static str,
        /// The system's word for it. Not a `source`: its own words repeat the whole log, which may be megabytes.
        cause: ProgramError,
        /// The verifier's telling lines.
        verifier: String,
    },
    /// Attaching failed.
    #[error("attaching `{program}` to {target} failed: {}; \"busy\" is another program in that place", causes(source))]
    Attach {
        /// The program.
        program: &'static str,
        /// Cgroup path or interface.
        target: String,
        /// The system's word for it.
        source: ProgramError,
    },
    /// The one place for an XDP program is taken.
    #[error(
        "interface {interface} already has an XDP program, which is not Weir's and stays: stop whoever attached it (or `ip link set \
         dev {interface} xdp off`), share the slot (`xdpNeighbour: chain`), or take the interface out of `interfaces`"
    )]
    Taken {
        /// The interface.
        interface: String,
    },
    /// The one place for an XDP program is taken, and cannot be shared.
    #[error(
        "interface {interface} already has an XDP program, {program}, and Weir cannot go in front of it: {obstacle}"
    )]
    Neighbour {
        /// The interface.
        interface: String,
        /// Its name and id.
        program: String,
        /// Why not, and what to do.
        obstacle: Obstacle,
    },
    /// Generic XDP would hide frames from the programs that judge a workload's interface.
    #[error(
        "interface {interface} is a workload's own, and XDP in generic mode hides the link header from the programs that judge it: use \
         `xdpMode: auto` where the driver has native mode, or take the interface out of `interfaces` (limits are then kept at sockets)"
    )]
    Hidden {
        /// The interface.
        interface: String,
    },
    /// A map could not be read or written.
    #[error("map `{map}`: {}", causes(source))]
    Map {
        /// The map.
        map: &'static str,
        /// The system's word for it.
        source: MapError,
    },
    /// What a program did could not be asked.
    #[error("asking the kernel about program `{program}` failed: {}", causes(source))]
    ProgramInfo {
        /// The program.
        program: &'static str,
        /// The system's word for it.
        source: ProgramError,
    },
    /// More workloads than a node can number.
    #[error("{count} workloads have a cgroup on this node; at most {max} are supported")]
    TooManyWorkloads {
        /// How many there are.
        count: usize,
        /// How many there may be.
        max: u32,
    },
    /// The cgroup root is not usable.
    #[error("cgroupRoot {path}: {problem}")]
    CgroupRoot {
        /// As configured.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// What is to outlive the agent could not be pinned, or what was left could not be taken away.
    #[error("{path}: {why}; `bpffs` must be a BPF file system that the agent may write to (`mount -t bpf bpf DIR`)")]
    Pin {
        /// The file or folder.
        path: PathBuf,
        /// The system's word for it.
        why: String,
    },
    /// A cgroup directory could not be opened.
    #[error("cgroup {path}: {source}")]
    Cgroup {
        /// The directory.
        path: PathBuf,
        /// The system's word for it.
        source: io::Error,
    },
}

/// Why Weir cannot go in front of a neighbour.
#[derive(Debug, thiserror::Error)]
pub enum Obstacle {
    /// Held by a BPF link.
    #[error(
        "a BPF link holds it, and only whoever made that can put another in its place: attach it over netlink (`ip link set dev NAME xdp \
         obj FILE`), or take the interface out of `interfaces`"
    )]
    Linked,
    /// Extended by other programs.
    #[error(
        "other programs extend it, as they do libxdp's dispatcher, and the kernel lets nobody call such a program: unload it (`xdp-loader \
         unload NAME --all`) and attach the program it was to call over netlink (`ip link set dev NAME xdp obj FILE`)"
    )]
    Extended,
    /// Of another kind.
    #[error(
        "the kernel does not let Weir's program call it: it is made for one device, or was loaded without its attach type"
    )]
    Kind,
    /// Not in one replaceable place.
    #[error("it is in the hardware, or there is one in more than one mode: leave one, in native or generic mode")]
    Place,
    /// In another mode than Weir is to be in.
    #[error("it is in {theirs} mode, which Weir would have to share: write `xdpMode: auto`")]
    Mode {
        /// native or generic.
        theirs: &'static str,
    },
    /// The array of neighbours could not be pinned.
    #[error(
        "what must outlive a crash cannot be kept in {path}: {why}; `bpffs` must be a BPF file system (`mount -t bpf bpf DIR`)"
    )]
    Pin {
        /// Where.
        path: PathBuf,
        /// The system's word for it.
        why: String,
    },
    /// The kernel's own word.
    #[error("it could not be replaced: {0}")]
    Refused(io::Error),
}

/// What to look at when the object is refused.
fn needs(error: &EbpfError) -> &'static str {
    if is_out_of_memory(error) {
        "the tables found no room in the memory that the agent's cgroup, or one above it, may have (`memory.max`): raise it. \
         `weirctl doctor` says how much is needed. What is in force stays"
    } else {
        "needs root or CAP_BPF and CAP_NET_ADMIN, kernel 6.1 or later with BTF"
    }
}

/// Whether the system's word is that there is no memory.
fn is_out_of_memory(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(cause) = next {
        if cause.downcast_ref::<io::Error>().is_some_and(|cause| cause.kind() == io::ErrorKind::OutOfMemory) {
            return true;
        }
        next = cause.source();
    }
    false
}

/// An error and what is underneath it, in one line: the system's own word stands last.
pub(super) fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let _ = write!(text, ": {cause}");
        next = cause.source();
    }
    text
}

/// The same without the verifier's log.
#[expect(clippy::wildcard_enum_match_arm, reason = "only one variant carries a verifier log")]
fn word(error: &ProgramError) -> String {
    match error {
        ProgramError::LoadError { io_error, .. } => io_error.to_string(),
        other => causes(other),
    }
}

/// Lines of their own below a message, if there are any.
fn below(lines: &str) -> String {
    if lines.is_empty() { String::new() } else { format!("\n{lines}") }
}

/// Whether the system's word says that somebody else is in the place.
pub(super) fn is_taken(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(cause) = cause.downcast_ref::<io::Error>() {
            // EEXIST: a program in the other mode.
            return matches!(cause.kind(), io::ErrorKind::ResourceBusy | io::ErrorKind::AlreadyExists);
        }
        next = cause.source();
    }
    false
}

/// Comes by a fault point before a call on a map.
pub(super) fn map_point(name: &'static str) -> Result<(), MapError> {
    Ok(faults::point(name).map_err(|io_error| SyscallError { call: name, io_error })?)
}

/// Comes by a fault point before a call on a program.
pub(super) fn program_point(name: &'static str) -> Result<(), ProgramError> {
    Ok(faults::point(name).map_err(|io_error| SyscallError { call: name, io_error })?)
}

/// Names the map an error is about.
pub(super) fn map(name: &'static str) -> impl Fn(MapError) -> KernelError {
    move |source| KernelError::Map { map: name, source }
}
