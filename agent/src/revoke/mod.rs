//! Lives: weir-agent, on a thread of its own.
//! Called by: `control`, which hands it a view of each generation; `telemetry`, which tells it of openings and ends; `runtime`.
//! May touch: living sockets of the managed tree, which it cuts when the policy in force forbids them; the kernel's table of
//!   adopted connections.
//! Never: keeps control or telemetry waiting; cuts what no policy forbids; believes that it knows all connections.
//!
//! ```text
//! view ─► known connections judged ─► hands cut ─┐
//!  ▲        sweep: every namespace, every socket ◄┘─ judged ─► hands cut ─► sweep again, until one finds nothing ─► clean
//!  └─ also every [`EVERY`], after an attachment, and each second while a process holds the lock of a socket that is to be cut
//! ```
//! A SYN judged by the generation before is on its socket, visible to a sweep, before the install of the next one returns: the
//! install has waited for every program that was running.

pub mod hands;
pub mod known;
pub mod report;
pub mod sweep;
pub mod view;

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    io,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use weir_common::{
    addr::{Port, Protocol},
    event::{self, Event, Kind},
    verdict::{Direction, Hook, Verdict},
};

use self::{
    hands::{Done, Hands, Tool},
    known::Known,
    report::{Report, Reporter},
    sweep::{Sweeper, Swept, Target},
    view::{Connection, Fate, Standing, View},
};
use crate::{
    exporter::Queue,
    kernel::{
        adopted::Adopted,
        namespaces::{Found, Namespace},
        sockets::{Door, Living},
    },
    runtime::Stop,
    telemetry::names::Names,
};

/// Time between two sweeps when nothing changes: a safety net under what events and changes set off.
const EVERY: Duration = Duration::from_secs(30);
/// Time between two tries while something could not be cut, or a namespace not looked into.
const AGAIN: Duration = Duration::from_secs(1);
/// Longest time until a stop is noticed.
const TURN: Duration = Duration::from_millis(100);
/// How long an event may be under way: a connection that is still a stranger then is older than the programs.
const EVENTS_UNDER_WAY: Duration = Duration::from_millis(100);
/// Sweeps in a row before others get their turn; what is left is found by the next.
const MOST_SWEEPS: usize = 20;
/// Late denials that wait at most; beyond it a sweep finds them.
const LATE: usize = 65_536;

/// Tells the revoker; every part of the agent that does has one.
#[derive(Debug, Default)]
pub struct Revoker {
    known: Known,
    mail: Mutex<Mail>,
    arrived: Condvar,
    report: Mutex<Report>,
}

/// What waits for the thread.
#[derive(Debug, Default)]
struct Mail {
    view: Option<Arc<View>>,
    /// The view is new.
    changed: bool,
    /// Openings that were denied when the SYN was about to leave; the call still waits.
    late: Vec<(Connection, u64)>,
}

impl Revoker {
    /// A generation is in force, or something was attached: judge what lives by this view.
    pub fn look(&self, view: View) {
        let mut mail = lock(&self.mail);
        (mail.view, mail.changed) = (Some(Arc::new(view)), true);
        self.arrived.notify_one();
    }

    /// Takes note of an event. Called for every one. Of an adopted connection that ends: how it stands by the generation in force.
    pub fn event(&self, event: &Event) -> Option<Standing> {
        let ended = self.known.event(event);
        let denied = event.kind == Kind::Verdict as u8
            && event.hook == Hook::SockOps as u8
            && event.verdict == Verdict::Deny as u8;
        if denied {
            let mut mail = lock(&self.mail);
            if mail.late.len() < LATE {
                mail.late.push((opening(event), event.cookie));
                self.arrived.notify_one();
            }
        }
        let connection = ended?;
        let view = self.view()?;
        let (Fate::Stays(Some((direction, decision)))
        | Fate::Drains(direction, decision)
        | Fate::Cut(direction, decision)) = view.judge(&connection)
        else {
            return None;
        };
        view.standing(connection.workload, direction, decision)
    }

    /// What was done so far.
    #[must_use]
    pub fn report(&self) -> Report {
        Report { known: self.known.count(), ..lock(&self.report).clone() }
    }

    /// The view of the generation in force.
    pub fn view(&self) -> Option<Arc<View>> {
        lock(&self.mail).view.clone()
    }

    /// Who opened a connection that is older than the programs; `None` for one that is not, or is not known.
    pub fn adopted(&self, connection: &Connection) -> Option<Direction> {
        self.known.get(connection).filter(|flow| flow.adopted).map(|flow| flow.direction)
    }

    /// The connections that `view` would cut, and those it would let go on; nothing is touched.
    ///
    /// # Errors
    /// The managed tree cannot be read.
    pub fn would_cut(&self, view: &View, root: PathBuf) -> io::Result<Swept> {
        Sweeper::new(root).sweep(view, &self.known)
    }

    /// Waits for something to do, until `deadline` or a turn is over.
    fn wait(&self, deadline: Instant) -> Mail {
        let mail = lock(&self.mail);
        let patience = deadline.saturating_duration_since(Instant::now()).min(TURN);
        let idle = |mail: &mut Mail| !mail.changed && mail.late.is_empty();
        let (mut mail, _) =
            self.arrived.wait_timeout_while(mail, patience, idle).unwrap_or_else(PoisonError::into_inner);
        let view = mail.view.clone();
        Mail { view, changed: std::mem::take(&mut mail.changed), late: std::mem::take(&mut mail.late) }
    }

    fn is_changed(&self) -> bool {
        lock(&self.mail).changed
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn opening(event: &Event) -> Connection {
    Connection {
        workload: event.workload,
        protocol: Protocol::TCP,
        direction: Some(Direction::Egress),
        local: (event.local, event.local_port.number()),
        remote: (event.remote, event.remote_port.number()),
    }
}

/// The thread's own things.
pub struct Work {
    revoker: Arc<Revoker>,
    sweeper: Sweeper,
    hands: Hands,
    reporter: Reporter,
    /// Whose ends are told of although they are older than the programs; `None` where this kernel does not let us.
    closes: Option<Adopted>,
    /// Cgroups that were there at the last sweep: what is new may have connections older than the programs.
    seen: BTreeSet<u64>,
    next: Instant,
}

impl Work {
    /// Work for `revoker` in the managed tree below `root`; what was done is told to `queue`. `closes`: where to ask for the ends of
    /// adopted connections.
    pub fn new(
        revoker: Arc<Revoker>,
        root: PathBuf,
        names: Arc<Names>,
        queue: Arc<Queue>,
        closes: Option<Adopted>,
    ) -> Self {
        Self {
            revoker,
            sweeper: Sweeper::new(root),
            hands: Hands::default(),
            reporter: Reporter::new(names, queue),
            closes,
            seen: BTreeSet::new(),
            next: Instant::now() + EVERY,
        }
    }

    /// Works until stopped.
    pub fn run(mut self, stop: &Stop) {
        while !stop.is_set() {
            let mail = self.revoker.wait(self.next);
            let Some(view) = mail.view else { continue };
            if !mail.late.is_empty() {
                self.cut_late(&view, &mail.late);
            }
            if mail.changed {
                self.cut_known(&view);
            }
            if mail.changed || Instant::now() >= self.next {
                self.sweep_until_clean(&view, stop);
            }
        }
    }

    /// Calls whose SYN was denied at the last moment: their process waits for an answer that cannot come.
    fn cut_late(&mut self, view: &View, late: &[(Connection, u64)]) {
        let found = match self.sweeper.find(view) {
            Ok(found) => found,
            Err(error) => return tracing::error!(%error, "the managed tree cannot be read"),
        };
        let mut targets = Vec::new();
        for (connection, cookie) in late {
            // A policy that allows it by now does no harm: the call was refused.
            let (Fate::Cut(direction, decision)
            | Fate::Drains(direction, decision)
            | Fate::Stays(Some((direction, decision)))) = view.judge(connection)
            else {
                continue;
            };
            targets.extend(self::targets(&found, connection, Some(*cookie), direction, decision));
        }
        let done = self.hands.cut(targets, &tool);
        tracing::debug!(refused = done.cut.len(), "calls denied at the last moment were ended");
    }

    /// What the events have told of, without asking the kernel for its sockets.
    fn cut_known(&mut self, view: &View) {
        let began = Instant::now();
        let mut forbidden = Vec::new();
        self.revoker.known.each(&mut |connection, flow| {
            if let Fate::Cut(direction, decision) = view.judge(connection) {
                forbidden.push((*connection, flow.cookie, direction, decision));
            }
        });
        if forbidden.is_empty() {
            return;
        }
        let judged = began.elapsed();
        let found = match self.sweeper.find(view) {
            Ok(found) => found,
            Err(error) => return tracing::error!(%error, "the managed tree cannot be read"),
        };
        let target = |(connection, cookie, direction, decision): &(Connection, u64, Direction, _)| {
            targets(&found, connection, (*cookie != 0).then_some(*cookie), *direction, *decision)
        };
        let targets: Vec<Target> = forbidden.iter().flat_map(target).collect();
        let looked = began.elapsed();
        let done = self.hands.cut(targets, &tool);
        let cut = began.elapsed();
        self.take(view, done);
        tracing::debug!(?judged, ?looked, ?cut, told = ?began.elapsed(), "known connections, time since the view came");
    }

    fn sweep_until_clean(&mut self, view: &View, stop: &Stop) {
        self.next = Instant::now() + EVERY;
        for _ in 0..MOST_SWEEPS {
            if stop.is_set() || self.revoker.is_changed() {
                return;
            }
            let started = Instant::now();
            let number = self.revoker.known.begin_sweep();
            let swept = match self.sweeper.sweep(view, &self.revoker.known) {
                Ok(swept) => swept,
                Err(error) => {
                    tracing::error!(%error, "the managed tree cannot be read; tried again");
                    self.next = Instant::now() + AGAIN;
                    return;
                }
            };
            let held = self.hands.stuck().len();
            let Swept { mut forbidden, draining, strangers, living, sockets, namespaces, failed, .. } = swept;
            forbidden.retain(|target| !self.hands.holds(target));
            let clean = forbidden.is_empty() && failed == 0;
            if failed == 0 {
                let lives = |known: &Connection| living.contains(&Connection { direction: None, ..*known });
                self.revoker.known.end_sweep(number, &lives);
            }
            if let Some(closes) = &mut self.closes {
                self.revoker.known.overdue(started).into_iter().for_each(|cookie| closes.remove(cookie));
            }
            let took = started.elapsed();
            self.reporter.draining(&draining);
            if clean {
                self.adopt(view, strangers);
            } else {
                self.watch_closes(view, &forbidden);
                let done = self.hands.cut(forbidden, &tool);
                self.take(view, done);
            }
            let stuck = self.hands.stuck();
            self.reporter.stuck(view, stuck);
            let mut report = lock(&self.revoker.report);
            self.reporter.swept(&mut report, view, sockets, namespaces, took, clean);
            report.draining = draining.len();
            drop(report);
            if clean {
                if held > 0 {
                    self.next = Instant::now() + AGAIN;
                }
                return;
            }
        }
        self.next = Instant::now() + AGAIN;
    }

    /// Notes what was done.
    fn take(&mut self, view: &View, done: Done) {
        let Done { cut, gone, failed } = done;
        for target in cut.iter().chain(&gone) {
            self.revoker.known.forget(&target.connection);
        }
        for (target, error) in &failed {
            let (policy, rule) = view.rule_of(&target.decision);
            tracing::error!(%error, policy, rule, "a forbidden connection could not be cut; tried again");
        }
        self.reporter.cut(view, &cut);
        lock(&self.revoker.report).cut += cut.len() as u64;
    }

    /// Connections of workloads that were not here at the last sweep, and that no event tells of: they are older than the programs.
    fn adopt(&mut self, view: &View, strangers: Vec<Target>) {
        let mut candidates: Vec<Target> = strangers.into_iter().filter(|target| self.is_new(view, target)).collect();
        self.seen = view.locals.values().map(|local| local.cgroup_id).collect();
        if candidates.is_empty() {
            return;
        }
        std::thread::sleep(EVENTS_UNDER_WAY);
        candidates.retain(|target| self.revoker.known.get(&target.connection).is_none());
        self.watch(&candidates);
        self.reporter.adopted(view, &candidates);
        lock(&self.revoker.report).adopted += candidates.len() as u64;
    }

    /// What is cut although no event has told of its opening ends with a close too, which says what it carried.
    fn watch_closes(&mut self, view: &View, forbidden: &[Target]) {
        let stranger = |target: &&Target| {
            target.connection.protocol == Protocol::TCP
                && self.is_new(view, target)
                && self.revoker.known.get(&target.connection).is_none()
        };
        let strangers: Vec<Target> = forbidden.iter().filter(stranger).cloned().collect();
        self.watch(&strangers);
    }

    /// Whether its workload was not here at the last clean sweep.
    fn is_new(&self, view: &View, target: &Target) -> bool {
        let local = view.locals.get(&target.connection.workload);
        local.is_some_and(|local| !self.seen.contains(&local.cgroup_id))
    }

    /// Takes connections over, and asks to hear of their ends; but of one without a record of how it goes on there is none of its end.
    fn watch(&mut self, adopted: &[Target]) {
        for Target { connection, living, direction, decision, .. } in adopted {
            let cookie = living.cookie();
            if !self.revoker.known.adopt(connection, *direction, cookie) || decision.quiet {
                continue;
            }
            let Some(closes) = &mut self.closes else { continue };
            let Connection { local, remote, .. } = connection;
            let ends = event::Adopted {
                local: local.0,
                remote: remote.0,
                local_port: Port::new(local.1),
                remote_port: Port::new(remote.1),
                direction: *direction as u8,
                reserved: [0; 3],
            };
            if let Err(error) = closes.add(cookie, ends) {
                tracing::debug!(%error, cookie, "the end of a connection older than enforcement will have no record");
            }
        }
    }
}

/// A known connection in each namespace that its workload lives in.
fn targets(
    found: &Found,
    connection: &Connection,
    cookie: Option<u64>,
    direction: Direction,
    decision: weir_common::decide::Decision,
) -> Vec<Target> {
    let living = Living::known(connection.protocol, connection.local, connection.remote, cookie);
    let of = found.namespaces.iter().filter(|inhabited| inhabited.workloads.contains(&connection.workload));
    of.map(|inhabited| Target {
        connection: *connection,
        living: living.clone(),
        namespace: Arc::clone(&inhabited.namespace),
        direction,
        decision,
    })
    .collect()
}

/// What a hand cuts with: doors of its own.
fn tool() -> Tool {
    let mut doors = HashMap::new();
    Box::new(move |targets: &[Target]| {
        let mut results = Vec::with_capacity(targets.len());
        for together in targets.chunk_by(|one, next| one.namespace.id == next.namespace.id) {
            let Some(first) = together.first() else { continue };
            match door(&mut doors, &first.namespace) {
                Ok(door) => results.extend(door.cut(together.iter().map(|target| &target.living))),
                Err(error) => {
                    let same =
                        || io::Error::new(error.kind(), format!("its network namespace cannot be entered: {error}"));
                    results.extend(together.iter().map(|_| Err(same())));
                }
            }
        }
        results
    })
}

fn door<'a>(doors: &'a mut HashMap<u64, Door>, namespace: &Namespace) -> io::Result<&'a mut Door> {
    Ok(match doors.entry(namespace.id) {
        Entry::Occupied(entry) => entry.into_mut(),
        Entry::Vacant(entry) => entry.insert(Door::open(namespace)?),
    })
}
