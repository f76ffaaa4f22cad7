//! Lives: weir-tests, live tests of floods of SYNs, and of what protects a listener from them.
//! Called by: main.
//! May touch: a world of its own; settings of its node's network namespace.
//! Never: takes a connection for whole whose data did not all come back; a flood without a bound.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use weir_tests::documents::document;
use weir_tests::harness::ctl::Mark;
use weir_tests::harness::{Harness, Options};
use weir_tests::report::Sent;
use weir_tests::world::Who::{Client, Node, Polite};
use weir_tests::world::{World, links, netns};

use crate::attacks_wire::hardware_of;
use crate::crafted::hex;
use crate::stage::agrees;
use crate::test;

pub fn trials() -> Vec<Trial> {
    vec![
        test(
            "adversarial 29: honest_clients_connect_throughout_a_flood_of_syns_of_which_the_listener_sees_nothing",
            flood,
        ),
        test("syn: what_it_needs_and_does_not_have_is_said_by_name_and_the_flood_hurts", unable),
    ]
}

const PORT: u16 = 7000;
const THRESHOLD: u32 = 500;
/// SYNs a second, and for how long.
const RATE: u32 = 4000;
const SECONDS: f64 = 4.0;
const BYTES: u64 = 60_000;

/// Writes settings of the node's network namespace.
fn set(harness: &Harness, settings: &[(&str, u32)]) -> Result<()> {
    for (name, value) in settings {
        netns::inside(&harness.world().netns(Node), || {
            Ok(fs::write(format!("/proc/sys/net/{name}"), value.to_string()))
        })?
        .with_context(|| format!("net/{name}"))?;
    }
    Ok(())
}

/// A counter of the node's stack.
fn counted(harness: &Harness, name: &str) -> Result<u64> {
    // Not /proc/net, which is that of the process's first thread.
    let path = "/proc/thread-self/net/netstat";
    let text = netns::inside(&harness.world().netns(Node), || Ok(fs::read_to_string(path)))??;
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    let (_, value) = pairs.find(|(found, _)| *found == name).with_context(|| format!("no {name}"))?;
    Ok(value.parse()?)
}

fn start(name: &str) -> Result<Harness> {
    let interfaces = ["v-client", "v-polite"].map(str::to_owned).to_vec();
    Ok(Harness::start(World::new(name)?, Options { interfaces, ..Options::default() })?)
}

fn protect(harness: &Harness, how: &str) -> Result<()> {
    let addresses = format!("[{}, \"{}\"]", Node.v4(), Node.v6());
    let spec = format!("{{addresses: {addresses}, ports: [{{port: {PORT}}}], {how}}}");
    harness.apply(&document("RateLimit", "front", &spec))?;
    Ok(())
}

/// What `weirctl limits` says of the protection.
#[derive(Debug)]
struct Shown(Value);

impl Shown {
    fn word(&self, name: &str) -> &str {
        self.0.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    fn count(&self, name: &str) -> Result<u64> {
        self.0.get(name).and_then(Value::as_u64).with_context(|| format!("no {name} in {}", self.0))
    }
}

fn shown(harness: &Harness) -> Result<Shown> {
    let shown: Value = harness.ctl(&["limits", "-o", "json"], "")?.json()?;
    let of_limit = shown.pointer("/limits/0/synProtection").with_context(|| format!("nothing of it in {shown}"))?;
    Ok(Shown(of_limit.clone()))
}

/// A flood at this address while somebody honest connects and exchanges data; `during` looks on.
fn under_flood(harness: &Harness, to: IpAddr, during: impl FnOnce() -> Result<()>) -> Result<(Sent, Sent)> {
    let (to, world) = (SocketAddr::new(to, PORT), harness.world());
    let station = hex(&hardware_of(harness, Node, links::BRIDGE)?);
    let line = format!("syn-flood --to {to} --station {station} --rate {RATE} --seconds {SECONDS}");
    let flood = world.start("flood", world.probe_line(Client, &line))?;
    let line = format!(
        "tcp-connect-loop --to {to} --bytes {BYTES} --workers 4 --rate 20 --timeout-ms 5000 --seconds {SECONDS}"
    );
    let honest = world.start("honest", world.probe_line(Polite, &line))?;
    during()?;
    let honest = honest.sent()?;
    let flood = flood.sent()?;
    ensure!(flood.ok > 4 * u64::from(THRESHOLD), "too slow a flood to prove anything: {flood:?}");
    Ok((flood, honest))
}

fn flood() -> Result<()> {
    let mut harness = start("syn-flood")?;
    set(&harness, &[("ipv4/tcp_syncookies", 2)])?;
    protect(&harness, &format!("synProtection: auto, synThreshold: {THRESHOLD}"))?;
    // On a veth native mode would lose the answers.
    harness.wait("generic mode", |harness| {
        let modes = harness.status().map(|status| status.agent.interfaces);
        modes.is_ok_and(|all| all.len() == 2 && all.iter().all(|one| one.mode == "generic"))
    })?;
    let server = harness.world().serve(Node, &format!("tcp-serve --listen [::]:{PORT}"))?;
    for to in [Node.v4(), Node.v6()] {
        let line =
            format!("tcp-connect-loop --to {} --rate 50 --timeout-ms 8000 --seconds 2", SocketAddr::new(to, PORT));
        let calm = harness.world().start("calm", harness.world().probe_line(Polite, &line))?.sent()?;
        ensure!(calm.ok > 20 && calm.refused.is_empty(), "{calm:?}");
    }
    let calm = shown(&harness)?;
    ensure!(calm.word("state") == "off" && calm.count("answered")? == 0, "below the threshold: {calm:?}");
    for to in [Node.v4(), Node.v6()] {
        let (before, seen) = (shown(&harness)?, counted(&harness, "SyncookiesSent")?);
        let mark = Mark::now();
        let (flood, honest) = under_flood(&harness, to, || {
            let begin = Instant::now();
            while shown(&harness)?.word("state") != "on" {
                ensure!(begin.elapsed() < Duration::from_secs(60), "{to}: it does not go on");
                std::thread::sleep(Duration::from_millis(50));
            }
            Ok(())
        })?;
        ensure!(honest.ok > 20 && honest.refused.is_empty(), "{to}: honest clients: {honest:?}");
        let (after, seen) = (shown(&harness)?, counted(&harness, "SyncookiesSent")? - seen);
        let since = |name: &str| anyhow::Ok(after.count(name)? - before.count(name)?);
        // What came before it was on: a bucketful, and as much as a second brings.
        let most = 2 * u64::from(THRESHOLD);
        ensure!(seen <= most, "{to}: the stack saw {seen} SYNs of {}", flood.ok);
        ensure!(since("answered")? + most >= flood.ok, "{to}: {after:?}, of {}", flood.ok);
        ensure!(since("completed")? >= honest.ok / 2, "{to}: {after:?}");
        // Answers are put together by port, and somebody honest may have one to himself.
        let record = harness.record(mark, "the answers to the flood", |record| {
            record.is("allow", "xdp")
                && record.reason == "syn_cookie"
                && record.local.address == Some(to)
                && record.count > 1
        })?;
        ensure!(record.policy == "RateLimit/shop/front", "{record}");
        let begin = Instant::now();
        while shown(&harness)?.word("state") != "off" {
            ensure!(begin.elapsed() < Duration::from_secs(60), "it does not go off again");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    // The same without: so the counter tells.
    harness.ctl(&["delete", "ratelimit", "shop/front"], "")?.ok()?;
    let seen = counted(&harness, "SyncookiesSent")?;
    let (flood, _) = under_flood(&harness, Node.v4(), || Ok(()))?;
    let seen = counted(&harness, "SyncookiesSent")? - seen;
    ensure!(seen > flood.ok / 2, "unprotected, the stack saw {seen} SYNs of {}", flood.ok);
    ensure!(server.served()?.accepted > 100, "the server's own count");
    agrees(&harness)
}

fn unable() -> Result<()> {
    let harness = start("syn-unable")?;
    set(&harness, &[("ipv4/tcp_syncookies", 0), ("core/somaxconn", 64)])?;
    protect(&harness, "synProtection: always")?;
    let _server = harness.world().serve(Node, &format!("tcp-serve --listen [::]:{PORT}"))?;
    for (setting, part) in [(0, "net.ipv4.tcp_syncookies is 0"), (1, "only while a listener's queue is full")] {
        set(&harness, &[("ipv4/tcp_syncookies", setting)])?;
        let shown = shown(&harness)?;
        ensure!(shown.word("state") == "cannot" && shown.word("detail").contains(part), "{shown:?}");
    }
    set(&harness, &[("ipv4/tcp_syncookies", 0)])?;
    let (_, honest) = under_flood(&harness, Node.v4(), || Ok(()))?;
    ensure!(!honest.refused.is_empty(), "the flood did not hurt, so that it proves nothing: {honest:?}");
    let shown = shown(&harness)?;
    ensure!(shown.count("answered")? == 0 && shown.count("leftNoCookie")? > 0, "{shown:?}");
    agrees(&harness)
}
