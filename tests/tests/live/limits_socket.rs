//! Lives: weir-tests, live tests of rate limits at the socket, where no managed interface is on the way.
//! Called by: main.
//! May touch: a world of its own.
//! Never: measures anywhere but at the server, where only what passed arrives.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::Trial;
use weir_tests::documents::{document, workloads};
use weir_tests::flood::Flood;
use weir_tests::harness::ctl::Mark;
use weir_tests::harness::{Harness, Options};
use weir_tests::world::Who::{Api, Client, Db, Polite, Web};
use weir_tests::world::{Who, World};

use crate::stage::agrees;
use crate::test;

pub fn trials() -> Vec<Trial> {
    vec![
        test("socket: a_limit_holds_a_flooding_client_within_two_percent_and_spares_a_polite_one", flood),
        test("socket: clients_by_workload_and_all_together_have_what_the_limits_say_and_weirctl_shows_it", budgets),
        test("socket: what_an_interface_has_charged_is_not_charged_again", once),
        test("socket: top_clients_names_who_is_held_back_and_who_sends_most", top),
    ]
}

/// A world in which only these interfaces are managed.
fn start(name: &str, interfaces: &[&str], limits: &[(&str, &str)]) -> Result<Harness> {
    let interfaces = interfaces.iter().map(|name| (*name).to_owned()).collect();
    let mut harness = Harness::start(World::new(name)?, Options { interfaces, ..Options::default() })?;
    let limits: String = limits.iter().map(|(name, spec)| document("RateLimit", name, spec)).collect();
    harness.apply(&format!("{}{limits}", workloads()))?;
    harness
        .wait("all workloads to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
    Ok(harness)
}

const API: &str = "workloadSelector: {matchLabels: {app: api}}";

fn flood() -> Result<()> {
    let limit = format!("{{{API}, packets: {{perSecond: 1000, burst: 100}}}}");
    let harness = start("socket-flood", &["v-db"], &[("api-clients", &limit)])?;
    for (api, client) in [(Api.v4(), Client.v4()), (Api.v6(), Client.v6())] {
        let to = SocketAddr::new(api, 5000);
        let (rate, burst) = (1000.0, 100.0);
        let flood = Flood { to, size: 64, flood: 15_000, polite: 200, seconds: 4.0, weight: 1.0, rate, burst };
        let mark = Mark::now();
        let measured = flood.run(harness.world())?;
        ensure!(measured.sent > 3.0 * measured.due, "the flood was too slow to prove anything: {measured:?}");
        ensure!(measured.off().abs() <= 0.02, "off by {:+.2}%: {measured:?}", measured.off() * 100.0);
        ensure!(measured.polite_is_whole() && measured.polite.ok > 400, "the polite client: {measured:?}");
        let drop = harness.record(mark, "the drop", |record| {
            record.is("deny", "ingress") && record.reason == "rate_limit_packets" && record.between(api, client)
        })?;
        ensure!(drop.policy == "RateLimit/shop/api-clients" && drop.rule == "limit", "{drop}");
        ensure!(drop.local.workload == "shop/api" && drop.count > 1, "{drop}");
    }
    agrees(&harness)
}

/// Sends `count` datagrams to a port of api; how many arrived.
fn arrived(harness: &Harness, from: Who, port: u16, count: u32) -> Result<u64> {
    let world = harness.world();
    let server = world.serve(Api, &format!("udp-serve --silent --listen 0.0.0.0:{port}"))?;
    let line = format!("udp-paced --to {}:{port} --rate 400 --count {count}", Api.v4());
    let sent = world.start("paced", world.probe_line(from, &line))?.sent()?;
    ensure!(sent.ok == u64::from(count), "{sent:?}");
    Ok(server.served()?.from(from.v4()).packets)
}

fn budgets() -> Result<()> {
    let by_app = format!(
        "{{{API}, ports: [{{protocol: UDP, port: 6000}}], client: {{workloadLabels: [app]}}, packets: {{perSecond: 1, burst: 40}}}}"
    );
    let together = format!(
        "{{{API}, ports: [{{protocol: UDP, port: 6001}}], aggregate: {{packets: {{perSecond: 1, burst: 60}}}}}}"
    );
    let harness = start("socket-budgets", &[], &[("by-app", &by_app), ("together", &together)])?;
    // What has been earned since; the unit that is earned when a second begins is one more.
    let begin = Instant::now();
    let about = |arrived: u64, due: u64, clients: u64| {
        (due..=due + clients * (begin.elapsed().as_secs() + 1)).contains(&arrived)
    };
    for (from, port, due) in [(Web, 6000, 40), (Db, 6000, 40), (Web, 6001, 60), (Client, 6001, 0), (Polite, 6001, 0)] {
        let arrived = arrived(&harness, from, port, 80)?;
        ensure!(about(arrived, due, 1), "{arrived} of 80 arrived from {from:?} at {port}, {due} were due");
    }
    let shown: serde_json::Value = harness.ctl(&["limits", "-o", "json"], "")?.json()?;
    let lines = shown.pointer("/limits").and_then(serde_json::Value::as_array).context("no limits are shown")?;
    let is_by_app =
        |line: &&serde_json::Value| line.pointer("/limit").is_some_and(|name| name == "RateLimit/shop/by-app");
    let by_app = lines.iter().find(is_by_app).context("a limit is not shown")?;
    let number = |key: &str| by_app.pointer(key).and_then(serde_json::Value::as_u64).unwrap_or(0);
    let (passed, exceeded) = (number("/passedPackets"), number("/exceededPackets"));
    ensure!(about(passed, 80, 2) && passed + exceeded == 160, "{shown}");
    ensure!(by_app.pointer("/client").is_some_and(|client| client == "1 packets/s +40"), "{shown}");
    ensure!(shown.pointer("/table/slots").is_some_and(|slots| *slots == 1 << 20), "{shown}");
    agrees(&harness)
}

fn once() -> Result<()> {
    let limit = format!("{{{API}, packets: {{perSecond: 1, burst: 90}}}}");
    let harness = start("socket-once", &["v-client"], &[("api-clients", &limit)])?;
    for from in [Client, Polite] {
        let arrived = arrived(&harness, from, 6000, 80)?;
        ensure!(arrived == 80, "{arrived} of 80 arrived from {from:?}: some were charged twice");
    }
    let shown: serde_json::Value = harness.ctl(&["limits", "-o", "json"], "")?.json()?;
    ensure!(shown.pointer("/limits/0/passedPackets").is_some_and(|passed| *passed == 160), "{shown}");
    agrees(&harness)
}

fn top() -> Result<()> {
    let limit = format!("{{{API}, packets: {{perSecond: 20, burst: 10}}}}");
    let harness = start("socket-top", &[], &[("api-clients", &limit)])?;
    let world = harness.world();
    let _server = world.serve(Api, "udp-serve --silent --listen 0.0.0.0:6000")?;
    let paced = |from, rate| {
        let line = format!("udp-paced --to {}:6000 --rate {rate} --seconds 60", Api.v4());
        world.start("paced", world.probe_line(from, &line))
    };
    let _running = [paced(Client, 200)?, paced(Polite, 10)?];
    let line = "top clients --service shop/api --by limited --rounds 1 --every 3s -o json";
    let line: Vec<&str> = line.split(' ').collect();
    let clients = |shown: &serde_json::Value| shown.pointer("/clients").and_then(serde_json::Value::as_array).cloned();
    let mut shown = serde_json::Value::Null;
    // Records come once a second or so, later on a busy machine.
    for _ in 0..10 {
        shown = harness.ctl(&line, "")?.json()?;
        if clients(&shown).is_some_and(|clients| clients.len() == 2) {
            break;
        }
    }
    let clients = clients(&shown).unwrap_or_default();
    let [first, second] = clients.as_slice() else { bail!("two clients are due: {shown}") };
    let text =
        |client: &serde_json::Value, key: &str| client.pointer(key).and_then(|one| Some(one.as_str()?.to_owned()));
    let number = |client: &serde_json::Value, key: &str| client.pointer(key).and_then(serde_json::Value::as_u64);
    let address = |who: Who| Some(who.v4().to_string());
    ensure!([text(first, "/address"), text(second, "/address")] == [address(Client), address(Polite)], "{shown}");
    ensure!(number(first, "/limited") > number(first, "/passed") && number(second, "/limited") == Some(0), "{shown}");
    ensure!(text(first, "/limits/0").as_deref() == Some("RateLimit/shop/api-clients/limit"), "{shown}");
    ensure!(text(first, "/service").as_deref() == Some("shop/api"), "{shown}");
    Ok(())
}
