//! Lives: weir-tests, a live test of everything at once, for as long as asked.
//! Called by: main; `cargo xtask soak`, for minutes or hours.
//! May touch: a world of its own: its agent, its wires, its cgroups, the pins of its agent.
//! Never: accepts a verdict that the evaluator does not give, whether an agent runs or not; calls a leak noise.
//!
//! A round is a random policy, a trouble, and connections of all kinds against the evaluator. Connections that are held from one round
//! to the next must be cut if the next policy forbids them, and else live, through every trouble. Between some rounds policy and agent are
//! what they were at first, and so must be what the agent holds.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::Trial;
use weir_policy::Resources;
use weir_tests::documents::{document, workloads};
use weir_tests::harness::{Harness, Options};
use weir_tests::process::{Running, program};
use weir_tests::world::Who::{Api, Client, Db, Node, Web};
use weir_tests::world::{World, cgroup, links};

use crate::cutting::{hold, settled};
use crate::outlives::{pins, runs, take_off};
use crate::random::{Dice, is_allowed, number, parsed, policies, refused, round, servers, tries};
use crate::stage::agrees;
use crate::test;

pub fn trials() -> Vec<Trial> {
    vec![test("soak: flips_kills_upgrades_flaps_and_floods_give_no_wrong_verdict_and_leak_nothing", soak)]
}

/// How long, from which seed, and whether nothing else uses BPF here: then what the kernel holds is counted, too.
const SECONDS: &str = "WEIR_SOAK_SECONDS";
const SEED: &str = "WEIR_SEED";
const ALONE: &str = "WEIR_ALONE";

/// Rounds after which what the agent holds is compared with what it held at first.
const COMPARE_EVERY: usize = 10;
/// The agent's memory may be that much larger than at first, caches that fill and all.
const ROOM_KIB: u64 = 48 * 1024;
/// How long what is let go of may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(20);
/// The port of connections that are held: whether policies allow it is a matter of chance.
const HELD: u16 = 84;

/// What happens beside a change of policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Trouble {
    None,
    Kill,
    Stop,
    Upgrade,
    Flap,
    Flood,
    TakeOff,
    Churn,
}

const TROUBLES: [Trouble; 8] = [
    Trouble::None,
    Trouble::Kill,
    Trouble::Stop,
    Trouble::Upgrade,
    Trouble::Flap,
    Trouble::Flood,
    Trouble::TakeOff,
    Trouble::Churn,
];

/// What was done so far.
#[derive(Debug, Default)]
struct Done {
    rounds: usize,
    probes: usize,
    refused: usize,
    cut: usize,
    lived: usize,
    troubles: BTreeMap<Trouble, usize>,
}

/// One run.
struct Soak {
    harness: Harness,
    dice: Dice,
    first: Holds,
    held: Option<(Running, SocketAddr)>,
    /// The agent's program under another name, as after an upgrade.
    copies: [PathBuf; 2],
    done: Done,
}

fn soak() -> Result<()> {
    let (seconds, seed) = (number(SECONDS, 30), number(SEED, 1));
    let mut harness = Harness::start(World::new("soak")?, Options::default())?;
    let _servers = servers(&harness)?;
    let _keeper = harness
        .world()
        .serve(Api, &format!("tcp-keep --listen {} --seconds 86400", SocketAddr::new(Api.v4(), HELD)))?;
    at_rest(&mut harness)?;
    let first = Holds::of(&harness)?;
    let copies = ["a", "b"].map(|name| harness.world().folder().join(format!("weir-agent-{name}")));
    for copy in &copies {
        fs::copy(program("weir-agent"), copy).with_context(|| format!("copying to {}", copy.display()))?;
    }
    let mut soak = Soak { harness, dice: Dice::seeded(seed), first, held: None, copies, done: Done::default() };
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(seconds) || soak.done.rounds < TROUBLES.len() {
        soak.round().with_context(|| format!("round {} of seed {seed}", soak.done.rounds))?;
    }
    soak.compare()?;
    let Done { rounds, probes, refused, cut, lived, troubles } = &soak.done;
    ensure!(*refused > 0 && refused < probes, "{refused} of {probes} probes refused: the policies decide nothing");
    let mut told = String::new();
    for (trouble, count) in troubles {
        write!(told, " {trouble:?} {count}")?;
    }
    println!(
        "    {rounds} rounds in {} s, seed {seed}: {probes} connections, {refused} of them refused, all as the evaluator says; held ones: {lived} \
         lived on, {cut} were cut;{told}; {} KiB more than at first",
        began.elapsed().as_secs(),
        Holds::of(&soak.harness)?.resident_kib.saturating_sub(soak.first.resident_kib)
    );
    Ok(())
}

/// The policy and the attachments with which holdings are compared.
fn at_rest(harness: &mut Harness) -> Result<()> {
    harness.apply(&workloads())?;
    harness
        .wait("all workloads to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
    settled(harness)
}

impl Soak {
    fn round(&mut self) -> Result<()> {
        let documents = format!("{}{}", workloads(), policies(&mut self.dice));
        // Each kind once, whatever the dice say.
        let trouble = match TROUBLES.get(self.done.rounds) {
            Some(first) => *first,
            None => self.dice.pick(&TROUBLES, Trouble::None),
        };
        self.in_force(&documents, trouble).with_context(|| format!("{trouble:?}, with\n{documents}"))?;
        *self.done.troubles.entry(trouble).or_default() += 1;
        self.done.rounds += 1;
        if self.done.rounds.is_multiple_of(COMPARE_EVERY) {
            self.compare()?;
        }
        Ok(())
    }

    fn in_force(&mut self, documents: &str, trouble: Trouble) -> Result<()> {
        let (made, denied) = round(&mut self.harness, documents, &mut self.dice)?;
        let state = parsed(documents)?;
        self.judge_held(&state)?;
        self.hold(&state)?;
        self.make(trouble, &state)?;
        self.harness.wait("all to be attached after that", |harness| {
            harness.status().is_ok_and(|status| status.all_attached())
        })?;
        let again = tries(&self.harness, &state, &mut self.dice).context("after it")?;
        self.done.probes += made + again.len();
        self.done.refused += denied + refused(&again);
        Ok(())
    }

    /// Of a connection that was made under an earlier policy: this one says whether it lives.
    fn judge_held(&mut self, state: &Resources) -> Result<()> {
        let Some((client, to)) = self.held.take() else { return Ok(()) };
        settled(&mut self.harness)?;
        let (allowed, seen) = (is_allowed(state, Web, to)?, client.withdrawn()?);
        ensure!((seen.living == 1) == allowed, "held from before, now allowed: {allowed}, but {seen:?}");
        *if allowed { &mut self.done.lived } else { &mut self.done.cut } += 1;
        Ok(())
    }

    fn hold(&mut self, state: &Resources) -> Result<()> {
        let to = SocketAddr::new(Api.v4(), HELD);
        if is_allowed(state, Web, to)? {
            self.held = Some((hold(&self.harness, Web, &format!("tcp-hold --to {to} --seconds 86400"))?, to));
        }
        Ok(())
    }

    fn make(&mut self, trouble: Trouble, state: &Resources) -> Result<()> {
        let harness = &mut self.harness;
        match trouble {
            Trouble::None => {}
            Trouble::Kill => {
                harness.kill_agent()?;
                let without = tries(harness, state, &mut self.dice).context("while no agent runs")?;
                (self.done.probes, self.done.refused) =
                    (self.done.probes + without.len(), self.done.refused + refused(&without));
                harness.start_agent()?;
            }
            Trouble::Stop => {
                agrees(harness)?;
                harness.stop_agent()?;
                harness.start_agent()?;
            }
            Trouble::Upgrade => {
                agrees(harness)?;
                harness.stop_agent()?;
                self.copies.swap(0, 1);
                harness.start_agent_of(&self.copies[0])?;
            }
            Trouble::Flap => {
                for who in [Client, Web] {
                    links::flap(&harness.world().netns(Node), &who.interface())?;
                    links::wait_in_service(&harness.world().netns(who), links::INSIDE)?;
                }
            }
            Trouble::Flood => {
                let line = format!("udp-flood --to {}:80 --rate 50000 --seconds 1", Db.v4());
                let _ = harness.world().start("flood", harness.world().probe_line(Client, &line))?.sent()?;
            }
            Trouble::TakeOff => take_some(harness, &mut self.dice)?,
            Trouble::Churn => churn(harness)?,
        }
        Ok(())
    }

    /// At rest the agent holds what it held at first.
    fn compare(&mut self) -> Result<()> {
        self.held = None;
        at_rest(&mut self.harness)?;
        let deadline = Instant::now() + GONE_WITHIN;
        loop {
            let now = Holds::of(&self.harness)?;
            let Some(more) = now.beyond(&self.first) else { return Ok(()) };
            if Instant::now() > deadline {
                bail!("{more}: at first {:?}, now {now:?}", self.first);
            }
            sleep(Duration::from_millis(200));
        }
    }
}

/// Takes links off, or their pins away, as it happens; each is put back and counted.
fn take_some(harness: &mut Harness, dice: &mut Dice) -> Result<()> {
    let mut expected = harness.status()?.agent.repairs;
    for (_, pin) in pins(harness) {
        match dice.roll(6) {
            0 => take_off(&pin)?,
            1 => fs::remove_file(&pin)?,
            _ => continue,
        }
        expected += 1;
    }
    Ok(harness.wait("what was taken to be put back", |harness| {
        harness.status().is_ok_and(|status| status.agent.repairs >= expected)
    })?)
}

/// Workloads that come and go, each with cgroups of its own below.
fn churn(harness: &mut Harness) -> Result<()> {
    for number in 0..5 {
        let name = format!("passing-{number}");
        let (outer, inner) =
            (harness.world().managed().join(&name), harness.world().managed().join(&name).join("inner"));
        [&outer, &inner].into_iter().try_for_each(|path| cgroup::create(path))?;
        harness.add(&document("Workload", &name, &format!("{{cgroup: {name}}}")))?;
        harness.wait("it to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
        harness.ctl(&["delete", "workload", &format!("shop/{name}")], "")?.ok()?;
        cgroup::remove(&outer)?;
    }
    Ok(())
}

/// What must not grow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Holds {
    /// The agent's descriptors, by kind.
    descriptors: BTreeMap<String, usize>,
    threads: usize,
    pins: usize,
    runs: usize,
    /// Programs, maps and links of the whole kernel, where nobody else has any.
    in_kernel: [usize; 3],
    resident_kib: u64,
}

impl Holds {
    fn of(harness: &Harness) -> Result<Holds> {
        let process = Path::new("/proc").join(harness.agent_pid().context("the agent is not running")?.to_string());
        let mut descriptors = BTreeMap::new();
        for entry in fs::read_dir(process.join("fd"))? {
            // One that is closed meanwhile is not held.
            let Ok(what) = fs::read_link(entry?.path()) else { continue };
            // A link's is named by how it was opened.
            let what = what.to_string_lossy().replace('_', "-");
            let kind = what.split_once(":[").map_or(what.as_str(), |(kind, _)| kind);
            *descriptors.entry(if kind.starts_with('/') { "file".to_owned() } else { kind.to_owned() }).or_default() +=
                1;
        }
        let status = fs::read_to_string(process.join("status"))?;
        let field = |name: &str| {
            let value =
                status.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
            Ok::<_, anyhow::Error>(value.trim().trim_end_matches(" kB").parse::<u64>()?)
        };
        let alone = std::env::var_os(ALONE).is_some();
        let count = |all: usize| if alone { all } else { 0 };
        Ok(Holds {
            descriptors,
            threads: usize::try_from(field("Threads:")?)?,
            pins: pins(harness).len(),
            runs: runs(harness).len(),
            in_kernel: [
                count(aya::programs::loaded_programs().count()),
                count(aya::maps::loaded_maps().count()),
                count(aya::programs::loaded_links().count()),
            ],
            resident_kib: field("VmRSS:")?,
        })
    }

    /// What is more than it was. Connections of gRPC, files that are open for a moment and threads that serve come and go.
    fn beyond(&self, first: &Holds) -> Option<String> {
        let mut more = Vec::new();
        for (kind, count) in &self.descriptors {
            let before = first.descriptors.get(kind).copied().unwrap_or_default();
            let room = if kind.starts_with("anon-inode:bpf") { 0 } else { 8 };
            if *count > before + room {
                more.push(format!("{count} of {kind}, where there were {before}"));
            }
        }
        for (what, now, before, room) in [
            ("threads", self.threads, first.threads, 8),
            ("pins", self.pins, first.pins, 0),
            ("runs", self.runs, first.runs, 0),
            ("programs in the kernel", self.in_kernel[0], first.in_kernel[0], 0),
            ("maps in the kernel", self.in_kernel[1], first.in_kernel[1], 0),
            ("links in the kernel", self.in_kernel[2], first.in_kernel[2], 0),
        ] {
            if now > before + room {
                more.push(format!("{now} {what}, where there were {before}"));
            }
        }
        if self.resident_kib > first.resident_kib + ROOM_KIB {
            more.push(format!("{} KiB resident, where there were {}", self.resident_kib, first.resident_kib));
        }
        (!more.is_empty()).then(|| more.join("; "))
    }
}
