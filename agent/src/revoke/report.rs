//! Lives: weir-agent, revocation.
//! Called by: the revoker, with what it has done; `rpc`, which shows the report.
//! May touch: the exporter's queue.
//! Never: says a connection was cut before it was.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use weir_common::{
    addr::{Addr, Protocol},
    verdict::Direction,
};

use super::{
    hands::Stuck,
    sweep::Target,
    view::{Connection, View},
};
use crate::{
    exporter::Queue,
    telemetry::{
        clock,
        names::{Names, Snapshot},
        record::{About, End, Record, RecordKind},
    },
};

/// What revocation has done since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Connections that events have told of and that live, as far as is known.
    pub known: usize,
    /// Connections cut.
    pub cut: u64,
    /// Connections older than the programs that were judged and may go on.
    pub adopted: u64,
    /// Connections that are forbidden but go on, because the policy drains.
    pub draining: usize,
    /// Connections that could not be cut yet: their processes hold the socket's lock.
    pub blocked: Vec<Blocked>,
    /// The generation by which the last sweep judged, if it found nothing forbidden; 0 while there is something.
    pub clean_generation: u64,
    /// When the last sweep ended, wall clock.
    pub swept_ns: u64,
    /// How long it took.
    pub sweep: Duration,
    /// Sockets it looked at.
    pub sockets: usize,
    /// Network namespaces it looked into.
    pub namespaces: usize,
}

/// A connection that could not be cut yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// The workload, "namespace/name".
    pub workload: String,
    /// The connection, in words.
    pub connection: String,
    /// The policy and rule that forbid it.
    pub rule: String,
    /// How long it has been waited for.
    pub waited: Duration,
}

/// Tells of what was done.
pub struct Reporter {
    names: Arc<Names>,
    queue: Arc<Queue>,
    /// Draining connections that were told of.
    told: HashSet<Connection>,
    blocked: Vec<Blocked>,
}

impl Reporter {
    /// Nothing told yet.
    pub fn new(names: Arc<Names>, queue: Arc<Queue>) -> Self {
        Self { names, queue, told: HashSet::new(), blocked: Vec::new() }
    }

    /// Connections that were cut.
    pub fn cut(&self, view: &View, cut: &[Target]) {
        if !cut.is_empty() {
            tracing::info!(connections = cut.len(), generation = view.compiled.generation, "forbidden connections cut");
        }
        self.tell(RecordKind::Cut, view, cut);
    }

    /// Connections older than the programs that may go on. Of what a rule allows that makes no records there is none.
    pub fn adopted(&self, view: &View, adopted: &[Target]) {
        if !adopted.is_empty() {
            tracing::info!(connections = adopted.len(), "connections older than enforcement are allowed and go on");
        }
        let recorded: Vec<Target> = adopted.iter().filter(|target| !target.decision.quiet).cloned().collect();
        self.tell(RecordKind::Adopted, view, &recorded);
    }

    /// Connections that go on although they are forbidden: each is told of once.
    pub fn draining(&mut self, draining: &[Target]) {
        let new: Vec<&Target> = draining.iter().filter(|target| !self.told.contains(&target.connection)).collect();
        if !new.is_empty() {
            tracing::info!(
                connections = new.len(),
                "forbidden connections go on until they close, as their policy says"
            );
        }
        self.told = draining.iter().map(|target| target.connection).collect();
    }

    /// Connections whose processes hold the socket's lock.
    pub fn stuck(&mut self, view: &View, stuck: &[Stuck]) {
        let now = Instant::now();
        let blocked: Vec<Blocked> = stuck.iter().map(|stuck| blocked(view, stuck, now)).collect();
        for new in blocked.iter().filter(|new| !self.blocked.iter().any(|old| old.connection == new.connection)) {
            let Blocked { workload, connection, rule, .. } = new;
            tracing::warn!(workload, connection, rule, "not yet cut: its process holds the socket's lock");
        }
        self.blocked = blocked;
    }

    /// A sweep is over.
    pub fn swept(
        &self,
        report: &mut Report,
        view: &View,
        sockets: usize,
        namespaces: usize,
        took: Duration,
        clean: bool,
    ) {
        report.blocked.clone_from(&self.blocked);
        let done = clean && self.blocked.is_empty();
        report.clean_generation = if done { view.compiled.generation } else { 0 };
        (report.swept_ns, report.sweep) = (clock::wall_now(), took);
        (report.sockets, report.namespaces) = (sockets, namespaces);
    }

    fn tell(&self, kind: RecordKind, view: &View, targets: &[Target]) {
        if targets.is_empty() {
            return;
        }
        let names = self.names.snapshot();
        self.queue.push(targets.iter().map(|target| record(kind, view, target, &names)).collect());
    }
}

fn blocked(view: &View, stuck: &Stuck, now: Instant) -> Blocked {
    let Target { connection, decision, .. } = &stuck.target;
    let (policy, rule) = view.rule_of(decision);
    Blocked {
        workload: workload(view, connection.workload),
        connection: shown(connection),
        rule: format!("{policy} {rule}").trim().to_owned(),
        waited: now.saturating_duration_since(stuck.since),
    }
}

/// "namespace/name" of a workload's number; empty for none.
pub fn workload(view: &View, number: u32) -> String {
    let local = view.locals.get(&number);
    local.map(|local| format!("{}/{}", local.workload.id.namespace, local.workload.id.name)).unwrap_or_default()
}

/// A connection as people write it, the caller first where it is known.
pub fn shown(connection: &Connection) -> String {
    let end = |(addr, port): (Addr, u16)| std::net::SocketAddr::new(weir_policy::ip(addr), port).to_string();
    let (local, remote) = (end(connection.local), end(connection.remote));
    let protocol = if connection.protocol == Protocol::UDP { "UDP" } else { "TCP" };
    match connection.direction {
        Some(Direction::Ingress) => format!("{protocol} {remote} -> {local}"),
        Some(Direction::Egress) | None => format!("{protocol} {local} -> {remote}"),
    }
}

/// What was done to a connection, as a record: no decision of the kernel's, so it counts for none.
fn record(kind: RecordKind, view: &View, target: &Target, names: &Snapshot) -> Record {
    let Target { connection, living, direction, decision, .. } = target;
    let generation = view.compiled.generation;
    let local_workload = names.by_number(generation, connection.workload);
    let identity = view.locals.get(&connection.workload).map_or(0, |local| local.workload.identity);
    let about = About {
        verdict: Some(decision.verdict),
        reason: Some(decision.reason),
        direction: Some(*direction),
        rule: names.rule(generation, decision.rule),
        generation,
        cgroup: local_workload.as_ref().and_then(|workload| workload.cgroup.clone()),
        local: End { workload: local_workload, identity, addr: connection.local.0, ..End::default() },
        remote: End {
            workload: names.by_addr(generation, &connection.remote.0),
            service: names.service(generation, &connection.remote.0),
            identity: decision.remote_identity,
            addr: connection.remote.0,
        },
        protocol: connection.protocol.0,
        ..About::default()
    };
    Record {
        kind,
        time_ns: clock::wall_now(),
        local_port: connection.local.1,
        remote_port: connection.remote.1,
        cookie: if living.cookie() == u64::MAX { 0 } else { living.cookie() },
        ..Record::of(Arc::new(about))
    }
}
