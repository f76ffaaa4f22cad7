//! Lives: weir-tests, live tests of `weirctl doctor`, and of a start on a host that does not let the programs in.
//! Called by: main.
//! May touch: worlds of its own; asks the kernel for the ids of all programs and links.
//! Never: believes that nothing was changed because the doctor says so.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use aya::programs::xdp::XdpMode;
use aya::programs::{loaded_links, loaded_programs};
use libtest_mimic::Trial;
use rcgen::{CertificateParams, date_time_ymd};
use serde::Deserialize;
use serde_json::{Value, json};
use weir_tests::documents::{document, workloads};
use weir_tests::harness::ctl::call;
use weir_tests::harness::{Harness, METRICS};
use weir_tests::process::{SOON, program};
use weir_tests::world::Who::{Node, Web};
use weir_tests::world::{World, links};

use crate::interfaces::foreign;
use crate::stage::on_stage;
use crate::test;
use crate::tls::{Authority, Party, authority, signed};
use crate::translator::Translator;

pub fn trials() -> Vec<Trial> {
    vec![
        on_stage("the_doctor_finds_a_running_agent_well_and_changes_nothing", running),
        test("the_doctor_finds_a_good_host_fit_and_changes_nothing", good),
        test("the_doctor_names_what_keeps_an_agent_from_starting", places),
        test("the_doctor_names_who_holds_an_xdp_slot_and_who_else_judges_at_the_tree", neighbours),
        test("the_doctor_names_keys_and_certificates_that_will_not_do", certificates),
        test("the_doctor_names_missing_privileges_and_shows_why_the_verifier_refuses", unprivileged),
        test(
            "adversarial 75: a_start_whose_programs_the_kernel_refuses_ends_before_it_attaches_anything_and_says_why",
            refused,
        ),
    ]
}

/// Everything but CAP_PERFMON, which CAP_SYS_ADMIN contains: the verifier then refuses what only the privileged may do.
const WITHOUT_PERFMON: [&str; 3] = ["setpriv", "--bounding-set=-perfmon,-sys_admin", "--inh-caps=-perfmon,-sys_admin"];
/// May create no map.
const WITHOUT_BPF: [&str; 3] = ["setpriv", "--bounding-set=-bpf,-sys_admin", "--inh-caps=-bpf,-sys_admin"];
const NOBODY: [&str; 4] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];

/// What `weirctl doctor -o json` says.
#[derive(Debug, Deserialize)]
pub struct Report {
    pub passes: bool,
    pub checks: Vec<Check>,
}

#[derive(Debug, Deserialize)]
pub struct Check {
    pub name: String,
    pub outcome: String,
    pub found: String,
    #[serde(default)]
    pub remedy: String,
}

impl Report {
    fn check(&self, name: &str) -> Result<&Check> {
        self.checks.iter().find(|check| check.name == name).with_context(|| format!("no check {name}: {self:?}"))
    }

    /// The check ended so, and says these words.
    fn says(&self, name: &str, outcome: &str, words: &[&str]) -> Result<()> {
        let check = self.check(name)?;
        ensure!(check.outcome == outcome, "{check:?} instead of {outcome}");
        ensure!(words.iter().all(|word| check.found.contains(word)), "{check:?} does not say {words:?}");
        ensure!(outcome == "ok" || outcome == "skipped" || !check.remedy.is_empty(), "no remedy: {check:?}");
        Ok(())
    }

    fn failed(&self) -> BTreeSet<&str> {
        self.checks.iter().filter(|check| check.outcome == "fail").map(|check| check.name.as_str()).collect()
    }
}

/// A configuration of this world, changed by `edit`.
fn config(world: &World, edit: impl FnOnce(&mut Value)) -> Result<PathBuf> {
    let mut file = json!({
        "node": world.name(),
        "cgroupRoot": world.managed(),
        "interfaces": ["v-*"],
        "bpffs": world.bpffs(),
        "stateDir": world.folder().join("state"),
        "grpc": {"socket": {"path": world.folder().join("agent.sock")}},
        "collector": {"address": "none"},
        "metrics": {"listen": METRICS},
    });
    edit(&mut file);
    Ok(world.write("doctor.yaml", &file.to_string())?)
}

/// An edit that sets one key.
fn set(key: &'static str, value: Value) -> impl Fn(&mut Value) {
    move |file| {
        if let Some(keys) = file.as_object_mut() {
            keys.insert(key.to_owned(), value.clone());
        }
    }
}

/// `weirctl doctor` on the node, started by `wrapper`.
fn examine(world: &World, config: &Path, wrapper: &[&str]) -> Result<Report> {
    let mut command = world.probe(Node);
    command.args(["exec", "--"]).args(wrapper).arg(program("weirctl"));
    command.arg("--agent").arg(format!("unix:{}", world.folder().join("agent.sock").display()));
    command.arg("--collector").arg(format!("unix:{}", world.folder().join("collector.sock").display()));
    command.args(["doctor", "-o", "json", "--config"]).arg(config);
    let said = call(command, &["doctor"], "")?;
    let report: Report = serde_json::from_str(&said.out).with_context(|| format!("{said:?}"))?;
    ensure!(said.status.code() == Some(i32::from(!report.passes)), "{said:?}");
    ensure!(report.passes == report.failed().is_empty(), "{report:?}");
    Ok(report)
}

/// Programs and links, by the word that `/proc` has for the kind, and id.
type Ids = BTreeSet<(&'static str, u32)>;

const PROGRAM: &str = "prog_id:";
const LINK: &str = "link_id:";

/// Every program and link in the kernel.
fn in_kernel() -> Ids {
    // One that goes while it is asked about is gone.
    let programs = loaded_programs().filter_map(Result::ok).map(|program| (PROGRAM, program.id()));
    let links = loaded_links().filter_map(Result::ok).map(|link| (LINK, link.id()));
    programs.chain(links).collect()
}

/// Those that a process holds open, by its own folder of `/proc`.
fn held_by(process: &Path) -> Ids {
    let files = fs::read_dir(process.join("fdinfo")).into_iter().flatten().flatten();
    let texts = files.filter_map(|entry| fs::read_to_string(entry.path()).ok()).collect::<String>();
    let id = |line: &str, word: &'static str| Some((word, line.strip_prefix(word)?.trim().parse().ok()?));
    texts.lines().filter_map(|line| id(line, PROGRAM).or_else(|| id(line, LINK))).collect()
}

/// Nothing new is in the kernel that no process holds: the doctor has ended, so what it left would be such. Others on this machine
/// may load and attach at the same time. The kernel frees what a process has held some time after its end.
fn nothing_is_left(before: &Ids) -> Result<()> {
    let deadline = Instant::now() + SOON;
    loop {
        // First what there is, then whose it is: what came in between is not asked about.
        let mut left: Ids = in_kernel().difference(before).copied().collect();
        fs::read_dir("/proc")?.flatten().for_each(|process| left = &left - &held_by(&process.path()));
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("programs and links that nobody holds: {left:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn entries(directory: &Path) -> Result<BTreeSet<PathBuf>> {
    let all = fs::read_dir(directory)?.collect::<Result<Vec<_>, _>>()?;
    Ok(all.into_iter().map(|entry| entry.path()).filter(|path| path.is_dir()).collect())
}

fn running(harness: &mut Harness) -> Result<()> {
    harness.apply(&workloads())?;
    harness
        .wait("all workloads to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
    // The collector knows an agent by its records.
    let attempt = harness.world().attempt(Web, "tcp-connect --to 10.77.0.20:80")?;
    ensure!(attempt.result != "EPERM", "{attempt:?}");
    let pid = harness.agent_pid().context("no agent")?.to_string();
    let process = Path::new("/proc").join(&pid);
    let agents = held_by(&process);
    ensure!(agents.len() > 40, "{agents:?}");
    let (before, generation) = (in_kernel(), harness.status()?.agent.generation);
    let world = harness.world();
    let report = examine(world, &world.folder().join("agent.yaml"), &[])?;
    ensure!(report.passes, "{report:?}");
    report.says("agent", "ok", &[&format!("process {pid} runs with this configuration")])?;
    report.says("metrics.listen", "skipped", &[&pid])?;
    report.says("programs", "ok", &["all 25 load"])?;
    report.says("interfaces", "ok", &["v-web has Weir's (xdp_edge"])?;
    report.says("conflicts-cgroup", "ok", &["no programs of others"])?;
    report.says("policy-stored", "ok", &["resources"])?;
    report.says("open-files", "ok", &["the running agent"])?;
    report.says("running-enforcing", "ok", &[&format!("generation {generation}")])?;
    report.says("running-workloads", "warn", &["NOT COVERED: shop/"])?;
    for name in ["running", "running-interfaces", "running-exporter", "running-counters", "running-collector"] {
        report.says(name, "ok", &[])?;
    }
    nothing_is_left(&before)?;
    ensure!(agents == held_by(&process) && agents.is_subset(&in_kernel()), "the agent's own are gone");
    let status = harness.status()?;
    ensure!(status.agent.generation == generation && status.agent.enforcing, "the agent was disturbed: {status:?}");
    Ok(())
}

fn good() -> Result<()> {
    let world = World::new("doctor-good")?;
    let file = config(&world, |_| {})?;
    let (before, cgroups) = (in_kernel(), entries(&world.managed())?);
    let report = examine(&world, &file, &[])?;
    // Whether the clock of the machine that tests is kept right, and its JIT is hardened, is not ours to say.
    let odd = report.checks.iter().filter(|check| check.outcome != "ok" && !["clock", "jit"].contains(&&*check.name));
    let odd: Vec<&Check> = odd.collect();
    ensure!(report.passes && matches!(odd[..], [one] if one.name == "running" && one.outcome == "skipped"), "{odd:?}");
    for name in ["programs", "hooks-cgroup", "hooks-sk-lookup", "hooks-tcx", "hooks-xdp", "sock-destroy"] {
        report.says(name, "ok", &[])?;
    }
    nothing_is_left(&before)?;
    ensure!(entries(&world.managed())? == cgroups, "a cgroup was left");
    ensure!(!world.folder().join("state").exists(), "the state directory was made");
    Ok(())
}

/// One fault at a time; each is named, and nothing else fails.
fn places() -> Result<()> {
    let world = World::new("doctor-places")?;
    let fails = |name: &str, words: &[&str], edit: &dyn Fn(&mut Value)| -> Result<()> {
        let report = examine(&world, &config(&world, edit)?, &[])?;
        ensure!(report.failed() == BTreeSet::from([name]), "{name}: {:?}", report.failed());
        report.says(name, "fail", words)
    };
    let nowhere = world.managed().join("nowhere");
    fails("cgroup-root", &["nowhere", "create the directory"], &set("cgroupRoot", json!(nowhere)))?;
    fails("cgroup-root", &["not on a cgroup2"], &set("cgroupRoot", json!("/tmp")))?;
    let mounted = fs::read_to_string("/proc/self/mountinfo")?;
    let mounted = mounted.lines().find(|line| line.contains(" - cgroup2 ")).and_then(|line| line.split(' ').nth(4));
    let top = mounted.context("no cgroup2 is mounted")?;
    fails("cgroup-root", &["root of the cgroup tree"], &set("cgroupRoot", json!(top)))?;
    let report = examine(&world, &config(&world, set("stateDir", json!("/proc/version/weir")))?, &[])?;
    report.says("state-dir", "fail", &["is no directory"])?;
    fails("policy-dir", &["nowhere"], &set("policyDir", json!("/nowhere")))?;
    let taken = world.serve(Node, &format!("tcp-serve --listen {METRICS}"))?;
    fails("metrics.listen", &[METRICS, "in use"], &|_| {})?;
    drop(taken);
    // Unknown and misspelt keys, in a file with a secret in the wrong place.
    let file = config(&world, set("passwort", json!("CANARY")))?;
    let report = examine(&world, &file, &[])?;
    report.says("configuration", "fail", &["1 fault at"])?;
    ensure!(!format!("{report:?}").contains("CANARY"), "{report:?}");
    // A limit that asks for SYN protection where the kernel gives no cookies.
    let limit =
        "\n  workloadSelector: {matchLabels: {app: api}}\n  connections: {perSecond: 9}\n  synProtection: always";
    fs::create_dir(world.folder().join("policies"))?;
    fs::write(world.folder().join("policies/limit.yaml"), document("RateLimit", "syn", limit))?;
    let policies = json!(world.folder().join("policies"));
    fails("syn-cookies", &["net.ipv4.tcp_syncookies is 1"], &set("policyDir", policies))
}

fn neighbours() -> Result<()> {
    let world = World::new("doctor-neighbours")?;
    let file = config(&world, |_| {})?;
    let node = world.netns(Node);
    links::spare(&node, "v-spare")?;
    let held = foreign(&world, "v-spare", XdpMode::Driver)?;
    let above = world.managed().parent().context("no cgroup above")?.to_path_buf();
    let (inside, outside) = (Translator::attach(&world.managed())?, Translator::attach(&above)?);
    let report = examine(&world, &file, &[])?;
    report.says("interfaces", "fail", &["v-spare is held by foreign (id ", "native", "v-web is free"])?;
    let conflicts =
        ["connect4 (id ", "at connect6, at the root of the managed tree", "at sendmsg4, above it, so after Weir's"];
    report.says("conflicts-cgroup", "warn", &conflicts)?;
    ensure!(report.failed() == BTreeSet::from(["interfaces"]), "{report:?}");
    drop((held, inside, outside));
    let report = examine(&world, &file, &[])?;
    report.says("interfaces", "ok", &["v-spare is free"])?;
    report.says("conflicts-cgroup", "ok", &[])
}

fn certificates() -> Result<()> {
    let world = World::new("doctor-tls")?;
    let ours = authority(world.folder(), "ours")?;
    let row = |name: &str, ours: &Authority, until: Option<(i32, u8, u8)>| -> Result<Party> {
        let mut params = CertificateParams::new(vec!["10.77.0.1".to_owned()])?;
        if let Some((year, month, day)) = until {
            (params.not_before, params.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(year, month, day));
        }
        let party = signed(world.folder(), name, ours, &params)?;
        fs::set_permissions(&party.key, Permissions::from_mode(0o600))?;
        Ok(party)
    };
    let report = |party: &Party| {
        let tls = json!({"certificate": party.certificate, "key": party.key, "clientCa": ours.file});
        let grpc = json!({"socket": {"path": world.folder().join("agent.sock")}, "tcp": {"listen": "10.77.0.1:7443", "tls": tls}});
        let file = config(&world, set("grpc", grpc))?;
        examine(&world, &file, &[])
    };
    let (good, other) = (row("good", &ours, None)?, row("other", &ours, None)?);
    report(&good)?.says("grpc.tcp.tls", "ok", &["good.pem is valid until", "ours.pem is valid until"])?;
    report(&row("old", &ours, Some((2002, 1, 1)))?)?.says(
        "grpc.tcp.tls",
        "fail",
        &["old.pem has ended at 2002-01-01"],
    )?;
    let soon = jiff::Zoned::now().checked_add(jiff::Span::new().days(3))?.date();
    let soon = (i32::from(soon.year()), u8::try_from(soon.month())?, u8::try_from(soon.day())?);
    report(&row("soon", &ours, Some(soon))?)?.says("grpc.tcp.tls", "warn", &["soon.pem ends at"])?;
    fs::set_permissions(&good.key, Permissions::from_mode(0o644))?;
    report(&good)?.says("grpc.tcp.tls", "warn", &["others may read the key", "0644"])?;
    let mixed = Party { certificate: good.certificate.clone(), key: other.key.clone() };
    report(&mixed)?.says("grpc.tcp.tls", "fail", &["good.pem"])?;
    let absent = Party { certificate: good.certificate, key: world.folder().join("absent.key") };
    report(&absent)?.says("grpc.tcp.tls", "fail", &["absent.key"])
}

fn unprivileged() -> Result<()> {
    let world = World::new("doctor-nobody")?;
    let file = config(&world, |_| {})?;
    // Readable, so that what is missing is privileges alone.
    fs::set_permissions(world.folder(), Permissions::from_mode(0o755))?;
    let report = examine(&world, &file, &NOBODY)?;
    report.says("configuration", "ok", &[])?;
    report.says("privileges", "fail", &["CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN missing"])?;
    report.says("programs", "fail", &["failed to create map", "Operation not permitted"])?;
    report.says("state-dir", "fail", &["not writable"])?;
    report.says("hooks-cgroup", "skipped", &[])?;

    let before = in_kernel();
    let report = examine(&world, &file, &WITHOUT_PERFMON)?;
    report.says("privileges", "fail", &["CAP_PERFMON missing"])?;
    let programs = report.check("programs")?;
    report.says("programs", "fail", &["the kernel refused program `", "and 22 more"])?;
    ensure!(programs.found.lines().count() < 35, "a telling line or two: {programs:?}");
    nothing_is_left(&before)
}

/// By taking a privilege away, so that it is the verifier of this kernel that refuses.
fn refused() -> Result<()> {
    let world = World::new("refused")?;
    let file = config(&world, |_| {})?;
    for (wrapper, words) in [
        (WITHOUT_PERFMON, &["the kernel refused program `ingress`", "weir_merged"][..]),
        (WITHOUT_BPF, &["failed to create map", "Operation not permitted"]),
    ] {
        let before = in_kernel();
        let mut command = world.probe(Node);
        command.args(["exec", "--"]).args(wrapper).arg(program("weir-agent")).arg("--config").arg(&file);
        let mut agent = world.start("refused-agent", command)?;
        let status = agent.wait(SOON)?;
        let log = agent.log_tail(1000);
        ensure!(status.code() == Some(1), "{status}:\n{log}");
        ensure!(words.iter().all(|word| log.contains(word)), "{words:?} not in\n{log}");
        ensure!(log.lines().count() < 20, "the whole log of the verifier:\n{log}");
        ensure!(!log.contains("enforcing"), "{log}");
        nothing_is_left(&before)?;
        ensure!(!world.folder().join("agent.sock").exists(), "it listened");
        for who in ["v-web", "v-api"] {
            ensure!(links::xdp(&world.netns(Node), who)?.is_none(), "{who} has a program");
        }
    }
    Ok(())
}
