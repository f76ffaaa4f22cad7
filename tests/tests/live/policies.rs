//! Lives: weir-tests, live tests of what weirctl says about documents and decisions.
//! Called by: main.
//! May touch: the stage.
//! Never: checks only an exit code; the state of the kernel must be what the answer says.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use weir_tests::documents::{document, workloads};
use weir_tests::harness::Harness;
use weir_tests::world::Who::{Api, Web};

use crate::stage::on_stage;

pub fn trials() -> Vec<Trial> {
    vec![
        on_stage("a_bad_document_changes_nothing_and_names_line_field_value_and_remedy", bad),
        on_stage("a_dry_run_changes_nothing", dry),
        on_stage("explain_says_what_then_happens", explain),
    ]
}

fn closed() -> String {
    let spec = "\n  workloadSelector: {matchLabels: {app: web}}\n  policyTypes: [Egress]\n  defaultAction: deny";
    format!("{}{}", workloads(), document("Policy", "web-out", spec))
}

/// A policy that would open web's way, in one stream with each of these mistakes.
const MISTAKES: [(&str, &str, &str); 4] = [
    ("{workloadSelector: {}, ingres: []}", "ingres", "unknown key"),
    ("{workloadSelector: {}, ingress: [{ports: [{protocol: TCP, port: 70000}]}]}", "70000", "port out of range"),
    ("{workloadSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/33}}]}]}", "10.0.0.0/33", "no prefix"),
    ("{workloadSelector: {}, priority: high}", "high", "wrong type"),
];

fn bad(harness: &mut Harness) -> Result<()> {
    let generation = harness.apply(&closed())?;
    harness
        .wait("all workloads to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
    let _server = harness.world().serve(Api, "tcp-serve --listen 0.0.0.0:80")?;
    let before = harness.ctl(&["get", "policy", "-o", "yaml"], "")?.ok()?;
    for (spec, value, mistake) in MISTAKES {
        let opens = "\n  workloadSelector: {matchLabels: {app: web}}\n  policyTypes: [Egress]\n  defaultAction: allow";
        let documents = format!("{}{}", document("Policy", "web-out", opens), document("Policy", "wrong", spec));
        let said = harness.ctl(&["apply", "-f", "-"], &documents)?;
        let text = format!("{}{}", said.out, said.err);
        ensure!(!said.status.success(), "{mistake}: accepted: {text}");
        ensure!(text.contains(value) && text.contains("spec."), "{mistake}: neither field nor value in: {text}");
        // The second document begins in line 9, and its spec is in line 13.
        ensure!(text.contains(":13:"), "{mistake}: not the line in: {text}");
        let status = harness.status()?;
        ensure!(status.agent.generation == generation, "{mistake}: generation {}", status.agent.generation);
        let attempt = harness.world().attempt(Web, "tcp-connect --to 10.77.0.20:80")?;
        ensure!(attempt.result == "EPERM", "{mistake}: half of the stream took effect: {attempt:?}");
    }
    let after = harness.ctl(&["get", "policy", "-o", "yaml"], "")?.ok()?;
    ensure!(before == after, "resources changed:\n{before}\n{after}");
    Ok(())
}

fn dry(harness: &mut Harness) -> Result<()> {
    let generation = harness.apply(&closed())?;
    harness
        .wait("all workloads to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
    let _server = harness.world().serve(Api, "tcp-serve --listen 0.0.0.0:80")?;
    let opens = "\n  workloadSelector: {matchLabels: {app: web}}\n  policyTypes: [Egress]\n  defaultAction: allow";
    let said = harness.ctl(&["apply", "--dry-run", "-f", "-"], &document("Policy", "web-out", opens))?.ok()?;
    ensure!(said.contains("web-out"), "a dry run says what would change: {said}");
    ensure!(harness.status()?.agent.generation == generation, "a dry run made a generation");
    let attempt = harness.world().attempt(Web, "tcp-connect --to 10.77.0.20:80")?;
    ensure!(attempt.result == "EPERM", "a dry run took effect: {attempt:?}");
    Ok(())
}

fn explain(harness: &mut Harness) -> Result<()> {
    let spec = "
  workloadSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  defaultAction: deny
  egress: [{name: to-api, to: [{workloadSelector: {matchLabels: {app: api}}}], ports: [{port: 80}]}]";
    let generation = harness.apply(&format!("{}{}", workloads(), document("Policy", "web-out", spec)))?;
    harness
        .wait("all workloads to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
    let _server = harness.world().serve(Api, "tcp-serve --listen 0.0.0.0:80 --listen 0.0.0.0:81")?;
    // Scripts see the verdict in the exit code.
    for (port, verdict, code, fate) in [(80, "allow", 0, "ok"), (81, "deny", 4, "EPERM")] {
        let port_word = format!("{port}/tcp");
        let asked = ["explain", "--from", "shop/web", "--to", "shop/api", "--port", &port_word, "-o", "json"];
        let said = harness.ctl(&asked, "")?;
        ensure!(said.status.code() == Some(code), "{said:?}");
        let said: Explained = serde_json::from_str(&said.out)?;
        ensure!((said.verdict.as_str(), said.generation) == (verdict, generation), "{said:?}");
        let attempt = harness.world().attempt(Web, &format!("tcp-connect --to 10.77.0.20:{port}"))?;
        ensure!(attempt.result == fate, "{attempt:?}");
    }
    Ok(())
}

/// What `weirctl explain -o json` must at least say.
#[derive(Debug, serde::Deserialize)]
struct Explained {
    verdict: String,
    generation: u64,
}
