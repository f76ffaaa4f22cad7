//! Lives: weir-tests, live tests of Weir as a neighbour on interfaces: who was there first, what comes and goes, which mode.
//! Called by: main.
//! May touch: worlds of its own; interfaces of its own in their nodes' namespaces.
//! Never: believes status alone; the kernel says what is attached.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use aya::programs::Xdp;
use aya::programs::xdp::{XdpLink, XdpMode};
use aya::{Ebpf, EbpfLoader};
use libtest_mimic::Trial;
use nix::net::if_::if_nametoindex;
use weir_tests::assembled::Assembled;
use weir_tests::documents::{document, workloads};
use weir_tests::harness::status::Interface;
use weir_tests::harness::{Harness, Options};
use weir_tests::world::Who::{Api, Client, Node, Web};
use weir_tests::world::links::XdpAttached;
use weir_tests::world::{World, links, netns};

use crate::test;

pub fn trials() -> Vec<Trial> {
    vec![
        test("adversarial 73: an_xdp_slot_that_is_taken_is_named_left_alone_and_used_once_it_is_free", taken),
        test("an_interface_is_followed_when_it_is_added_renamed_and_removed", followed),
        test("a_veth_is_in_native_mode_only_while_a_limit_is_in_force", by_need),
        test("a_workloads_own_interface_is_judged_in_native_mode_or_not_by_xdp", owned),
        test("adversarial 27: jumbo_frames_pass_in_native_mode_and_are_charged_whole", || jumbo("native")),
        test("adversarial 27: jumbo_frames_pass_in_generic_mode_and_are_charged_whole", || jumbo("generic")),
    ]
}

fn shown(harness: &Harness, name: &str) -> Option<Interface> {
    harness.status().ok()?.agent.interfaces.into_iter().find(|interface| interface.name == name)
}

/// How XDP is attached to an interface of the node's, as status says it.
pub fn mode(harness: &Harness, name: &str) -> Option<String> {
    shown(harness, name).map(|interface| interface.mode)
}

fn in_kernel(harness: &Harness, name: &str) -> Result<Option<XdpAttached>> {
    Ok(links::xdp(&harness.world().netns(Node), name)?)
}

/// A program of somebody else's, which passes everything.
pub fn foreign(world: &World, name: &str, mode: XdpMode) -> Result<(Ebpf, XdpLink)> {
    // `r0 = XDP_PASS; exit`
    const CODE: [u8; 16] = [0xb7, 0, 0, 0, 2, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];
    let mut assembled = Assembled::default();
    let _ = assembled.program("foreign", "xdp", &CODE);
    let mut ebpf = EbpfLoader::new().load(&assembled.finish()?)?;
    let program: &mut Xdp = ebpf.program_mut("foreign").context("no program")?.try_into()?;
    program.load()?;
    let link = netns::inside(&world.netns(Node), || {
        let mut attach = || -> Result<XdpLink> {
            let id = program.attach_to_if_index(if_nametoindex(name)?, mode)?;
            Ok(program.take_link(id)?)
        };
        Ok(attach())
    })??;
    Ok((ebpf, link))
}

fn taken() -> Result<()> {
    let mut harness = Harness::start(World::new("taken")?, Options::default())?;
    let node = harness.world().netns(Node);
    for (name, theirs, kind) in
        [("v-driver", XdpMode::Driver, XdpAttached::Driver), ("v-generic", XdpMode::Skb, XdpAttached::SocketBuffer)]
    {
        links::spare(&node, "spare")?;
        let held = foreign(harness.world(), "spare", theirs)?;
        links::rename(&node, "spare", name)?;
        harness.wait("the interface to be refused", |harness| mode(harness, name).as_deref() == Some("failed"))?;
        let refused = shown(&harness, name).context("not shown")?;
        ensure!(refused.detail.contains(&format!("interface {name} already has an XDP program")), "{refused:?}");
        ensure!(!harness.status()?.agent.enforcing, "enforcing, with an interface that is not attached");
        ensure!(
            in_kernel(&harness, name)? == Some(kind),
            "their program was touched: {:?}",
            in_kernel(&harness, name)?
        );
        ensure!(harness.logs().contains("already has an XDP program"), "not in the log:\n{}", harness.logs());
        drop(held);
        harness.wait("the interface to be attached", |harness| mode(harness, name).as_deref() == Some("generic"))?;
        links::cut(&node, name)?;
    }
    harness.wait("both to be gone", |harness| mode(harness, "v-driver").or(mode(harness, "v-generic")).is_none())?;
    Ok(())
}

fn followed() -> Result<()> {
    let mut harness = Harness::start(World::new("followed")?, Options::default())?;
    let node = harness.world().netns(Node);
    links::spare(&node, "spare")?;
    let known = |harness: &Harness, name| mode(harness, name).is_some();
    // Fitting no pattern; one; another name that fits; none; and gone.
    links::rename(&node, "spare", "v-one")?;
    harness.wait("v-one to be attached", |harness| mode(harness, "v-one").as_deref() == Some("generic"))?;
    ensure!(in_kernel(&harness, "v-one")? == Some(XdpAttached::SocketBuffer), "{:?}", in_kernel(&harness, "v-one")?);
    links::rename(&node, "v-one", "v-two")?;
    harness.wait("v-two to be attached", |harness| mode(harness, "v-two").as_deref() == Some("generic"))?;
    ensure!(!known(&harness, "v-one") && in_kernel(&harness, "v-two")?.is_some(), "not followed");
    links::rename(&node, "v-two", "spare")?;
    harness.wait("v-two to be forgotten", |harness| !known(harness, "v-two"))?;
    ensure!(in_kernel(&harness, "spare")?.is_none(), "a program was left on an interface that no pattern fits");
    links::rename(&node, "spare", "v-one")?;
    harness.wait("v-one to be attached again", |harness| mode(harness, "v-one").as_deref() == Some("generic"))?;
    links::cut(&node, "v-one")?;
    harness.wait("v-one to be gone", |harness| !known(harness, "v-one"))?;
    ensure!(harness.status()?.agent.enforcing, "no longer enforcing");
    Ok(())
}

fn by_need() -> Result<()> {
    let mut harness = Harness::start(World::new("by-need")?, Options::default())?;
    let limit =
        document("RateLimit", "api", "\n  workloadSelector: {matchLabels: {app: api}}\n  packets: {perSecond: 1000}");
    let rows = [
        (workloads(), "generic", XdpAttached::SocketBuffer),
        (workloads() + &limit, "native", XdpAttached::Driver),
        (workloads(), "generic", XdpAttached::SocketBuffer),
    ];
    let mut seen = 0;
    for (documents, word, kind) in rows {
        harness.apply(&documents)?;
        harness.wait(word, |harness| mode(harness, "v-api").as_deref() == Some(word))?;
        let interface = shown(&harness, "v-api").context("not shown")?;
        ensure!(interface.detail.contains("nothing needs it") == (word == "generic"), "{interface:?}");
        ensure!(interface.packets_seen >= seen, "{seen} packets were seen, and now {interface:?}");
        ensure!(in_kernel(&harness, "v-api")? == Some(kind), "{word}: {:?}", in_kernel(&harness, "v-api")?);
        let server = harness.world().serve(Api, "udp-serve --listen 0.0.0.0:5353")?;
        let answer = harness.world().attempt(Client, &format!("udp-exchange --to {}:5353", Api.v4()))?;
        ensure!(answer.result == "ok", "{word}: {answer:?}");
        drop(server);
        seen = shown(&harness, "v-api").context("not shown")?.packets_seen;
        ensure!(seen > 0, "{word}: nothing was seen");
    }
    Ok(())
}

/// Three datagrams in one frame each, of which a limit of bytes lets two through.
fn jumbo(xdp_mode: &'static str) -> Result<()> {
    const MTU: u32 = 9000;
    let world = World::new("jumbo")?;
    for who in [Client, Api] {
        links::widen(&world.netns(who), links::INSIDE, MTU)?;
        links::widen(&world.netns(Node), &who.interface(), MTU)?;
    }
    let mut harness = Harness::start(world, Options { xdp_mode, ..Options::default() })?;
    let limit = "\n  workloadSelector: {matchLabels: {app: api}}\n  bytes: {perSecond: 100, burst: 20000}";
    harness.apply(&format!("{}{}", workloads(), document("RateLimit", "api", limit)))?;
    harness.wait("the mode", |harness| mode(harness, "v-client").as_deref() == Some(xdp_mode))?;
    for (address, client) in [(Api.v4(), Client.v4()), (Api.v6(), Client.v6())] {
        let to = SocketAddr::new(address, 5353);
        let server = harness.world().serve(Api, &format!("udp-serve --listen {to}"))?;
        let line = format!("udp-exchange --to {to} --from {client} --bytes 8000");
        let attempts: Vec<_> = (0..3).map(|_| harness.world().attempt(Client, &line)).collect::<Result<_, _>>()?;
        let results: Vec<_> = attempts.iter().map(|attempt| attempt.result.as_str()).collect();
        let whole = attempts.iter().take(2).all(|attempt| attempt.received == 8000);
        ensure!(whole && matches!(results[..], ["ok", "ok", third] if third != "ok"), "{attempts:?}");
        let packets: u64 = server.served()?.clients.values().map(|client| client.packets).sum();
        ensure!(packets == 2, "{packets} datagrams arrived");
    }
    Ok(())
}

/// In generic mode the kernel hides the link header from the programs that judge a workload's interface: everything would be refused.
fn owned() -> Result<()> {
    let claimed = workloads().replace("  cgroup: web\n", "  cgroup: web\n  interface: v-web\n");
    for (xdp_mode, expected) in [("auto", "native"), ("generic", "failed")] {
        let mut harness = Harness::start(World::new("owned")?, Options { xdp_mode, ..Options::default() })?;
        let _server = harness.world().serve(Api, "tcp-serve --listen [::]:80")?;
        for (documents, expected) in [(workloads(), "generic"), (claimed.clone(), expected), (workloads(), "generic")] {
            harness.apply(&documents)?;
            let reached = |harness: &Harness| mode(harness, "v-web").as_deref() == Some(expected);
            harness.wait(&format!("v-web to be {expected} where xdpMode is {xdp_mode}"), reached)?;
            for to in [Api.v4(), Api.v6()] {
                let to = SocketAddr::new(to, 80);
                let attempt = harness.world().attempt(Web, &format!("tcp-connect --to {to} --bytes 100000"))?;
                ensure!(attempt.result == "ok", "{xdp_mode}, {expected}, {to}: {attempt:?}");
            }
            let shown = shown(&harness, "v-web").context("not shown")?;
            ensure!(shown.detail.contains("is a workload's own") == (expected == "failed"), "{shown:?}");
            ensure!(harness.status()?.agent.enforcing == (expected != "failed"), "{shown:?}");
        }
    }
    Ok(())
}
