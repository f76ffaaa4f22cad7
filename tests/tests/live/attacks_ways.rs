//! Lives: weir-tests, live attacks: every way by which a process can open a connection or send a datagram.
//! Called by: main.
//! May touch: the stage.
//! Never: takes a kind the kernel lacks for one that was refused: it says so, and the test does not count it.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use weir_tests::documents::{document, workloads};
use weir_tests::harness::Harness;
use weir_tests::harness::ctl::Mark;
use weir_tests::report::Attempt;
use weir_tests::world::Who::{self, Api, Client, Db, Web};

use crate::crafted::{self, hex};
use crate::stage::on_stage;

pub fn trials() -> Vec<Trial> {
    vec![
        on_stage("adversarial_55_56_every_way_to_connect_reaches_who_is_allowed_and_nobody_else", connections),
        on_stage("adversarial_56_datagrams_by_sendmmsg_and_gso_reach_who_is_allowed_and_nobody_else", datagrams),
        on_stage("adversarial_17_udp_lite_is_no_udp_and_needs_a_rule_of_its_own", udplite),
        on_stage("adversarial_60_a_raw_socket_sends_what_rules_allow_and_from_no_address_but_its_own", raw),
        on_stage("adversarial_25_multicast_and_broadcast_are_judged_like_any_datagram", groups),
    ]
}

/// Web may reach api on TCP 8080 and UDP 5353, and nobody else; it may open what the policy has to name.
pub fn close_web(harness: &mut Harness) -> Result<()> {
    let spec = "
  workloadSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress, Egress]
  defaultAction: deny
  sockets: [raw, mptcp]
  egress:
  - name: to-api
    to: [{workloadSelector: {matchLabels: {app: api}}}]
    ports: [{protocol: TCP, port: 8080}, {protocol: UDP, port: 5353}]";
    harness.apply(&format!("{}{}", workloads(), document("Policy", "web", spec)))?;
    Ok(harness
        .wait("all workloads to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?)
}

/// An end in each family, and in IPv4 through an IPv6 socket.
fn ends(who: Who, port: u16) -> [SocketAddr; 3] {
    [who.v4(), who.v6(), who.mapped()].map(|address| SocketAddr::new(address, port))
}

/// The kernel has it: somebody outside gets through.
fn has(harness: &Harness, line: &str, missing: &[&str]) -> Result<bool> {
    let outside = harness.world().attempt(Client, line)?;
    if missing.contains(&outside.result.as_str()) {
        println!("  NOT RUNNABLE HERE: {line}: the kernel says {} to everybody", outside.result);
        return Ok(false);
    }
    ensure!(outside.result == "ok", "{line} from outside: {outside:?}");
    Ok(true)
}

const MISSING: [&str; 4] = ["EPROTONOSUPPORT", "ESOCKTNOSUPPORT", "ENOSYS", "ENOPROTOOPT"];

/// Refused at once, with a record at `hook` that names the process or, where io_uring's own thread calls, the workload.
fn is_refused(harness: &Harness, mark: Mark, what: &str, attempt: &Attempt, to: IpAddr) -> Result<()> {
    ensure!(attempt.result == "EPERM", "{what}: {attempt:?}");
    let hooks = ["connect", "sendmsg", "egress"];
    harness.record(mark, what, |record| {
        record.verdict == "deny"
            && hooks.contains(&record.hook.as_str())
            && record.local.workload == "shop/web"
            && record.remote.address.is_some_and(|address| address.to_canonical() == to.to_canonical())
    })?;
    Ok(())
}

fn connections(harness: &mut Harness) -> Result<()> {
    close_web(harness)?;
    let world = harness.world();
    let api = world.serve(Api, "tcp-serve --modern --listen [::]:8080")?;
    let db = world.serve(Db, "tcp-serve --modern --listen [::]:8080")?;
    let mut expected = 0;
    for how in ["fast-open", "fast-open-connect", "uring", "uring-sqpoll", "uring-fixed", "mptcp"] {
        for (allowed, denied) in ends(Api, 8080).into_iter().zip(ends(Db, 8080)) {
            if !has(harness, &format!("reach --how {how} --to {allowed}"), &MISSING)? {
                continue;
            }
            let mark = Mark::now();
            let passed = world.attempt(Web, &format!("reach --how {how} --to {allowed}"))?;
            ensure!(passed.result == "ok" && passed.received > 0, "{how} to {allowed}: {passed:?}");
            let refused = world.attempt(Web, &format!("reach --how {how} --to {denied}"))?;
            is_refused(harness, mark, &format!("{how} to {denied}"), &refused, denied.ip())?;
            expected += 1;
        }
    }
    ensure!(expected > 0, "no way could be tried");
    let (api, db) = (api.served()?, db.served()?);
    let arrived = api.from(Web.v4()).packets + api.from(Web.v6()).packets;
    ensure!(arrived == expected && db.accepted == 0, "{arrived} of {expected} arrived at api: {api:?}, at db: {db:?}");
    Ok(())
}

fn datagrams(harness: &mut Harness) -> Result<()> {
    close_web(harness)?;
    let world = harness.world();
    let _api = world.serve(Api, "udp-serve --listen [::]:5353")?;
    let db = world.serve(Db, "udp-serve --listen [::]:5353")?;
    for how in ["sendmmsg", "gso", "sendmmsg --connected", "gso --connected"] {
        for (allowed, denied) in ends(Api, 5353).into_iter().zip(ends(Db, 5353)) {
            let mark = Mark::now();
            let passed = world.attempt(Web, &format!("reach --how {how} --to {allowed}"))?;
            ensure!(passed.result == "ok" && passed.received > 0, "{how} to {allowed}: {passed:?}");
            let refused = world.attempt(Web, &format!("reach --how {how} --to {denied}"))?;
            is_refused(harness, mark, &format!("{how} to {denied}"), &refused, denied.ip())?;
        }
    }
    let db = db.served()?;
    ensure!(db.clients.is_empty(), "db was reached: {db:?}");
    Ok(())
}

fn udplite(harness: &mut Harness) -> Result<()> {
    close_web(harness)?;
    let world = harness.world();
    if world.attempt(Client, &format!("reach --how udplite --to {}:5353 --timeout-ms 50", Api.v4()))?.result
        == "EPROTONOSUPPORT"
    {
        println!("  NOT RUNNABLE HERE: the kernel has no UDP-Lite");
        return Ok(());
    }
    let api = world.serve(Api, "udp-serve --lite --listen [::]:5353")?;
    let outside = world.attempt(Client, &format!("reach --how udplite --to {}:5353", Api.v4()))?;
    ensure!(outside.result == "ok", "from outside: {outside:?}");
    for how in ["", "--connected"] {
        for to in ends(Api, 5353) {
            let mark = Mark::now();
            let refused = world.attempt(Web, &format!("reach --how udplite --to {to} {how}"))?;
            is_refused(harness, mark, &format!("UDP-Lite to {to} {how}"), &refused, to.ip())?;
        }
    }
    let served = api.served()?;
    ensure!(served.clients.len() == 1, "only the client outside arrives: {served:?}");
    Ok(())
}

fn raw(harness: &mut Harness) -> Result<()> {
    close_web(harness)?;
    let world = harness.world();
    let api = world.serve(Api, "udp-serve --silent --listen [::]:5353")?;
    let db = world.serve(Db, "udp-serve --silent --listen [::]:5353")?;
    // Source, destination, what is to come of it, and the reason.
    let rows = [
        (Web.v4(), Api.v4(), "ok", "rule"),
        (Web.v4(), Db.v4(), "EPERM", "default"),
        (Db.v4(), Api.v4(), "EPERM", "spoofed"),
        (Client.v4(), Api.v4(), "EPERM", "spoofed"),
        (Web.v6(), Api.v6(), "ok", "rule"),
        (Web.v6(), Db.v6(), "EPERM", "default"),
        (Db.v6(), Api.v6(), "EPERM", "spoofed"),
    ];
    for (from, to, result, reason) in rows {
        let packet = hex(&crafted::udp(from, to, 4000, 5353, b"forged"));
        let mark = Mark::now();
        let to = SocketAddr::new(to, 0);
        let sent = world.attempt(Web, &format!("send --layer packet --to {to} --bytes {packet}"))?;
        ensure!(sent.result == result, "from {from} to {to}: {sent:?}");
        harness.record(mark, &format!("the packet from {from} to {to}"), |record| {
            record.is(if result == "ok" { "allow" } else { "deny" }, "egress")
                && record.reason == reason
                && record.local.workload == "shop/web"
                && record.between(from, to.ip())
        })?;
    }
    // What follows the header only: the kernel writes the source, so it is web's own.
    for (to, result) in [(Api.v4(), "ok"), (Db.v4(), "EPERM")] {
        let payload = hex(&crafted::udp_payload(4000, 5353, b"raw"));
        let sent = world.attempt(Web, &format!("send --layer payload --to {to}:0 --bytes {payload}"))?;
        ensure!(sent.result == result, "payload to {to}: {sent:?}");
    }
    let (api, db) = (api.served()?, db.served()?);
    let arrived = (api.from(Web.v4()).packets, api.from(Web.v6()).packets, api.clients.len(), db.clients.len());
    ensure!(arrived == (2, 1, 2, 0), "{api:?} {db:?}");
    Ok(())
}

fn groups(harness: &mut Harness) -> Result<()> {
    const GROUPS: [(&str, &str); 3] = [
        ("224.0.0.251", "--join 224.0.0.251 --listen 0.0.0.0:5353"),
        ("ff02::fb", "--join ff02::fb --listen [::]:5353"),
        ("255.255.255.255", "--listen 0.0.0.0:5353"),
    ];
    close_web(harness)?;
    let world = harness.world();
    for (group, listen) in GROUPS {
        let to = SocketAddr::new(group.parse()?, 5353);
        // Out: web may send to api, and to no group.
        let mark = Mark::now();
        let refused = world.attempt(Web, &format!("udp-exchange --broadcast --to {to} --timeout-ms 200"))?;
        is_refused(harness, mark, &format!("web to {group}"), &refused, to.ip())?;
        // In: web hears nobody, api hears all.
        let deaf = world.serve(Web, &format!("udp-serve --silent {listen}"))?;
        let open = world.serve(Api, &format!("udp-serve --silent {listen}"))?;
        let mark = Mark::now();
        let sent = world.attempt(Client, &format!("udp-exchange --broadcast --to {to} --timeout-ms 200"))?;
        ensure!(sent.result == "ETIMEDOUT" && sent.sent > 0, "{group}: {sent:?}");
        harness.record(mark, &format!("{group} at web"), |record| {
            record.is("deny", "ingress") && record.local.workload == "shop/web" && record.local.address == Some(to.ip())
        })?;
        let (deaf, open) = (deaf.served()?, open.served()?);
        ensure!(deaf.clients.is_empty() && open.clients.len() == 1, "{group}: web {deaf:?}, api {open:?}");
    }
    Ok(())
}
