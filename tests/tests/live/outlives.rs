//! Lives: weir-tests, live tests of what stays in force when the agent does not run, and of how the next one takes over.
//! Called by: main; `soak`, for what it takes away; `upgrades`, for the load.
//! May touch: worlds of its own, whose agent it stops, kills and starts; the pins of that agent.
//! Never: takes the word of status for it: what is in force is asked by traffic.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use weir_tests::documents::{document, workloads};
use weir_tests::harness::{Harness, Options};
use weir_tests::process::{Running, SOON, program};
use weir_tests::report::{AT_LAST, Stormed};
use weir_tests::world::Who::{self, Api, Client, Db, Polite, Web};
use weir_tests::world::World;

use crate::cutting::hold;
use crate::test;

pub fn trials() -> Vec<Trial> {
    vec![
        test("what_is_in_force_stays_in_force_whatever_becomes_of_the_agent", stays),
        test("adversarial_67_kills_under_load_let_no_denied_packet_pass_and_cut_no_allowed_connection", kills),
        test("adversarial_71_what_is_taken_away_is_noticed_and_put_back", put_back),
        test("adversarial_81_detach_removes_all_of_weir_and_nothing_else", detaches),
        test("enforcement_ends_with_the_agent_where_that_is_asked_for", unpinned),
    ]
}

/// How many kills; a longer run is a matter of this alone.
const KILLS: &str = "WEIR_KILLS";

/// web may call api and nobody else, db may not call api, whom a stranger at client's address does not reach at all.
pub fn policy() -> String {
    let web = "\n  workloadSelector: {matchLabels: {app: web}}\n  policyTypes: [Egress]\n  defaultAction: deny\n  \
               egress: [{name: api, to: [{workloadSelector: {matchLabels: {app: api}}}]}]";
    let api = "\n  workloadSelector: {matchLabels: {app: api}}\n  policyTypes: [Ingress]\n  defaultAction: deny\n  \
               ingress: [{name: web, from: [{workloadSelector: {matchLabels: {app: web}}}]}]";
    let blocked = format!("{{action: block, addresses: [{}]}}", Client.v4());
    workloads()
        + &document("Policy", "web-out", web)
        + &document("Policy", "api-in", api)
        + &document("AddressSet", "blocked", &blocked)
}

/// A node that denies strangers: to the programs of a new agent a workload must never be one.
pub fn strict() -> Options {
    Options { unknown: "deny", ..Options::default() }
}

/// A world with that policy in force.
pub fn start(label: &str, options: Options) -> Result<Harness> {
    let mut harness = Harness::start(World::new(label)?, options)?;
    harness.apply(&policy())?;
    harness
        .wait("all workloads to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
    Ok(harness)
}

/// Asks by traffic whether the policy is in force, at every hook. `false` also when only a part of it is.
fn in_force(harness: &Harness) -> Result<Vec<(&'static str, bool)>> {
    let tried = |who: Who, to: Who, port: u16| -> Result<String> {
        let line = format!("tcp-connect --to {} --timeout-ms 400", SocketAddr::new(to.v4(), port));
        Ok(harness.world().attempt(who, &line)?.result)
    };
    Ok(vec![
        ("allowed", tried(Web, Api, 80)? == "ok"),
        ("connect", tried(Web, Db, 80)? == "EPERM"),
        // Where `sk_lookup` judges, the kernel answers.
        ("ingress", ["ETIMEDOUT", "ECONNREFUSED"].contains(&tried(Db, Api, 80)?.as_str())),
        ("xdp", tried(Client, Db, 80)? == "ETIMEDOUT"),
        ("not blocked", tried(Polite, Db, 80)? == "ok"),
    ])
}

pub fn is_in_force(harness: &Harness, when: &str) -> Result<()> {
    let wrong: Vec<_> = in_force(harness)?.into_iter().filter(|(_, as_it_must)| !as_it_must).collect();
    ensure!(wrong.is_empty(), "{when}: {wrong:?}");
    Ok(())
}

pub fn serve(harness: &Harness) -> Result<[Running; 2]> {
    Ok([
        harness.world().serve(Api, "tcp-serve --listen [::]:80")?,
        harness.world().serve(Db, "tcp-serve --listen [::]:80")?,
    ])
}

/// The pins below the world's BPF file system, with the runs they are of.
pub fn pins(harness: &Harness) -> Vec<(String, PathBuf)> {
    let below = |path: PathBuf| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let runs = below(harness.world().bpffs().join("weir")).flat_map(below);
    let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    runs.flat_map(|run| below(run.clone()).map(move |pin| (name(&run), pin)).collect::<Vec<_>>()).collect()
}

pub fn runs(harness: &Harness) -> Vec<String> {
    // A shared XDP slot has a folder of its own, which agents hand on.
    let of_agents = pins(harness).into_iter().map(|(run, _)| run).filter(|run| !run.starts_with("xdp-"));
    let mut runs: Vec<String> = of_agents.collect();
    runs.sort();
    runs.dedup();
    runs
}

fn stays() -> Result<()> {
    let mut harness = start("outlives", strict())?;
    let _servers = serve(&harness)?;
    is_in_force(&harness, "at first")?;
    let first = harness.status()?.agent.generation;
    harness.stop_agent()?;
    is_in_force(&harness, "stopped")?;
    harness.start_agent()?;
    ensure!(harness.status()?.agent.generation > first, "the generations begin anew");
    is_in_force(&harness, "started again")?;
    ensure!(runs(&harness) == ["run-2"], "of the agent before is left: {:?}", runs(&harness));
    // A cgroup that goes while nobody looks leaves nothing behind.
    let late = harness.world().managed().join("late");
    weir_tests::world::cgroup::create(&late)?;
    harness.add("---\napiVersion: weir.dev/v1alpha1\nkind: Workload\nmetadata: {name: late, namespace: shop}\nspec: {cgroup: late}\n")?;
    harness.wait("late to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
    harness.kill_agent()?;
    weir_tests::world::cgroup::remove(&late)?;
    is_in_force(&harness, "killed")?;
    // Of an agent that dies before it has taken over, nothing is left in force but what was before.
    let mut hasty = harness.world().start("hasty", harness.agent_command()?)?;
    sleep(Duration::from_millis(150));
    hasty.signal(nix::sys::signal::Signal::SIGKILL);
    hasty.wait(SOON)?;
    is_in_force(&harness, "killed while it started")?;
    harness.start_agent()?;
    is_in_force(&harness, "started once more")?;
    harness.wait("the runs before to be let go of", |harness| runs(harness).len() == 1)?;
    ensure!(harness.status()?.agent.repairs == 0, "it put something back that nobody took");
    // The new one rules: what it allows, the old ones do not forbid.
    harness.apply(&workloads())?;
    for (who, to) in [(Web, Db), (Db, Api), (Client, Db)] {
        let line = format!("tcp-connect --to {}", SocketAddr::new(to.v4(), 80));
        let attempt = harness.world().attempt(who, &line)?;
        ensure!(attempt.result == "ok", "{who:?} to {to:?}: {attempt:?}");
    }
    Ok(())
}

fn kills() -> Result<()> {
    let count: usize = std::env::var(KILLS).ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let mut harness = start("kills", strict())?;
    let load = Load::start(&harness)?;
    for kill in 0..count {
        harness.kill_agent()?;
        if kill % 4 == 3 {
            // Some die on their way, wherever that is.
            let mut hasty = harness.world().start("hasty", harness.agent_command()?)?;
            sleep(Duration::from_millis(kill as u64 * 37 % 900));
            hasty.signal(nix::sys::signal::Signal::SIGKILL);
            hasty.wait(SOON)?;
        }
        harness.start_agent()?;
    }
    println!("    {count} kills; {}", load.end()?);
    Ok(())
}

/// Connections that live, ever new ones that are allowed, and a thousand forbidden tries a second, by the policy of [`start`].
pub struct Load {
    _keeper: Running,
    held: Running,
    servers: [Running; 2],
    allowed: Running,
    refused: Running,
    lost: Running,
}

impl Load {
    pub fn start(harness: &Harness) -> Result<Self> {
        let world = harness.world();
        let keeper = world.serve(Api, "tcp-keep --listen [::]:81 --seconds 3000")?;
        let to = SocketAddr::new(Api.v4(), 81);
        let held = hold(harness, Web, &format!("tcp-hold --to {to} --connections 20 --seconds 3000"))?;
        let listen = |who: Who| {
            format!("storm-serve --listen {} --listen {}", SocketAddr::new(who.v4(), 80), SocketAddr::new(who.v6(), 80))
        };
        let serve = |who: Who| world.serve(who, &format!("{} --seconds 3000", listen(who)));
        let storm = |from: Who, to: Who, rest: &str| {
            let line = format!(
                "storm --from {} --from {} --to {} --to {} --seconds 3000 {rest}",
                from.v4(),
                from.v6(),
                SocketAddr::new(to.v4(), 80),
                SocketAddr::new(to.v6(), 80)
            );
            world.start("storm", world.probe_line(from, &line))
        };
        Ok(Self {
            _keeper: keeper,
            held,
            servers: [serve(Api)?, serve(Db)?],
            allowed: storm(Web, Api, "--threads 2 --pause-ms 4 --timeout-ms 8000 --again-ms 1000")?,
            // A thousand tries a second between them.
            refused: storm(Web, Db, "--threads 4 --pause-ms 3 --timeout-ms 1000")?,
            lost: storm(Db, Api, "--threads 16 --pause-ms 2 --timeout-ms 15")?,
        })
    }

    /// What there was, if all of it went as the policy says.
    pub fn end(self) -> Result<String> {
        let (refused, lost, allowed) = (self.refused.stormed()?, self.lost.stormed()?, self.allowed.stormed()?);
        let [api, db] = self.servers;
        let (_, at_db) = (api.stormed()?, db.stormed()?);
        let held = self.held.withdrawn()?;
        let tries =
            only(&refused, &["EPERM"]).context("refused")? + only(&lost, &["ETIMEDOUT"]).context("not let in")?;
        let passed = only(&allowed, &["ok", AT_LAST]).context("allowed")?;
        ensure!(at_db.ends.is_empty(), "came to db: {at_db:?}");
        ensure!(held.living == 20 && held.ended.is_empty(), "held connections were cut: {held:?}");
        let again: u64 = allowed.ends.values().filter_map(|results| results.get(AT_LAST)).sum();
        Ok(format!(
            "{tries} forbidden tries, none passed; {passed} allowed ones, all passed, {again} by a second datagram; 20 of 20 held connections live"
        ))
    }
}

/// How many tries there were; an error when one had another result.
fn only(seen: &Stormed, expected: &[&str]) -> Result<u64> {
    let wrong = |results: &std::collections::BTreeMap<String, u64>| {
        results.keys().any(|result| !expected.contains(&result.as_str()))
    };
    let odd: Vec<_> = seen.ends.iter().filter(|(_, results)| wrong(results)).collect();
    ensure!(odd.is_empty(), "{odd:?}");
    let tries = seen.ends.values().flat_map(|results| results.values()).sum();
    ensure!(tries > 100, "only {tries} tries");
    Ok(tries)
}

/// What an attacker with root, or a clumsy tool, may do to it.
fn put_back() -> Result<()> {
    let mut harness = start("taken", Options { ingress_hook: "sk_lookup", ..Options::default() })?;
    let _servers = serve(&harness)?;
    let kinds = ["cgroup-", "xdp-", "netns-"];
    harness
        .wait("its namespaces", |harness| kinds.iter().all(|kind| pins(harness).iter().any(|pin| is_of(pin, kind))))?;
    let mut repairs = harness.status()?.agent.repairs;
    ensure!(repairs == 0, "{repairs}");
    for kind in kinds {
        for detach in [true, false] {
            let victims: Vec<PathBuf> =
                pins(&harness).into_iter().filter(|pin| is_of(pin, kind)).map(|(_, pin)| pin).collect();
            ensure!(!victims.is_empty(), "nothing of {kind} is pinned");
            for pin in &victims {
                match detach {
                    true => take_off(pin)?,
                    false => fs::remove_file(pin)?,
                }
            }
            let expected = repairs + victims.len() as u64;
            harness.wait("all of it to be put back", |harness| {
                harness.status().is_ok_and(|status| status.agent.repairs >= expected)
            })?;
            repairs = harness.status()?.agent.repairs;
            ensure!(repairs == expected, "{repairs} repairs for {} that were taken", victims.len());
            let now = pins(&harness).into_iter().filter(|pin| is_of(pin, kind)).count();
            ensure!(now == victims.len(), "{kind}: {now} pins in place of {}", victims.len());
            is_in_force(&harness, &format!("{kind} taken away and put back"))?;
        }
    }
    ensure!(harness.logs().contains("somebody took away"), "the log does not say so");
    // The file system itself.
    harness.world().unmount_bpffs()?;
    harness.wait("it to be noticed", |harness| harness.status().is_ok_and(|status| !status.agent.pinned))?;
    is_in_force(&harness, "without a BPF file system")?;
    harness.world().mount_bpffs()?;
    harness.wait("it to be pinned again", |harness| {
        harness.status().is_ok_and(|status| status.agent.pinned) && !pins(harness).is_empty()
    })?;
    harness.kill_agent()?;
    is_in_force(&harness, "killed after all of that")
}

fn is_of((_, pin): &(String, PathBuf), kind: &str) -> bool {
    pin.file_name().is_some_and(|name| name.to_string_lossy().starts_with(kind))
}

pub fn take_off(pin: &std::path::Path) -> Result<()> {
    let done = std::process::Command::new(program("weir-probe")).arg("link-detach").arg("--pin").arg(pin).status()?;
    ensure!(done.success(), "{} could not be detached", pin.display());
    Ok(())
}

fn detaches() -> Result<()> {
    let mut harness = start("detaches", Options::default())?;
    let _servers = serve(&harness)?;
    let detach = |harness: &Harness| {
        let config = harness.world().folder().join("agent.yaml");
        let config = config.display().to_string();
        harness.ctl(&["detach", "--config", &config], "")
    };
    let refused = detach(&harness)?;
    ensure!(!refused.status.success() && refused.err.contains("already runs"), "{refused:?}");
    is_in_force(&harness, "detach was refused")?;
    harness.stop_agent()?;
    // Somebody else's, beside ours.
    let other = harness.world().bpffs().join("other");
    fs::create_dir(&other)?;
    let count = pins(&harness).len();
    let said = detach(&harness)?.ok()?;
    ensure!(said.contains(&format!("{count} links")), "{said}");
    ensure!(other.is_dir() && pins(&harness).is_empty(), "{:?}", pins(&harness));
    for (name, as_before) in in_force(&harness)? {
        let free = matches!(name, "allowed" | "not blocked");
        ensure!(as_before == free, "after detaching: {name}");
    }
    ensure!(detach(&harness)?.ok()?.contains("0 links"), "there is something left to detach");
    Ok(())
}

fn unpinned() -> Result<()> {
    let mut harness = start("unpinned", Options { pin: false, ..Options::default() })?;
    let _servers = serve(&harness)?;
    is_in_force(&harness, "at first")?;
    ensure!(!harness.status()?.agent.pinned && pins(&harness).is_empty(), "something is pinned");
    harness.stop_agent()?;
    for (name, as_before) in in_force(&harness)? {
        ensure!(as_before == matches!(name, "allowed" | "not blocked"), "after its end: {name}");
    }
    Ok(())
}
