//! Lives: weir-agent, telemetry.
//! Called by: the telemetry thread, with each event and each merged decision.
//! May touch: its maps; `/proc` and the cgroup tree through `process` and `cgroups`.
//! Never: drops an event it cannot join: what is not known stays empty in the record, and misses are counted.
//!
//! ```text
//! SockOps verdict ──► flows[cookie] ─► Close of the side that connected
//!   (it names the process; where the kernel does not let it, Attempt, same cookie ─► flows[cookie] has before)
//! Bound, cookie ──► bound[cookie] ─► Ingress verdict (listener's cookie) names the process ─┐
//!   and by workload, protocol, port ─► SkLookup verdict, likewise                            │
//!                                                     passive[workload, addresses, ports] ◄─┘ ─► Close of the accepted side
//! ```

use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};

use weir_common::{
    addr::{Port, Protocol},
    event::{Event, Kind, MergeKey, MergeValue},
    verdict::{Direction, Hook, Reason, Verdict},
};
use zerocopy::FromZeros as _;

use crate::{datapath::DropReasons, revoke::view::Standing};

use super::{
    alike::Alike,
    bounded::Bounded,
    cgroups::Cgroups,
    clock::Clock,
    names::Snapshot,
    opening::{
        Caller, Flow, Listener, Opened, Tuple, carried, listener, of_decision, of_ends, of_event, of_merged, of_older,
        tuple,
    },
    process::Processes,
    progress::Progress,
    record::{About, Record, RecordKind},
    totals,
};

/// Connections remembered from their opening to their close, for each side.
const CONNECTIONS: usize = 65_536;
/// Bound sockets remembered.
const BOUND: usize = 16_384;

/// What is remembered between events.
pub struct Join {
    flows: Bounded<u64, Flow>,
    passive: Bounded<Tuple, Opened>,
    bound: Bounded<u64, Caller>,
    /// The same by what `sk_lookup` knows, which sees no socket.
    listeners: Bounded<Listener, Caller>,
    /// How adopted connections stand whose closes come next, by their sockets' cookies.
    older: HashMap<u64, Standing>,
    processes: Processes,
    cgroups: Cgroups,
    alike: Alike,
    /// Of the kernel's own drops.
    drop_reasons: DropReasons,
    /// How the kernel's time relates to other clocks.
    pub clock: Clock,
    stats: JoinStats,
}

/// How well joining works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JoinStats {
    /// Entries evicted for newer ones.
    pub evicted: u64,
    /// Closes whose opening is not known.
    pub missed_closes: u64,
    /// Events with numbers this version does not know; they are not recorded.
    pub unreadable: u64,
}

impl Join {
    /// Nothing remembered yet. `proc` is `/proc` except in tests.
    pub fn new(proc: PathBuf, cgroup_root: PathBuf, drop_reasons: DropReasons) -> Self {
        Self {
            flows: Bounded::new(CONNECTIONS),
            passive: Bounded::new(CONNECTIONS),
            bound: Bounded::new(BOUND),
            listeners: Bounded::new(BOUND),
            older: HashMap::new(),
            processes: Processes::new(proc),
            cgroups: Cgroups::new(cgroup_root),
            alike: Alike::new(),
            drop_reasons,
            clock: Clock::now(),
            stats: JoinStats::default(),
        }
    }

    /// How well joining works.
    pub fn stats(&self) -> JoinStats {
        let evicted = self.flows.evicted() + self.passive.evicted() + self.bound.evicted() + self.listeners.evicted();
        JoinStats { evicted, ..self.stats }
    }

    /// Takes one event; adds the record it makes, if it makes one.
    pub fn event(&mut self, event: &Event, names: &Snapshot, records: &mut Vec<Record>) {
        match Kind::from_u8(event.kind) {
            Some(Kind::Verdict) => self.verdict(event, names, records),
            Some(Kind::Attempt) => {
                let caller = self.caller(event, names);
                self.flows.insert(event.cookie, Flow::Attempt(caller));
            }
            Some(Kind::Bound) => {
                let caller = self.caller(event, names);
                self.listeners.insert(listener(event), caller.clone());
                self.bound.insert(event.cookie, caller);
            }
            Some(Kind::Close) => self.close(event, names, records),
            None => self.stats.unreadable += 1,
        }
    }

    fn verdict(&mut self, event: &Event, names: &Snapshot, records: &mut Vec<Record>) {
        let (hook, verdict, reason) =
            (Hook::from_u8(event.hook), Verdict::from_u8(event.verdict), Reason::from_u8(event.reason));
        let (Some(hook), Some(verdict), Some(reason)) = (hook, verdict, reason) else {
            self.stats.unreadable += 1;
            return;
        };
        let mut caller = self.caller(event, names);
        if caller.process.is_none() {
            let listener = || self.listeners.get(&listener(event)).filter(|_| hook == Hook::SkLookup).cloned();
            caller = self.remembered_caller(hook, event.cookie).or_else(listener).unwrap_or(caller);
        }
        let what = (hook, verdict, reason);
        let tell = |caller| of_decision(event, what, caller, names);
        let about = self.alike.about(event, caller.clone(), names.version(), tell);
        self.remember(event, what, &about, caller);
        let mut record = of_event(event, about);
        record.time_ns = self.clock.wall(event.time_ns);
        record.tcp_flags = u32::from(event.tcp_flags);
        record.count = 1;
        records.push(record);
    }

    /// Keeps the decision that let a TCP connection open, for its close; of one that did not, who called, for the packets that
    /// `egress` holds back.
    fn remember(&mut self, event: &Event, what: (Hook, Verdict, Reason), about: &Arc<About>, caller: Caller) {
        let (hook, verdict, _) = what;
        let opened = || Opened { time_ns: event.time_ns, about: Arc::clone(about) };
        if hook == Hook::SockOps {
            let flow = if verdict.passes() { Flow::Opened(opened()) } else { Flow::Attempt(caller) };
            self.flows.insert(event.cookie, flow);
        } else if verdict.passes()
            && Protocol(event.protocol) == Protocol::TCP
            && matches!(hook, Hook::Ingress | Hook::SkLookup)
        {
            self.passive.insert(tuple(event), opened());
        }
    }

    fn close(&mut self, event: &Event, names: &Snapshot, records: &mut Vec<Record>) {
        let known = Direction::from_u8(event.direction);
        let active = match known {
            Some(Direction::Ingress) => None,
            Some(Direction::Egress) | None => match self.flows.remove(&event.cookie) {
                Some(Flow::Opened(opened)) => Some(opened),
                Some(Flow::Attempt(_)) | None => None,
            },
        };
        let passive = match (known, &active) {
            (Some(Direction::Ingress) | None, None) => self.passive.remove(&tuple(event)),
            (Some(Direction::Egress), _) | (_, Some(_)) => None,
        };
        let role = match (known, &passive) {
            (Some(direction), _) => direction,
            (None, Some(_)) => Direction::Ingress,
            (None, None) => Direction::Egress,
        };
        let opened = active.or(passive);
        let start_ns = opened.as_ref().map_or(0, |opened| self.clock.wall(opened.time_ns));
        let standing = self.older.remove(&event.cookie);
        let about = match (opened, standing) {
            (Some(opened), _) => opened.about,
            (None, Some(standing)) if standing.decision.quiet => return,
            (None, Some(standing)) => Arc::new(About { direction: known, ..of_older(event, &standing, names) }),
            (None, None) => {
                self.stats.missed_closes += 1;
                let hook = Hook::from_u8(event.hook);
                Arc::new(About { hook, direction: known, ..of_ends(event, names) })
            }
        };
        let mut record = of_event(event, about);
        record.kind = RecordKind::Close;
        record.time_ns = self.clock.wall(event.time_ns);
        record.end_ns = record.time_ns;
        record.start_ns = start_ns;
        record.traffic = totals::traffic(&event.totals(), role, event.old_state);
        records.push(record);
    }

    /// The close of an adopted connection is among the next events, and this is how it stands.
    pub fn stands(&mut self, cookie: u64, standing: Standing) {
        self.older.insert(cookie, standing);
    }

    /// What a living connection that is at least `old` has come to, or is older than the programs; `None` for another whose opening is
    /// not known, or made no record.
    pub fn progress(&mut self, seen: &Progress, old: Duration, names: &Snapshot) -> Option<Record> {
        let event = Event {
            time_ns: seen.time_ns,
            cookie: seen.cookie,
            workload: seen.workload,
            local: seen.local.0,
            local_port: Port::new(seen.local.1),
            remote: seen.remote.0,
            remote_port: Port::new(seen.remote.1),
            protocol: Protocol::TCP.0,
            ..Event::new_zeroed()
        };
        let active = self.flows.get(&seen.cookie).and_then(Flow::opened).cloned();
        let role = if active.is_some() { Direction::Egress } else { Direction::Ingress };
        let opening = active.or_else(|| self.passive.get(&tuple(&event)).cloned());
        let Some(opened) = opening else { return self.progress_of_older(seen, &event, names) };
        if Duration::from_nanos(seen.time_ns.saturating_sub(opened.time_ns)) < old {
            return None;
        }
        Some(Record {
            kind: RecordKind::Progress,
            time_ns: self.clock.wall(seen.time_ns),
            start_ns: self.clock.wall(opened.time_ns),
            traffic: totals::traffic(&seen.totals, role, seen.state),
            ..of_event(&event, opened.about)
        })
    }

    /// The same of one that no event told of: by whom and when it was opened is not known, and it is told by what judges it now.
    fn progress_of_older(&self, seen: &Progress, event: &Event, names: &Snapshot) -> Option<Record> {
        let standing = seen.older?;
        let about = About { direction: Some(standing.direction), ..of_older(event, &standing, names) };
        Some(Record {
            kind: RecordKind::Progress,
            time_ns: self.clock.wall(seen.time_ns),
            traffic: totals::traffic(&seen.totals, standing.direction, seen.state),
            ..of_event(event, Arc::new(about))
        })
    }

    /// The process and cgroup an event names itself.
    fn caller(&mut self, event: &Event, names: &Snapshot) -> Caller {
        let process = self.processes.describe(&event.process(), event.time_ns, &self.clock);
        let cgroup = names.cgroup(event.cgroup).or_else(|| self.cgroups.path(event.cgroup, event.time_ns));
        Caller { process, cgroup }
    }

    /// The caller an earlier event named for the socket.
    fn remembered_caller(&self, hook: Hook, cookie: u64) -> Option<Caller> {
        let flow = || self.flows.get(&cookie).map(Flow::caller);
        let bound = || self.bound.get(&cookie).cloned();
        match hook {
            Hook::SockOps | Hook::Egress | Hook::Sendmsg => flow().or_else(bound),
            Hook::Ingress => bound().or_else(flow),
            Hook::Xdp
            | Hook::Connect
            | Hook::SockCreate
            | Hook::PostBind
            | Hook::SkLookup
            | Hook::FromWorkload
            | Hook::ToWorkload
            | Hook::Kernel => None,
        }
    }

    /// Why the kernel dropped a packet, in its own words; of a subsystem's reasons only the number is known.
    fn kernel_reason(&self, number: u32) -> Arc<str> {
        self.drop_reasons.get(&number).cloned().unwrap_or_else(|| Arc::from(format!("{number:#x}")))
    }

    /// The record of equal decisions that the kernel counted together.
    pub fn merged(&mut self, key: &MergeKey, value: &MergeValue, names: &Snapshot) -> Option<Record> {
        let (hook, verdict, reason) =
            (Hook::from_u8(key.hook), Verdict::from_u8(key.verdict), Reason::from_u8(key.reason));
        let (Some(hook), Some(verdict), Some(reason)) = (hook, verdict, reason) else {
            self.stats.unreadable += 1;
            return None;
        };
        let event = of_merged(key, value);
        let listener = || self.listeners.get(&listener(&event)).filter(|_| hook == Hook::SkLookup).cloned();
        let caller = self.remembered_caller(hook, value.cookie).or_else(listener).unwrap_or_default();
        let kernel_reason = (hook == Hook::Kernel).then(|| self.kernel_reason(key.rule));
        let about = self.alike.about(&event, caller, names.version(), |caller| About {
            kernel_reason,
            ..of_decision(&event, (hook, verdict, reason), caller, names)
        });
        Some(Record {
            time_ns: self.clock.wall(value.first_ns),
            end_ns: self.clock.wall(value.last_ns),
            tcp_flags: value.tcp_flags,
            count: value.count,
            traffic: carried(hook, value),
            ..of_event(&event, about)
        })
    }
}

#[cfg(test)]
#[path = "join_tests.rs"]
mod tests;
