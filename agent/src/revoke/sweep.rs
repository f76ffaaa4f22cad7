//! Lives: weir-agent, revocation.
//! Called by: the revoker, after each change until nothing forbidden is found; `control`, for a dry run.
//! May touch: sock_diag in every namespace that workloads live in, reading.
//! Never: cuts; judges a socket whose cgroup is not in the managed tree.

use std::{
    collections::{HashMap, HashSet},
    io,
    path::PathBuf,
    sync::Arc,
};

use weir_common::{addr::Protocol, decide::Decision, verdict::Direction};
use weir_policy::ResourceId;

use super::{
    known::Known,
    view::{Connection, Fate, View},
};
use crate::kernel::{
    namespaces::{Found, Inhabited, Namespace, Namespaces},
    sockets::{Door, Living, state},
};

/// States in which a TCP socket can still carry data, and listeners: ESTABLISHED 1, SYN_SENT 2, SYN_RECV 3, FIN_WAIT1 4,
/// FIN_WAIT2 5, CLOSE_WAIT 8, LISTEN 10.
const TCP_STATES: u32 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 10;
/// UDP sockets that called `connect()`; the others' next datagram is judged.
const UDP_STATES: u32 = 1 << state::ESTABLISHED;

/// A connection that was found and judged.
#[derive(Clone, Debug)]
pub struct Target {
    /// As it was judged.
    pub connection: Connection,
    /// The socket.
    pub living: Living,
    /// Where it is.
    pub namespace: Arc<Namespace>,
    /// The direction in which it was judged.
    pub direction: Direction,
    /// What forbids or allows it.
    pub decision: Decision,
}

impl Target {
    /// Whether both are one socket. By its ends and where it is: not always is its cookie known.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        let ends = |target: &Self| {
            let Connection { protocol, local, remote, .. } = target.connection;
            (target.namespace.id, protocol, local, remote)
        };
        ends(self) == ends(other)
    }
}

/// What one sweep has found.
#[derive(Debug, Default)]
pub struct Swept {
    /// To be cut.
    pub forbidden: Vec<Target>,
    /// Forbidden, but the policy lets it go on.
    pub draining: Vec<Target>,
    /// Allowed TCP connections that nobody has told of: older than the programs, or not read from the ring yet.
    pub strangers: Vec<Target>,
    /// Every TCP connection there is, by its ends (no direction).
    pub living: HashSet<Connection>,
    /// Sockets looked at.
    pub sockets: usize,
    /// Namespaces looked into.
    pub namespaces: usize,
    /// Namespaces that could not be looked into.
    pub failed: usize,
    /// Cgroups that sockets were found of.
    cgroups: HashSet<u64>,
}

/// Looks for connections.
#[derive(Default)]
pub struct Sweeper {
    root: PathBuf,
    namespaces: Namespaces,
    doors: HashMap<u64, Room>,
    /// Whose cgroup it is, of all that walks have found; of deleted ones as long as sockets of theirs live.
    owners: HashMap<u64, Owner>,
}

/// A workload by its number. The number is given to another once the workload is no more.
struct Owner {
    number: u32,
    workload: ResourceId,
    /// The last walk did not find the cgroup any more.
    deleted: bool,
}

/// A namespace with the way in.
struct Room {
    door: Door,
    /// Ports that the kernel picks for those who call.
    ephemeral: (u16, u16),
}

impl Sweeper {
    /// One for the managed tree below `root`.
    pub fn new(root: PathBuf) -> Self {
        Self { root, ..Self::default() }
    }

    /// Where processes of the managed tree live now, and whose cgroups there are; deleted ones too that may still have sockets.
    ///
    /// # Errors
    /// The tree cannot be read.
    pub fn find(&mut self, view: &View) -> io::Result<Found> {
        let mut found = self.namespaces.find(&self.root, &view.cgroups())?;
        let workload = |number: u32| view.locals.get(&number).map(|local| &local.workload.id);
        self.owners.retain(|_, owner| workload(owner.number) == Some(&owner.workload));
        self.owners.values_mut().for_each(|owner| owner.deleted = true);
        for (cgroup, number) in &found.cgroups {
            if let Some(workload) = workload(*number).cloned() {
                self.owners.insert(*cgroup, Owner { number: *number, workload, deleted: false });
            }
        }
        let deleted = self.owners.iter().filter(|(_, owner)| owner.deleted);
        found.cgroups.extend(deleted.map(|(cgroup, owner)| (*cgroup, owner.number)));
        Ok(found)
    }

    /// Looks at every socket of the managed tree and judges it.
    ///
    /// # Errors
    /// The tree cannot be read. A namespace that cannot be looked into is counted.
    pub fn sweep(&mut self, view: &View, known: &Known) -> io::Result<Swept> {
        let found = self.find(view)?;
        let living: HashSet<u64> = found.namespaces.iter().map(|inhabited| inhabited.namespace.id).collect();
        self.doors.retain(|id, _| living.contains(id));
        let mut swept = Swept::default();
        for inhabited in &found.namespaces {
            if let Err(error) = self.look_into(inhabited, &found, view, known, &mut swept) {
                tracing::warn!(namespace = inhabited.namespace.id, %error, "sockets of a network namespace cannot be listed");
                swept.failed += 1;
                self.doors.remove(&inhabited.namespace.id);
            }
        }
        if swept.failed == 0 {
            self.owners.retain(|cgroup, owner| !owner.deleted || swept.cgroups.contains(cgroup));
        }
        Ok(swept)
    }

    fn look_into(
        &mut self,
        inhabited: &Inhabited,
        found: &Found,
        view: &View,
        known: &Known,
        swept: &mut Swept,
    ) -> io::Result<()> {
        let namespace = &inhabited.namespace;
        let room = room(&mut self.doors, namespace)?;
        let mut sockets = Vec::new();
        room.door.list(Protocol::TCP, TCP_STATES, &mut |living| sockets.push(living))?;
        room.door.list(Protocol::UDP, UDP_STATES, &mut |living| sockets.push(living))?;
        swept.namespaces += 1;
        swept.cgroups.extend(sockets.iter().map(|living| living.cgroup));
        let listeners = listeners(&sockets, found);
        for living in sockets.into_iter().filter(|living| living.state != state::LISTEN) {
            let Some(workload) = owner(&living, found, &listeners) else { continue };
            swept.sockets += 1;
            let place = Place { workload, listeners: &listeners, ephemeral: room.ephemeral };
            swept.judge(place, living, namespace, view, known);
        }
        Ok(())
    }
}

/// The way into a namespace, kept from one time to the next.
fn room<'a>(doors: &'a mut HashMap<u64, Room>, namespace: &Namespace) -> io::Result<&'a mut Room> {
    Ok(match doors.entry(namespace.id) {
        std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
        std::collections::hash_map::Entry::Vacant(entry) => entry.insert(Room::open(namespace)?),
    })
}

/// What is known of a socket beside itself.
struct Place<'a> {
    workload: u32,
    listeners: &'a HashMap<u16, u32>,
    ephemeral: (u16, u16),
}

impl Place<'_> {
    /// Who opened a connection nobody has told of: the peer, if the local port is one that somebody listens on; else whoever has
    /// the port that kernels pick for callers.
    fn opener(&self, living: &Living) -> Option<Direction> {
        let (local, remote) = (living.local.1, living.remote.1);
        if living.protocol == Protocol::TCP && self.listeners.contains_key(&local) {
            return Some(Direction::Ingress);
        }
        let picked = |port: u16| (self.ephemeral.0..=self.ephemeral.1).contains(&port);
        match (picked(local), picked(remote)) {
            (true, false) => Some(Direction::Egress),
            (false, true) => Some(Direction::Ingress),
            (true, true) | (false, false) => None,
        }
    }
}

impl Swept {
    fn judge(&mut self, place: Place<'_>, living: Living, namespace: &Arc<Namespace>, view: &View, known: &Known) {
        let (protocol, local, remote) = (living.protocol, living.local, living.remote);
        let mut connection = Connection { workload: place.workload, protocol, direction: None, local, remote };
        let flow = (protocol == Protocol::TCP).then(|| known.get(&connection)).flatten();
        connection.direction = flow.map(|flow| flow.direction).or_else(|| place.opener(&living));
        if protocol == Protocol::TCP {
            self.living.insert(Connection { direction: None, ..connection });
        }
        let target = |direction, decision| Target {
            connection,
            living: living.clone(),
            namespace: Arc::clone(namespace),
            direction,
            decision,
        };
        match view.judge(&connection) {
            Fate::Cut(direction, decision) => self.forbidden.push(target(direction, decision)),
            Fate::Drains(direction, decision) => self.draining.push(target(direction, decision)),
            Fate::Stays(allowed) => {
                let open = protocol == Protocol::TCP && living.state == state::ESTABLISHED && place.workload != 0;
                let stranger = allowed.filter(|_| open && flow.is_none());
                self.strangers.extend(stranger.map(|(direction, decision)| target(direction, decision)));
            }
        }
    }
}

impl Room {
    fn open(namespace: &Namespace) -> io::Result<Self> {
        let door = Door::open(namespace)?;
        let range = namespace.client_ports()?;
        let mut ends = range.split_whitespace().map(str::parse);
        let (Some(Ok(first)), Some(Ok(last))) = (ends.next(), ends.next()) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("ip_local_port_range says {range:?}")));
        };
        Ok(Self { door, ephemeral: (first, last) })
    }
}

/// Ports that workloads listen on, with whose they are.
fn listeners(sockets: &[Living], found: &Found) -> HashMap<u16, u32> {
    let listening = sockets.iter().filter(|living| living.protocol == Protocol::TCP && living.state == state::LISTEN);
    listening.filter_map(|living| Some((living.local.1, *found.cgroups.get(&living.cgroup)?))).collect()
}

/// Whose socket it is; `None` for sockets outside of the managed tree. A handshake under way is its listener's.
fn owner(living: &Living, found: &Found, listeners: &HashMap<u16, u32>) -> Option<u32> {
    if living.state == state::SYN_RECV && living.cgroup == 0 {
        return listeners.get(&living.local.1).copied();
    }
    found.cgroups.get(&living.cgroup).copied()
}
