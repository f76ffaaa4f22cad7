//! Lives: agent, user space.
//! Called by: `Kernel::load`, once, before the agent is sealed; the revoker, which owns [`Adopted`].
//! May touch: one program, the tracepoint `sock:inet_sock_set_state`, the table of adopted connections.
//! Never: keeps an agent from starting: without it, connections older than the programs end without a record.

use aya::{
    Ebpf,
    maps::{HashMap, MapData},
};
use weir_common::{event, maps};

use super::{
    error::{self, KernelError},
    generation::take,
    tracepoints,
};

/// The program's name in the object.
pub(super) const PROGRAM: &str = "adopted_close";
/// What it is attached to.
const TRACEPOINT: &str = "inet_sock_set_state";

type EndsBytes = [u8; size_of::<event::Adopted>()];

/// The connections whose ends are told of although they are older than the programs.
pub struct Adopted(HashMap<MapData, u64, EndsBytes>);

impl Adopted {
    /// From now on the end of this connection is told of. `cookie`: of its socket.
    ///
    /// # Errors
    /// There are [`maps::MAX_ADOPTED`] already.
    pub fn add(&mut self, cookie: u64, ends: event::Adopted) -> Result<(), KernelError> {
        let bytes: EndsBytes = zerocopy::transmute!(ends);
        self.0.insert(cookie, bytes, 0).map_err(error::map(maps::ADOPTED))
    }

    /// The connection is no more, and nobody told of it.
    pub fn remove(&mut self, cookie: u64) {
        // Mostly the program has been here: it takes those out that it tells of.
        drop(self.0.remove(&cookie));
    }
}

/// Watches for the ends of adopted connections; `None` where this kernel does not let us. `known`: the kernel tells where the parts of
/// a socket lie, as the programs were opened with.
pub(super) fn watch(ebpf: &mut Ebpf, known: bool) -> Option<Adopted> {
    let watched = match known {
        true => begin(ebpf),
        false => Err("the kernel does not tell where the parts of a socket lie".to_owned()),
    };
    watched
        .inspect_err(|reason| tracing::info!(reason, "connections older than enforcement will end without a record"))
        .ok()
}

fn begin(ebpf: &mut Ebpf) -> Result<Adopted, String> {
    let table = take(ebpf, maps::ADOPTED).map_err(|error| weir_transport::why(&error))?;
    tracepoints::attach(ebpf, PROGRAM, TRACEPOINT)?;
    Ok(Adopted(table))
}
