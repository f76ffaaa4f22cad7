//! Lives: weir-tests, a live test of `weirctl support-bundle` with secrets planted wherever one could stand.
//! Called by: main.
//! May touch: a world of its own.
//! Never: unpacks with the code that packed.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use weir_tests::documents::{document, workloads};
use weir_tests::harness::ctl::{Said, call};
use weir_tests::harness::{Harness, Options};
use weir_tests::process::program;
use weir_tests::world::Who::{Api, Node, Web};

use crate::test;
use crate::tls::{Network, network};

pub fn trials() -> Vec<Trial> {
    vec![test("a_support_bundle_has_what_helps_and_none_of_the_secrets_planted_around_it", bundle)]
}

/// Must be nowhere in a bundle.
const CANARY: &str = "weir-canary-7f3a91";
/// An entry of a set, and one that was loaded: a bundle has only their number.
const ENTRIES: [&str; 2] = ["203.0.113.99", "198.51.100.77"];

/// Every member that a bundle of a healthy agent has, and words that show its content is real.
const MEMBERS: [(&str, &[&str]); 10] = [
    ("manifest.json", &["\"members\"", "\"leftOut\"", "private keys"]),
    ("status.json", &["\"enforcing\": true", "shop/web", "\"hook\": \"connect\""]),
    ("limits.json", &["RateLimit/shop/generous"]),
    ("doctor.json", &["\"running-enforcing\"", "\"grpc.tcp.tls\"", "all 25 load"]),
    ("configuration.json", &["\"cgroupRoot\"", "server.key", "10.77.0.1:7443"]),
    ("kernel.json", &["xdp_edge", "\"v-web\"", "sock_ops"]),
    ("resources.yaml", &["kind: Policy", "name: web-out", "1 left out", "last-applied-configuration"]),
    ("sets.json", &["\"name\": \"drop\"", "\"loaded\": 1"]),
    ("metrics.txt", &["weir_enforcing 1", "# EOF"]),
    ("host.json", &["CONFIG_CGROUP_BPF", "Max open files", "cgroup2", "\"agentRunning\": \"0."]),
];

fn bundle() -> Result<()> {
    let Network { world, tls, .. } = network("bundle")?;
    // In a key file, before the key, where PEM lets anything stand.
    fs::write(&tls.key, format!("{CANARY}\n{}", fs::read_to_string(&tls.key)?))?;
    let mut harness = Harness::start(world, Options { tls: Some(tls.clone()), ..Options::default() })?;
    harness.apply(&workloads())?;
    harness.stop_agent()?;
    with_secrets_around(&mut harness)?;
    decide_something(&mut harness)?;
    let log = log_with_secrets(&harness)?;
    let path = harness.world().folder().join("bundle.tar.gz");
    let said = ctl(&harness, &path, &log)?;
    ensure!(said.status.success(), "{said:?}");
    ensure!(fs::metadata(&path)?.permissions().mode() & 0o777 == 0o600, "others may read it");
    holds_all_and_no_secret(&harness, &path, &tls.key)?;
    let again = ctl(&harness, &path, &log)?;
    ensure!(again.status.code() == Some(2) && again.err.contains("is not overwritten"), "{again:?}");
    without_an_agent(harness)
}

/// The agent once more, with a secret in its environment, its file and its state directory.
fn with_secrets_around(harness: &mut Harness) -> Result<()> {
    let mut command = harness.agent_command()?;
    let world = harness.world();
    let file = world.folder().join("agent.yaml");
    fs::write(&file, format!("# password: {CANARY}\n{}", fs::read_to_string(&file)?))?;
    fs::write(world.folder().join("state/notes.txt"), CANARY)?;
    let stored = world.folder().join("state/policy.yaml");
    // The second line would say that the file was changed.
    let text = fs::read_to_string(&stored)?;
    let lines: Vec<&str> = text.lines().enumerate().filter(|(number, _)| *number != 1).map(|(_, line)| line).collect();
    fs::write(&stored, format!("{}\n# {CANARY}\n", lines.join("\n")))?;
    command.env("WEIR_TOKEN", CANARY);
    harness.start_agent_by(command)?;
    Ok(())
}

/// The agent's log until now, and lines as nobody should log them. A copy: the agent writes on where it was.
fn log_with_secrets(harness: &Harness) -> Result<PathBuf> {
    let log = harness.world().folder().join("copy.log");
    fs::copy(harness.agent_log().context("no agent")?, &log)?;
    let mut lines = File::options().append(true).open(&log)?;
    writeln!(lines, "2026 INFO authorization: Bearer {CANARY}")?;
    writeln!(lines, "2026 INFO to https://me:{CANARY}@collector.example:1/")?;
    writeln!(lines, "-----BEGIN PRIVATE KEY-----\n{CANARY}\n-----END PRIVATE KEY-----")?;
    Ok(log)
}

fn decide_something(harness: &mut Harness) -> Result<()> {
    let closed = "\n  workloadSelector: {matchLabels: {app: web}}\n  policyTypes: [Egress]\n  defaultAction: deny";
    let limit = "{workloadSelector: {matchLabels: {app: api}}, packets: {perSecond: 1000000}}";
    let [listed, loaded] = ENTRIES;
    let set = format!(
        "---\napiVersion: weir.dev/v1alpha1\nkind: AddressSet\nmetadata: {{name: drop}}\nspec: {{action: block, addresses: [{listed}]}}\n"
    );
    // As `kubectl apply` leaves it behind.
    let applied = format!("kubectl.kubernetes.io/last-applied-configuration: '{{\"password\":\"{CANARY}\"}}'");
    let annotated = format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy # {CANARY}\nmetadata:\n  name: annotated\n  namespace: elsewhere\n  \
         annotations:\n    {applied}\n    note: token={CANARY}\nspec: {{podSelector: {{}}}}\n"
    );
    let closed = document("Policy", "web-out", closed);
    let documents = [workloads(), closed, document("RateLimit", "generous", limit), set, annotated];
    harness.apply(&documents.concat())?;
    harness.ctl(&["set", "add", "drop", loaded], "")?.ok()?;
    harness
        .wait("all workloads to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
    let attempt = harness.world().attempt(Web, &format!("tcp-connect --to {}:80", Api.v4()))?;
    ensure!(attempt.result == "EPERM", "{attempt:?}");
    Ok(())
}

/// weirctl on the node, with a secret in its own environment, and a process with one in its arguments beside it.
fn ctl(harness: &Harness, path: &Path, log: &Path) -> Result<Said> {
    let world = harness.world();
    let mut beside = world.probe(Node);
    beside.args(["exec", "--", "sh", "-c", "sleep 60; :", CANARY]).env("SECRET", CANARY);
    let _beside = world.start("beside", beside)?;
    let mut command = world.probe(Node);
    command.args(["exec", "--"]).arg(program("weirctl")).env("WEIR_PASSWORD", CANARY);
    command.arg("--agent").arg(format!("unix:{}", harness.agent_socket().display()));
    command.arg("--collector").arg(format!("unix:{}", harness.collector_socket().display()));
    command.args(["support-bundle", "--config"]).arg(world.folder().join("agent.yaml"));
    command.arg("-o").arg(path).arg("--log").arg(log);
    Ok(call(command, &["support-bundle"], "")?)
}

fn unpacked(path: &Path, into: &Path) -> Result<Vec<(String, String)>> {
    fs::create_dir(into)?;
    let done =
        Command::new("tar").arg("xzf").arg(path).arg("-C").arg(into).args(["--strip-components", "1"]).status()?;
    ensure!(done.success(), "tar: {done}");
    let mut members = Vec::new();
    for entry in fs::read_dir(into)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        members.push((name, fs::read_to_string(&path)?));
    }
    Ok(members)
}

/// The names in one list of a manifest.
fn names<'m>(manifest: &'m Value, list: &str) -> Vec<&'m str> {
    let all = manifest.get(list).and_then(Value::as_array).into_iter().flatten();
    all.filter_map(|one| one.get("name")?.as_str()).collect()
}

fn holds_all_and_no_secret(harness: &Harness, path: &Path, key: &Path) -> Result<()> {
    let members = unpacked(path, &harness.world().folder().join("unpacked"))?;
    let text = |name: &str| members.iter().find(|(member, _)| member == name).map(|(_, text)| text);
    for (name, words) in MEMBERS {
        let text = text(name).with_context(|| format!("{name} is missing"))?;
        for word in words {
            ensure!(text.contains(word), "{name} does not say {word}:\n{text}");
        }
    }
    let log = text("agent.log").context("agent.log is missing")?;
    ensure!(log.contains("enforcing") && log.contains("[redacted]"), "{log}");
    let manifest: Value = serde_json::from_str(text("manifest.json").context("no manifest")?)?;
    ensure!(names(&manifest, "missing").is_empty(), "{manifest}");
    ensure!(names(&manifest, "members").len() == members.len() - 1, "{manifest}");
    // Of a key the longest line is enough.
    let key = fs::read_to_string(key)?;
    let key = key.lines().max_by_key(|line| line.len()).context("an empty key")?.to_owned();
    let address_only_in_set = ENTRIES.iter().copied();
    for secret in [CANARY, &key].into_iter().chain(address_only_in_set) {
        for (name, text) in &members {
            ensure!(!text.contains(secret), "{secret} is in {name}:\n{text}");
        }
    }
    Ok(())
}

/// The main use of a bundle: something does not run. What can be had is there, and the manifest names the rest.
fn without_an_agent(mut harness: Harness) -> Result<()> {
    harness.stop_agent()?;
    let path = harness.world().folder().join("second.tar.gz");
    let said = ctl(&harness, &path, Path::new("/nowhere/agent.log"))?;
    ensure!(said.status.success(), "{said:?}");
    let members = unpacked(&path, &harness.world().folder().join("second"))?;
    for wanted in ["doctor.json", "configuration.json", "host.json", "kernel.json"] {
        ensure!(members.iter().any(|(name, text)| name == wanted && !text.is_empty()), "{wanted} is missing");
    }
    let manifest = members.iter().find(|(name, _)| name == "manifest.json").context("no manifest")?;
    let manifest: Value = serde_json::from_str(&manifest.1)?;
    let missing = names(&manifest, "missing");
    let expected = ["status.json", "limits.json", "resources.yaml", "sets.json", "metrics.txt", "agent.log"];
    ensure!(missing == expected, "{manifest}");
    ensure!(members.iter().all(|(_, text)| !text.contains(CANARY)), "a secret");
    Ok(())
}
