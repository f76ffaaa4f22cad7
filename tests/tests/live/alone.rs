//! Lives: weir-tests, live tests of `ingressHook: sk_lookup`, where no program sees packets.
//! Called by: main.
//! May touch: a world of its own.
//! Never: runs a table while some workload still has the programs that see packets: it would prove nothing.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use weir_tests::documents::{document, workloads};
use weir_tests::harness::ctl::Mark;
use weir_tests::harness::{Harness, Options};
use weir_tests::process::{Running, SOON};
use weir_tests::world::Who::{Api, Client, Db, Web};
use weir_tests::world::World;

use crate::refusals::hooks;
use crate::rows::{Fate, How, Proof, Row, judge};
use crate::stage::agrees;
use crate::test;
use crate::verdicts::{TABLES, answers};

pub fn trials() -> Vec<Trial> {
    vec![
        test("alone: the_verdict_tables_hold_with_sk_lookup_judging_alone", tables),
        test("alone: answers_come_back_and_nothing_else_does", replies),
        test("alone: sockets_that_no_hook_would_see_are_refused_and_the_rest_is_shown_as_uncovered", kinds),
        test("alone: a_namespace_that_two_workloads_share_is_judged_at_the_cgroups", shared),
    ]
}

/// A world with a process in each workload, by which its namespace is found.
fn start(name: &str) -> Result<(Harness, Vec<Running>)> {
    let options = Options { ingress_hook: "sk_lookup", ..Options::default() };
    let mut harness = Harness::start(World::new(name)?, options)?;
    harness.apply(&workloads())?;
    let anchor = |who| harness.world().serve(who, "tcp-serve --listen [::]:9");
    let anchors = [anchor(Web)?, anchor(Api)?, anchor(Db)?];
    harness.wait("sk_lookup to judge alone", |harness| {
        harness
            .status()
            .is_ok_and(|status| ["shop/web", "shop/api", "shop/db"].iter().all(|name| is_alone(&status, name)))
    })?;
    Ok((harness, anchors.into()))
}

fn is_alone(status: &weir_tests::harness::Status, workload: &str) -> bool {
    let hooks = hooks(status, workload);
    hooks.iter().any(|hook| hook == "sk_lookup") && !hooks.iter().any(|hook| hook == "ingress" || hook == "egress")
}

fn tables() -> Result<()> {
    let (mut harness, _anchors) = start("alone")?;
    for (name, table) in TABLES {
        table(&mut harness, judge_alone).map_err(|error| error.context(name))?;
    }
    agrees(&harness)
}

/// The same rows, as this hook sees them: what it denies is answered, and datagrams going out are counted where they are sent.
fn judge_alone(harness: &mut Harness, policies: &str, rows: &[Row]) -> Result<()> {
    let translated: Vec<Row> = rows.iter().map(translate).collect();
    judge(harness, policies, &translated)
}

fn translate(row: &Row) -> Row {
    let hook = match row.proof.hook {
        "ingress" => "sk_lookup",
        "egress" => "sendmsg",
        other => other,
    };
    let fate = match (row.fate, row.how) {
        (Fate::Lost, How::UdpUnconnected) => Fate::Unheard,
        (Fate::Lost, How::Tcp | How::UdpConnected) => Fate::Answered,
        (fate, _) => fate,
    };
    Row { fate, proof: Proof { hook, ..row.proof }, ..*row }
}

fn replies() -> Result<()> {
    let (mut harness, _anchors) = start("alone-replies")?;
    answers(&mut harness, "sk_lookup")?;
    agrees(&harness)
}

fn kinds() -> Result<()> {
    let (harness, _anchors) = start("alone-kinds")?;
    let closed = document("Policy", "web-in", "\n  workloadSelector: {matchLabels: {app: web}}");
    harness.apply(&format!("{}{closed}", workloads()))?;
    let ping = format!("ping --to {}", Client.v4());
    for verb in ["raw-socket", "raw-socket --ipv6", "mptcp-socket", &ping] {
        let mark = Mark::now();
        let (inside, open) = (harness.world().attempt(Web, verb)?, harness.world().attempt(Db, verb)?);
        ensure!(open.result == "ok" && inside.result == "EPERM", "{verb}: {inside:?}, without a policy {open:?}");
        harness.record(mark, verb, |record| record.is("deny", "sock_create") && record.local.workload == "shop/web")?;
    }
    let status = harness.status()?;
    let web = status.agent.workloads.iter().find(|state| state.workload == "shop/web");
    let uncovered = web.map(|web| web.uncovered.clone()).unwrap_or_default();
    let expected = ["loopback", "multicast", "udp_connected"];
    ensure!(expected.iter().all(|word| uncovered.iter().any(|one| one == word)), "{uncovered:?}");
    agrees(&harness)
}

fn shared() -> Result<()> {
    let (mut harness, anchors) = start("alone-shared")?;
    // db's process lives in web's namespace from now on.
    let mut stray = harness.world().visitor(Web, "tcp-serve --listen [::]:10");
    stray.args(["--seconds", "60"]);
    let mut moved = harness.world().start("stray", stray)?;
    moved.wait_for(SOON, |reports| (!reports.is_empty()).then_some(()))?;
    std::fs::write(harness.world().cgroup(Db).join("cgroup.procs"), moved.pid().to_string())?;
    harness.wait("both to be judged at their cgroups", |harness| {
        harness.status().is_ok_and(|status| {
            !is_alone(&status, "shop/web") && !is_alone(&status, "shop/db") && is_alone(&status, "shop/api")
        })
    })?;
    let closed = document("Policy", "web-in", "\n  workloadSelector: {matchLabels: {app: web}}");
    harness.apply(&format!("{}{closed}", workloads()))?;
    let mark = Mark::now();
    let attempt = harness.world().attempt(Client, &format!("tcp-connect --to {}:9 --timeout-ms 300", Web.v4()))?;
    ensure!(attempt.result == "ETIMEDOUT", "{attempt:?}");
    harness.record(mark, "the denial at the cgroup", |record| record.is("deny", "ingress"))?;
    drop(moved);
    harness.wait("both to be judged alone again", |harness| {
        harness.status().is_ok_and(|status| is_alone(&status, "shop/web") && is_alone(&status, "shop/db"))
    })?;
    drop(anchors);
    agrees(&harness)
}
