//! Lives: weir-tests, live tests of what applies before policies do, and of policies that are only staged.
//! Called by: main.
//! May touch: the stage, and worlds of its own.
//! Never: says anything about refusals that are answered; those have a file of their own.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use weir_tests::documents::{document, workload};
use weir_tests::harness::ctl::Mark;
use weir_tests::harness::{Harness, Options};
use weir_tests::process::SOON;
use weir_tests::world::Who::{Api, Client, Db, Web};
use weir_tests::world::World;

use crate::rows::Fate::{Lost, Passes, Refused};
use crate::rows::How::{Tcp, UdpConnected, UdpUnconnected};
use crate::rows::{Proof, Row, judge};
use crate::stage::{agrees, on_stage};
use crate::test;
use crate::verdicts::row;

pub fn trials() -> Vec<Trial> {
    vec![
        on_stage("a_staged_policy_changes_nothing_and_records_say_what_it_would_change", staged),
        test("workloads_that_no_policy_selects_get_the_configured_default", unselected),
        test(
            "adversarial 51: sockets_made_before_their_workload_is_known_are_judged_by_its_policy_within_a_second",
            known,
        ),
        test("adversarial 51: what_is_denied_while_unknown_passes_once_the_workload_is_known", welcomed),
    ]
}

type By = (&'static str, &'static str);
type Staged = Option<(&'static str, &'static str, &'static str)>;

const NOBODY: By = ("", "");

const fn staging(row: Row, staged: Staged) -> Row {
    Row { proof: Proof { staged, ..row.proof }, ..row }
}

const API_IN: &str = "
  workloadSelector: {matchLabels: {app: api}}
  ingress: [{name: web, from: [{workloadSelector: {matchLabels: {app: web}}}]}]";

const API_NEXT: &str = "
  workloadSelector: {matchLabels: {app: api}}
  mode: staged
  policyTypes: [Ingress, Egress]
  ingress:
  - {name: stop, action: deny, ports: [{port: 81}, {protocol: UDP, port: 53}]}
  - {name: client, from: [{entity: world}], ports: [{port: 80}]}";

const WEB_NEXT: &str = "
  workloadSelector: {matchLabels: {app: web}}
  mode: staged
  policyTypes: [Egress]
  egress: [{name: api, to: [{workloadSelector: {matchLabels: {app: api}}}]}]";

fn staged(harness: &mut Harness) -> Result<()> {
    let policies = [("api-in", API_IN), ("api-next", API_NEXT), ("web-next", WEB_NEXT)];
    let policies: String = policies.map(|(name, spec)| document("Policy", name, spec)).concat();
    let web = ("Policy/shop/api-in", "ingress[0] web");
    let default = ("Policy/shop/api-in", "default ingress");
    let stop = Some(("deny", "Policy/shop/api-next", "ingress[0] stop"));
    let client = Some(("allow", "Policy/shop/api-next", "ingress[1] client"));
    let closed = Some(("deny", "Policy/shop/web-next", "default egress"));
    let mark = Mark::now();
    let passes = ("allow", "ingress", "rule", web);
    let denied = ("deny", "ingress", "default", default);
    let rows = [
        row(Web, Api, Tcp, 80, Passes, passes),
        staging(row(Web, Api, Tcp, 81, Passes, passes), stop),
        staging(row(Web, Api, UdpUnconnected, 53, Passes, passes), stop),
        staging(row(Client, Api, Tcp, 80, Lost, denied), client),
        row(Client, Api, Tcp, 82, Lost, denied),
        row(Client, Api, UdpConnected, 53, Lost, denied),
        row(Web, Api, UdpConnected, 54, Passes, passes),
        staging(row(Web, Db, Tcp, 80, Passes, ("allow", "sock_ops", "no_policy", NOBODY)), closed),
        staging(row(Web, Db, UdpUnconnected, 53, Passes, ("allow", "egress", "no_policy", NOBODY)), closed),
        staging(row(Web, Db, UdpConnected, 54, Passes, ("allow", "connect", "no_policy", NOBODY)), closed),
    ];
    judge(harness, &policies, &rows)?;
    // Answers would pass as answers, so nothing would change for them.
    let records = harness.records_since(mark)?;
    let flagged = |record: &&weir_tests::harness::Record| {
        record.local.workload == "shop/api" && record.hook == "egress" && record.staged_verdict.is_some()
    };
    ensure!(!records.iter().any(|record| flagged(&record)), "{:?}", records.iter().find(flagged));
    for format in [&["observe"][..], &["observe", "-o", "table"]] {
        let shown = harness.ctl(format, "")?.ok()?;
        ensure!(shown.contains("staged=deny by Policy/shop/api-next"), "{format:?} does not show it:\n{shown}");
    }
    Ok(())
}

fn unselected() -> Result<()> {
    let options = Options { unselected: "deny", ..Options::default() };
    let mut harness = Harness::start(World::new("unselected")?, options)?;
    let open = "\n  workloadSelector: {matchLabels: {app: api}}\n  ingress: [{name: all}]";
    let watched = "\n  workloadSelector: {matchLabels: {app: db}}\n  mode: audit\n  ingress: [{name: all}]";
    let policies = [document("Policy", "api-in", open), document("Policy", "db-in", watched)].concat();
    let all = ("Policy/shop/api-in", "ingress[0] all");
    let nobody = |verdict, hook| (verdict, hook, "no_policy", NOBODY);
    let rows = [
        row(Web, Api, Tcp, 80, Refused, nobody("deny", "connect")),
        row(Web, Api, UdpUnconnected, 53, Refused, nobody("deny", "sendmsg")),
        row(Client, Web, Tcp, 80, Lost, nobody("deny", "ingress")),
        row(Client, Db, UdpConnected, 53, Lost, nobody("deny", "ingress")),
        row(Client, Api, Tcp, 80, Passes, ("allow", "ingress", "rule", all)),
        row(Api, Client, Tcp, 80, Passes, nobody("allow", "sock_ops")),
        row(Api, Db, Tcp, 80, Lost, nobody("deny", "ingress")),
    ];
    judge(&mut harness, &policies, &rows)?;
    agrees(&harness)
}

/// The published bound is a second; the rest is for a busy machine.
const WITHIN: Duration = Duration::from_secs(15);
const RATE: u64 = 50;

fn close_web() -> String {
    let spec = "\n  workloadSelector: {matchLabels: {app: web}}\n  policyTypes: [Egress]";
    format!("{}{}", workload(Web), document("Policy", "web-out", spec))
}

fn known() -> Result<()> {
    let harness = Harness::start(World::new("known")?, Options::default())?;
    harness.apply(&[workload(Api), workload(Db)].concat())?;
    let _server = harness.world().serve(Api, "tcp-serve --listen [::]:80")?;
    let world = harness.world();
    let sink = world.serve(Api, "udp-serve --silent --listen [::]:53")?;
    let paced = |to: &str| {
        let line = format!("udp-paced --to {to} --rate {RATE} --seconds 8");
        world.start("paced", world.probe_line(Web, &line))
    };
    // One socket each for as long as it lasts, made while nobody knows whose it is.
    let senders = [paced("10.77.0.20:53")?, paced("[fd77:0:0:14::1]:53")?];
    let mut client =
        world.start("client", world.probe_line(Web, "tcp-connect-loop --to 10.77.0.20:80 --rate 50 --seconds 8"))?;
    client.wait_for(SOON, |reports| (reports.len() > 20).then_some(()))?;
    ensure!(client.attempts().iter().all(|attempt| attempt.result == "ok"), "unknown workloads pass by default");
    let start = Instant::now();
    harness.add(&close_web())?;
    while client.attempts().last().is_none_or(|attempt| attempt.result != "EPERM") {
        ensure!(start.elapsed() < WITHIN, "not judged by its policy yet: {:?}", client.attempts().last());
        std::thread::sleep(Duration::from_millis(20));
    }
    for sender in senders {
        let sent = sender.sent()?;
        let refused: u64 = sent.refused.values().sum();
        ensure!(sent.ok > 0 && refused > 0, "the datagrams of an older socket: {sent:?}");
    }
    let _ = sink.served()?;
    client.stop(SOON)?;
    agrees(&harness)
}

fn welcomed() -> Result<()> {
    let mut harness = Harness::start(World::new("welcomed")?, Options { unknown: "deny", ..Options::default() })?;
    harness.apply(&workload(Api))?;
    harness.wait("api to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
    let _server = harness.world().serve(Api, "tcp-serve --listen [::]:80")?;
    let line = "tcp-connect-loop --to 10.77.0.20:80 --rate 50 --seconds 8";
    let mut client = harness.world().start("client", harness.world().probe_line(Web, line))?;
    client.wait_for(SOON, |reports| (reports.len() > 10).then_some(()))?;
    ensure!(client.attempts().iter().all(|attempt| attempt.result == "EPERM"), "{:?}", client.attempts());
    let start = Instant::now();
    harness.add(&workload(Web))?;
    while client.attempts().last().is_none_or(|attempt| attempt.result != "ok") {
        ensure!(start.elapsed() < WITHIN, "still refused: {:?}", client.attempts().last());
        std::thread::sleep(Duration::from_millis(20));
    }
    client.stop(SOON)?;
    agrees(&harness)
}
