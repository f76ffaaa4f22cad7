//! Lives: weir-agent, telemetry.
//! Called by: `join`, for each decision.
//! May touch: its own memory.
//! Never: takes two decisions for alike of which any record would say anything else; outlives the names it was made with; grows.
//!
//! Decisions come in kinds: the same caller, peer, rule. What their records are about is found out once and shared, and whoever packs
//! them sees by where it lies that it is the same. Peers choose some of what makes a kind, and never see the hash, whose seed is random.

use std::{hash::BuildHasher as _, sync::Arc};

use foldhash::fast::RandomState;
use weir_common::{
    addr::Port,
    event::{Event, Process},
};
use zerocopy::IntoBytes as _;

use super::{opening::Caller, record::About};

/// Kinds remembered. One that finds its place taken takes it.
const PLACES: usize = 1024;

/// The kinds of late.
pub struct Alike {
    places: Vec<Option<Known>>,
    /// The version of the names they were made with.
    names: u64,
    hasher: RandomState,
}

struct Known {
    /// The event without what each has of its own.
    kind: Event,
    caller: Whose,
    about: Arc<About>,
}

/// A caller by where what is known of it lies. What is remembered is about it, and keeps it there.
type Whose = (usize, usize);

impl Alike {
    /// Nothing remembered yet.
    pub fn new() -> Self {
        Self { places: (0..PLACES).map(|_| None).collect(), names: 0, hasher: RandomState::default() }
    }

    /// What a decision is about: what an earlier one was if they are alike, or else what `tell` tells of it. `names`: the version of
    /// the names that it would be told with.
    pub fn about(
        &mut self,
        event: &Event,
        caller: Caller,
        names: u64,
        tell: impl FnOnce(Caller) -> About,
    ) -> Arc<About> {
        if names != self.names {
            self.names = names;
            self.places.fill_with(|| None);
        }
        let kind = kind(event);
        let whose = whose(&caller);
        let hash = self.hasher.hash_one((whose, telling(&kind)));
        let Some(place) = usize::try_from(hash % PLACES as u64).ok().and_then(|place| self.places.get_mut(place))
        else {
            return Arc::new(tell(caller));
        };
        if let Some(known) = place
            && known.caller == whose
            && known.kind.as_bytes() == kind.as_bytes()
        {
            return Arc::clone(&known.about);
        }
        let about = Arc::new(tell(caller));
        *place = Some(Known { kind, caller: whose, about: Arc::clone(&about) });
        about
    }
}

/// The event without what each has of its own: time, socket, ports and flags, and the calling task, which `caller` stands for.
fn kind(event: &Event) -> Event {
    let Process { staged, .. } = event.process();
    Event {
        detail: zerocopy::transmute!(Process { staged, ..Process::default() }),
        time_ns: 0,
        cookie: 0,
        cgroup: 0,
        local_port: Port::default(),
        remote_port: Port::default(),
        tcp_flags: 0,
        old_state: 0,
        ..*event
    }
}

/// What mostly tells kinds apart, which is quicker to hash than all of it.
const fn telling(kind: &Event) -> (u128, u128, u32, u32, u32) {
    let judged = u32::from_ne_bytes([kind.hook, kind.verdict, kind.reason, kind.protocol]);
    (u128::from_ne_bytes(kind.local.0), u128::from_ne_bytes(kind.remote.0), kind.workload, kind.rule, judged)
}

fn whose(caller: &Caller) -> Whose {
    let process = caller.process.as_ref().map_or(0, |process| Arc::as_ptr(process).addr());
    let cgroup = caller.cgroup.as_ref().map_or(0, |cgroup| Arc::as_ptr(cgroup).cast::<()>().addr());
    (process, cgroup)
}

#[cfg(test)]
mod tests {
    use weir_common::{
        event::Kind,
        verdict::{Direction, Hook},
    };

    use super::*;
    use crate::{
        telemetry::record::ProcessInfo,
        testing::{addr, event},
    };

    fn told(alike: &mut Alike, event: &Event, caller: &Caller, names: u64) -> bool {
        let mut told = false;
        let about = alike.about(event, caller.clone(), names, |caller| {
            told = true;
            About { process: caller.process, cgroup: caller.cgroup, generation: event.generation, ..About::default() }
        });
        assert_eq!((about.process.as_ref(), about.generation), (caller.process.as_ref(), event.generation));
        told
    }

    /// Each row changes one thing of a decision that is known; whether that makes it another kind.
    #[test]
    fn decisions_are_alike_but_for_time_socket_ports_and_flags() {
        let base = event(Kind::Verdict, Hook::Connect, Direction::Egress, 7);
        let staged = Process { staged: 9, ..base.process() };
        let task = Process { pid: 9, uid: 8, comm: [7; 16], ..base.process() };
        let rows: [(&str, Event, bool); 21] = [
            ("time", Event { time_ns: 1, ..base }, false),
            ("cookie", Event { cookie: 1, ..base }, false),
            ("local port", Event { local_port: Port::new(1), ..base }, false),
            ("remote port", Event { remote_port: Port::new(1), ..base }, false),
            ("flags", Event { tcp_flags: 0x12, ..base }, false),
            ("task", Event { detail: zerocopy::transmute!(task), ..base }, false),
            ("cgroup", Event { cgroup: 1, ..base }, false),
            ("generation", Event { generation: 99, ..base }, true),
            ("local", Event { local: addr(99), ..base }, true),
            ("remote", Event { remote: addr(99), ..base }, true),
            ("rule", Event { rule: 99, ..base }, true),
            ("local identity", Event { local_identity: 99, ..base }, true),
            ("remote identity", Event { remote_identity: 99, ..base }, true),
            ("workload", Event { workload: 99, ..base }, true),
            ("hook", Event { hook: Hook::Sendmsg as u8, ..base }, true),
            ("direction", Event { direction: 99, ..base }, true),
            ("verdict", Event { verdict: 99, ..base }, true),
            ("reason", Event { reason: 99, ..base }, true),
            ("protocol", Event { protocol: 99, ..base }, true),
            ("interface", Event { ifindex: 99, ..base }, true),
            ("staged", Event { detail: zerocopy::transmute!(staged), ..base }, true),
        ];
        for (name, changed, is_other) in rows {
            let mut alike = Alike::new();
            assert!(told(&mut alike, &base, &Caller::default(), 1), "{name}: nothing is known at first");
            assert_eq!(told(&mut alike, &changed, &Caller::default(), 1), is_other, "{name}");
        }
    }

    #[test]
    fn another_caller_or_other_names_make_another_kind() {
        let mut alike = Alike::new();
        let base = event(Kind::Verdict, Hook::Connect, Direction::Egress, 7);
        let process = |pid| {
            let (command, executable) = (String::new(), String::new());
            Some(Arc::new(ProcessInfo { pid, uid: 0, command, executable, start_ticks: 0, command_line_hash: None }))
        };
        let callers = [
            Caller::default(),
            Caller { process: process(1), cgroup: None },
            Caller { process: process(2), cgroup: None },
            Caller { process: None, cgroup: Some(Arc::from("a")) },
        ];
        for names in [1, 2] {
            for caller in &callers {
                assert!(told(&mut alike, &base, caller, names), "{names}");
                assert!(!told(&mut alike, &base, caller, names), "{names}");
            }
        }
    }
}
