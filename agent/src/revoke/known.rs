//! Lives: weir-agent, revocation.
//! Called by: `telemetry`, which notes openings and ends as it reads their events; the revoker, which looks for forbidden ones.
//! May touch: its own memory, behind locks held for moments.
//! Never: grows past its capacity; is believed to be complete: sweeps find what it does not know.
//!
//! What the kernel has let open, by its ends. So a change of policy finds what it forbids without asking any kernel for its sockets.

use std::{
    collections::HashMap,
    hash::BuildHasher as _,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use foldhash::quality::RandomState;
use weir_common::{
    addr::{Addr, Protocol},
    event::{Event, Kind},
    verdict::{Direction, Hook, Verdict},
};

use super::view::Connection;

/// Connections that are known at most; beyond it new ones are left to the sweeps.
pub const CAPACITY: usize = 1 << 20;
/// So that the thread that reads events never waits for one that looks at all of them.
const SHARDS: usize = 64;

/// A TCP connection by its ends; the workload is part of it, because two network namespaces may use the same addresses.
type Ends = (u32, Addr, u16, Addr, u16);
type Shard = HashMap<Ends, Flow, RandomState>;

/// A connection that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Who opened it.
    pub direction: Direction,
    /// Its socket's cookie; 0 where only the listener's is known.
    pub cookie: u64,
    /// Older than the programs: no event told of its opening, none will of its end.
    pub adopted: bool,
    /// The sweep before which it was noted.
    sweep: u64,
}

/// The connections that are known.
#[derive(Debug)]
pub struct Known {
    first: Mutex<Shard>,
    others: Vec<Mutex<Shard>>,
    hasher: RandomState,
    sweep: AtomicU64,
}

impl Default for Known {
    fn default() -> Self {
        let others = (1..SHARDS).map(|_| Mutex::default()).collect();
        Self { first: Mutex::default(), others, hasher: RandomState::default(), sweep: AtomicU64::new(0) }
    }
}

impl Known {
    /// Notes what an event says of connections.
    pub fn event(&self, event: &Event) {
        match Kind::from_u8(event.kind) {
            Some(Kind::Verdict) => self.opened(event),
            Some(Kind::Close) => self.forget(&connection(event, None)),
            Some(Kind::Attempt | Kind::Bound) | None => {}
        }
    }

    /// An opening that passes: by this side when the SYN leaves, by the peer when it arrives.
    fn opened(&self, event: &Event) {
        let passes = Verdict::from_u8(event.verdict).is_some_and(Verdict::passes);
        if !passes || Protocol(event.protocol) != Protocol::TCP {
            return;
        }
        let (direction, cookie) = match Hook::from_u8(event.hook) {
            Some(Hook::SockOps) => (Direction::Egress, event.cookie),
            // The cookie of an arriving SYN is its listener's.
            Some(Hook::Ingress | Hook::SkLookup) => (Direction::Ingress, 0),
            _ => return,
        };
        self.insert(&connection(event, Some(direction)), direction, cookie, false);
    }

    /// Takes over a connection that is older than the programs.
    pub fn adopt(&self, found: &Connection, direction: Direction, cookie: u64) {
        self.insert(found, direction, cookie, true);
    }

    fn insert(&self, found: &Connection, direction: Direction, cookie: u64, adopted: bool) {
        let flow = Flow { direction, cookie, adopted, sweep: self.sweep.load(Ordering::Relaxed) };
        let ends = ends(found);
        let mut shard = self.shard(&ends);
        if shard.len() < CAPACITY / SHARDS || shard.contains_key(&ends) {
            shard.insert(ends, flow);
        }
    }

    /// What is known of a connection.
    pub fn get(&self, found: &Connection) -> Option<Flow> {
        let ends = ends(found);
        self.shard(&ends).get(&ends).copied()
    }

    /// The connection is over.
    pub fn forget(&self, found: &Connection) {
        let ends = ends(found);
        self.shard(&ends).remove(&ends);
    }

    /// How many are known.
    pub fn count(&self) -> usize {
        self.shards().map(|shard| shard.len()).sum()
    }

    /// Shows every connection, with what is known of it.
    pub fn each(&self, look: &mut dyn FnMut(&Connection, &Flow)) {
        for shard in self.shards() {
            for (ends, flow) in shard.iter() {
                look(&of_ends(ends, flow.direction), flow);
            }
        }
    }

    /// A sweep begins; its number.
    pub fn begin_sweep(&self) -> u64 {
        self.sweep.fetch_add(1, Ordering::Relaxed)
    }

    /// Forgets what was noted before the sweep of this number began and what it did not find: no event says that an adopted
    /// connection has ended, or a handshake that its client never finished.
    pub fn end_sweep(&self, number: u64, lives: &dyn Fn(&Connection) -> bool) {
        for mut shard in self.shards() {
            shard.retain(|ends, flow| flow.sweep > number || lives(&of_ends(ends, flow.direction)));
        }
    }

    fn shard(&self, ends: &Ends) -> MutexGuard<'_, Shard> {
        let index = usize::try_from(self.hasher.hash_one(ends) % SHARDS as u64).ok();
        lock(index.and_then(|index| self.others.get(index)).unwrap_or(&self.first))
    }

    fn shards(&self) -> impl Iterator<Item = MutexGuard<'_, Shard>> {
        std::iter::once(&self.first).chain(&self.others).map(lock)
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

fn connection(event: &Event, direction: Option<Direction>) -> Connection {
    Connection {
        workload: event.workload,
        protocol: Protocol::TCP,
        direction,
        local: (event.local, event.local_port.number()),
        remote: (event.remote, event.remote_port.number()),
    }
}

const fn ends(found: &Connection) -> Ends {
    (found.workload, found.local.0, found.local.1, found.remote.0, found.remote.1)
}

const fn of_ends(ends: &Ends, direction: Direction) -> Connection {
    let (workload, local, local_port, remote, remote_port) = *ends;
    Connection {
        workload,
        protocol: Protocol::TCP,
        direction: Some(direction),
        local: (local, local_port),
        remote: (remote, remote_port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn event(kind: Kind, hook: Hook, direction: Direction, cookie: u64) -> Event {
        Event { workload: 3, ..testing::event(kind, hook, direction, cookie) }
    }

    fn all(known: &Known) -> Vec<(Option<Direction>, u64)> {
        let mut found = Vec::new();
        known.each(&mut |connection, flow| found.push((connection.direction, flow.cookie)));
        found
    }

    #[test]
    fn openings_that_pass_are_known_until_they_close() {
        const OUT: Direction = Direction::Egress;
        const IN: Direction = Direction::Ingress;
        let denied = Event { verdict: Verdict::Deny as u8, ..event(Kind::Verdict, Hook::SockOps, OUT, 7) };
        let datagram = Event { protocol: 17, ..event(Kind::Verdict, Hook::Ingress, IN, 7) };
        let rows = [
            ("a SYN that leaves", event(Kind::Verdict, Hook::SockOps, OUT, 7), vec![(Some(OUT), 7)]),
            ("a SYN that arrives", event(Kind::Verdict, Hook::Ingress, IN, 9), vec![(Some(IN), 0)]),
            ("a verdict before the SYN", event(Kind::Verdict, Hook::Connect, OUT, 7), vec![]),
            ("a denial", denied, vec![]),
            ("a datagram", datagram, vec![]),
        ];
        for (name, opening, expected) in rows {
            let known = Known::default();
            known.event(&opening);
            assert_eq!(all(&known), expected, "{name}");
            known.event(&event(Kind::Close, Hook::SockOps, OUT, 7));
            assert_eq!((all(&known), known.count()), (vec![], 0), "{name}");
        }
    }

    #[test]
    fn what_no_sweep_finds_is_forgotten_unless_it_came_after_the_sweep_began() {
        let known = Known::default();
        let other = |port| Connection { local: (testing::addr(1), port), ..of_event() };
        known.event(&event(Kind::Verdict, Hook::SockOps, Direction::Egress, 7));
        known.adopt(&other(98), Direction::Egress, 8);
        let number = known.begin_sweep();
        known.adopt(&other(99), Direction::Egress, 9);
        known.end_sweep(number, &|connection| connection.local.1 == 98);
        let mut left: Vec<u64> = all(&known).into_iter().map(|(_, cookie)| cookie).collect();
        left.sort_unstable();
        assert_eq!(left, [8, 9]);
    }

    fn of_event() -> Connection {
        connection(&event(Kind::Verdict, Hook::SockOps, Direction::Egress, 7), None)
    }
}
