//! Lives: weir-tests, live tests of what kernels say to each other by themselves, and must go on saying when everything is denied.
//! Called by: main.
//! May touch: worlds of its own.
//! Never: takes a discovery for done because a packet arrived: the tables of the kernels are asked.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use weir_tests::documents::{document, workloads};
use weir_tests::harness::{Harness, Options};
use weir_tests::world::Who::{self, Api, Client, Polite, Web};
use weir_tests::world::hop::FAR;
use weir_tests::world::{World, WorldError, netns};

use crate::attacks_wire::wired;
use crate::stage::agrees;
use crate::test;

pub fn trials() -> Vec<Trial> {
    vec![
        test("path_mtu_discovery_works_under_deny_through_a_narrow_hop", || narrow("hop", &workloads())),
        test("path_mtu_discovery_works_under_deny_at_a_judged_interface", || narrow("hop-wire", &wired())),
        test("neighbours_find_each_other_when_everything_is_denied", || neighbours("nd", &workloads())),
        test("neighbours_find_each_other_at_a_judged_interface", || neighbours("nd-wire", &wired())),
    ]
}

/// What the hop carries; the wires to it carry 1500.
const NARROW: u32 = 1300;

fn apply(harness: &mut Harness, services: &str, egress: &str) -> Result<()> {
    let select = "workloadSelector: {matchLabels: {app: web}}";
    let spec = format!("\n  {select}\n  policyTypes: [Ingress, Egress]\n  defaultAction: deny\n  egress: [{egress}]");
    harness.apply(&format!("{services}{}", document("Policy", "web", &spec)))?;
    let wanted = if services.contains("interface") { "to_workload" } else { "ingress" };
    Ok(harness.wait("web to be attached", |harness| {
        let workloads = harness.status().map(|status| status.agent.workloads).unwrap_or_default();
        workloads.iter().any(|one| one.workload == "shop/web" && one.hooks.iter().any(|hook| hook == wanted))
    })?)
}

fn narrow(name: &str, services: &str) -> Result<()> {
    let mut harness = Harness::start(World::new(name)?, Options::default())?;
    harness.world().hop(Web, Polite, Client, NARROW)?;
    let far = "to: [{ipBlock: {cidr: 10.88.0.0/24}}, {ipBlock: {cidr: \"fd88::/64\"}}], ports: [{port: 80}]";
    apply(&mut harness, services, &format!("{{{far}}}"))?;
    let world = harness.world();
    let _server = world.serve(Client, "tcp-serve --listen [::]:80")?;
    for far in FAR {
        let before = too_big(&harness)?;
        // From the address that the workload is known by: of the others an interface lets nothing out.
        let from = if far.is_ipv4() { Web.v4() } else { Web.v6() };
        let to = SocketAddr::new(far, 80);
        let line = format!("tcp-connect --from {from} --to {to} --bytes 300000 --timeout-ms 8000");
        let attempt = world.attempt(Web, &line)?;
        ensure!(attempt.result == "ok" && attempt.received == 300_000, "{far}: {attempt:?}");
        let after = too_big(&harness)?;
        ensure!(after > before, "{far}: no packet was too big for the hop, so nothing was proved: {before} {after}");
    }
    agrees(&harness)
}

/// How many packets the router could not pass on, and said so: `FragFails` of IPv4, `Ip6FragFails` of IPv6.
fn too_big(harness: &Harness) -> Result<u64> {
    let read = |path: &str| {
        std::fs::read_to_string(path).map_err(|source| WorldError::File {
            action: "reading",
            path: path.into(),
            source,
        })
    };
    let texts = netns::inside(&harness.world().netns(Polite), || {
        Ok((read("/proc/thread-self/net/snmp")?, read("/proc/thread-self/net/snmp6")?))
    })?;
    let (v4, v6) = texts;
    let rows: Vec<Vec<&str>> =
        v4.lines().filter(|line| line.starts_with("Ip: ")).map(|line| line.split(' ').collect()).collect();
    let [names, values] = rows.as_slice() else { anyhow::bail!("/proc/net/snmp has changed:\n{v4}") };
    let column = names.iter().position(|name| *name == "FragFails").context("no FragFails")?;
    let v4: u64 = values.get(column).context("no value")?.parse()?;
    let line = v6.lines().find_map(|line| line.strip_prefix("Ip6FragFails")).context("no Ip6FragFails")?;
    Ok(v4 + line.trim().parse::<u64>()?)
}

fn neighbours(name: &str, services: &str) -> Result<()> {
    let mut harness = Harness::start(World::new(name)?, Options::default())?;
    apply(&mut harness, services, "")?;
    let knows =
        |harness: &Harness, who: Who, address: IpAddr| -> Result<bool> { Ok(harness.world().knows(who, address)?) };
    for [web, api, client] in [[Web.v4(), Api.v4(), Client.v4()], [Web.v6(), Api.v6(), Client.v6()]] {
        ensure!(!knows(&harness, Client, web)? && !knows(&harness, Web, api)?, "they have met before");
        // From outside: refused, but the kernels have found each other.
        let line = format!("tcp-connect --to {} --timeout-ms 400", SocketAddr::new(web, 80));
        let refused = harness.world().attempt(Client, &line)?;
        ensure!(refused.result != "ok", "{refused:?}");
        ensure!(knows(&harness, Client, web)?, "web's kernel did not answer for {web}");
        // From inside nothing leaves, not even the question; whoever is outside the policy asks, by web's interface.
        let line = format!("udp-exchange --to {} --timeout-ms 300", SocketAddr::new(api, 9));
        let visitor = harness.world().start("visitor", harness.world().visitor(Web, &line))?.attempt()?;
        ensure!(visitor.result != "ok", "{visitor:?}");
        ensure!(knows(&harness, Web, api)?, "web's kernel could not ask for {api}");
        ensure!(knows(&harness, Client, web)? && !knows(&harness, Web, "10.77.0.99".parse()?)?, "{client}");
    }
    agrees(&harness)
}
