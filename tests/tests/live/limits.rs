//! Lives: weir-tests, live tests of what XDP does on the node's interfaces: limits and address sets.
//! Called by: main.
//! May touch: the stage.
//! Never: measures anywhere but at the server, where only what passed arrives.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use weir_tests::documents::{document, workloads};
use weir_tests::flood::Flood;
use weir_tests::harness::Harness;
use weir_tests::harness::ctl::Mark;
use weir_tests::world::Who::{Api, Client, Polite};

use crate::stage::on_stage;

pub fn trials() -> Vec<Trial> {
    vec![
        on_stage("a_packet_limit_holds_a_flooding_client_within_two_percent_and_spares_a_polite_one", packets),
        on_stage("a_byte_limit_holds_a_flooding_client_within_two_percent_and_spares_a_polite_one", bytes),
        on_stage("a_connection_limit_holds_a_flooding_client_within_two_percent_and_spares_a_polite_one", connections),
        on_stage("a_limit_in_audit_mode_lets_pass_and_records", audit),
        on_stage("a_blocked_address_reaches_nobody_until_the_set_is_deleted", blocked),
    ]
}

/// How far from its limit a flooding client may be.
const WITHIN: f64 = 0.02;
const SECONDS: f64 = 4.0;

/// Puts one limit in force.
fn limit(harness: &mut Harness, spec: &str) -> Result<()> {
    let select = "workloadSelector: {matchLabels: {app: api}}";
    let limit = document("RateLimit", "api-clients", &format!("\n  {select}\n  {spec}"));
    harness.apply(&format!("{}{limit}", workloads()))?;
    Ok(harness
        .wait("all workloads to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?)
}

/// The server's, the flooding client's and the polite one's address in each family.
const ENDS: [[IpAddr; 3]; 2] = [[Api.v4(), Client.v4(), Polite.v4()], [Api.v6(), Client.v6(), Polite.v6()]];

fn packets(harness: &mut Harness) -> Result<()> {
    limit(harness, "packets: {perSecond: 1000, burst: 100}")?;
    datagrams(harness, "rate_limit_packets", |to| Flood { weight: 1.0, rate: 1000.0, burst: 100.0, ..flood(to, 64) })
}

fn bytes(harness: &mut Harness) -> Result<()> {
    limit(harness, "bytes: {perSecond: 1000000, burst: 100000}")?;
    // The limit counts IP packets: 28 bytes of headers in IPv4, 48 in IPv6.
    let whole = |to: SocketAddr| if to.is_ipv6() { 1048.0 } else { 1028.0 };
    let flood = |to| Flood { weight: whole(to), rate: 1_000_000.0, burst: 100_000.0, ..flood(to, 1000) };
    datagrams(harness, "rate_limit_bytes", flood)
}

fn flood(to: SocketAddr, size: u32) -> Flood {
    Flood { to, size, flood: 15_000, polite: 200, seconds: SECONDS, weight: 1.0, rate: 0.0, burst: 0.0 }
}

/// A flood and a polite stream at the same time, family by family.
fn datagrams(harness: &mut Harness, reason: &str, flood: impl Fn(SocketAddr) -> Flood) -> Result<()> {
    for [api, client, _] in ENDS {
        let flood = flood(SocketAddr::new(api, 5000));
        let mark = Mark::now();
        let measured = flood.run(harness.world())?;
        ensure!(measured.sent > 3.0 * measured.due, "the flood was too slow to prove anything: {measured:?}");
        ensure!(measured.off().abs() <= WITHIN, "{reason} off by {:+.2}%: {measured:?}", measured.off() * 100.0);
        ensure!(measured.polite_is_whole() && measured.polite.ok > 400, "the polite client: {measured:?}");
        is_recorded(harness, mark, reason, client, api)?;
    }
    Ok(())
}

/// The drops are in records of the limit, merged.
fn is_recorded(harness: &Harness, mark: Mark, reason: &str, client: IpAddr, api: IpAddr) -> Result<()> {
    let drop = harness.record(mark, reason, |record| {
        record.is("deny", "xdp") && record.reason == reason && record.between(api, client) && record.count > 1
    })?;
    ensure!(drop.policy == "RateLimit/shop/api-clients", "{drop}");
    ensure!(drop.local.workload == "shop/api" && drop.interface == "v-client", "{drop}: {:?}", drop.interface);
    Ok(())
}

fn connections(harness: &mut Harness) -> Result<()> {
    limit(harness, "connections: {perSecond: 50, burst: 10}")?;
    for [api, client, polite] in ENDS {
        let world = harness.world();
        let to = SocketAddr::new(api, 5000);
        let mark = Mark::now();
        let server = world.serve(Api, "tcp-serve --listen [::]:5000")?;
        let paced = format!("tcp-connect-loop --to {to} --rate 10 --timeout-ms 900 --seconds {SECONDS}");
        let paced = world.start("paced", world.probe_line(Polite, &paced))?;
        // Below a second, so that no SYN is sent twice.
        let flood = format!("tcp-connect-loop --to {to} --workers 40 --rate 300 --timeout-ms 120 --seconds {SECONDS}");
        let flood = world.start("flood", world.probe_line(Client, &flood))?.sent()?;
        let paced = paced.sent()?;
        let served = server.served()?;
        let tried = flood.ok + flood.refused.values().sum::<u64>();
        ensure!(tried as f64 > 3.0 * 50.0 * SECONDS, "the flood was too slow to prove anything: {flood:?}");
        let (arrived, due) = (served.from(client).packets as f64, 50.0 * flood.elapsed_ms / 1000.0 + 10.0);
        ensure!(((arrived - due) / due).abs() <= WITHIN, "{arrived} connections arrived, {due:.1} were due");
        ensure!(
            paced.refused.is_empty() && served.from(polite).packets == paced.ok,
            "{paced:?} {:?}",
            served.from(polite)
        );
        is_recorded(harness, mark, "rate_limit_connections", client, api)?;
    }
    Ok(())
}

fn audit(harness: &mut Harness) -> Result<()> {
    limit(harness, "packets: {perSecond: 10, burst: 1}\n  mode: audit")?;
    let [[api, client, _], _] = ENDS;
    let world = harness.world();
    let mark = Mark::now();
    let server = world.serve(Api, "udp-serve --silent --listen 0.0.0.0:5000")?;
    let line = format!("udp-paced --to {api}:5000 --rate 200 --count 100");
    let sent = world.start("paced", world.probe_line(Client, &line))?.sent()?;
    let served = server.served()?;
    ensure!(sent.ok == 100 && served.from(client).packets == 100, "{sent:?} {served:?}");
    harness.record(mark, "the audit", |record| {
        record.is("audit", "xdp") && record.reason == "rate_limit_packets" && record.between(api, client)
    })?;
    Ok(())
}

fn blocked(harness: &mut Harness) -> Result<()> {
    let addresses = format!("[{}, \"fd77:0:0:64::/64\"]", Client.v4());
    let set = document("AddressSet", "blocked", &format!("{{action: block, addresses: {addresses}}}"));
    harness.apply(&format!("{}{set}", workloads()))?;
    harness
        .wait("all workloads to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
    let server = harness.world().serve(Api, "tcp-serve --listen [::]:80")?;
    for (api, client) in [(Api.v4(), Client.v4()), (Api.v6(), Client.v6())] {
        let mark = Mark::now();
        let line = format!("tcp-connect --to {} --timeout-ms 400", SocketAddr::new(api, 80));
        let bad = harness.world().attempt(Client, &line)?;
        let good = harness.world().attempt(Polite, &line)?;
        ensure!(bad.result == "ETIMEDOUT" && good.result == "ok", "{bad:?} {good:?}");
        // In IPv6 even the question for api's link address is dropped: all that comes from there is.
        let drop = harness.record(mark, "the block", |record| {
            record.is("deny", "xdp") && record.reason == "blocklist" && record.remote.address == Some(client)
        })?;
        ensure!(drop.policy == "AddressSet/blocked", "{drop}");
    }
    harness.ctl(&["delete", "addressset", "blocked"], "")?.ok()?;
    let again = harness.world().attempt(Client, "tcp-connect --to 10.77.0.20:80")?;
    ensure!(again.result == "ok", "still blocked: {again:?}");
    let served = server.served()?;
    ensure!(served.from(Client.v4()).packets == 1 && served.from(Client.v6()).packets == 0, "{served:?}");
    Ok(())
}
