//! Lives: weir-tests, the benchmark of XDP: who is measured when.
//! Called by: plan, smoke.
//! May touch: what the contestants are made of.
//! Never: measures two contestants of one comparison in different rounds.
//!
//! ```text
//!   round 0, load 0:  A B C D     each: attach, warm up until all clients were seen, measure, detach
//!   round 1, load 1:  B C D A     the next load of all programs; another one first
//! ```

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use aya::programs::xdp::XdpLink;
use weir_agent::kernel::{XdpMode, tick_ns};
use weir_common::gcra::Limit;
use weir_policy::Compiled;
use weir_tests::measured::Samples;

use crate::frame::{self, ELSEWHERE, For};
use crate::generator::{self, Clients, Generator};
use crate::prefixes::Prefixes;
use crate::programs;
use crate::rivals::{self, Rival, Rules};
use crate::site::{Site, Wire};
use crate::weir::{self, Weir};

/// What judges a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Contestant {
    /// Nobody: the generator drops what it made.
    Generator,
    /// A program that drops.
    Drop,
    /// A program that passes.
    Pass,
    /// No program and no rule; packets for another host, which end where IP begins.
    Nothing,
    /// The same; packets for this host, which end where they are to be routed.
    Routed,
    /// Weir, in the driver.
    Weir,
    /// A limiter with an LRU hash.
    Lru,
    /// A firewall that drops everything.
    Drops(Rival),
    /// A firewall that limits.
    Limits(Rival),
    /// Weir with a block list.
    Blocks,
    /// A program that looks the source up in the kernel's trie.
    Trie,
    /// nftables with a set of prefixes.
    Set,
    /// xdp-filter with as many addresses.
    Filter,
}

/// What becomes of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// Those who send are over their limit.
    Dropped,
    /// Nobody is.
    Passed,
}

/// One load of all programs.
struct Load {
    weir: Weir,
    generator: Generator,
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
    loads: Vec<Load>,
    /// Where nothing is but the program whose turn it is.
    open: Wire,
    ruled: BTreeMap<(Rival, Rules), Wire>,
    tables: BTreeMap<Fate, Compiled>,
    /// The tables of the block list, and the wire whose firewall has it, if it has.
    listed: Option<Listed>,
}

/// A block list, as everybody has it who can.
struct Listed {
    weir: Compiled,
    nftables: Option<Wire>,
    filter: Option<Wire>,
}

/// Who gets a block list beside Weir and the trie.
#[derive(Clone, Copy, Debug)]
pub struct Also {
    /// nftables.
    pub nftables: bool,
    /// xdp-filter, which has addresses only.
    pub filter: bool,
}

/// What is to be attached for a contestant: what has rules has them already.
enum Needs<'f> {
    Program(&'static str),
    Weir(&'f Compiled),
    Nothing,
}

/// What is attached; dropping it detaches.
enum Attached {
    Program { _link: XdpLink },
    Weir,
    Nothing,
}

/// Frames with which what follows is found out, and caches are warm.
const FIRST_FRAMES: u32 = 20_000;

impl Field {
    /// Loads everything `loads` times, and gives those `rivals` their rules that are there.
    pub fn new(site: &Site, loads: usize, rivals: &[Rival], honest: (u32, u32)) -> Result<Field> {
        let load = |_| {
            let limit = Limit::new(honest.0.into(), honest.1.into());
            let generator = Generator::of(programs::load(tick_ns(), limit)?)?;
            Ok(Load { weir: Weir::load(&site.cgroup(), XdpMode::Native)?, generator })
        };
        let loads = (0..loads).map(load).collect::<Result<_>>()?;
        let mut ruled = BTreeMap::new();
        for rival in rivals {
            for rules in [Rules::Drop, Rules::Tight, Rules::Wide] {
                let wire = site.wire(&format!("{rival:?}-{rules:?}").to_lowercase())?;
                rival.rule(&wire, rules, honest, site.folder())?;
                ruled.insert((*rival, rules), wire);
            }
        }
        let tight = weir::compiled(&weir::limited("bytes: {perSecond: 1, burst: 60}"), 1)?;
        let wide = weir::compiled(&weir::limited("packets: {perSecond: 100000000, burst: 10000000}"), 2)?;
        let tables = BTreeMap::from([(Fate::Dropped, tight), (Fate::Passed, wide)]);
        Ok(Field { loads, open: site.wire("open")?, ruled, tables, listed: None })
    }

    /// Gives everybody these prefixes to drop; the trie keeps those it has.
    pub fn list(&mut self, site: &Site, prefixes: &Prefixes, weir: Compiled, also: Also) -> Result<()> {
        for load in &mut self.loads {
            prefixes.enter(load.generator.programs())?;
        }
        let wire = |name| site.wire(&format!("{name}-{}", prefixes.number));
        let nftables = also.nftables.then(|| wire("set")).transpose()?;
        nftables.iter().try_for_each(|wire| rivals::listed(wire, &prefixes.texts()))?;
        let filter = also.filter.then(|| wire("filter")).transpose()?;
        filter.iter().try_for_each(|wire| rivals::filter(wire, &prefixes.first_addresses()))?;
        self.listed = Some(Listed { weir, nftables, filter });
        Ok(())
    }

    /// Lets everybody take turns.
    pub fn compete(
        &mut self,
        (clients, fate): (Clients, Fate),
        field: &[Contestant],
        patience: Patience,
    ) -> Result<Samples<Contestant>> {
        let mut samples = Samples::default();
        for round in 0..patience.rounds {
            let load = round % self.loads.len();
            let first = round % field.len().max(1);
            for contestant in field.iter().skip(first).chain(field.iter().take(first)) {
                let took = self.turn(load, (clients, fate), *contestant, patience.milliseconds);
                let took = took.with_context(|| format!("{contestant:?}, {clients:?}, {fate:?}"))?;
                samples.add(*contestant, load, round, took);
            }
        }
        Ok(samples)
    }

    fn turn(
        &mut self,
        load: usize,
        (clients, fate): (Clients, Fate),
        contestant: Contestant,
        milliseconds: u64,
    ) -> Result<f64> {
        let frame = frame::datagram(self.host(contestant, fate)?, ELSEWHERE)?;
        self.with(load, contestant, fate, |generator, wire| {
            let first = match clients {
                Clients::Many(many) => FIRST_FRAMES.max(many + many / 8),
                Clients::One(_) | Clients::New | Clients::NewTwice | Clients::Spread { .. } => FIRST_FRAMES,
            };
            let leaves = contestant != Contestant::Generator;
            let mut send = |count| match leaves {
                true => generator.send(wire, &frame, clients, count),
                false => generator.make(wire, &frame, clients, count),
            };
            let rough = send(first)?;
            let count = (milliseconds as f64 * 1e6 / rough.max(1.0)) as u32;
            send(count.max(FIRST_FRAMES))
        })
    }

    /// Does something while a contestant is attached.
    pub fn with<T>(
        &mut self,
        load: usize,
        contestant: Contestant,
        fate: Fate,
        work: impl FnOnce(&mut Generator, &Wire) -> Result<T>,
    ) -> Result<T> {
        let wire = self.wire(contestant, fate)?.clone();
        let Field { loads, tables, listed, .. } = self;
        let Load { weir, generator } = loads.get_mut(load).context("no such load")?;
        let needs = match contestant {
            Contestant::Drop => Needs::Program(programs::DROP),
            Contestant::Pass => Needs::Program(programs::PASS),
            Contestant::Lru => Needs::Program(if fate == Fate::Dropped { programs::TIGHT } else { programs::WIDE }),
            Contestant::Trie => Needs::Program(programs::TRIE),
            Contestant::Weir => Needs::Weir(tables.get(&fate).context("no such tables")?),
            Contestant::Blocks => Needs::Weir(&listed.as_ref().context("no prefixes")?.weir),
            Contestant::Generator
            | Contestant::Nothing
            | Contestant::Routed
            | Contestant::Drops(_)
            | Contestant::Limits(_)
            | Contestant::Set
            | Contestant::Filter => Needs::Nothing,
        };
        let attached = match needs {
            Needs::Program(name) => Attached::Program { _link: generator::attach(generator.programs(), name, &wire)? },
            Needs::Weir(compiled) => {
                weir.attach(&wire, compiled)?;
                Attached::Weir
            }
            Needs::Nothing => Attached::Nothing,
        };
        let done = work(generator, &wire);
        if matches!(attached, Attached::Weir) {
            weir.detach()?;
        }
        done
    }

    fn wire(&self, contestant: Contestant, fate: Fate) -> Result<&Wire> {
        let rules = if fate == Fate::Dropped { Rules::Tight } else { Rules::Wide };
        let listed = self.listed.as_ref();
        match contestant {
            Contestant::Drops(rival) => self.ruled.get(&(rival, Rules::Drop)).context("no such rules"),
            Contestant::Limits(rival) => self.ruled.get(&(rival, rules)).context("no such rules"),
            Contestant::Generator
            | Contestant::Drop
            | Contestant::Pass
            | Contestant::Nothing
            | Contestant::Routed
            | Contestant::Weir
            | Contestant::Lru
            | Contestant::Blocks
            | Contestant::Trie => Ok(&self.open),
            Contestant::Set => listed.and_then(|all| all.nftables.as_ref()).context("nftables has no prefixes"),
            Contestant::Filter => listed.and_then(|all| all.filter.as_ref()).context("xdp-filter has no addresses"),
        }
    }

    /// What passes is of no interest any more; only iptables must be given it for its own.
    fn host(&self, contestant: Contestant, fate: Fate) -> Result<For> {
        let mac = self.wire(contestant, fate)?.mac;
        let hashlimit = [Contestant::Drops(Rival::Hashlimit), Contestant::Limits(Rival::Hashlimit)];
        let ours = contestant == Contestant::Routed || hashlimit.contains(&contestant);
        Ok(if ours { For::Us(mac) } else { For::Others })
    }
}
