//! Lives: weir-tests, the benchmark of the socket hooks: what is measured, and what is meant.
//! Called by: main.
//! May touch: nothing itself.
//! Never: a goal that DESIGN.md does not have ("What the speed must be").

use std::time::Instant;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::empty::Hooks;
use crate::ends::Job;
use crate::nft;
use crate::report::Report;
use crate::rounds::{Contestant, Field, Patience};
use crate::samples::{Figure, Samples};
use crate::site::Site;
use crate::stack;
use crate::tables::Shape;

/// How much is measured.
#[derive(Args, Debug)]
pub struct Options {
    /// Times everybody has a turn; every load of the programs should have two or more
    #[arg(long, default_value_t = 15, value_name = "N")]
    rounds: usize,
    /// Times all programs are loaded: where they land in memory matters
    #[arg(long, default_value_t = 5, value_name = "N")]
    loads: usize,
    /// CPU time of one turn
    #[arg(long, default_value_t = 60, value_name = "MS")]
    milliseconds: u64,
    /// Leave out how cost grows with rules and identities
    #[arg(long)]
    no_sizes: bool,
    /// Measure only these; rows that need another stay empty [default: all]
    #[arg(long, value_delimiter = ',', value_name = "PART,...")]
    only: Vec<Part>,
}

impl Options {
    fn wants(&self, part: Part) -> bool {
        (self.only.is_empty() && !(self.no_sizes && part == Part::Sizes)) || self.only.contains(&part)
    }
}

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// `connect()` of a UDP socket
    Verdict,
    /// The same, about peers of whom nothing is remembered
    Fresh,
    /// `connect()` of a TCP socket
    Connect,
    /// A TCP connection from beginning to end
    Connection,
    /// Bytes over an open one
    RoundTrip,
    /// How a verdict's cost grows with rules and identities
    Sizes,
    /// Connections with the real agent running
    Agent,
}

/// A cluster of 10,000 peers, and a handful of rules.
const USUAL: Shape = Shape { identities: 10_000, rules: 10, log: true };
const QUIET: Shape = Shape { log: false, ..USUAL };

const SIZES: [(Shape, &str); 7] = [
    (Shape { identities: 1000, rules: 10, log: false }, "10 rules"),
    (Shape { identities: 1000, rules: 1000, log: false }, "1,000 rules"),
    (Shape { identities: 1000, rules: 10_000, log: false }, "10,000 rules"),
    (Shape { identities: 1000, rules: 100_000, log: false }, "100,000 rules"),
    (Shape { identities: 10, rules: 10, log: false }, "10 identities"),
    (Shape { identities: 10_001, rules: 10, log: false }, "10,000 identities"),
    (Shape { identities: 100_000, rules: 10, log: false }, "100,000 identities"),
];

/// Measures everything.
pub fn run(options: &Options) -> Result<Report> {
    let start = Instant::now();
    let mut report = Report { machine: machine(), times: Vec::new(), rows: Vec::new(), notes: Vec::new() };
    let site = Site::new(options.loads)?;
    let rules = nft::prepare(&site);
    if let Err(error) = &rules {
        let said = format!("{error:#}");
        report.notes.push(format!("nftables was not measured: {}", said.lines().next().unwrap_or_default()));
    }
    let mut field = Field::new(site, options.loads)?;
    say(start, "loaded");
    for shape in [USUAL, QUIET] {
        prepare(&mut field, shape)?;
    }
    say(start, "tables of 10,000 identities compiled");
    let patience = Patience { rounds: options.rounds, milliseconds: options.milliseconds };
    usual(&mut field, patience, (options, rules.is_ok()), &mut report)?;
    say(start, "usual cases measured");
    if options.wants(Part::Sizes) {
        sizes(&mut field, patience, &mut report)?;
        say(start, "sizes measured");
    }
    if options.wants(Part::Agent) {
        if let Err(error) = stack::measure(&mut field, patience, USUAL, &mut report) {
            report.notes.push(format!("the real agent was not measured: {error:#}"));
        }
        say(start, "the real agent measured");
    }
    if let (turns, others @ 1..) = field.bare_turns() {
        report.notes.push(format!(
            "somebody else's programs were attached to cgroups in {others} of {turns} turns without any: \"no BPF\" takes \
             more than it should, and what is added to it is not to be trusted; stop other agents and measure again"
        ));
    }
    let (events, lost) = field.events()?;
    report.notes.push(format!("{events} events were read meanwhile, {lost} found the ring full"));
    Ok(report)
}

fn prepare(field: &mut Field, shape: Shape) -> Result<()> {
    let start = Instant::now();
    let compiled = shape.compile(field.generation())?;
    let (took, sizes) = (start.elapsed().as_secs_f64(), compiled.sizes);
    eprintln!("bench: tables of {} identities and {} rules compiled in {took:.1} s", sizes.identities, sizes.rules);
    field.prepare(shape, compiled);
    Ok(())
}

fn usual(field: &mut Field, patience: Patience, (options, nft): (&Options, bool), report: &mut Report) -> Result<()> {
    use Contestant::{Alone, Conntrack, Empty, Linear, Nothing, Weir};
    let firewalls: &[Contestant] = if nft { &[Conntrack, Linear] } else { &[] };
    let mut compete = |part, job, field_of: &[Contestant], report: &mut Report| -> Result<Samples> {
        if !options.wants(part) {
            return Ok(Samples::default());
        }
        let samples = field.compete(job, &[field_of, firewalls].concat(), patience)?;
        report.times(job, &samples, name);
        Ok(samples)
    };
    let all = [Nothing, Empty(Hooks::Connect), Empty(Hooks::All), Weir(QUIET), Weir(USUAL)];
    let verdict = compete(Part::Verdict, Job::Verdict, &all, report)?;
    let fresh = compete(Part::Fresh, Job::Fresh, &[Nothing, Empty(Hooks::Connect), Weir(QUIET)], report)?;
    let connect = compete(Part::Connect, Job::Connect, &all, report)?;
    let whole = [Nothing, Empty(Hooks::All), Weir(QUIET), Weir(USUAL), Alone(USUAL)];
    let connection = compete(Part::Connection, Job::Connection, &whole, report)?;
    let open = [Nothing, Empty(Hooks::Packets), Weir(USUAL), Alone(USUAL)];
    let round_trip = compete(Part::RoundTrip, Job::RoundTrip, &open, report)?;

    let hook = verdict.adds(Empty(Hooks::Connect), Nothing);
    let added = |shape| verdict.adds(Weir(shape), Nothing);
    let one = "an empty connect4, added";
    report.row("connect verdict, 10,000 identities, added", one, Some(1.35), over(added(QUIET), hook));
    report.row("the same with its event, added", one, Some(2.5), over(added(USUAL), hook));
    let first = over(fresh.adds(Weir(QUIET), Nothing), fresh.adds(Empty(Hooks::Connect), Nothing));
    report.row("connect verdict about a new peer, added", one, None, first);
    let tracked = connect.adds(Conntrack, Nothing);
    report.row("connect verdict, added", "nftables conntrack, added", Some(1.0 / 15.0), over(added(QUIET), tracked));
    let whole = connect.adds(Weir(USUAL), Nothing);
    report.row("whole handshake, all events, added", "nftables conntrack, added", None, over(whole, tracked));
    let new = |base| connection.ratio(Weir(USUAL), base);
    report.row("new TCP connection, flow record included", "no BPF", Some(1.06), new(Nothing));
    report.row("new TCP connection, flow record included", "the same hooks, empty", None, new(Empty(Hooks::All)));
    report.row("new TCP connection, no record", "no BPF", None, connection.ratio(Weir(QUIET), Nothing));
    report.row("new TCP connection, flow record included", "nftables conntrack", None, new(Conntrack));
    report.row("new TCP connection, flow record included", "nftables, 1,000 rules", None, new(Linear));
    let alone = "new TCP connection, flow record, sk_lookup alone";
    report.row(alone, "no BPF", Some(1.06), connection.ratio(Alone(USUAL), Nothing));
    let trip = |base| round_trip.ratio(Weir(USUAL), base);
    report.row("established round trip", "empty cgroup_skb", Some(1.01), trip(Empty(Hooks::Packets)));
    report.row("established round trip", "no BPF", None, trip(Nothing));
    let alone = round_trip.ratio(Alone(USUAL), Nothing);
    report.row("established round trip, sk_lookup alone", "no BPF", Some(1.005), alone);
    report.row("established round trip", "nftables conntrack", None, trip(Conntrack));
    report.row("established round trip", "nftables, 1,000 rules", None, trip(Linear));
    Ok(())
}

fn sizes(field: &mut Field, patience: Patience, report: &mut Report) -> Result<()> {
    let mut fit = Vec::new();
    for (shape, size) in SIZES {
        match prepare(field, shape) {
            Ok(()) => fit.push((Contestant::Weir(shape), size)),
            Err(error) => report.notes.push(format!("{size} were not measured: {error:#}")),
        }
    }
    let nothing = Contestant::Nothing;
    let everybody: Vec<Contestant> = fit.iter().map(|(contestant, _)| *contestant).chain([nothing]).collect();
    let samples = field.compete(Job::Verdict, &everybody, patience)?;
    report.times(Job::Verdict, &samples, name);
    let of = |size| fit.iter().find(|(_, name)| *name == size).map(|(contestant, _)| *contestant);
    let grown = |samples: &Samples, large, small| {
        let (large, small) = of(large).zip(of(small))?;
        over(samples.adds(large, nothing), samples.adds(small, nothing))
    };
    for (large, small) in [("100,000 rules", "10 rules"), ("100,000 identities", "10 identities")] {
        report.row(&format!("connect verdict, {large}, added"), small, Some(1.05), grown(&samples, large, small));
    }
    let (large, small) = ("100,000 identities", "10,000 identities");
    let everybody: Vec<Contestant> = of(large).into_iter().chain(of(small)).chain([nothing]).collect();
    let samples = field.compete(Job::Fresh, &everybody, patience)?;
    report.times(Job::Fresh, &samples, name);
    report.row("connect verdict about a new peer, 100,000, added", small, None, grown(&samples, large, small));
    Ok(())
}

/// The ratio of two figures that were measured apart.
fn over(figure: Option<Figure>, base: Option<Figure>) -> Option<Figure> {
    let (figure, base) = (figure?, base?.median);
    Some(Figure { median: figure.median / base, low: figure.low / base, high: figure.high / base })
}

fn name(contestant: Contestant) -> String {
    match contestant {
        Contestant::Nothing => "no BPF".to_owned(),
        Contestant::Empty(Hooks::Connect) => "an empty connect4".to_owned(),
        Contestant::Empty(Hooks::Packets) => "empty cgroup_skb, both ends".to_owned(),
        Contestant::Empty(Hooks::All) => "all of Weir's hooks, empty".to_owned(),
        Contestant::Weir(Shape { identities, rules, log }) => {
            let log = if log { "with events" } else { "log: false" };
            format!("Weir, {identities} identities, {rules} rules, {log}")
        }
        Contestant::Alone(_) => "Weir, ingressHook: sk_lookup".to_owned(),
        Contestant::Conntrack => "nftables, conntrack".to_owned(),
        Contestant::Linear => "nftables, conntrack, 1,000 rules".to_owned(),
    }
}

fn machine() -> Vec<(String, String)> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    vec![
        ("kernel".to_owned(), read("/proc/sys/kernel/osrelease")),
        ("CPUs".to_owned(), cpus.to_string()),
        ("load at the start".to_owned(), read("/proc/loadavg")),
    ]
}

fn say(start: Instant, what: &str) {
    eprintln!("bench: {:>4} s  {what}", start.elapsed().as_secs());
}
