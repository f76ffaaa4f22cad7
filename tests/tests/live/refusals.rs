//! Lives: weir-tests, live tests of how a denial reaches the one that opens: EPERM, silence, or an answer.
//! Called by: main.
//! May touch: the stage.
//! Never: takes a port where nobody listens for one that is refused: a server listens on every one.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use serde::Deserialize;
use weir_tests::documents::{document, workloads};
use weir_tests::harness::Harness;
use weir_tests::harness::ctl::Mark;
use weir_tests::world::Who::{self, Api, Client, Db, Web};

use crate::rows::Fate::{self, Answered, Lost, Passes, Refused, Unheard};
use crate::rows::How::{self, Tcp, UdpConnected, UdpUnconnected};
use crate::rows::{Proof, Row, judge};
use crate::stage::on_stage;

pub fn trials() -> Vec<Trial> {
    vec![
        on_stage("refuse_answers_the_caller_at_once_and_deny_stays_silent", refuse),
        on_stage("explain_says_what_the_record_says_and_how_the_caller_learns_of_it", explain),
    ]
}

const POLICIES: [(&str, &str); 3] = [
    (
        "api-in",
        "
  workloadSelector: {matchLabels: {app: api}}
  defaultAction: refuse
  ingress:
  - {name: web, from: [{workloadSelector: {matchLabels: {app: web}}}], ports: [{port: 80}, {protocol: UDP, port: 53}]}
  - {name: hush, action: deny, ports: [{port: 82}]}
  - {name: no, action: refuse, ports: [{port: 81}, {protocol: UDP, port: 54}]}",
    ),
    (
        "db-in",
        "
  workloadSelector: {matchLabels: {app: db}}
  defaultAction: refuse",
    ),
    (
        "web-out",
        "
  workloadSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  egress: [{name: api, to: [{workloadSelector: {matchLabels: {app: api}}}]}]",
    ),
];

type Why = (&'static str, &'static str, &'static str, &'static str, &'static str);

const WEB: Why = ("allow", "ingress", "rule", "Policy/shop/api-in", "ingress[0] web");
const HUSH: Why = ("deny", "ingress", "rule", "Policy/shop/api-in", "ingress[1] hush");
const NO: Why = ("deny", "sk_lookup", "rule", "Policy/shop/api-in", "ingress[2] no");
const CLOSED: Why = ("deny", "sk_lookup", "default", "Policy/shop/api-in", "default ingress");
const OUT: Why = ("deny", "connect", "default", "Policy/shop/web-out", "default egress");
const NOBODY: Why = ("allow", "egress", "no_policy", "", "");

const ROWS: [(Who, Who, How, u16, Fate, Why); 10] = [
    (Web, Api, Tcp, 80, Passes, WEB),
    (Web, Api, UdpConnected, 53, Passes, WEB),
    (Web, Api, Tcp, 81, Answered, NO),
    (Web, Api, Tcp, 82, Lost, HUSH),
    (Client, Api, Tcp, 80, Answered, CLOSED),
    (Client, Api, UdpConnected, 53, Answered, CLOSED),
    (Client, Api, UdpUnconnected, 54, Unheard, NO),
    (Client, Api, UdpConnected, 54, Answered, NO),
    (Web, Client, Tcp, 80, Refused, OUT),
    // Its answer comes in although every datagram that nobody asked for is refused.
    (Api, Client, UdpUnconnected, 53, Passes, NOBODY),
];

fn rows() -> Vec<Row> {
    let row = |(from, to, how, port, fate, why)| {
        let (verdict, hook, reason, policy, rule) = why;
        Row { from, to, how, port, fate, proof: Proof { verdict, hook, reason, by: (policy, rule), staged: None } }
    };
    ROWS.into_iter().map(row).collect()
}

/// Puts the policies in force, with a process in api's network namespace, by which it is found. The process, and the policies.
fn prepare(harness: &mut Harness) -> Result<(weir_tests::process::Running, String)> {
    let policies: String = POLICIES.iter().map(|(name, spec)| document("Policy", name, spec)).collect();
    harness.apply(&format!("{}{policies}", workloads()))?;
    let anchor = harness.world().serve(Api, "tcp-serve --listen [::]:9")?;
    harness.wait("api's network namespace to be attached", |harness| {
        let hooks = harness.status().map(|status| hooks(&status, "shop/api")).unwrap_or_default();
        hooks.iter().any(|hook| hook == "sk_lookup") && hooks.iter().any(|hook| hook == "ingress")
    })?;
    Ok((anchor, policies))
}

pub fn hooks(status: &weir_tests::harness::Status, workload: &str) -> Vec<String> {
    let found = status.agent.workloads.iter().find(|state| state.workload == workload);
    found.map(|state| state.hooks.clone()).unwrap_or_default()
}

fn refuse(harness: &mut Harness) -> Result<()> {
    let (_anchor, policies) = prepare(harness)?;
    judge(harness, &policies, &rows())?;
    let status = harness.status()?;
    let uncovered = |name: &str| {
        let state = status.agent.workloads.iter().find(|state| state.workload == name);
        state.is_some_and(|state| state.uncovered.iter().any(|word| word == "refuse"))
    };
    // Nobody runs in db's cgroup, so nobody knows its namespace.
    ensure!(uncovered("shop/db") && !uncovered("shop/api") && !uncovered("shop/web"), "{:?}", status.agent.workloads);
    Ok(())
}

/// What `weirctl explain -o json` says of a side.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Side {
    judged: bool,
    verdict: String,
    reason: String,
    policy: String,
    rule: String,
    refusal: String,
    why: String,
}

#[derive(Debug, Deserialize)]
struct Explanation {
    verdict: String,
    egress: Side,
    ingress: Side,
}

fn explain(harness: &mut Harness) -> Result<()> {
    let (_anchor, _) = prepare(harness)?;
    let end = |who: Who| if who.managed() { format!("shop/{}", who.name()) } else { who.v4().to_string() };
    let ask = |harness: &Harness, from: Who, to: Who, port: &str| -> Result<Explanation> {
        let (from, to) = (end(from), end(to));
        // An answer that is no is exit code 4.
        let said = harness.ctl(&["explain", "--from", &from, "--to", &to, "--port", port, "-o", "json"], "")?;
        Ok(serde_json::from_str(&said.out)?)
    };
    for (from, to, how, port, fate, _) in ROWS {
        let (verb, protocol) = if how == Tcp { ("tcp", "tcp") } else { ("udp", "udp") };
        let _server = harness.world().serve(to, &format!("{verb}-serve --listen [::]:{port}"))?;
        let line = match how {
            Tcp => format!("tcp-connect --to {}:{port} --timeout-ms 500", to.v4()),
            UdpConnected => format!("udp-exchange --to {}:{port} --timeout-ms 500 --connected", to.v4()),
            UdpUnconnected => format!("udp-exchange --to {}:{port} --timeout-ms 500", to.v4()),
        };
        let said = ask(harness, from, to, &format!("{port}/{protocol}"))?;
        let mark = Mark::now();
        harness.world().attempt(from, &line)?;
        // The side that decides: the one that denies, else the one called, else the one that calls.
        let at_caller = fate == Refused || !to.managed();
        let side = if at_caller { &said.egress } else { &said.ingress };
        ensure!(said.verdict == side.verdict, "{from:?} to {to:?} {port}: {said:?}");
        let direction = if at_caller { "egress" } else { "ingress" };
        harness.record(mark, &format!("{from:?} to {to:?} {port}/{protocol}, as explained: {side:?}"), |record| {
            let (here, there) = if at_caller { (from, to) } else { (to, from) };
            let words = [&record.verdict, &record.reason, &record.policy, &record.rule, &record.refusal];
            record.kind == "verdict"
                && record.direction == direction
                && record.between(here.v4(), there.v4())
                && [record.local.port, record.remote.port].contains(&port)
                && words == [&side.verdict, &side.reason, &side.policy, &side.rule, &side.refusal]
        })?;
        let told = match side.refusal.as_str() {
            "eperm" => "EPERM",
            "refused" => "ECONNREFUSED",
            "silence" => "nothing comes back",
            _ => "",
        };
        ensure!(side.judged && side.why.contains(told), "{side:?}");
    }
    let silent = ask(harness, Client, Db, "80/tcp")?.ingress;
    ensure!(silent.refusal == "silence" && silent.why.contains("no network namespace"), "{silent:?}");
    Ok(())
}
