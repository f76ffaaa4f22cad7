//! Lives: weir-agent, revocation.
//! Called by: `telemetry`, which notes openings and ends as it reads their events; the revoker, which looks for forbidden ones and takes
//!   over those that are older than the programs.
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
    time::{Duration, Instant},
};

use foldhash::quality::RandomState;
use weir_common::{
    addr::{Addr, Protocol},
    event::{Event, Kind},
    maps::MAX_ADOPTED,
    verdict::{Direction, Hook, Verdict},
};

use super::view::Connection;

/// Connections that are known at most; beyond it new ones are left to the sweeps.
pub const CAPACITY: usize = 1 << 20;
/// So that the thread that reads events never waits for one that looks at all of them.
const SHARDS: usize = 64;

/// How long the end of an adopted connection may be under way once it is found no more: a last segment that nobody acknowledges is sent
/// again for so long.
const ENDING: Duration = Duration::from_secs(120);

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
    /// Older than the programs, or than this agent: no event has told of its opening.
    pub adopted: bool,
    /// The sweep before which it was noted.
    sweep: u64,
}

/// The connections that are known.
#[derive(Debug)]
pub struct Known {
    first: Mutex<Shard>,
    others: Vec<Mutex<Shard>>,
    /// Adopted connections that are found no more, by their sockets' cookies, and since when: their close may be under way.
    ending: Mutex<HashMap<u64, (Instant, Connection)>>,
    hasher: RandomState,
    sweep: AtomicU64,
}

impl Default for Known {
    fn default() -> Self {
        let others = (1..SHARDS).map(|_| Mutex::default()).collect();
        let (hasher, sweep) = (RandomState::default(), AtomicU64::new(0));
        Self { first: Mutex::default(), others, ending: Mutex::default(), hasher, sweep }
    }
}

impl Known {
    /// Notes what an event says of connections. Of an adopted one that ends, the connection.
    pub fn event(&self, event: &Event) -> Option<Connection> {
        match Kind::from_u8(event.kind) {
            Some(Kind::Verdict) => self.opened(event),
            Some(Kind::Close) => return self.closed(event),
            Some(Kind::Attempt | Kind::Bound) | None => {}
        }
        None
    }

    fn closed(&self, event: &Event) -> Option<Connection> {
        let ends = ends(&connection(event, None));
        let known = self.shard(&ends).remove(&ends);
        let adopted = |flow: &Flow| flow.adopted.then(|| of_ends(&ends, flow.direction));
        known.as_ref().map_or_else(|| Some(lock(&self.ending).remove(&event.cookie)?.1), adopted)
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

    /// Takes over a connection that is older than the programs. `false`: there is no room.
    pub fn adopt(&self, found: &Connection, direction: Direction, cookie: u64) -> bool {
        self.insert(found, direction, cookie, true)
    }

    fn insert(&self, found: &Connection, direction: Direction, cookie: u64, adopted: bool) -> bool {
        let flow = Flow { direction, cookie, adopted, sweep: self.sweep.load(Ordering::Relaxed) };
        let ends = ends(found);
        let mut shard = self.shard(&ends);
        let room = shard.len() < CAPACITY / SHARDS || shard.contains_key(&ends);
        if room {
            shard.insert(ends, flow);
        }
        room
    }

    /// What is known of a connection.
    pub fn get(&self, found: &Connection) -> Option<Flow> {
        let ends = ends(found);
        self.shard(&ends).get(&ends).copied()
    }

    /// The connection is over, by what was done to it; its close is under way.
    pub fn forget(&self, found: &Connection) {
        let ends = ends(found);
        let flow = self.shard(&ends).remove(&ends);
        if let Some(flow) = flow {
            self.ends(&ends, &flow, Instant::now());
        }
    }

    /// Remembers an adopted connection that is found no more until its close comes.
    fn ends(&self, ends: &Ends, flow: &Flow, now: Instant) {
        if !flow.adopted {
            return;
        }
        let mut ending = lock(&self.ending);
        if ending.len() < MAX_ADOPTED as usize {
            ending.insert(flow.cookie, (now, of_ends(ends, flow.direction)));
        }
    }

    /// Forgets adopted connections whose close should have come long ago; the cookies of their sockets.
    pub fn overdue(&self, now: Instant) -> Vec<u64> {
        let late = |_: &u64, (since, _): &mut (Instant, Connection)| now.saturating_duration_since(*since) >= ENDING;
        lock(&self.ending).extract_if(late).map(|(cookie, _)| cookie).collect()
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

    /// Forgets what was noted before the sweep of this number began and what it did not find: no event may say that an adopted
    /// connection has ended, and none does of a handshake that its client never finished.
    pub fn end_sweep(&self, number: u64, lives: &dyn Fn(&Connection) -> bool) {
        let now = Instant::now();
        for mut shard in self.shards() {
            let gone = |ends: &Ends, flow: &mut Flow| flow.sweep <= number && !lives(&of_ends(ends, flow.direction));
            shard.extract_if(gone).for_each(|(ends, flow)| self.ends(&ends, &flow, now));
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// How the end of an adopted connection is come by.
    #[test]
    fn an_adopted_connection_is_told_once_when_its_close_comes() {
        type Way = fn(&Known);
        fn none(_: &Connection) -> bool {
            false
        }
        let ways: [(&str, Way); 4] = [
            ("it closes", |_| {}),
            ("it is cut", |known| known.forget(&of_event())),
            ("no sweep finds it", |known| known.end_sweep(known.begin_sweep(), &none)),
            ("both", |known| {
                known.forget(&of_event());
                known.end_sweep(known.begin_sweep(), &none);
            }),
        ];
        let close = event(Kind::Close, Hook::SockOps, Direction::Egress, 7);
        for (name, way) in ways {
            let known = Known::default();
            assert!(known.adopt(&of_event(), Direction::Ingress, 7));
            way(&known);
            let told = known.event(&close);
            let expected = Connection { direction: Some(Direction::Ingress), ..of_event() };
            assert_eq!((told, known.event(&close)), (Some(expected), None), "{name}");
            assert!(known.overdue(Instant::now() + ENDING).is_empty(), "{name}");
        }
        let known = Known::default();
        known.event(&event(Kind::Verdict, Hook::SockOps, Direction::Egress, 7));
        known.forget(&of_event());
        assert_eq!(known.event(&close), None, "of one that is not adopted the join knows");
    }

    #[test]
    fn a_close_that_never_comes_is_not_waited_for_for_ever() {
        let known = Known::default();
        known.adopt(&of_event(), Direction::Egress, 7);
        known.forget(&of_event());
        assert!(known.overdue(Instant::now()).is_empty());
        assert_eq!(known.overdue(Instant::now() + ENDING), [7]);
        assert!(known.overdue(Instant::now() + ENDING).is_empty());
    }

    fn of_event() -> Connection {
        connection(&event(Kind::Verdict, Hook::SockOps, Direction::Egress, 7), None)
    }
}
