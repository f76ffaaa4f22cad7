//! Lives: weir-agent, on a thread of its own.
//! Called by: `runtime`, which starts it; telemetry, which turns what it finds into records.
//! May touch: sock_diag in every namespace that workloads live in, reading.
//! Never: runs where a held socket lock would delay others: the counters of a connection are read under its lock, and before kernel 6.9
//!   every call of sock_diag, those that cut connections too, waits behind one that waits. Here only this thread waits.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::sleep,
    time::{Duration, Instant},
};

use weir_common::{
    addr::{Addr, Protocol},
    event::Totals,
};

use crate::{
    kernel::{
        namespaces::{Namespace, Namespaces},
        sockets::Door,
    },
    revoke::{
        Revoker,
        view::{Connection, Fate, Standing, View},
    },
    runtime::Stop,
    telemetry::clock,
};

/// Connections that wait for telemetry; the thread waits when there are more.
const WAITING: usize = 4096;
/// How often it is looked whether to stop.
const LOOK: Duration = Duration::from_millis(250);
/// The first kernel in which sock_diag calls do not wait for each other.
const SINCE: (u32, u32) = (6, 9);

/// What a living connection has come to.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// When it was looked at, `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// Its socket's cookie.
    pub cookie: u64,
    /// Number of its workload.
    pub workload: u32,
    /// TCP state.
    pub state: u8,
    /// This side.
    pub local: (Addr, u16),
    /// The other side.
    pub remote: (Addr, u16),
    /// The kernel's counters.
    pub totals: Totals,
    /// Of one that is older than the programs: how it is judged now, for nothing was when it opened.
    pub older: Option<Standing>,
}

/// The thread's work.
pub struct Watch {
    revoker: Arc<Revoker>,
    root: PathBuf,
    every: Duration,
    found: SyncSender<Progress>,
}

impl Watch {
    /// A look every `every` at the connections of the managed tree below `root`; what it finds comes out at the other end. `None` where
    /// this kernel cannot do it without harm.
    pub fn new(revoker: Arc<Revoker>, root: PathBuf, every: Duration) -> Option<(Self, Receiver<Progress>)> {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        if version(&release).is_none_or(|version| version < SINCE) {
            tracing::warn!(
                kernel = release.trim(),
                "long-lived connections are reported at their end only: before kernel 6.9 asking for their counters could delay cuts"
            );
            return None;
        }
        let (found, receiver) = sync_channel(WAITING);
        Some((Self { revoker, root, every, found }, receiver))
    }

    /// Looks until stopped.
    pub fn run(self, stop: &Stop) {
        let mut namespaces = Namespaces::default();
        let mut next = Instant::now() + self.every;
        while !stop.is_set() {
            let now = Instant::now();
            if now < next {
                sleep(LOOK.min(next - now));
                continue;
            }
            next = now + self.every;
            if let Err(error) = self.look(&mut namespaces, stop) {
                tracing::warn!(%error, "living connections cannot be asked for their counters");
            }
        }
    }

    fn look(&self, namespaces: &mut Namespaces, stop: &Stop) -> std::io::Result<()> {
        let Some(view) = self.revoker.view() else { return Ok(()) };
        let found = namespaces.find(&self.root, &view.cgroups())?;
        for inhabited in &found.namespaces {
            // One that is gone meanwhile, or cannot be asked, is no reason to leave out the others.
            if let Err(error) = self.look_into(&inhabited.namespace, &found.cgroups, &view, stop) {
                tracing::debug!(namespace = inhabited.namespace.id, %error, "its connections are not reported this time");
            }
        }
        Ok(())
    }

    fn look_into(
        &self,
        namespace: &Namespace,
        owners: &HashMap<u64, u32>,
        view: &View,
        stop: &Stop,
    ) -> std::io::Result<()> {
        let mut door = Door::open(namespace)?;
        let time_ns = clock::monotonic_now();
        door.totals(&mut |living, totals| {
            if let Some(workload) = owners.get(&living.cgroup) {
                let progress = Progress {
                    time_ns,
                    cookie: living.cookie(),
                    workload: *workload,
                    state: living.state,
                    local: living.local,
                    remote: living.remote,
                    totals,
                    older: self.older(view, *workload, living.local, living.remote),
                };
                self.hand_over(stop, progress);
            }
        })
    }

    /// How a connection that is older than the programs stands; `None` for others, and for what no record is to be made of.
    fn older(&self, view: &View, workload: u32, local: (Addr, u16), remote: (Addr, u16)) -> Option<Standing> {
        let ends = Connection { workload, protocol: Protocol::TCP, direction: None, local, remote };
        let connection = Connection { direction: Some(self.revoker.adopted(&ends)?), ..ends };
        match view.judge(&connection) {
            Fate::Stays(Some((direction, decision))) | Fate::Drains(direction, decision) if !decision.quiet => {
                view.standing(workload, direction, decision)
            }
            // What is to be cut is told of when it is.
            Fate::Stays(_) | Fate::Drains(..) | Fate::Cut(..) => None,
        }
    }

    fn hand_over(&self, stop: &Stop, progress: Progress) {
        while let Err(TrySendError::Full(_)) = self.found.try_send(progress) {
            if stop.is_set() {
                return;
            }
            sleep(LOOK);
        }
    }
}

/// "6.18.44-x" as (6, 18).
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernels_version_is_read_from_its_name() {
        let rows = [("6.18.44-fc-v669", Some((6, 18))), ("6.9", Some((6, 9))), ("6.1.0-28-cloud-amd64", Some((6, 1)))];
        for (release, expected) in rows {
            assert_eq!(version(release), expected, "{release}");
        }
        assert_eq!((version(""), version("x.y")), (None, None));
        assert!(version("6.10.1") > Some(SINCE) && version("6.8.12") < Some(SINCE));
    }
}
