//! Lives: weir-tests, a live test of random policies: the evaluator against real connections.
//! Called by: main; `soak`, for its policies and its connections.
//! May touch: a world of its own, whose history holds nothing else.
//! Never: asks the tables; what the evaluator says of documents must be what sockets see and records name.
//!
//! A run is as long as `WEIR_SOAK_SECONDS` says, and begins where `WEIR_SEED` says; both are printed with a failure.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::Trial;
use weir_common::addr::Protocol;
use weir_common::verdict::{Direction, Verdict};
use weir_policy::{Answer, Context, End, Explanation, Question, Resources, Timestamp, addr, evaluate};
use weir_tests::documents::workloads;
use weir_tests::harness::ctl::{ARRIVE_WITHIN, Mark};
use weir_tests::harness::{Harness, Options, Record};
use weir_tests::process::Running;
use weir_tests::report::Attempt;
use weir_tests::world::Who::{self, Api, Client, Db, Node, Polite, Web};
use weir_tests::world::World;

use crate::stage::agrees;
use crate::test;

pub fn trials() -> Vec<Trial> {
    vec![test("random_policies_against_the_evaluator", soak)]
}

/// How long, and from which seed.
const SECONDS: &str = "WEIR_SOAK_SECONDS";
const SEED: &str = "WEIR_SEED";

/// A number that the environment gives, or the usual one.
pub fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

const PORTS: [u16; 4] = [80, 81, 82, 83];
/// Probes that are made at the same time.
const AT_ONCE: usize = 16;
/// How long a client waits for what never comes, and how long for what must.
const GIVE_UP_MS: u64 = 600;
const PATIENCE_MS: u64 = 5000;

fn soak() -> Result<()> {
    let (seconds, seed) = (number(SECONDS, 20), number(SEED, 1));
    let mut harness = Harness::start(World::new("random")?, Options::default())?;
    let _servers = servers(&harness)?;
    let (began, mut dice) = (Instant::now(), Dice::seeded(seed));
    let (mut rounds, mut probes, mut refused) = (0, 0, 0);
    while began.elapsed() < Duration::from_secs(seconds) {
        let documents = format!("{}{}", workloads(), policies(&mut dice));
        let (made, denied) = round(&mut harness, &documents, &mut dice)
            .with_context(|| format!("round {rounds} of seed {seed}, with\n{documents}"))?;
        (rounds, probes, refused) = (rounds + 1, probes + made, refused + denied);
    }
    agrees(&harness)?;
    ensure!(refused > 0 && refused < probes, "{refused} of {probes} probes refused: the policies decide nothing");
    println!("    {rounds} random policies, {probes} connections, {refused} of them refused; seed {seed}");
    Ok(())
}

/// A source of numbers that can be repeated (xorshift64*).
pub struct Dice(u64);

impl Dice {
    pub const fn seeded(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(number).unwrap_or_default() % sides
    }

    pub fn pick<T: Copy>(&mut self, from: &[T], or: T) -> T {
        let at = self.roll(from.len().max(1));
        from.get(at).copied().unwrap_or(or)
    }

    fn list(&mut self, most: usize, one: fn(&mut Dice) -> String) -> String {
        let count = self.roll(most + 1);
        (0..count).map(|_| one(self)).collect::<Vec<_>>().join(", ")
    }
}

/// Up to four policies, native and Kubernetes'.
pub fn policies(dice: &mut Dice) -> String {
    let count = 1 + dice.roll(4);
    (0..count).map(|number| if dice.roll(3) == 0 { kubernetes(dice, number) } else { native(dice, number) }).collect()
}

fn native(dice: &mut Dice, number: usize) -> String {
    let mode = dice.pick(&["enforce", "enforce", "enforce", "audit", "staged"], "enforce");
    let default = dice.pick(&["deny", "deny", "allow"], "deny");
    let types = dice.pick(&["Ingress", "Egress", "Ingress, Egress"], "Ingress");
    let (selector, priority) = (labels(dice), 10 * dice.roll(3));
    let ingress = dice.list(3, |dice| rule(dice, "from"));
    let egress = dice.list(3, |dice| rule(dice, "to"));
    // A direction with rules must be among those the policy is about.
    let ingress = if types.contains("Ingress") { ingress } else { String::new() };
    let egress = if types.contains("Egress") { egress } else { String::new() };
    format!(
        "---\napiVersion: weir.dev/v1alpha1\nkind: Policy\nmetadata: {{name: p{number}, namespace: shop}}\nspec: {{workloadSelector: \
         {selector}, policyTypes: [{types}], mode: {mode}, priority: {priority}, defaultAction: {default}, ingress: [{ingress}], \
         egress: [{egress}]}}\n"
    )
}

fn rule(dice: &mut Dice, end: &str) -> String {
    let action = dice.pick(&["allow", "allow", "deny"], "allow");
    let peers = dice.list(2, |dice| match dice.roll(3) {
        0 => format!("{{workloadSelector: {}}}", labels(dice)),
        1 => format!("{{ipBlock: {{cidr: \"{}\"}}}}", block(dice)),
        _ => format!("{{entity: {}}}", dice.pick(&["world", "host"], "world")),
    });
    let ports = dice.list(2, |dice| {
        let (first, protocol) = (dice.pick(&PORTS, 80), dice.pick(&["TCP", "UDP"], "TCP"));
        match dice.roll(4) {
            0 => "{protocol: ICMP, type: echo-request}, {protocol: ICMPv6, type: echo-request}".to_owned(),
            1 => format!("{{port: {first}, endPort: 90, protocol: {protocol}}}"),
            _ => format!("{{port: {first}, protocol: {protocol}}}"),
        }
    });
    format!("{{action: {action}, {end}: [{peers}], ports: [{ports}]}}")
}

fn kubernetes(dice: &mut Dice, number: usize) -> String {
    let types = dice.pick(&["Ingress", "Egress", "Ingress, Egress"], "Ingress");
    let selector = labels(dice);
    let part = |dice: &mut Dice, end: &str| {
        let peers = dice.list(2, |dice| match dice.roll(2) {
            0 => format!("{{podSelector: {}}}", labels(dice)),
            _ => format!("{{ipBlock: {{cidr: \"{}\"}}}}", block(dice)),
        });
        let ports = dice.list(2, |dice| {
            format!("{{port: {}, protocol: {}}}", dice.pick(&PORTS, 80), dice.pick(&["TCP", "UDP"], "TCP"))
        });
        format!("{{{end}: [{peers}], ports: [{ports}]}}")
    };
    let (ingress, egress) = (part(dice, "from"), part(dice, "to"));
    let ingress = if types.contains("Ingress") { format!(", ingress: [{ingress}]") } else { String::new() };
    let egress = if types.contains("Egress") { format!(", egress: [{egress}]") } else { String::new() };
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: k{number}, namespace: shop}}\nspec: \
         {{podSelector: {selector}, policyTypes: [{types}]{ingress}{egress}}}\n"
    )
}

fn labels(dice: &mut Dice) -> String {
    match dice.roll(4) {
        0 => "{}".to_owned(),
        _ => format!("{{matchLabels: {{app: {}}}}}", dice.pick(&["web", "api", "db"], "web")),
    }
}

fn block(dice: &mut Dice) -> String {
    let who = dice.pick(&[Web, Api, Db, Client, Polite], Web);
    let (v4, v6) = (who.v4(), who.v6());
    match dice.roll(4) {
        0 => format!("{v4}/32"),
        1 => format!("{v6}/128"),
        2 => "10.77.0.0/27".to_owned(),
        _ => "fd77::/16".to_owned(),
    }
}

/// A connection to try.
pub struct Probe {
    from: Who,
    to: Who,
    verb: &'static str,
    protocol: Protocol,
    port: u16,
    v6: bool,
    expected: Explanation,
}

/// For as long as a soak may last: a day, less than which it must ask for.
pub fn servers(harness: &Harness) -> Result<Vec<Running>> {
    let serve = |who: Who| {
        let ends =
            PORTS.into_iter().flat_map(|port| [who.v4(), who.v6()].map(|address| SocketAddr::new(address, port)));
        let listen: String = ends.map(|end| format!(" --listen {end}")).collect();
        Ok(harness.world().serve(who, &format!("storm-serve{listen} --seconds 86400"))?)
    };
    [Web, Api, Db, Client].into_iter().map(serve).collect()
}

impl Probe {
    fn roll(dice: &mut Dice, state: &Resources) -> Result<Probe> {
        let from = dice.pick(&[Web, Api, Db, Client, Polite], Web);
        let others: Vec<Who> = [Web, Api, Db, Client].into_iter().filter(|who| *who != from).collect();
        let to = dice.pick(&others, Api);
        let v6 = dice.roll(2) == 1;
        // Who answers an echo is the kernel: only the way out is judged, so only workloads ask.
        let kinds = if from.managed() { 4 } else { 3 };
        let (verb, protocol, port) = match dice.roll(kinds) {
            0 => ("tcp-connect", Protocol::TCP, dice.pick(&PORTS, 80)),
            1 => ("udp-exchange", Protocol::UDP, dice.pick(&PORTS, 80)),
            2 => ("udp-exchange --connected", Protocol::UDP, dice.pick(&PORTS, 80)),
            _ if v6 => ("ping", Protocol::ICMPV6, 128),
            _ => ("ping", Protocol::ICMP, 8),
        };
        let end = |who: Who| End::Address(addr(address(who, v6)));
        let question = Question { from: end(from), to: end(to), protocol, port };
        let mut expected = evaluate(state, &context(), &question)?;
        if verb == "ping" {
            expected.ingress = None;
            expected.verdict = expected.egress.as_ref().map_or(Verdict::Allow, |answer| answer.verdict);
        }
        Ok(Probe { from, to, verb, protocol, port, v6, expected })
    }

    fn start(&self, harness: &Harness) -> Result<Running> {
        let (from, to) = (address(self.from, self.v6), address(self.to, self.v6));
        let wait = if self.expected.verdict == Verdict::Deny { GIVE_UP_MS } else { PATIENCE_MS };
        let line = match self.verb {
            "ping" => format!("ping --to {to} --timeout-ms {wait}"),
            "tcp-connect" => {
                let to = SocketAddr::new(to, self.port);
                format!("tcp-connect --from {from} --to {to} --timeout-ms {wait}")
            }
            verb => format!("{verb} --from {from} --to {} --timeout-ms {wait}", SocketAddr::new(to, self.port)),
        };
        Ok(harness.world().start("probe", harness.world().probe_line(self.from, &line))?)
    }

    /// The halves that this node judges.
    fn answers(&self) -> impl Iterator<Item = &Answer> {
        let denied = self.expected.egress.as_ref().is_some_and(|answer| answer.verdict == Verdict::Deny);
        // What does not leave does not arrive.
        self.expected.egress.iter().chain(self.expected.ingress.iter().filter(move |_| !denied))
    }

    fn fits(&self, seen: &Attempt) -> bool {
        let egress = self.expected.egress.as_ref().map(|answer| answer.verdict);
        match (self.expected.verdict, egress) {
            (Verdict::Allow | Verdict::Audit, _) => seen.result == "ok",
            // The kernel does not hand on what became of a message of an IPv6 ping socket.
            (Verdict::Deny, Some(Verdict::Deny)) if self.verb == "ping" => seen.result != "ok",
            (Verdict::Deny, Some(Verdict::Deny)) => seen.result == "EPERM",
            (Verdict::Deny, _) => seen.result == "ETIMEDOUT",
        }
    }

    fn is_told_by(&self, record: &Record, answer: &Answer, generation: u64) -> bool {
        let (from, to) = (address(self.from, self.v6), address(self.to, self.v6));
        let incoming = answer.direction == Direction::Ingress;
        let (remote, port) = if incoming { (from, record.local.port) } else { (to, record.remote.port) };
        let ported = matches!(self.protocol, Protocol::TCP | Protocol::UDP);
        record.kind == "verdict"
            && record.generation == generation
            && record.direction == answer.direction.name()
            && record.protocol == name(self.protocol)
            && record.local.workload == format!("{}/{}", answer.workload.namespace, answer.workload.name)
            && record.remote.address.is_some_and(|found| found.to_canonical() == remote)
            && (!ported || port == self.port)
            && (record.verdict.as_str(), record.reason.as_str()) == (answer.verdict.name(), answer.reason.name())
            && (&record.policy, &record.rule) == (&answer.policy, &answer.rule)
    }
}

fn address(who: Who, v6: bool) -> IpAddr {
    if v6 { who.v6() } else { who.v4() }
}

const fn name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::TCP => "TCP",
        Protocol::UDP => "UDP",
        Protocol::ICMP => "ICMP",
        _ => "ICMPv6",
    }
}

/// The node as its agent sees it.
fn context() -> Context {
    Context {
        generation: 0,
        unknown: Verdict::Allow,
        unselected: Verdict::Allow,
        host_addresses: vec![addr(Node.v4()), addr(Node.v6())],
        tick_ns: 0,
        now: Timestamp(0),
    }
}

/// Puts documents in force and tries some connections, each of which must be told of. How many, and how many were refused.
pub fn round(harness: &mut Harness, documents: &str, dice: &mut Dice) -> Result<(usize, usize)> {
    let generation = harness.apply(documents)?;
    harness
        .wait("all workloads to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
    let mark = Mark::now();
    let probes = tries(harness, &parsed(documents)?, dice)?;
    told(harness, mark, &probes, generation)?;
    Ok((probes.len(), refused(&probes)))
}

/// What documents say.
pub fn parsed(documents: &str) -> Result<Resources> {
    let parsed = weir_policy::parse("random", documents).map_err(|faults| anyhow::anyhow!("{faults:?}"))?;
    Ok(parsed.into_iter().collect())
}

/// Connections of all kinds, each of which must see what the evaluator says; whether an agent runs does not matter.
pub fn tries(harness: &Harness, state: &Resources, dice: &mut Dice) -> Result<Vec<Probe>> {
    let mark = Mark::now();
    let probes = (0..AT_ONCE).map(|_| Probe::roll(dice, state)).collect::<Result<Vec<_>>>()?;
    let clients = probes.iter().map(|probe| probe.start(harness)).collect::<Result<Vec<_>>>()?;
    for (probe, client) in probes.iter().zip(clients) {
        let seen = client.attempt()?;
        ensure!(probe.fits(&seen), "{}: saw {seen:?}\n{}", probe.shown(), about(harness, mark, &seen));
    }
    Ok(probes)
}

/// What was told of an attempt that saw the wrong thing: whether it was Weir, the kernel or nobody who dropped it.
fn about(harness: &Harness, mark: Mark, seen: &Attempt) -> String {
    // Its records may still be on their way.
    std::thread::sleep(Duration::from_secs(2));
    let Some(local) = seen.local else { return "it never had an address".to_owned() };
    let of = |record: &Record| [&record.local, &record.remote].iter().any(|end| end.port == local.port());
    let told = match harness.records_since(mark) {
        Ok(records) => records.iter().filter(|record| of(record)).map(|record| format!("\n  {record}")).collect(),
        Err(error) => format!("\n  the collector says nothing: {error}"),
    };
    format!("told of its port:{told}\n{}", harness.logs())
}

/// How many of them were to be refused.
pub fn refused(probes: &[Probe]) -> usize {
    probes.iter().filter(|probe| probe.expected.verdict == Verdict::Deny).count()
}

/// Whether a TCP connection is let through.
pub fn is_allowed(state: &Resources, from: Who, to: SocketAddr) -> Result<bool> {
    let end = |address: IpAddr| End::Address(addr(address));
    let question = Question { from: end(from.v4()), to: end(to.ip()), protocol: Protocol::TCP, port: to.port() };
    Ok(evaluate(state, &context(), &question)?.verdict != Verdict::Deny)
}

/// Waits until every half of every probe has its record.
fn told(harness: &Harness, mark: Mark, probes: &[Probe], generation: u64) -> Result<()> {
    let deadline = Instant::now() + ARRIVE_WITHIN;
    loop {
        let records = harness.records_since(mark)?;
        let untold: BTreeSet<String> = (probes.iter())
            .flat_map(|probe| probe.answers().map(move |answer| (probe, answer)))
            .filter(|(probe, answer)| !records.iter().any(|record| probe.is_told_by(record, answer, generation)))
            .map(|(probe, answer)| format!("{}: {answer:?}", probe.shown()))
            .collect();
        if untold.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            let came: String = records.iter().map(|record| format!("  {record}\n")).collect();
            bail!("no record says\n{}\nthese came:\n{came}", untold.into_iter().collect::<Vec<_>>().join("\n"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

impl Probe {
    fn shown(&self) -> String {
        let family = if self.v6 { "IPv6" } else { "IPv4" };
        format!(
            "{:?} to {:?} {} {} {family}, of which is said: {}",
            self.from, self.to, self.verb, self.port, self.expected
        )
    }
}
