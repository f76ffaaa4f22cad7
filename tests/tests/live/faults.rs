//! Lives: weir-tests, live tests of faults at every step of a change: `weir_agent::faults`.
//! Called by: main; `faults_start`, for the parts that both need.
//! May touch: worlds of its own, whose agent it lets fail, kills and starts.
//! Never: takes the agent's word for what is in force: that is asked by traffic, of which every answer differs between the two policies.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::Trial;
use weir_agent::faults::{ERRORS, POINTS};
use weir_tests::documents::{document, workloads};
use weir_tests::harness::{Harness, Options};
use weir_tests::process::Running;
use weir_tests::world::Who::{self, Api, Client, Db, Polite, Web};
use weir_tests::world::{World, cgroup};

use crate::{faults_others, faults_start, test};

pub fn trials() -> Vec<Trial> {
    vec![
        test("every_fault_point_is_reached_by_a_test", complete),
        test("adversarial_68_killed_or_failing_at_any_step_all_of_one_policy_is_in_force", all_parts),
        test("adversarial_95_a_policy_on_disk_that_is_damaged_is_refused_and_what_is_in_force_stays", damaged),
        test("adversarial_95_files_of_a_later_format_are_refused_by_name_and_none_is_touched", newer),
    ]
}

/// Set, every step fails with every error there is, and not with one.
const ALL: &str = "WEIR_FAULTS_ALL";

/// Set, only the parts whose name contains it are run.
const ONLY: &str = "WEIR_FAULTS_ONLY";

/// What comes of a step that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failing {
    /// The change is refused, or the start.
    Refuses,
    /// It is made, and what is missing is made good soon.
    Goes,
    /// It cannot fail; one can be killed there.
    Cannot,
}

use Failing::{Cannot, Goes, Refuses};

/// The points of a change, in their order: which of several times, and what comes of an error.
const STEPS: [(&str, u32, Failing); 24] = [
    ("install.limits", 1, Refuses),
    ("install.page", 1, Refuses),
    ("install.page", 2, Refuses),
    ("install.address", 1, Refuses),
    ("install.prefix", 1, Refuses),
    ("install.image", 1, Refuses),
    ("install.set", 2, Refuses),
    ("install.switch", 1, Refuses),
    ("install.switched", 1, Cannot),
    ("install.grace", 1, Goes),
    ("install.settled", 1, Cannot),
    ("install.counts", 1, Goes),
    ("save.create", 1, Goes),
    ("save.write", 1, Goes),
    ("save.sync", 1, Goes),
    ("save.rename", 1, Goes),
    ("save.renamed", 1, Goes),
    ("save.saved", 1, Cannot),
    ("attach.cgroup", 2, Goes),
    ("attach.storage", 3, Goes),
    ("attach.caller", 1, Goes),
    ("pin.link", 2, Goes),
    ("pin.pinned", 2, Cannot),
    ("detach.link", 2, Goes),
];

/// One of two policies of which each forbids what the other allows, at every hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    One,
    Other,
}

use Side::{One, Other};

impl Side {
    const fn against(self) -> Side {
        match self {
            One => Other,
            Other => One,
        }
    }

    const fn word(self) -> &'static str {
        match self {
            One => "one",
            Other => "other",
        }
    }

    /// web calls api at one port, db at the other; one stranger is shut out by the edge, the other is not. Also a workload, a prefix and a
    /// set that only this one has; and what is attached to an interface and to a namespace.
    fn policy(self) -> String {
        let (web, db, prefix, blocked) = match self {
            One => (80, 81, "192.0.2.0/24", Client),
            Other => (81, 80, "198.51.100.0/24", Polite),
        };
        let to_api = "to: [{workloadSelector: {matchLabels: {app: api}}}]";
        let out = format!(
            "\n  workloadSelector: {{matchLabels: {{app: web}}}}\n  policyTypes: [Egress]\n  defaultAction: deny\n  \
             egress: [{{name: api, {to_api}, ports: [{{port: {web}}}]}}]"
        );
        let from = |app: &str, port: u16| {
            format!(
                "{{name: {app}, from: [{{workloadSelector: {{matchLabels: {{app: {app}}}}}}}], ports: [{{port: {port}}}]}}"
            )
        };
        let into = format!(
            "\n  workloadSelector: {{matchLabels: {{app: api}}}}\n  policyTypes: [Ingress]\n  defaultAction: deny\n  ingress:\n  \
             - {}\n  - {}\n  - {{name: block, from: [{{ipBlock: {{cidr: {prefix}}}}}]}}",
            from("web", web),
            from("db", db)
        );
        let refused = "\n  workloadSelector: {matchLabels: {app: db}}\n  policyTypes: [Ingress]\n  defaultAction: allow\n  \
                       ingress: [{name: closed, action: refuse, ports: [{port: 99}]}]";
        let set = format!("{{action: block, addresses: [{}]}}", blocked.v4());
        let own = format!("{{cgroup: {}, addresses: [203.0.113.{}]}}", self.word(), web);
        workloads().replace("  cgroup: web\n", "  cgroup: web\n  interface: v-web\n")
            + &document("Policy", "web-out", &out)
            + &document("Policy", "api-in", &into)
            + &document("Policy", "db-in", refused)
            + &document("AddressSet", &format!("blocked-{}", self.word()), &set)
            + &document("Workload", self.word(), &own)
    }
}

/// A world with an agent that has faults when it is told to.
pub struct Stage {
    pub harness: Harness,
    _servers: [Running; 3],
    /// What the last policy was that is known to be in force.
    pub side: Side,
    /// Links to cgroups: both policies have as many.
    links: usize,
}

impl Stage {
    pub fn new(label: &str) -> Result<Stage> {
        let world = World::new(label)?;
        for side in [One, Other] {
            cgroup::create(&world.managed().join(side.word()))?;
        }
        let interfaces = vec!["v-client".to_owned(), "v-polite".to_owned()];
        let harness = Harness::start(world, Options { faults: true, interfaces, ..Options::default() })?;
        let serve = |who, line| harness.world().serve(who, line);
        let servers = [
            serve(Api, "tcp-serve --listen [::]:80")?,
            serve(Api, "tcp-serve --listen [::]:81")?,
            serve(Db, "tcp-serve --listen [::]:80")?,
        ];
        let mut stage = Stage { harness, _servers: servers, side: One, links: 0 };
        stage.apply(One).context("the first policy")?;
        stage.links = links(&stage.harness);
        Ok(stage)
    }

    /// Applies one; it must be in force then, whole, and everything attached soon.
    pub fn apply(&mut self, side: Side) -> Result<()> {
        self.harness.apply(&side.policy())?;
        self.is(side, "applied")?;
        self.attached()
    }

    pub fn attached(&mut self) -> Result<()> {
        Ok(self.harness.wait("everything to be attached and pinned", |harness| {
            harness.status().is_ok_and(|status| status.ready() && status.all_attached() && status.agent.pinned)
        })?)
    }

    /// All of `side` is in force, and nothing else.
    pub fn is(&mut self, side: Side, when: &str) -> Result<()> {
        let found = in_force(&self.harness).with_context(|| when.to_owned())?;
        ensure!(found == side, "{when}: {found:?} is in force, and not {side:?}");
        self.side = side;
        Ok(())
    }

    pub fn arm(&self, faults: &str) -> Result<()> {
        arm(&self.harness, faults)
    }

    pub fn came(&self, faults: &str) -> Result<()> {
        came(&self.harness, faults)
    }

    /// The policy on disk.
    pub fn saved(&self) -> Result<Side> {
        let text = fs::read_to_string(self.harness.world().folder().join("state/policy.yaml"))?;
        match [One, Other].map(|side| text.contains(&format!("blocked-{}", side.word()))) {
            [true, false] => Ok(One),
            [false, true] => Ok(Other),
            both => bail!("the file is of neither or both: {both:?}\n{text}"),
        }
    }

    /// Starts an agent after one that was killed: what the disk says is in force, and nothing is left of whoever was before.
    pub fn repaired(&mut self) -> Result<()> {
        let saved = self.saved()?;
        self.harness.start_agent()?;
        self.attached()?;
        self.is(saved, "started again")?;
        self.tidy()
    }

    /// Nothing is left of runs before, and no file half written.
    pub fn tidy(&mut self) -> Result<()> {
        self.harness.wait("the runs before to be let go of", |harness| runs(harness).len() == 1)?;
        let expected = self.links;
        self.harness.wait("what is not needed to be detached", |harness| links(harness) == expected)?;
        let beside = self.harness.world().folder().join("state/policy.yaml.new");
        ensure!(!beside.exists(), "{} is left", beside.display());
        Ok(())
    }
}

/// Lets the agent that comes by next have these faults.
pub fn arm(harness: &Harness, faults: &str) -> Result<()> {
    let _ = fs::remove_file(harness.faults().with_extension("hit"));
    Ok(fs::write(harness.faults(), faults)?)
}

/// They came, all of them.
pub fn came(harness: &Harness, faults: &str) -> Result<()> {
    let hit = fs::read_to_string(harness.faults().with_extension("hit")).unwrap_or_default();
    let left = fs::read_to_string(harness.faults()).unwrap_or_default();
    ensure!(left.is_empty() && !hit.is_empty(), "of {faults:?} came {hit:?}, left is {left:?}");
    Ok(())
}

/// The folders of runs, whether something is pinned there or not.
fn runs(harness: &Harness) -> Vec<PathBuf> {
    let below = |path: PathBuf| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    below(harness.world().bpffs().join("weir")).flat_map(below).collect()
}

/// Pinned links to cgroups. (Those to namespaces come and go with the processes there.)
fn links(harness: &Harness) -> usize {
    let name = |pin: &fs::DirEntry| pin.file_name().to_string_lossy().starts_with("cgroup-");
    runs(harness).into_iter().flat_map(|run| fs::read_dir(run).into_iter().flatten().flatten()).filter(name).count()
}

/// Which of the two is in force. An error when it is neither, or parts of both.
fn in_force(harness: &Harness) -> Result<Side> {
    let mut seen = Vec::new();
    // What is dropped is silent, and what is slow may look like that: patience grows before there is a verdict.
    for patience in [150, 600, 2500] {
        seen = asked(harness, patience)?;
        let passed: Vec<bool> = seen.iter().map(|(_, result)| result == "ok").collect();
        match passed.as_slice() {
            [true, false, false, true, false, true] => return Ok(One),
            [false, true, true, false, true, false] => return Ok(Other),
            _ => {}
        }
    }
    bail!("neither of the policies is in force as a whole: {seen:?}")
}

fn asked(harness: &Harness, patience: u32) -> Result<Vec<(String, String)>> {
    let tries: [(Who, Who, u16); 6] =
        [(Web, Api, 80), (Web, Api, 81), (Db, Api, 80), (Db, Api, 81), (Client, Db, 80), (Polite, Db, 80)];
    let ask = |(who, to, port): (Who, Who, u16)| -> Result<(String, String)> {
        let line = format!("tcp-connect --to {} --timeout-ms {patience}", SocketAddr::new(to.v4(), port));
        let name = format!("{}-asks-{port}", who.name());
        let world = harness.world();
        let attempt = world.start(&name, world.probe_line(who, &line))?.attempt()?;
        Ok((format!("{who:?} to {to:?}:{port}"), attempt.result))
    };
    thread::scope(|scope| {
        let asking = tries.map(|one| scope.spawn(move || ask(one)));
        asking.into_iter().map(|one| one.join().unwrap_or_else(|_| bail!("a try panicked"))).collect()
    })
}

/// The errors that steps fail with: each in its turn, or all at every step.
pub fn errors(turn: usize) -> Vec<&'static str> {
    match std::env::var_os(ALL) {
        Some(_) => ERRORS.to_vec(),
        None => ERRORS.iter().cycle().skip(turn).take(1).copied().collect(),
    }
}

/// A part of the matrix, in a world of its own.
pub type Part = (&'static str, fn() -> Result<()>);

/// All parts at once: mostly they wait.
fn all_parts() -> Result<()> {
    let own: [Part; 2] = [("change-killed", killed), ("change-failed", failed)];
    let parts: Vec<Part> = own.into_iter().chain(faults_start::PARTS).chain(faults_others::PARTS).collect();
    let only = std::env::var(ONLY).unwrap_or_default();
    let chosen: Vec<Part> = parts.into_iter().filter(|(name, _)| name.contains(&only)).collect();
    ensure!(!chosen.is_empty(), "{ONLY}={only} names no part");
    let failures = thread::scope(|scope| {
        let running: Vec<_> = chosen.into_iter().map(|(name, part)| (name, scope.spawn(part))).collect();
        let ended = running.into_iter().map(|(name, part)| (name, part.join()));
        let failure = |(name, ended): (&str, thread::Result<Result<()>>)| match ended {
            Ok(ended) => ended.err().map(|error| format!("{name}: {error:#}")),
            Err(_) => Some(format!("{name}: panicked")),
        };
        ended.filter_map(failure).collect::<Vec<_>>()
    });
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

fn complete() -> Result<()> {
    let known: BTreeSet<&str> = POINTS.iter().map(|(name, _)| *name).collect();
    let tried = STEPS.iter().map(|(name, ..)| *name).chain(faults_start::names()).chain(faults_others::names());
    let tried: BTreeSet<&str> = tried.collect();
    ensure!(known == tried, "reached by no test, or in no table: {:?}", known.symmetric_difference(&tried));
    Ok(())
}

fn killed() -> Result<()> {
    let mut stage = Stage::new("killed")?;
    for (point, count, failing) in STEPS {
        let fault = format!("{point} kill {count}\n");
        kill_at(&mut stage, &fault, failing == Refuses).with_context(|| fault.clone())?;
    }
    Ok(())
}

/// `before`: the step comes before the switch.
fn kill_at(stage: &mut Stage, fault: &str, before: bool) -> Result<()> {
    let (old, new) = (stage.side, stage.side.against());
    stage.arm(fault)?;
    let said = stage.harness.ctl(&["apply", "--replace-all", "-f", "-"], &new.policy())?;
    stage.came(fault)?;
    ensure!(!said.status.success(), "the request was answered: {said:?}");
    stage.harness.kill_agent()?;
    stage.is(if before { old } else { new }, "killed")?;
    stage.repaired()?;
    stage.apply(stage.side.against()).context("the next change")
}

fn failed() -> Result<()> {
    let mut stage = Stage::new("failed")?;
    for (turn, (point, count, failing)) in STEPS.into_iter().enumerate().filter(|(_, step)| step.2 != Cannot) {
        for error in errors(turn) {
            let fault = format!("{point} {error} {count}\n");
            fail_at(&mut stage, &fault, failing).with_context(|| fault.clone())?;
        }
    }
    // All of that in one life, and the next one finds it in order.
    stage.harness.kill_agent()?;
    stage.is(stage.side, "killed at last")?;
    stage.repaired()
}

fn fail_at(stage: &mut Stage, fault: &str, failing: Failing) -> Result<()> {
    let (old, new) = (stage.side, stage.side.against());
    stage.arm(fault)?;
    let said = stage.harness.ctl(&["apply", "--replace-all", "-f", "-"], &new.policy())?;
    stage.came(fault)?;
    let point = fault.split(' ').next().unwrap_or_default();
    if failing == Refuses {
        ensure!(!said.status.success() && said.err.contains(point), "the answer does not name the step: {said:?}");
        stage.is(old, "refused")?;
        return stage.apply(new).context("once more");
    }
    ensure!(said.status.success(), "{said:?}");
    let warned = format!("{}{}", said.out, said.err).contains("could not be saved") || said.err.contains("not saved");
    ensure!(warned == point.starts_with("save."), "{said:?}");
    stage.is(new, "made all the same")?;
    stage.attached()?;
    let soon = Instant::now() + Duration::from_secs(5);
    while stage.saved()? != new {
        ensure!(Instant::now() < soon, "it is not saved");
        thread::sleep(Duration::from_millis(50));
    }
    stage.tidy()
}

/// Whatever a disk may make of the file: the agent does not start with half a policy, says what to do, and what is in force stays.
/// Files that a later version of Weir left, which this one does not understand: a policy and what was loaded into a set end a start, and
/// what is in force stays; of records only those are left aside.
fn newer() -> Result<()> {
    let mut stage = Stage::new("newer")?;
    stage.harness.kill_agent()?;
    let state = stage.harness.world().folder().join("state");
    let rows = [
        ("policy.yaml", "# weir-agent: last good policy, format 2, generation 9\n---\n", true),
        ("sets/of-later.set", "# weir-agent: loaded into an address set, format 3, save 9\n?\n", true),
        ("spool/00000000000000000001-later/00000000000000000001.segment", "WFR2 as it likes", false),
    ];
    for (name, text, ends) in rows {
        let path = state.join(name);
        let before = fs::read(&path).ok();
        fs::create_dir_all(path.parent().context("no folder")?)?;
        fs::write(&path, text)?;
        let log = if ends {
            let mut hasty = stage.harness.world().start("hasty", stage.harness.agent_command()?)?;
            let ended = hasty.wait(Duration::from_secs(20)).with_context(|| name)?;
            ensure!(!ended.success(), "{name}: it has started");
            stage.is(One, name)?;
            fs::read_to_string(hasty.log())?
        } else {
            stage.repaired()?;
            let log = fs::read_to_string(stage.harness.agent_log().context("no log")?)?;
            stage.harness.stop_agent()?;
            log
        };
        let line = log.lines().find(|line| line.contains(name) && line.contains("later version")).unwrap_or_default();
        ensure!(line.contains("known=1") || line.contains("knows format 1"), "{name}: {log}");
        ensure!(fs::read_to_string(&path)? == text, "{name} was changed");
        match before {
            Some(before) => fs::write(&path, before)?,
            None => fs::remove_file(&path)?,
        }
    }
    Ok(stage.harness.start_agent()?)
}

fn damaged() -> Result<()> {
    let mut stage = Stage::new("damaged")?;
    stage.harness.kill_agent()?;
    let path = stage.harness.world().folder().join("state/policy.yaml");
    let whole = fs::read(&path)?;
    let begins = |at: &usize| whole.get(*at..).is_some_and(|rest| rest.starts_with(b"---\n"));
    let cut = (0..whole.len()).rev().find(begins).context("no documents")?;
    let (first, last) = whole.split_at(cut);
    let flipped =
        |at: usize| whole.iter().enumerate().map(|(n, byte)| if n == at { byte ^ 1 } else { *byte }).collect();
    let rows: [(&str, Vec<u8>); 6] = [
        ("empty", Vec::new()),
        ("cut off between documents", first.to_vec()),
        ("cut off within the last line", whole.iter().take(whole.len() - 3).copied().collect()),
        ("a bit flipped", flipped(cut + 60)),
        ("zeroes at its end", [first, &vec![0; last.len()]].concat()),
        ("something else", b"\x7fELF".to_vec()),
    ];
    for (row, bytes) in rows {
        fs::write(&path, bytes)?;
        let command = stage.harness.agent_command()?;
        let mut hasty = stage.harness.world().start("hasty", command)?;
        let ended = hasty.wait(Duration::from_secs(20)).with_context(|| row)?;
        let log = fs::read_to_string(hasty.log())?;
        ensure!(!ended.success() && log.contains("the last good policy") && log.contains("delete it"), "{row}: {log}");
        stage.is(One, row)?;
    }
    // What a crash left beside it is none of its business.
    fs::write(&path, &whole)?;
    fs::write(path.with_extension("yaml.new"), first)?;
    stage.repaired()?;
    // By hand, and as an agent before checksums wrote it.
    stage.harness.kill_agent()?;
    let text = String::from_utf8(whole.clone())?;
    let by_hand: Vec<&str> = text.lines().enumerate().filter(|(n, _)| *n != 1).map(|(_, line)| line).collect();
    fs::write(&path, by_hand.join("\n"))?;
    stage.repaired()?;
    // Nothing is a policy, too.
    stage.harness.apply(&workloads())?;
    let all: Vec<String> =
        Who::ALL.into_iter().filter(|who| who.managed()).map(|who| format!("Workload/shop/{}", who.name())).collect();
    let mut delete = vec!["delete"];
    delete.extend(all.iter().map(String::as_str));
    stage.harness.ctl(&delete, "")?.ok()?;
    stage.harness.kill_agent()?;
    Ok(stage.harness.start_agent()?)
}
