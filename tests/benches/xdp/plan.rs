//! Lives: weir-tests, the benchmark of XDP: what is measured, and what is meant.
//! Called by: main.
//! May touch: nothing itself.
//! Never: a goal that DESIGN.md does not have ("What the speed must be").

use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde::Serialize;
use weir_tests::measured::{Figure, Report, Samples};
use weir_tests::world::tools::XDP_FILTER;

use crate::bulk;
use crate::generator::Clients;
use crate::honesty::{self, Attack, Design, Honesty};
use crate::prefixes::Prefixes;
use crate::programs::CLIENTS;
use crate::rivals::Rival;
use crate::rounds::{Also, Contestant, Fate, Field, Patience};
use crate::site::Site;

/// How much is measured.
#[derive(Args, Debug)]
pub struct Options {
    /// Times everybody has a turn; every load of the programs should have two or more
    #[arg(long, default_value_t = 6, value_name = "N")]
    rounds: usize,
    /// Times all programs are loaded: where they land in memory matters
    #[arg(long, default_value_t = 3, value_name = "N")]
    loads: usize,
    /// CPU time of one turn
    #[arg(long, default_value_t = 40, value_name = "MS")]
    milliseconds: u64,
    /// Measure only these; rows that need another stay empty [default: all]
    #[arg(long, value_delimiter = ',', value_name = "PART,...")]
    only: Vec<Part>,
}

impl Options {
    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Packets that are dropped by a limit
    Drop,
    /// Packets that pass it
    Pass,
    /// Block lists
    Prefixes,
    /// What limiters let through in a flood
    Honesty,
    /// A bulk transfer through a veth, by mode
    Bulk,
}

/// Everything.
#[derive(Serialize)]
pub struct Everything {
    /// Times and ratios.
    pub table: Report,
    /// What limiters let through.
    pub honest: Vec<Honesty>,
}

/// Whom a flood meets. An LRU list keeps whom it saw twice from those it saw once: the second flood knows that.
const FLOODS: [Attack; 6] = [
    Attack { design: Design::Weir, cpus: 1, twice: false },
    Attack { design: Design::Weir, cpus: 2, twice: false },
    Attack { design: Design::Weir, cpus: 1, twice: true },
    Attack { design: Design::Lru, cpus: 1, twice: false },
    Attack { design: Design::Lru, cpus: 1, twice: true },
    Attack { design: Design::Nftables, cpus: 1, twice: false },
];
/// Goal: so much of its limit an over-limit client may pass.
const OVER: f64 = 1.01;
/// Sizes of block lists, and who else gets them: nftables takes minutes to load the largest, and xdp-filter starts anew for each address.
const SIZES: [(u32, Also); 4] = [
    (10, Also { nftables: true, filter: true }),
    (1000, Also { nftables: true, filter: false }),
    (100_000, Also { nftables: true, filter: false }),
    (1_000_000, Also { nftables: false, filter: false }),
];

const ONE: Clients = Clients::One(0);
const MANY: Clients = Clients::Many(65_536);

type Measured = Samples<Contestant>;

/// Measures everything.
pub fn run(options: &Options) -> Result<Everything> {
    let start = Instant::now();
    let mut report = Report { times_of: "CPU time of a packet, from its making to its end", ..Report::default() };
    report.note_machine();
    let (rivals, absent): (Vec<Rival>, Vec<Rival>) = Rival::ALL.into_iter().partition(|rival| rival.absent().is_none());
    report.notes.extend(absent.into_iter().filter_map(Rival::absent).map(|why| format!("not available: {why}")));
    let site = Site::new()?;
    let mut field = Field::new(&site, options.loads, &rivals, honesty::LIMIT)?;
    say(start, "loaded");
    let patience = Patience { rounds: options.rounds, milliseconds: options.milliseconds };
    limits(&mut field, patience, (options, &rivals), &mut report)?;
    say(start, "limits measured");
    if options.wants(Part::Prefixes) {
        let here = Also { nftables: rivals.contains(&Rival::Nftables), filter: XDP_FILTER.available() };
        if !here.filter {
            report.notes.push("not available: xdp-filter: no such program, and setup could not bring it".to_owned());
        }
        for (generation, (number, also)) in (3..).zip(SIZES) {
            let also = Also { nftables: also.nftables && here.nftables, filter: also.filter && here.filter };
            // Half of the rounds: there are many sizes, and the differences are large.
            let patience = Patience { rounds: patience.rounds.div_ceil(2), ..patience };
            prefixes(&site, &mut field, patience, (generation, Prefixes { number }, also), &mut report)?;
            say(start, &format!("{number} prefixes measured"));
        }
    }
    if options.wants(Part::Bulk) {
        bulk::measure(&site, options.rounds, &mut report)?;
        say(start, "bulk transfers measured");
    }
    let mut honest = Vec::new();
    if options.wants(Part::Honesty) {
        let here = |design: Design| design != Design::Nftables || rivals.contains(&Rival::Nftables);
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        for attack in FLOODS.into_iter().filter(|attack| here(attack.design) && attack.cpus <= cpus) {
            honest.push(honesty::run(&site, attack).with_context(|| format!("{attack:?}"))?);
        }
        say(start, "flooded");
    }
    Ok(Everything { table: report, honest })
}

impl Everything {
    /// The honesty run, for people.
    pub fn honesty(&self) {
        let Some(first) = self.honest.first() else { return };
        let (clients, limit) = (first.flood, honesty::LIMIT);
        println!(
            "\na flood of {clients} new clients, ten times what the table holds; the limit: {} a second, {} at once",
            limit.0, limit.1
        );
        println!("{}", Honesty::heading());
        self.honest.iter().for_each(|one| println!("{}", one.line()));
        for one in self.honest.iter().filter(|one| one.attack.design == Design::Weir) {
            let passed = one.over.passed.max(one.bursts.passed) as f64 / one.allowed;
            let over = if passed <= OVER { "yes" } else { "NO" };
            let within = if one.within.passed == one.within.sent { "yes" } else { "NO" };
            let bytes = weir_common::maps::LIMIT_SLOTS * 8 / CLIENTS;
            println!(
                "  {}: over its limit at most {OVER}x of it: {over}; within it nothing lost: {within}; {bytes} bytes a client (goal: 16)",
                one.who()
            );
        }
    }
}

/// One size of block list.
fn prefixes(
    site: &Site,
    field: &mut Field,
    patience: Patience,
    (generation, listed, also): (u64, Prefixes, Also),
    report: &mut Report,
) -> Result<()> {
    use Contestant::{Blocks, Drop, Filter, Nothing, Pass, Set, Trie};
    let number = listed.number;
    let compiled = match listed.compile(generation) {
        Ok(compiled) => compiled,
        Err(error) => {
            report.notes.push(format!("a block list of {number} prefixes was not measured: {error:#}"));
            return Ok(());
        }
    };
    field.list(site, &listed, compiled, also)?;
    let others = [also.nftables.then_some(Set), also.filter.then_some(Filter)];
    let all: Vec<Contestant> =
        [Drop, Pass, Nothing, Blocks, Trie].into_iter().chain(others.into_iter().flatten()).collect();
    let innocent = field.compete((listed.innocent(), Fate::Passed), &all, patience)?;
    report.times(&format!("{number} prefixes, none of them the sender's: passed"), &innocent, name);
    let hit = field.compete((listed.hits(), Fate::Dropped), &all, patience)?;
    report.times(&format!("{number} prefixes, one of them the sender's: dropped"), &hit, name);
    let (innocent_goal, hit_goal) = match number {
        100_000 => (Some(1.0 / 40.0), Some(1.0 / 20.0)),
        1_000_000 => (Some(1.0 / 50.0), None),
        _ => (None, None),
    };
    let against = "the kernel's trie, added";
    let added = |samples: &Measured, base| Figure::over(samples.adds(Blocks, base), samples.adds(Trie, base));
    report.row(&format!("{number} prefixes, innocent, added"), against, innocent_goal, added(&innocent, Pass));
    report.row(&format!("{number} prefixes, listed, added"), against, hit_goal, added(&hit, Drop));
    if also.filter {
        let filter = Figure::over(innocent.adds(Blocks, Pass), innocent.adds(Filter, Pass));
        report.row(&format!("{number} prefixes, innocent, added"), "xdp-filter, addresses, added", None, filter);
        report.row(&format!("{number} prefixes, listed"), "xdp-filter, addresses", None, hit.ratio(Blocks, Filter));
    }
    if also.nftables {
        let sets = Figure::over(innocent.adds(Blocks, Pass), innocent.adds(Set, Nothing));
        report.row(&format!("{number} prefixes, innocent, added"), "nftables set, added", None, sets);
        report.row(&format!("{number} prefixes, listed"), "nftables set", None, hit.ratio(Blocks, Set));
    }
    Ok(())
}

fn limits(
    field: &mut Field,
    patience: Patience,
    (options, rivals): (&Options, &[Rival]),
    report: &mut Report,
) -> Result<()> {
    use Contestant::{Drop, Drops, Generator, Limits, Lru, Nothing, Pass, Routed, Weir};
    let mut compete = |part, clients, fate, of: &[Contestant], report: &mut Report| -> Result<Measured> {
        if !options.wants(part) {
            return Ok(Samples::default());
        }
        let samples = field.compete((clients, fate), of, patience)?;
        report.times(&describe(clients, fate), &samples, name);
        Ok(samples)
    };
    let firewalls = rivals.iter().flat_map(|rival| [Drops(*rival), Limits(*rival)]);
    let dropping: Vec<Contestant> = [Generator, Drop, Weir, Lru].into_iter().chain(firewalls).collect();
    let one = compete(Part::Drop, ONE, Fate::Dropped, &dropping, report)?;
    let many = compete(Part::Drop, MANY, Fate::Dropped, &dropping, report)?;
    let firewalls = rivals.iter().map(|rival| Limits(*rival));
    let passing: Vec<Contestant> = [Drop, Pass, Weir, Lru, Nothing, Routed].into_iter().chain(firewalls).collect();
    let [one_in, many_in] = [ONE, MANY].map(|clients| compete(Part::Pass, clients, Fate::Passed, &passing, report));
    let (one_in, many_in) = (one_in?, many_in?);
    let drops = rivals.iter().map(|rival| Drops(*rival));
    let new: Vec<Contestant> = passing.iter().copied().chain(drops).collect();
    let new = compete(Part::Pass, Clients::New, Fate::Passed, &new, report)?;

    let empty = "an empty XDP_DROP";
    report.row("one client over its limit", empty, Some(1.12), one.ratio(Weir, Drop));
    report.row("one client within it", "the same, computed", Some(1.12), whole(&one_in));
    report.row("65,536 clients over their limits", empty, Some(1.35), many.ratio(Weir, Drop));
    report.row("65,536 clients within them", "the same, computed", Some(1.35), whole(&many_in));
    report.row("every packet a new client", "the same, computed", Some(1.35), whole(&new));
    let added = |samples: &Measured| Figure::over(samples.adds(Weir, Pass), samples.adds(Lru, Pass));
    report.row("every packet a new client, added", "an LRU_HASH limiter, added", Some(1.0 / 15.0), added(&new));
    report.row("65,536 clients within their limits, added", "an LRU_HASH limiter, added", None, added(&many_in));
    report.row("65,536 clients over their limits", "an LRU_HASH limiter", None, many.ratio(Weir, Lru));
    let nft = Limits(Rival::Nftables);
    report.row("65,536 clients over their limits", "nftables meter", Some(1.0 / 8.5), many.ratio(Weir, nft));
    let meter = Figure::over(many_in.adds(Weir, Pass), many_in.adds(nft, Nothing));
    report.row("65,536 clients within their limits, added", "nftables meter, added", None, meter);
    let meter = Figure::over(new.adds(Weir, Pass), new.adds(nft, Nothing));
    report.row("every packet a new client, added", "nftables meter, added", None, meter);
    let hash = Limits(Rival::Hashlimit);
    report.row("65,536 clients over their limits", "iptables hashlimit", None, many.ratio(Weir, hash));
    let apart = new.adds(hash, Routed).zip(new.takes(Drops(Rival::Hashlimit)));
    let theirs = apart.map(|(added, floor)| added.on(floor.median));
    let ours = new.adds(Weir, Pass).zip(new.takes(Drop)).map(|(added, floor)| added.on(floor.median));
    let hashed = Figure::over(ours, theirs);
    report.row("every packet a new client", "iptables hashlimit, computed", Some(1.0 / 6.5), hashed);
    let hashed = Figure::over(new.adds(Weir, Pass), new.adds(hash, Routed));
    report.row("every packet a new client, added", "iptables hashlimit, added", None, hashed);
    Ok(())
}

/// What a whole packet takes when a passing one is dropped behind Weir: what Weir adds to a program that passes, on top of one that
/// drops. A packet that passes takes several times as much in the stack, beside which every limiter would look free.
fn whole(samples: &Measured) -> Option<Figure> {
    samples.stacked(Contestant::Weir, Contestant::Pass, &samples.takes(Contestant::Drop)?)
}

fn describe(clients: Clients, fate: Fate) -> String {
    let who = match clients {
        Clients::One(_) => "one client".to_owned(),
        Clients::Many(many) => format!("{many} clients in turn"),
        Clients::New => "every packet a new client".to_owned(),
        Clients::NewTwice => "two packets from each client".to_owned(),
        Clients::Spread { networks, .. } => format!("addresses of {networks} networks"),
    };
    let fate = match fate {
        Fate::Dropped => "over the limit: dropped",
        Fate::Passed => "within the limit: passed, then of no interest to the stack",
    };
    format!("{who}, {fate}")
}

fn name(contestant: Contestant) -> String {
    match contestant {
        Contestant::Generator => "the generator alone".to_owned(),
        Contestant::Drop => "an empty XDP_DROP".to_owned(),
        Contestant::Pass => "an empty XDP_PASS".to_owned(),
        Contestant::Nothing => "nothing".to_owned(),
        Contestant::Routed => "nothing; as far as iptables".to_owned(),
        Contestant::Weir => "Weir".to_owned(),
        Contestant::Lru => "an LRU_HASH limiter".to_owned(),
        Contestant::Drops(Rival::Nftables) => "nftables, drop".to_owned(),
        Contestant::Drops(Rival::Hashlimit) => "iptables, drop".to_owned(),
        Contestant::Limits(Rival::Nftables) => "nftables, ingress meter".to_owned(),
        Contestant::Limits(Rival::Hashlimit) => "iptables, hashlimit".to_owned(),
        Contestant::Blocks => "Weir".to_owned(),
        Contestant::Trie => "the kernel's LPM trie".to_owned(),
        Contestant::Set => "nftables, a set of intervals".to_owned(),
        Contestant::Filter => "xdp-filter, as many addresses".to_owned(),
    }
}

fn say(start: Instant, what: &str) {
    eprintln!("bench: {:>4} s  {what}", start.elapsed().as_secs());
}
