//! Lives: weir-tests, live tests of cgroups that come and go: what they leave behind in the agent and the kernel.
//! Called by: main.
//! May touch: a world of its own.
//! Never: takes a steady number for a small one: the first round is what the others are compared with.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use weir_tests::documents::document;
use weir_tests::harness::{Harness, Options};
use weir_tests::process::program;
use weir_tests::world::Who::Web;
use weir_tests::world::{World, cgroup};

use crate::stage::agrees;
use crate::test;

pub fn trials() -> Vec<Trial> {
    vec![
        test("adversarial 49: a_thousand_cgroups_that_come_and_go_leave_nothing_behind", || churn(10)),
        test("adversarial 49: at_length_thirty_thousand_cgroups_come_and_go", || churn(300)).with_ignored_flag(true),
    ]
}

/// Cgroups that a workload names, and such that none does, in each round.
const NAMED: usize = 50;
const NAMELESS: usize = 50;

/// How long links of a cgroup that is gone may be held.
const GONE_WITHIN: Duration = Duration::from_secs(20);

/// What the agent holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    descriptors: usize,
    /// Bytes of the maps: tables without a fixed size count their entries.
    maps: u64,
    resident_kib: u64,
}

impl Held {
    fn by(pid: u32) -> Result<Held> {
        let folder = Path::new("/proc").join(pid.to_string());
        let (mut descriptors, mut maps) = (0, 0);
        for entry in fs::read_dir(folder.join("fdinfo"))? {
            // One that is closed meanwhile is not held.
            let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
            descriptors += 1;
            let number = text.lines().find_map(|line| line.strip_prefix("memlock:")).map(str::trim);
            if text.contains("map_type:") {
                maps += number.context("a map without a size")?.parse::<u64>()?;
            }
        }
        let status = fs::read_to_string(folder.join("status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(Held { descriptors, maps, resident_kib: resident.trim().trim_end_matches(" kB").parse()? })
    }
}

/// What it holds once it has let go of cgroups that are gone, which it does when it looks next: descriptors are about as many as `idle`.
fn let_go(pid: u32, idle: usize) -> Result<Held> {
    let until = Instant::now() + GONE_WITHIN;
    loop {
        let held = Held::by(pid)?;
        // Connections of gRPC, and files that are open for a moment.
        if held.descriptors <= idle + 8 {
            return Ok(held);
        }
        ensure!(Instant::now() < until, "descriptors {idle} became {}, and stay so", held.descriptors);
        sleep(Duration::from_millis(50));
    }
}

fn churn(rounds: usize) -> Result<()> {
    let mut harness = Harness::start(World::new("churn")?, Options::default())?;
    let name = |n: usize| format!("come-and-go-{n}");
    let workload = |n: usize| {
        format!(
            "---\napiVersion: weir.dev/v1alpha1\nkind: Workload\n\
             metadata: {{name: {name}, namespace: shop, labels: {{app: churn}}}}\nspec: {{cgroup: {name}}}\n",
            name = name(n)
        )
    };
    let select = "workloadSelector: {matchLabels: {app: churn}}";
    let spec = format!("\n  {select}\n  policyTypes: [Egress]\n  defaultAction: deny");
    let documents: String = (0..NAMED).map(workload).chain([document("Policy", "closed", &spec)]).collect();
    harness.apply(&documents)?;
    let pid = harness.agent_pid().context("the agent is not running")?;
    states(&mut harness, "waiting")?;
    let (mut first, mut last, began) = (None, None, Instant::now());
    let idle = Held::by(pid)?.descriptors;
    for round in 0..=rounds {
        let managed = harness.world().managed();
        let all: Vec<_> = (0..NAMED + NAMELESS).map(|n| managed.join(name(n))).collect();
        all.iter().try_for_each(|path| cgroup::create(path))?;
        states(&mut harness, "attached")?;
        refused(&harness, &managed.join(name(round % NAMED)))?;
        all.iter().try_for_each(|path| cgroup::remove(path))?;
        states(&mut harness, "waiting")?;
        let held = let_go(pid, idle).with_context(|| format!("round {round}"))?;
        let Held { descriptors, maps, resident_kib } = *first.get_or_insert(held);
        ensure!(
            held.descriptors <= descriptors + 4,
            "round {round}: descriptors {descriptors} became {}",
            held.descriptors
        );
        ensure!(held.maps <= maps + 4096, "round {round}: maps of {maps} bytes became {}", held.maps);
        ensure!(held.resident_kib <= resident_kib + 16 * 1024, "round {round}: {resident_kib} KiB became {held:?}");
        last = Some(held);
    }
    let (first, last) = (first.context("no round")?, last.context("no round")?);
    println!("    {} cgroups in {:.0?}: {first:?} became {last:?}", (rounds + 1) * (NAMED + NAMELESS), began.elapsed());
    agrees(&harness)
}

fn states(harness: &mut Harness, wanted: &str) -> Result<()> {
    Ok(harness.wait(&format!("every cgroup to be {wanted}"), |harness| {
        harness.status().is_ok_and(|status| status.agent.workloads.iter().all(|workload| workload.state == wanted))
    })?)
}

fn refused(harness: &Harness, path: &Path) -> Result<()> {
    let mut command = std::process::Command::new(program("weir-probe"));
    command.arg("--netns").arg(harness.world().netns(Web)).arg("--cgroup").arg(path);
    command.args(["tcp-connect", "--to", "10.77.0.20:80"]);
    let attempt = harness.world().start("churning", command)?.attempt()?;
    ensure!(attempt.result == "EPERM", "{}: {attempt:?}", path.display());
    Ok(())
}
