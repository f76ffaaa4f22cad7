//! Lives: weir-tests, live attacks: frames of XDP sockets, and sockets that send from an address that is not their workload's.
//! Called by: main.
//! May touch: the stage.
//! Never: calls something covered, or not, that status does not say the same of.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use weir_tests::documents::workloads;
use weir_tests::harness::Harness;
use weir_tests::harness::ctl::Mark;
use weir_tests::process::SOON;
use weir_tests::world::Who::{Api, Db, Polite, Web};

use crate::attacks_wire::{close_web, hardware};
use crate::crafted::{ethertype, frame, hex, tcp, udp};
use crate::stage::on_stage;

pub fn trials() -> Vec<Trial> {
    vec![
        on_stage("adversarial 60: frames_of_an_xdp_socket_are_judged_on_the_interface", xdp_socket),
        on_stage("adversarial 18: a_source_that_a_socket_takes_for_itself_is_refused_on_the_interface", sources),
    ]
}

const SYN: u8 = 2;
const BROADCAST: [u8; 6] = [0xff; 6];

fn xdp_socket(harness: &mut Harness) -> Result<()> {
    for is_wired in [true, false] {
        match is_wired {
            true => close_web(harness, "")?,
            false => open(harness)?,
        }
        shown(harness, "af_packet", is_wired)?;
        for (web, api, db) in [(Web.v4(), Api.v4(), Db.v4()), (Web.v6(), Api.v6(), Db.v6())] {
            let rows = [
                ("UDP to api", udp(web, api, 4000, 5353, b"xdp allowed"), None),
                ("UDP to db", udp(web, db, 4000, 5353, b"xdp to db"), Some("default")),
                ("UDP as db", udp(db, api, 4000, 5353, b"xdp as db"), Some("spoofed")),
                ("a SYN to db", tcp(web, db, 4000, 8080, SYN), Some("default")),
            ];
            for (name, packet, refused) in rows {
                // Without the interface nobody sees it.
                try_frame(harness, name, &packet, refused.filter(|_| is_wired))?;
            }
        }
    }
    Ok(())
}

fn open(harness: &mut Harness) -> Result<()> {
    harness.apply(&workloads())?;
    let all = |harness: &Harness| harness.status().is_ok_and(|status| status.all_attached());
    Ok(harness.wait("all workloads to be attached", all)?)
}

/// Whether status names what is covered here and what is not.
fn shown(harness: &Harness, word: &str, is_wired: bool) -> Result<()> {
    let status = harness.status()?;
    let web = status.agent.workloads.iter().find(|workload| workload.workload == "shop/web").context("no web")?;
    ensure!(web.uncovered.iter().any(|one| one == word) != is_wired, "wired {is_wired}: {web:?}");
    Ok(())
}

/// Sends a frame by an XDP socket, and sees whether it arrives at somebody else on the bridge.
fn try_frame(harness: &Harness, name: &str, packet: &[u8], refused: Option<&str>) -> Result<()> {
    let world = harness.world();
    let bytes = frame(hardware(harness, Web)?, BROADCAST, ethertype(packet), packet);
    let wait = if refused.is_some() { 250 } else { 3000 };
    let mark = Mark::now();
    let line = format!("sniff --holds {} --timeout-ms {wait}", hex(packet));
    let mut sniffer = world.start("sniffer", world.visitor(Polite, &line))?;
    sniffer.wait_for(SOON, |reports| (!reports.is_empty()).then_some(()))?;
    let sent = world.attempt(Web, &format!("send --layer xdp --bytes {}", hex(&bytes)))?;
    ensure!(sent.result == "ok", "{name}: the frame could not be sent: {sent:?}");
    let seen = sniffer.attempt()?;
    ensure!(seen.result == if refused.is_some() { "ETIMEDOUT" } else { "ok" }, "{name}: {seen:?}");
    if let Some(reason) = refused {
        harness.record(mark, name, |record| {
            record.is("deny", "from_workload") && record.reason == reason && record.local.workload == "shop/web"
        })?;
    }
    Ok(())
}

/// IPv4 needs a privilege for it, IPv6 none.
fn sources(harness: &mut Harness) -> Result<()> {
    for is_wired in [true, false] {
        match is_wired {
            true => close_web(harness, "")?,
            false => open(harness)?,
        }
        shown(harness, "source", is_wired)?;
        let rows: [(IpAddr, IpAddr, IpAddr); 2] =
            [(Web.v4(), Polite.v4(), Api.v4()), (Web.v6(), Polite.v6(), Api.v6())];
        for (own, foreign, api) in rows {
            let to = SocketAddr::new(api, 5353);
            let server = harness.world().serve(Api, &format!("udp-serve --silent --listen {to}"))?;
            let mark = Mark::now();
            // Its own first: who asks for a neighbour needs an address of his own.
            for (from, flag) in [(own, ""), (foreign, "--foreign")] {
                // Nobody answers, and not to us.
                let line = format!("udp-exchange --to {to} --from {from} {flag} --timeout-ms 100");
                let sent = harness.world().attempt(Web, &line)?;
                ensure!(sent.sent > 0, "{line}: {sent:?}");
            }
            let clients = server.served()?.clients;
            ensure!(clients.contains_key(&own), "{to}: web's own address did not arrive: {clients:?}");
            ensure!(clients.contains_key(&foreign) != is_wired, "{to}, wired {is_wired}: {clients:?}");
            if is_wired {
                harness.record(mark, "the refusal", |record| {
                    record.is("deny", "from_workload")
                        && record.reason == "spoofed"
                        && record.local.address == Some(foreign)
                })?;
            }
        }
    }
    Ok(())
}
