//! Lives: weir-agent, revocation.
//! Called by: the revoker, with the connections to cut.
//! May touch: threads of its own, each with its own doors into network namespaces.
//! Never: waits for a socket whose process holds its lock; leaves one workload's sockets waiting for another's.
//!
//! Cutting waits for the socket's lock, and a process can hold that as long as it likes (a page fault inside `send()`). So each
//! workload's connections are cut by a hand of their own; a hand that waits longer than [`PATIENCE`] is left behind with that one
//! socket, which it cuts when the lock is free, and another goes on with the rest.

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use super::sweep::Target;
use crate::kernel::sockets::Cut;

/// How long a hand may hold one socket before it is left behind.
const PATIENCE: Duration = Duration::from_millis(100);
/// How often hands are looked at.
const LOOK: Duration = Duration::from_millis(10);
/// Hands that work at the same time.
const AT_ONCE: usize = 4;
/// A workload with more connections than this is worth a second hand.
const MANY: usize = 512;
/// Hands that may be left behind at the same time. Sockets beyond are tried again once some have come back.
const LEFT_BEHIND: usize = 256;

/// Something that cuts; each hand has its own.
pub type Tool = Box<dyn FnMut(&Target) -> io::Result<Cut> + Send>;

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

/// The connections of one workload.
#[derive(Debug)]
struct Group {
    targets: Vec<Target>,
    next: AtomicUsize,
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
    /// Index of the target it holds, plus one; 0 before the first, [`ENDED`] after the last.
    index: AtomicUsize,
    /// It was left behind: it ends with the target it holds.
    left: AtomicBool,
    /// It has let go of the target it was left behind with.
    free: Arc<AtomicBool>,
}

const ENDED: usize = usize::MAX;

type Result = (usize, Arc<Group>, io::Result<Cut>);

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
        let mut waiting = groups(targets.into_iter().filter(|target| !self.holds(target)));
        let (report, reports) = channel();
        let (mut done, mut working) = (Done::default(), Vec::<Hand>::new());
        loop {
            while working.len() < AT_ONCE
                && let Some(group) = waiting.pop_front()
            {
                let second = (group.targets.len() > MANY).then(|| Arc::clone(&group));
                let hands = second.into_iter().chain([group]);
                working.extend(hands.filter_map(|group| Hand::start(group, tool(), report.clone())));
            }
            if working.is_empty() {
                break;
            }
            collect(&reports, &mut done);
            let mut again = Vec::new();
            working.retain_mut(|hand| match hand.look() {
                Look::Works => true,
                Look::Ended => false,
                Look::Waits(index) => {
                    again.extend(hand.leave(index).map(|stuck| (Arc::clone(&hand.group), stuck)));
                    false
                }
            });
            for (group, stuck) in again {
                self.stuck.push(stuck);
                if self.stuck.len() < LEFT_BEHIND {
                    working.extend(Hand::start(group, tool(), report.clone()));
                }
            }
        }
        while let Ok(result) = reports.try_recv() {
            done.take(result);
        }
        done
    }
}

/// Takes what hands report, for a moment.
fn collect(reports: &Receiver<Result>, done: &mut Done) {
    let mut next = reports.recv_timeout(LOOK);
    loop {
        match next {
            Ok(result) => done.take(result),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
        }
        match reports.try_recv() {
            Ok(result) => next = Ok(result),
            Err(_) => return,
        }
    }
}

impl Done {
    fn take(&mut self, (index, group, result): Result) {
        let Some(target) = group.targets.get(index).cloned() else { return };
        match result {
            Ok(Cut::Done) => self.cut.push(target),
            Ok(Cut::Gone) => self.gone.push(target),
            Err(error) => self.failed.push((target, error)),
        }
    }
}

enum Look {
    Works,
    Ended,
    /// For too long, with the target of this index.
    Waits(usize),
}

impl Hand {
    /// A thread that works through what is left of a group. `None` if there can be no thread: what it would have cut is found again.
    fn start(group: Arc<Group>, tool: Tool, report: Sender<Result>) -> Option<Self> {
        let at = Arc::new(At::default());
        let hand = Self { group: Arc::clone(&group), at: Arc::clone(&at), seen: (0, Instant::now()) };
        let started = thread::Builder::new().name("weir-hand".to_owned()).spawn(move || at.work(&group, tool, &report));
        if let Err(error) = &started {
            tracing::error!(%error, "no thread to cut connections with; they are tried again");
        }
        started.is_ok().then_some(hand)
    }

    fn look(&mut self) -> Look {
        let index = self.at.index.load(Ordering::Acquire);
        if index == ENDED {
            return Look::Ended;
        }
        if index != self.seen.0 {
            self.seen = (index, Instant::now());
        }
        match index.checked_sub(1) {
            Some(held) if self.seen.1.elapsed() > PATIENCE => Look::Waits(held),
            _ => Look::Works,
        }
    }

    fn leave(&self, index: usize) -> Option<Stuck> {
        self.at.left.store(true, Ordering::Release);
        let target = self.group.targets.get(index)?.clone();
        Some(Stuck { target, since: self.seen.1, free: Arc::clone(&self.at.free) })
    }
}

impl At {
    fn work(&self, group: &Arc<Group>, mut tool: Tool, report: &Sender<Result>) {
        while !self.left.load(Ordering::Acquire) {
            let index = group.next.fetch_add(1, Ordering::Relaxed);
            let Some(target) = group.targets.get(index) else { break };
            self.index.store(index + 1, Ordering::Release);
            let result = tool(target);
            // Nobody listens any more to a hand that was left behind.
            let _ = report.send((index, Arc::clone(group), result));
        }
        self.free.store(true, Ordering::Release);
        self.index.store(ENDED, Ordering::Release);
    }
}

/// By workload, each in the order given.
fn groups(targets: impl Iterator<Item = Target>) -> VecDeque<Arc<Group>> {
    let mut by_workload: HashMap<u32, Vec<Target>> = HashMap::new();
    for target in targets {
        by_workload.entry(target.connection.workload).or_default().push(target);
    }
    by_workload.into_values().map(|targets| Arc::new(Group { targets, next: AtomicUsize::new(0) })).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::{Condvar, Mutex};

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

    /// A lock that somebody holds on the sockets with these ports.
    #[derive(Default)]
    struct Held {
        held: Mutex<bool>,
        freed: Condvar,
    }

    impl Held {
        fn tool(self: &Arc<Self>, ports: &'static [u16]) -> Tool {
            let held = Arc::clone(self);
            Box::new(move |target: &Target| {
                if ports.contains(&target.connection.local.1) {
                    let guard = held.held.lock().unwrap();
                    drop(held.freed.wait_while(guard, |held| *held).unwrap());
                }
                Ok(Cut::Done)
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
        assert_eq!(ports(&again.cut), [2, 4, 5]);
        held.set(false);
        let deadline = Instant::now() + Duration::from_secs(10);
        while !hands.stuck().is_empty() {
            assert!(Instant::now() < deadline, "hands did not come back");
            thread::yield_now();
        }
    }

    #[test]
    fn what_became_of_each_connection_is_told() {
        let tool = || -> Tool {
            Box::new(|target: &Target| match target.connection.local.1 {
                1 => Ok(Cut::Done),
                2 => Ok(Cut::Gone),
                _ => Err(io::Error::from(io::ErrorKind::PermissionDenied)),
            })
        };
        let done = Hands::default().cut(vec![target(1, 1), target(1, 2), target(2, 3)], &tool);
        assert_eq!((ports(&done.cut), ports(&done.gone), done.failed.len()), (vec![1], vec![2], 1));
        assert_eq!(Hands::default().cut(Vec::new(), &tool).cut.len(), 0);
    }
}
