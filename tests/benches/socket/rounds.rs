//! Lives: weir-tests, the benchmark of the socket hooks: who is measured when.
//! Called by: the benchmark.
//! May touch: what the contestants are made of.
//! Never: measures two contestants of one comparison in different rounds.
//!
//! ```text
//!   round 0, load 0:  A B C D     each: attach, warm up, measure, detach - so that nothing of the others is attached meanwhile
//!   round 1, load 1:  B C D A     the next load of all programs; another one first
//!   round 5, load 0:  ...
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use aya::programs::links::LinkType;
use weir_agent::kernel::IngressHook;
use weir_policy::Compiled;
use weir_tests::measured::Samples;

use crate::empty::{Empty, Hooks};
use crate::ends::{Ends, Job, Place, Resident};
use crate::site::{LAST_PORT, PORT, Site, Wire};
use crate::tables::Shape;
use crate::weir::Weir;

/// What lies between a process and its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Contestant {
    /// No program and no rule.
    Nothing,
    /// Programs that do nothing.
    Empty(Hooks),
    /// All of Weir, with tables of this shape.
    Weir(Shape),
    /// The same with `ingressHook: sk_lookup`: no program sees packets.
    Alone(Shape),
    /// nftables with connection tracking.
    Conntrack,
    /// The same, the rule that matches after 1,000 others.
    Linear,
}

/// One load of everything.
struct Load {
    empty: Empty,
    weir: Weir,
    alone: Weir,
    plain: Ends,
    conntrack: Ends,
    linear: Ends,
    /// Lives where the server's sockets are: namespaces are found by processes.
    _resident: Resident,
}

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Times everybody has a turn.
    pub rounds: usize,
    /// CPU time of one turn.
    pub milliseconds: u64,
}

/// Everybody who takes turns.
pub struct Field {
    site: Site,
    loads: Vec<Load>,
    tables: BTreeMap<Shape, Compiled>,
    /// Turns with nothing attached, and those of them in which somebody else had programs at cgroups.
    bare: (u32, u32),
}

impl Field {
    /// Loads everything `loads` times.
    pub fn new(site: Site, loads: usize) -> Result<Field> {
        let load = |number| {
            let tree = site.tree(number);
            let port = PORT + u16::try_from(number)?;
            ensure!(port <= LAST_PORT, "at most {} loads", LAST_PORT - PORT + 1);
            let ends = |wire| Ends::start(&Place::new(site.namespaces(wire), &tree, port));
            Ok(Load {
                empty: Empty::load()?,
                weir: Weir::load(&tree, IngressHook::Cgroup).with_context(|| format!("load {number}"))?,
                alone: Weir::load(&tree, IngressHook::SkLookup).with_context(|| format!("load {number}"))?,
                plain: ends(Wire::Plain)?,
                conntrack: ends(Wire::Conntrack)?,
                linear: ends(Wire::Linear)?,
                _resident: Resident::start(&Place::new(site.namespaces(Wire::Plain), &tree, port))?,
            })
        };
        let loads = (0..loads).map(load).collect::<Result<_>>()?;
        Ok(Field { site, loads, tables: BTreeMap::new(), bare: (0, 0) })
    }

    /// Adds the tables of a shape.
    pub fn prepare(&mut self, shape: Shape, compiled: Compiled) {
        self.tables.insert(shape, compiled);
    }

    /// A number for the next tables.
    pub fn generation(&self) -> u64 {
        self.tables.len() as u64 + 1
    }

    /// Lets everybody take turns at `job`.
    pub fn compete(&mut self, job: Job, field: &[Contestant], patience: Patience) -> Result<Samples<Contestant>> {
        let mut samples = Samples::default();
        for round in 0..patience.rounds {
            let load = round % self.loads.len();
            let first = round % field.len().max(1);
            let order = field.iter().skip(first).chain(field.iter().take(first));
            for contestant in order {
                let took = self.turn(load, job, *contestant, patience.milliseconds);
                samples.add(*contestant, load, round, took.with_context(|| format!("{contestant:?} at {job:?}"))?);
            }
        }
        Ok(samples)
    }

    fn turn(&mut self, load: usize, job: Job, contestant: Contestant, milliseconds: u64) -> Result<f64> {
        let tree = self.site.tree(load);
        let Load { empty, weir, alone, plain, conntrack, linear, .. } =
            self.loads.get_mut(load).context("no such load")?;
        // Whom those call who have no tables: as many as the others.
        let mut to = self.tables.keys().next().map(Shape::called).unwrap_or_default();
        let ends = match contestant {
            Contestant::Nothing => {
                self.bare = (self.bare.0 + 1, self.bare.1 + u32::from(others_attached()));
                plain
            }
            Contestant::Empty(hooks) => {
                empty.attach(&tree, hooks)?;
                plain
            }
            Contestant::Weir(shape) => {
                weir.attach(self.tables.get(&shape).context("no such tables")?)?;
                to = shape.called();
                plain
            }
            Contestant::Alone(shape) => {
                alone.attach(self.tables.get(&shape).context("no such tables")?)?;
                to = shape.called();
                plain
            }
            Contestant::Conntrack => conntrack,
            Contestant::Linear => linear,
        };
        if job == Job::Fresh {
            to = Shape::strangers();
        }
        let took = ends.measure(job, (milliseconds / 5).max(2), &to).and_then(|_| ends.measure(job, milliseconds, &to));
        empty.detach();
        weir.detach();
        alone.detach();
        took
    }

    /// Events that were read, and how many found the ring full.
    pub fn events(&self) -> Result<(u64, u64)> {
        let all = || self.loads.iter().flat_map(|load| [&load.weir, &load.alone]);
        let lost: Vec<u64> = all().map(Weir::lost).collect::<Result<_>>()?;
        Ok((all().map(Weir::events).sum(), lost.iter().sum()))
    }

    /// Turns that were to be without any program, and those of them in which somebody else's were attached to cgroups: the kernel
    /// has one switch for a kind of hook, so what is attached anywhere costs everybody.
    pub const fn bare_turns(&self) -> (u32, u32) {
        self.bare
    }

    /// Where client and server are when nothing lies between them.
    pub fn plain(&self) -> [PathBuf; 2] {
        self.site.namespaces(Wire::Plain)
    }

    /// The two ends of the first load, without any program of ours.
    pub fn bare(&mut self) -> Result<&mut Ends> {
        Ok(&mut self.loads.first_mut().context("no load")?.plain)
    }
}

/// Whether any program is linked to any cgroup of this machine.
fn others_attached() -> bool {
    aya::programs::loaded_links().flatten().any(|link| link.link_type().is_ok_and(|kind| kind == LinkType::Cgroup))
}
