//! Lives: weir-tests, live attacks: what pretends to be an answer.
//! Called by: main.
//! May touch: the stage; whether the kernels of its namespaces answer echo requests.
//! Never: lets the kernel's own filter stand for Weir's: where it can, the receiving socket would take what comes.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use weir_tests::documents::{document, workloads};
use weir_tests::harness::Harness;
use weir_tests::harness::ctl::Mark;
use weir_tests::process::Running;
use weir_tests::world::Who::{self, Api, Client, Polite, Web};
use weir_tests::world::{WorldError, netns};

use crate::crafted::{hex, icmp, udp};
use crate::stage::on_stage;

pub fn trials() -> Vec<Trial> {
    vec![
        on_stage("adversarial 58: a_udp_answer_from_another_address_or_port_is_refused", other_ends),
        on_stage("the_same_two_addresses_with_their_ports_swapped_are_a_new_connection", swapped),
        on_stage("an_echo_reply_passes_only_from_who_was_asked_and_as_what_was_asked", echoes),
        on_stage("an_error_reaches_a_raw_socket_only_if_it_quotes_what_the_workload_may_send", errors),
        on_stage("an_answer_under_way_is_not_pushed_out_by_what_its_workload_asks_meanwhile", crowded),
        on_stage("adversarial 57: connected_udp_stops_when_the_policy_does", flips),
    ]
}

/// The client's and polite's addresses in the family of web's.
const ENDS: [[IpAddr; 3]; 2] = [[Web.v4(), Client.v4(), Polite.v4()], [Web.v6(), Client.v6(), Polite.v6()]];

/// Web may ask the world on port 53 and with echo requests, and nobody may ask it.
fn close_web(harness: &mut Harness) -> Result<()> {
    let spec = "
  workloadSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress, Egress]
  defaultAction: deny
  sockets: [raw]
  egress:
  - to: [{entity: world}]
    ports: [{port: 53}, {protocol: UDP, port: 53}, {protocol: ICMP, type: 8}, {protocol: ICMPv6, type: 128}]";
    harness.apply(&format!("{}{}", workloads(), document("Policy", "web", spec)))?;
    Ok(harness
        .wait("all workloads to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?)
}

/// Starts a client of web's that waits for its answer, and comes back when its question has left.
fn asking(harness: &Harness, line: &str, to: IpAddr) -> Result<Running> {
    let mark = Mark::now();
    let running = harness.world().start("asking", harness.world().probe_line(Web, line))?;
    harness.record(mark, &format!("the question of `{line}`"), |record| {
        record.is("allow", "egress") && record.local.workload == "shop/web" && record.remote.address == Some(to)
    })?;
    Ok(running)
}

/// Sends a packet of somebody's making to web.
fn send(harness: &Harness, who: Who, to: IpAddr, packet: &[u8]) -> Result<()> {
    let line = format!("send --layer packet --to {} --bytes {}", SocketAddr::new(to, 0), hex(packet));
    let sent = harness.world().attempt(who, &line)?;
    ensure!(sent.result == "ok", "{who:?}: {sent:?}");
    Ok(())
}

fn other_ends(harness: &mut Harness) -> Result<()> {
    close_web(harness)?;
    for [web, client, polite] in ENDS {
        let _silent = harness.world().serve(Client, "udp-serve --silent --listen [::]:53")?;
        let line =
            format!("udp-exchange --from {web} --port 4242 --to {} --timeout-ms 9000", SocketAddr::new(client, 53));
        let asking = asking(harness, &line, client)?;
        for (what, who, from, port) in
            [("port", Client, client, 54), ("address", Polite, polite, 53), ("address and port", Polite, polite, 55)]
        {
            let mark = Mark::now();
            send(harness, who, web, &udp(from, web, port, 4242, b"a false answer"))?;
            harness.record(mark, &format!("the answer from another {what}"), |record| {
                record.is("deny", "ingress") && record.between(web, from) && record.remote.port == port
            })?;
        }
        send(harness, Client, web, &udp(client, web, 53, 4242, b"the answer"))?;
        let answered = asking.attempt()?;
        ensure!(answered.result == "ok" && answered.received == 10, "only the true answer: {answered:?}");
    }
    Ok(())
}

/// A workload remembers 512 peers. What has been answered, and who called, makes room before an answer does that is under way.
fn crowded(harness: &mut Harness) -> Result<()> {
    let spec = "
  workloadSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress, Egress]
  defaultAction: deny
  ingress: [{from: [{entity: world}], ports: [{port: 7100, protocol: UDP}]}]
  egress: [{to: [{entity: world}], ports: [{port: 53}, {protocol: UDP, port: 53}]}]";
    harness.apply(&format!("{}{}", workloads(), document("Policy", "web", spec)))?;
    harness
        .wait("all workloads to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
    let world = harness.world();
    let asked = SocketAddr::new(Client.v4(), 53);
    let _answers = world.serve(Client, &format!("storm-serve --listen {asked}"))?;
    let _slow = world.serve(Web, "udp-serve --delay-ms 6000 --listen [::]:7100")?;
    let line = format!("udp-exchange --to {}:7100 --timeout-ms 20000", Web.v4());
    let (mark, before) = (Mark::now(), let_out(harness)?);
    let waits = world.start("waits", world.probe_line(Client, &line))?;
    harness.record(mark, "the question", |record| record.is("allow", "ingress") && record.local.port == 7100)?;
    let storm = format!("storm --threads 4 --pause-ms 0 --timeout-ms 2000 --to {asked}");
    let storm = world.start("storm", world.probe_line(Web, &storm))?;
    // Each leaves two entries of the 512, from a socket of its own.
    harness.wait("web to ask much", |harness| let_out(harness).is_ok_and(|now| now > before + 1500))?;
    ensure!(waits.attempts().is_empty(), "answered before web had asked enough to push the answer out");
    let questions = storm.stormed()?.of("udp", asked);
    let waited = waits.attempt()?;
    ensure!(waited.result == "ok", "the answer to the one who waited, after {questions:?}: {waited:?}");
    Ok(())
}

/// Datagrams that were let out on this node until now.
fn let_out(harness: &Harness) -> Result<u64> {
    let counters = harness.status()?.agent.counters;
    let allowed =
        counters.iter().filter(|counter| (counter.hook.as_str(), counter.verdict.as_str()) == ("egress", "allow"));
    Ok(allowed.map(|counter| counter.decided).sum())
}

fn swapped(harness: &mut Harness) -> Result<()> {
    close_web(harness)?;
    let world = harness.world();
    let _servers = [
        world.serve(Client, "tcp-serve --listen [::]:53")?,
        world.serve(Client, "udp-serve --listen [::]:53")?,
        world.serve(Web, "tcp-serve --listen [::]:53")?,
        world.serve(Web, "udp-serve --listen [::]:53")?,
    ];
    for [web, client, _] in ENDS {
        for (verb, more) in [("tcp-connect", "--bytes 10"), ("udp-exchange", "")] {
            let line = |from, to| {
                format!("{verb} --from {from} --port 4000 --to {} {more} --timeout-ms 500", SocketAddr::new(to, 53))
            };
            let out = world.attempt(Web, &line(web, client))?;
            ensure!(out.result == "ok", "{verb} out: {out:?}");
            let mark = Mark::now();
            let back = world.attempt(Client, &line(client, web))?;
            ensure!(back.result == "ETIMEDOUT", "{verb} back: {back:?}");
            harness.record(mark, "the swapped ports", |record| {
                record.is("deny", "ingress") && record.between(web, client) && record.local.port == 53
            })?;
        }
    }
    Ok(())
}

/// Lets the kernels of two namespaces keep silent, or answer again.
fn silence(harness: &Harness, silent: bool) -> Result<()> {
    for who in [Client, Polite] {
        netns::inside(&harness.world().netns(who), || {
            for key in ["net/ipv4/icmp_echo_ignore_all", "net/ipv6/icmp/echo_ignore_all"] {
                let path = Path::new("/proc/sys").join(key);
                let written = fs::write(&path, if silent { "1" } else { "0" });
                written.map_err(|source| WorldError::File { action: "writing", path, source })?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn echoes(harness: &mut Harness) -> Result<()> {
    close_web(harness)?;
    silence(harness, true)?;
    for [web, client, polite] in ENDS {
        let reply = if web.is_ipv4() { 0 } else { 129 };
        let echo = |from, ident: u16| {
            let [high, low] = ident.to_be_bytes();
            icmp(from, web, reply, 0, [high, low, 0, 1], b"weir-probe")
        };
        for how in ["", "--raw"] {
            let asking = asking(harness, &format!("ping --to {client} --ident 77 {how} --timeout-ms 9000"), client)?;
            // The kernel compares the identifier for a ping socket, and nothing for a raw one; who answers it never asks.
            let mut rows = vec![("another address", Polite, polite, 77)];
            if !how.is_empty() {
                rows.extend([("another identifier", Client, client, 78), ("both", Polite, polite, 78)]);
            }
            for (what, who, from, ident) in rows {
                let mark = Mark::now();
                send(harness, who, web, &echo(from, ident))?;
                harness.record(mark, &format!("the reply {how} with {what}"), |record| {
                    record.is("deny", "ingress") && record.between(web, from) && record.icmp_type == Some(reply)
                })?;
            }
            send(harness, Client, web, &echo(client, 77))?;
            let answered = asking.attempt()?;
            ensure!(answered.result == "ok", "{how}: the true reply did not pass: {answered:?}");
        }
    }
    silence(harness, false)
}

fn errors(harness: &mut Harness) -> Result<()> {
    close_web(harness)?;
    silence(harness, true)?;
    for [web, client, polite] in ENDS {
        let api = if web.is_ipv4() { Api.v4() } else { Api.v6() };
        let listening = asking(harness, &format!("ping --to {client} --ident 77 --raw --timeout-ms 6000"), client)?;
        let (kind, code) = if web.is_ipv4() { (3, 13) } else { (1, 1) };
        // Neither the error's sender nor what it quotes needs to be known for an answer; what it quotes must be allowed.
        let rows = [
            ("what web may send", udp(web, client, 4000, 53, b"quoted"), "allow", "reply"),
            ("what web may not send", udp(web, api, 4000, 5353, b"quoted"), "deny", "default"),
            ("what another sent", udp(api, client, 4000, 53, b"quoted"), "deny", "default"),
        ];
        for (what, quoted, verdict, reason) in rows {
            let mark = Mark::now();
            send(harness, Polite, web, &icmp(polite, web, kind, code, [0; 4], &quoted))?;
            harness.record(mark, &format!("the error that quotes {what}"), |record| {
                record.is(verdict, "ingress")
                    && record.reason == reason
                    && record.between(web, polite)
                    && record.icmp_type == Some(kind)
            })?;
        }
        drop(listening);
    }
    silence(harness, false)
}

/// What may still be on its way when the new policy is in force.
const ON_ITS_WAY: Duration = Duration::from_millis(200);

fn flips(harness: &mut Harness) -> Result<()> {
    for to in [Client.v4(), Client.v6()] {
        close_web(harness)?;
        let server = harness.world().serve(Client, "udp-serve --silent --listen [::]:53")?;
        let listening = Instant::now();
        let line = format!("udp-paced --connected --rate 200 --seconds 4 --to {}", SocketAddr::new(to, 53));
        let stream = asking(harness, &line, to)?;
        let closed = "
  workloadSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  defaultAction: deny";
        let mark = Mark::now();
        harness.apply(&format!("{}{}", workloads(), document("Policy", "web", closed)))?;
        let in_force = listening.elapsed() + ON_ITS_WAY;
        let sent = stream.sent()?;
        let served = server.served()?.from(if to.is_ipv4() { Web.v4() } else { Web.v6() });
        ensure!(sent.ok > 0 && sent.refused.values().sum::<u64>() > 100, "{to}: {sent:?}");
        ensure!(
            served.packets > 0 && served.last_ms < in_force.as_secs_f64() * 1000.0,
            "{to}: {in_force:?} {served:?}"
        );
        // The socket is cut, or its next datagram refused, whichever comes first.
        harness.record(mark, "the end of it", |record| {
            record.verdict == "deny" && record.local.workload == "shop/web" && record.remote.address == Some(to)
        })?;
    }
    Ok(())
}
