//! Lives: weir-tests, live tests of an agent that lacks one of the capabilities it is given, by a table (adversarial 77, 78).
//! Called by: main.
//! May touch: a world of its own.
//! Never: knows what the agent should lack it for: what it does is asked by traffic, and compared with docs/install.md.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use weir_tests::documents::{document, workloads};
use weir_tests::harness::{Harness, Options};
use weir_tests::process::SOON;
use weir_tests::world::Who::{Api, Web};

use crate::cutting::hold;
use crate::limited::after;
use crate::outlives::{is_in_force, policy, serve, start};
use crate::test;

pub fn trials() -> Vec<Trial> {
    vec![test("adversarial 78: without_one_of_its_capabilities_it_says_which_or_lacks_what_is_documented", each)]
}

/// What unit, chart and manifests give (`agent/src/config/deploy_tests.rs` holds that they give the same).
const GIVEN: [&str; 5] = ["bpf", "perfmon", "net_admin", "sys_admin", "sys_ptrace"];

/// What becomes of an agent.
enum Then {
    /// It enforces; whether it also cuts a connection in another network namespace, and what its log says.
    Works { cuts: bool, says: &'static [&'static str] },
    /// It does not start, and says this.
    Refused(&'static [&'static str]),
}
use Then::{Refused, Works};

/// What is left out, and then. CAP_SYS_ADMIN contains two others, so those are missed only where it is, too.
const ROWS: [(&[&str], Then); 9] = [
    (&[], Works { cuts: true, says: &["sealed: no thread"] }),
    (&["bpf"], Works { cuts: true, says: &["started without CAP_BPF", "grant CAP_BPF"] }),
    (&["perfmon"], Works { cuts: true, says: &[] }),
    (&["sys_ptrace"], Works { cuts: false, says: &[] }),
    (&["sys_admin"], Works { cuts: false, says: &["sockets of a network namespace cannot be listed"] }),
    (&["net_admin"], Refused(&["CAP_NET_ADMIN missing", "grant CAP_BPF", "Nothing was changed"])),
    (&["sys_admin", "bpf"], Refused(&["CAP_BPF missing", "grant CAP_BPF"])),
    (&["sys_admin", "perfmon"], Refused(&["CAP_PERFMON missing", "grant CAP_BPF"])),
    (
        &["bpf", "perfmon", "net_admin", "sys_admin", "sys_ptrace"],
        Refused(&["CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN missing"]),
    ),
];

fn each() -> Result<()> {
    let mut harness = start("capabilities", Options { log: "info", ..Options::default() })?;
    let servers = serve(&harness)?;
    let _keeper = harness.world().serve(Api, "tcp-keep --listen [::]:81")?;
    let wrong: Vec<String> = ROWS
        .iter()
        .filter_map(|(without, then)| {
            let done = row(&mut harness, without, then).with_context(|| format!("without {without:?}"));
            done.err().map(|error| format!("{error:#}"))
        })
        .collect();
    drop(servers);
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

fn row(harness: &mut Harness, without: &[&str], then: &Then) -> Result<()> {
    harness.kill_agent()?;
    let given: Vec<String> = GIVEN.iter().filter(|one| !without.contains(one)).map(|one| format!(",+{one}")).collect();
    let words = ["setpriv", "--bounding-set"].map(OsString::from).into_iter();
    let words: Vec<OsString> = words.chain([format!("-all{}", given.concat()).into()]).collect();
    match then {
        Refused(says) => {
            let mut refused = harness.world().start("refused", after(harness, &words)?)?;
            let status = refused.wait(SOON)?;
            let text = std::fs::read_to_string(refused.log())?;
            ensure!(!status.success(), "{status}: {text}");
            let line = text.lines().find(|line| line.starts_with("weir-agent: ")).unwrap_or_default();
            ensure!(says.iter().all(|word| line.contains(word)), "{text}");
            is_in_force(harness, "what was in force stays")
        }
        Works { cuts, says } => {
            let command = after(harness, &words)?;
            harness.start_agent_by(command)?;
            let attached = |harness: &Harness| harness.status().is_ok_and(|status| status.all_attached());
            harness.wait("all workloads to be attached", attached)?;
            is_in_force(harness, "with what it has")?;
            let found = cut(harness, *cuts)?;
            ensure!(found == *cuts, "a connection is cut: {found}");
            let log = std::fs::read_to_string(harness.agent_log().context("no log")?)?;
            ensure!(says.iter().all(|word| log.contains(word)), "{says:?} is not said:\n{log}");
            Ok(())
        }
    }
}

/// Whether a living connection of web is cut once web may call nobody.
fn cut(harness: &mut Harness, is_expected: bool) -> Result<bool> {
    let held = hold(harness, Web, &format!("tcp-hold --to {} --connections 1", SocketAddr::new(Api.v4(), 81)))?;
    harness.apply(&(workloads() + &document("Policy", "shut", SHUT)))?;
    if is_expected {
        harness.wait("nothing forbidden to be found", |harness| harness.status().is_ok_and(|status| status.clean()))?;
    } else {
        // Cutting takes milliseconds; where nobody may, nothing comes to be waited for.
        sleep(Duration::from_secs(2));
    }
    let held = held.withdrawn()?;
    harness.apply(&policy())?;
    Ok(held.living == 0)
}

const SHUT: &str =
    "\n  workloadSelector: {matchLabels: {app: web}}\n  policyTypes: [Egress]\n  defaultAction: deny\n  egress: []";
