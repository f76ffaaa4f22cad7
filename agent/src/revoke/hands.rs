//! Lives: weir-agent, revocation.
//! Called by: the revoker, with the connections to cut.
//! May touch: threads of its own, each with its own doors into network namespaces.
//! Never: waits for a socket whose process holds its lock; leaves one workload's sockets waiting for another's.
//!
//! Cutting waits for the socket's lock, and a process can hold that as long as it likes (a page fault inside `send()`). So each
//! workload's connections are cut by hands of their own, which take an armful at a time. One that gets nowhere with its armful for
//! [`HURRY`] is left behind with it, and another takes the same sockets one by one; one that waits for a single socket longer than
//! [`PATIENCE`] is left behind with that, which it cuts when the lock is free, and another goes on with the rest.

use std::{
    collections::{HashMap, VecDeque},
    io, mem,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use super::sweep::Target;
use crate::kernel::{sockets::Cut, threads};

/// How long a hand may hold one socket before it is left behind.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long a hand may hold an armful. It takes about a millisecond; one that was only slow has lost nothing.
const HURRY: Duration = Duration::from_millis(30);
/// Sockets that a hand takes at once.
const ARMFUL: usize = 64;
/// How often hands are looked at.
const LOOK: Duration = Duration::from_millis(10);
/// Hands that work at the same time.
const AT_ONCE: usize = 4;
/// A workload with more connections than this is worth a second hand.
const MANY: usize = 512;
/// Hands that may be left behind at the same time. Sockets beyond are tried again once some have come back.
const LEFT_BEHIND: usize = 256;

/// Something that cuts, and tells what became of each; each hand has its own.
pub type Tool = Box<dyn FnMut(&[Target]) -> Vec<io::Result<Cut>> + Send>;

/// What became of each connection.
#[derive(Debug, Default)]
pub struct Done {
    /// Cut.
    pub cut: Vec<Target>,
    /// Over before they could be cut.
    pub gone: Vec<Target>,
    /// The kernel refused.
    pub failed: Vec<(Target, io::Error)>,
}

/// A socket that a hand still waits for.
#[derive(Debug)]
pub struct Stuck {
    /// The connection.
    pub target: Target,
    /// Since when.
    pub since: Instant,
    free: Arc<AtomicBool>,
}

/// Cuts connections, and remembers which could not be cut yet.
#[derive(Debug, Default)]
pub struct Hands {
    stuck: Vec<Stuck>,
}

/// Connections of one workload.
#[derive(Debug)]
struct Group {
    targets: Vec<Target>,
    next: AtomicUsize,
    /// How many a hand takes at once.
    armful: usize,
    /// A hand that was left behind has had them all in its arms: what is gone is gone by it.
    again: bool,
}

/// A hand at work.
struct Hand {
    group: Arc<Group>,
    at: Arc<At>,
    seen: (usize, Instant),
}

/// Where a hand is.
#[derive(Debug, Default)]
struct At {
    /// Index of the first target it holds, plus one; 0 while it holds none, [`ENDED`] after the last, [`LEFT`] once it was left
    /// behind: then it ends with what it holds, and what comes of it counts no more.
    place: AtomicUsize,
    /// It has let go of what it was left behind with.
    free: Arc<AtomicBool>,
}

const ENDED: usize = usize::MAX;
const LEFT: usize = usize::MAX - 1;

/// Of a group, from an index on, what became of each.
type Results = (Arc<Group>, usize, Vec<io::Result<Cut>>);

impl Hands {
    /// Connections that could not be cut yet.
    pub fn stuck(&mut self) -> &[Stuck] {
        self.forget_freed();
        &self.stuck
    }

    fn forget_freed(&mut self) {
        self.stuck.retain(|stuck| !stuck.free.load(Ordering::Acquire));
    }

    /// Whether a hand still waits for this socket.
    pub fn holds(&self, target: &Target) -> bool {
        self.stuck.iter().any(|stuck| stuck.target.is(target))
    }

    /// Cuts `targets`, those of different workloads at the same time. `tool` makes what a hand cuts with.
    pub fn cut(&mut self, targets: Vec<Target>, tool: &(dyn Fn() -> Tool + Sync)) -> Done {
        self.forget_freed();
        let mut waiting = self.groups(targets);
        let (report, reports) = channel();
        let (mut done, mut working) = (Done::default(), Vec::<Hand>::new());
        let start = |group| Hand::start(group, tool(), report.clone());
        loop {
            while working.len() < AT_ONCE
                && let Some(group) = waiting.pop_front()
            {
                let second = (group.targets.len() > MANY).then(|| Arc::clone(&group));
                working.extend(second.into_iter().chain([group]).filter_map(start));
            }
            if working.is_empty() {
                break;
            }
            collect(&reports, &mut done);
            for mut hand in mem::take(&mut working) {
                match hand.look() {
                    Look::Works => working.push(hand),
                    Look::Ended => {}
                    Look::Waits(place) => working.extend(self.leave(&hand, place).into_iter().filter_map(start)),
                }
            }
        }
        while let Ok(results) = reports.try_recv() {
            done.take(results);
        }
        done
    }

    /// Leaves a hand behind with what it holds; what others are to go on with.
    fn leave(&mut self, hand: &Hand, place: usize) -> Vec<Arc<Group>> {
        let rest = Arc::clone(&hand.group);
        match hand.group.armful(place) {
            [target] => {
                let stuck = Stuck { target: target.clone(), since: hand.seen.1, free: Arc::clone(&hand.at.free) };
                self.stuck.push(stuck);
                if self.stuck.len() < LEFT_BEHIND { vec![rest] } else { Vec::new() }
            }
            held => vec![Group::new(held.to_vec(), 1, true), rest],
        }
    }

    /// By workload, each in the order given, but those of one namespace together. Where somebody is known to hold a lock, sockets
    /// are taken one by one from the start: else each try would leave a hand behind with an armful.
    fn groups(&self, targets: Vec<Target>) -> VecDeque<Arc<Group>> {
        let mut by_workload: HashMap<u32, Vec<Target>> = HashMap::new();
        for target in targets {
            if !self.holds(&target) {
                by_workload.entry(target.connection.workload).or_default().push(target);
            }
        }
        let group = |(workload, mut targets): (u32, Vec<Target>)| {
            targets.sort_by_key(|target| target.namespace.id);
            let suspect = self.stuck.iter().any(|stuck| stuck.target.connection.workload == workload);
            Group::new(targets, if suspect { 1 } else { ARMFUL }, false)
        };
        by_workload.into_iter().map(group).collect()
    }
}

/// Takes what hands report, for a moment.
fn collect(reports: &Receiver<Results>, done: &mut Done) {
    let mut next = reports.recv_timeout(LOOK);
    loop {
        match next {
            Ok(results) => done.take(results),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
        }
        match reports.try_recv() {
            Ok(results) => next = Ok(results),
            Err(_) => return,
        }
    }
}

impl Done {
    fn take(&mut self, (group, place, results): Results) {
        for (target, result) in group.armful(place).iter().cloned().zip(results) {
            match result {
                Ok(Cut::Done) => self.cut.push(target),
                Ok(Cut::Gone) if group.again => self.cut.push(target),
                Ok(Cut::Gone) => self.gone.push(target),
                Err(error) => self.failed.push((target, error)),
            }
        }
    }
}

impl Group {
    fn new(targets: Vec<Target>, armful: usize, again: bool) -> Arc<Self> {
        Arc::new(Self { targets, next: AtomicUsize::new(0), armful, again })
    }

    /// What a hand takes at `place`; empty behind the last.
    fn armful(&self, place: usize) -> &[Target] {
        let rest = self.targets.get(place..).unwrap_or_default();
        rest.get(..self.armful).unwrap_or(rest)
    }
}

enum Look {
    Works,
    Ended,
    /// For too long, with what is at this index. It was told that it is left behind.
    Waits(usize),
}

impl Hand {
    /// A thread that works through what is left of a group. `None` if there can be no thread: what it would have cut is found again.
    fn start(group: Arc<Group>, tool: Tool, report: Sender<Results>) -> Option<Self> {
        let at = Arc::new(At::default());
        let hand = Self { group: Arc::clone(&group), at: Arc::clone(&at), seen: (0, Instant::now()) };
        let started = thread::Builder::new().name("weir-hand".to_owned()).spawn(move || at.work(&group, tool, &report));
        if let Err(error) = &started {
            tracing::error!(%error, "no thread to cut connections with; they are tried again");
        }
        started.is_ok().then_some(hand)
    }

    fn look(&mut self) -> Look {
        let place = self.at.place.load(Ordering::Acquire);
        if place == ENDED {
            return Look::Ended;
        }
        if place != self.seen.0 {
            self.seen = (place, Instant::now());
        }
        let patience = if self.group.armful > 1 { HURRY } else { PATIENCE };
        match place.checked_sub(1) {
            Some(held) if self.seen.1.elapsed() > patience && self.at.swap(place, LEFT) => Look::Waits(held),
            _ => Look::Works,
        }
    }
}

impl At {
    fn work(&self, group: &Arc<Group>, mut tool: Tool, report: &Sender<Results>) {
        threads::hurry();
        loop {
            let place = group.next.fetch_add(group.armful, Ordering::Relaxed);
            let held = group.armful(place);
            if held.is_empty() {
                break;
            }
            self.place.store(place + 1, Ordering::Release);
            let results = tool(held);
            if !self.swap(place + 1, 0) {
                break;
            }
            // Nobody listens any more once the revoker has ended.
            let _ = report.send((Arc::clone(group), place, results));
        }
        self.free.store(true, Ordering::Release);
        self.place.store(ENDED, Ordering::Release);
    }

    /// Either the hand has finished with what it holds or it is left behind, never both.
    fn swap(&self, from: usize, to: usize) -> bool {
        self.place.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        sync::{Condvar, Mutex},
    };

    use weir_common::{
        addr::{Addr, Protocol},
        decide::no_tables,
        verdict::Direction,
    };

    use super::*;
    use crate::{
        kernel::{namespaces::Namespaces, sockets::Living},
        revoke::view::Connection,
    };

    /// As events tell of accepted connections: the socket's cookie is not known.
    fn target(workload: u32, port: u16) -> Target {
        let root = tempfile::tempdir().unwrap();
        let namespace = Arc::clone(&Namespaces::default().find(root.path(), &[]).unwrap().namespaces[0].namespace);
        let (local, remote) = ((Addr::v4([10, 0, 0, 1]), port), (Addr::v4([10, 0, 0, 2]), 80));
        let living = Living::known(Protocol::TCP, local, remote, None);
        let connection = Connection { workload, protocol: Protocol::TCP, direction: None, local, remote };
        Target { connection, living, namespace, direction: Direction::Egress, decision: no_tables(0) }
    }

    /// A lock that somebody holds on the sockets with these ports, and what the kernel has cut, which can be cut only once.
    #[derive(Default)]
    struct Held {
        held: Mutex<bool>,
        freed: Condvar,
        cut: Mutex<BTreeSet<u16>>,
    }

    impl Held {
        fn tool(self: &Arc<Self>, ports: &'static [u16]) -> Tool {
            let held = Arc::clone(self);
            Box::new(move |targets: &[Target]| {
                let one = |target: &Target| {
                    let port = target.connection.local.1;
                    let mut guard = held.held.lock().unwrap();
                    if ports.contains(&port) {
                        guard = held.freed.wait_while(guard, |held| *held).unwrap();
                    }
                    drop(guard);
                    let first = held.cut.lock().unwrap().insert(port);
                    Ok(if first { Cut::Done } else { Cut::Gone })
                };
                targets.iter().map(one).collect()
            })
        }

        fn set(&self, value: bool) {
            *self.held.lock().unwrap() = value;
            self.freed.notify_all();
        }
    }

    fn ports(targets: &[Target]) -> Vec<u16> {
        let mut ports: Vec<u16> = targets.iter().map(|target| target.connection.local.1).collect();
        ports.sort_unstable();
        ports
    }

    fn come_back(hands: &mut Hands) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !hands.stuck().is_empty() {
            assert!(Instant::now() < deadline, "hands did not come back");
            thread::yield_now();
        }
    }

    #[test]
    fn a_socket_whose_lock_is_held_delays_no_other_and_is_cut_when_it_is_free() {
        let held = Arc::new(Held::default());
        held.set(true);
        let mut hands = Hands::default();
        let targets = || vec![target(1, 1), target(1, 2), target(1, 3), target(2, 4), target(1, 5)];
        let done = hands.cut(targets(), &|| held.tool(&[1, 3]));
        assert_eq!(ports(&done.cut), [2, 4, 5]);
        let stuck: Vec<Target> = hands.stuck().iter().map(|stuck| stuck.target.clone()).collect();
        assert_eq!(ports(&stuck), [1, 3]);
        // Those that hands still wait for are not tried by others as well.
        let again = hands.cut(targets(), &|| held.tool(&[]));
        assert_eq!(ports(&again.gone), [2, 4, 5]);
        held.set(false);
        come_back(&mut hands);
        assert_eq!(*held.cut.lock().unwrap(), BTreeSet::from([1, 2, 3, 4, 5]));
    }

    /// Whatever the hand had cut of its armful before it met the lock, and whatever it cuts of it after, is told of once.
    #[test]
    fn an_armful_with_a_locked_socket_in_it_is_told_of_once_each() {
        let held = Arc::new(Held::default());
        held.set(true);
        let mut hands = Hands::default();
        let ports_of: Vec<u16> = (1..=300).collect();
        let targets: Vec<Target> = ports_of.iter().map(|port| target(1, *port)).collect();
        let done = hands.cut(targets, &|| held.tool(&[70, 200]));
        let told: Vec<u16> = ports_of.iter().copied().filter(|port| ![70, 200].contains(port)).collect();
        assert_eq!((ports(&done.cut), done.gone.len(), done.failed.len()), (told, 0, 0));
        let stuck: Vec<Target> = hands.stuck().iter().map(|stuck| stuck.target.clone()).collect();
        assert_eq!(ports(&stuck), [70, 200]);
        held.set(false);
        come_back(&mut hands);
    }

    #[test]
    fn what_became_of_each_connection_is_told() {
        let tool = || -> Tool {
            let one = |target: &Target| match target.connection.local.1 {
                1 => Ok(Cut::Done),
                2 => Ok(Cut::Gone),
                _ => Err(io::Error::from(io::ErrorKind::PermissionDenied)),
            };
            Box::new(move |targets: &[Target]| targets.iter().map(one).collect())
        };
        let done = Hands::default().cut(vec![target(1, 1), target(1, 2), target(2, 3)], &tool);
        assert_eq!((ports(&done.cut), ports(&done.gone), done.failed.len()), (vec![1], vec![2], 1));
        assert_eq!(Hands::default().cut(Vec::new(), &tool).cut.len(), 0);
    }
}
