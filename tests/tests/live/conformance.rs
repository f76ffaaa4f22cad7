//! Lives: weir-tests, the runner of conformance cases on a running cluster.
//! Called by: main.
//! May touch: what `weir-conformance --live` makes, a world of its own; a temporary folder of cases.
//! Never: trusts a runner that cannot fail: expectations that are wrong must be told, each by name.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::{Value, json};
use weir_tests::process::program;
use weir_tests::world::{ledger, netns};

use crate::test;

/// One of each kind: tiers, ports by number and name, both families, nodes and pods in their network, Services, the outside,
/// and steps that change labels, pods, policies and addresses.
const HANDFUL: [&str; 11] = [
    "cnp-admin-nodes",
    "cnp-three-tiers",
    "np-api-default-deny-and-replies",
    "np-api-internet-but-not-private",
    "np-api-service-named-target",
    "np-cyc-port-named-udp",
    "np-e2e-pod-relabelled",
    "np-knp-kubelet-probe",
    "np-ovn-egress-dual-except",
    "weir-address-changes-hands",
    "weir-new-pod-is-isolated-at-once",
];

pub fn trials() -> Vec<Trial> {
    vec![
        test("cases hold on a running cluster, and nothing of it is left behind", cases_hold),
        test("an expectation that is wrong is told, whichever way, and after a step too", wrong_expectations_are_told),
        test("what cannot be asked here is counted apart, and never as passed", not_runnable_is_counted_apart),
        test("a world of a runner that is stopped is removed", a_stopped_runner_cleans_up),
    ]
}

fn cases_hold() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for name in HANDFUL {
        std::fs::copy(path(name), folder.path().join(format!("{name}.json"))).with_context(|| name.to_owned())?;
    }
    let (output, pid) = run(folder.path(), &[])?;
    let said = text(&output);
    ensure!(output.status.success() && said.ends_with("\n11 passed, 0 failed, 0 not runnable\n"), "{said}");
    ensure!(left_behind(pid).is_empty(), "left behind: {:?}", left_behind(pid));
    Ok(())
}

fn wrong_expectations_are_told() -> Result<()> {
    let folder = tempfile::tempdir()?;
    // What is refused by an egress rule, by an ingress rule, and what is allowed; the last one after a step.
    let rows = [
        ("np-knp-kubelet-probe", "/expected", "node:"),
        ("np-ovn-egress-dual-except", "/expected", "ipv6"),
        ("np-api-default-deny-and-replies", "/expected", "UDP"),
        ("np-e2e-pod-relabelled", "/then/0/expected", "TCP"),
    ];
    let mut flipped = Vec::new();
    for (name, place, word) in rows {
        let mut case: Value = serde_json::from_str(&std::fs::read_to_string(path(name))?)?;
        let questions = case.pointer_mut(place).and_then(Value::as_array_mut).context("no questions")?;
        let asked = |allowed: bool| {
            let of_kind = |question: &Value| question["allowed"] == allowed && question.to_string().contains(word);
            questions.iter().position(of_kind).map(|place| (place, allowed))
        };
        let places: Vec<_> = [asked(true), asked(false)].into_iter().flatten().collect();
        for (place, allowed) in places {
            let question = questions.get_mut(place).context("no question")?;
            question["allowed"] = json!(!allowed);
            let (from, to) = (question["from"].as_str().unwrap_or(""), question["to"].as_str().unwrap_or(""));
            let wanted = if allowed { "must be refused" } else { "must be allowed" };
            let port = question["port"].as_u64().unwrap_or(0);
            flipped.push((format!("{from} to {to} {port}/"), wanted));
        }
        std::fs::write(folder.path().join(format!("{name}.json")), case.to_string())?;
    }
    ensure!(flipped.len() >= 6, "too few: {flipped:?}");
    let (output, _) = run(folder.path(), &[])?;
    let said = text(&output);
    ensure!(output.status.code() == Some(1) && said.ends_with("\n0 passed, 4 failed, 0 not runnable\n"), "{said}");
    for (question, wanted) in &flipped {
        let told = said.lines().any(|line| line.contains(question) && line.contains(wanted));
        ensure!(told, "{question}: {wanted} is not told:\n{said}");
    }
    let told = said.lines().filter(|line| line.contains(": must be ")).count();
    ensure!(told == flipped.len(), "{told} instead of {}:\n{said}", flipped.len());
    ensure!(said.contains("after \""), "the step is not named:\n{said}");
    Ok(())
}

fn not_runnable_is_counted_apart() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut case: Value = serde_json::from_str(&std::fs::read_to_string(path("np-knp-kubelet-probe"))?)?;
    let questions = case.pointer_mut("/expected").and_then(Value::as_array_mut).context("no questions")?;
    for question in questions {
        question["protocol"] = json!("ICMP");
    }
    std::fs::write(folder.path().join("case.json"), case.to_string())?;
    let (output, _) = run(folder.path(), &[])?;
    let said = text(&output);
    ensure!(said.ends_with("\n0 passed, 0 failed, 1 not runnable\n"), "{said}");
    ensure!(said.contains("\n3 questions not runnable, about ICMP"), "{said}");
    Ok(())
}

fn a_stopped_runner_cleans_up() -> Result<()> {
    let mut child = command(&path("np-api-default-deny-and-replies"), &[]).spawn()?;
    let pid = child.id();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    // Far enough to have pods.
    while left_behind(pid).len() < 10 {
        ensure!(std::time::Instant::now() < deadline && child.try_wait()?.is_none(), "it never got as far");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), nix::sys::signal::Signal::SIGTERM)?;
    child.wait()?;
    ensure!(left_behind(pid).is_empty(), "left behind: {:?}", left_behind(pid));
    Ok(())
}

fn command(cases: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(program("weir-conformance"));
    command.arg("--live").arg(cases).args(more);
    command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null());
    command
}

fn run(cases: &Path, more: &[&str]) -> Result<(Output, u32)> {
    let child = command(cases, more).stderr(std::process::Stdio::piped()).spawn()?;
    let pid = child.id();
    Ok((child.wait_with_output()?, pid))
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

/// What there is of the world of a runner: folders, namespaces and cgroups.
fn left_behind(pid: u32) -> Vec<PathBuf> {
    let name = format!("weir-conformance-{pid}");
    let cgroups = weir_tests::world::cgroup::mount().unwrap_or_default();
    let folders = [PathBuf::from(ledger::FOLDER), PathBuf::from(netns::FOLDER), cgroups];
    let entries = folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.display().to_string().contains(&name)).collect()
}

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("conformance/cases/{name}.json"))
}
