//! Lives: weir-tests, live tests of what the kernel drops by itself.
//! Called by: main.
//! May touch: a world of its own.
//! Never: takes a count of the agent's for right: senders have counted what they sent, and the kernel what its sockets had no room for.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use weir_tests::documents::{document, workloads};
use weir_tests::harness::ctl::Mark;
use weir_tests::harness::{Harness, METRICS, Options, Record};
use weir_tests::process::{Running, program};
use weir_tests::world::Who::{self, Api, Db, Polite, Web};
use weir_tests::world::World;

use crate::attacks_wire::hardware;
use crate::crafted::{frame, hex, udp};
use crate::interfaces::mode;
use crate::metrics::fetch;
use crate::stage::agrees;
use crate::test;

pub fn trials() -> Vec<Trial> {
    vec![
        test("what_the_kernel_drops_of_a_workload_is_recorded_with_its_reason_and_exact_count", told),
        test("what_weir_refuses_is_not_told_again_as_the_kernels_own_drop", told_once),
        test("a_copy_that_others_throw_away_is_no_drop_of_a_workloads", copies),
        test("what_a_half_closed_connection_acknowledges_is_no_drop", half_closed),
        test("the_kernels_own_drops_are_in_no_record_where_that_is_turned_off", untold),
    ]
}

/// Nobody listens there.
const CLOSED: u16 = 9009;
/// Whoever listens there does not read.
const FULL: u16 = 9011;
/// Whoever listens there answers after its client has said that nothing more comes.
const HALF_CLOSED: u16 = 9013;
/// More than one segment, so that the answers are acknowledged after that; less than the sockets' buffers.
const HALF_CLOSED_BYTES: u64 = 100_000;
/// Policy refuses it.
const REFUSED: u16 = 9010;
/// Nobody has it.
const NOBODY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 77, 0, 99));
/// What goes there reaches everybody on the bridge.
const COPIED: u16 = 9012;
/// Nobody's hardware address, of one host.
const NOT_HERE: [u8; 6] = [2, 0, 0, 0, 0, 0x99];
const GROUP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(239, 1, 2, 3));
/// Longest wait for what was counted to arrive.
const ARRIVES: Duration = Duration::from_secs(10);

fn start(label: &str, kernel_drops: bool) -> Result<Harness> {
    let options = Options { kernel_drops, all_metrics: true, ..Options::default() };
    let mut harness = Harness::start(World::new(label)?, options)?;
    harness.apply(&policy())?;
    harness.wait("all to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
    Ok(harness)
}

/// UDP is denied in silence, TCP refused.
fn policy() -> String {
    let rule = |name, action, protocol| {
        format!("{{name: {name}, action: {action}, ports: [{{protocol: {protocol}, port: {REFUSED}}}]}}")
    };
    let (denied, refused) = (rule("denied", "deny", "UDP"), rule("refused", "refuse", "TCP"));
    let select = format!(
        "\n  workloadSelector: {{matchLabels: {{app: api}}}}\n  policyTypes: [Ingress]\n  defaultAction: allow\n  \
         ingress: [{denied}, {refused}]"
    );
    // Web has no address of its own: what is web's, its sockets say.
    let addresses = format!("  addresses: [{}, \"{}\"]\n", Web.v4(), Web.v6());
    workloads().replace(&addresses, "") + &document("Policy", "not-there", &select)
}

/// Until the search for a neighbour is given up a few packets wait, and the others are too many.
const UNANSWERED: [&str; 3] = ["NEIGH_FAILED", "NEIGH_QUEUEFULL", "QUEUE_PURGE"];

/// A drop that the kernel's own books or a sender has counted.
struct Row {
    why: &'static [&'static str],
    direction: &'static str,
    local: &'static str,
    port: u16,
    count: u64,
}

fn told() -> Result<()> {
    let harness = start("kernel-drops", true)?;
    let mark = Mark::now();
    let mut deaf = harness.world().serve(Api, &format!("udp-serve --silent --listen {}:{FULL}", Api.v4()))?;
    deaf.signal(Signal::SIGSTOP);
    let closed = send(&harness, Polite, Api.v4(), (CLOSED, 64))?;
    let full = send(&harness, Db, Api.v4(), (FULL, 16_000))?;
    let lost = send(&harness, Db, NOBODY, (CLOSED, 64))?;
    let inner = send_from_below(&harness, Web, NOBODY, CLOSED)?;
    let overflown = dropped_at(&deaf, FULL)?;
    deaf.signal(Signal::SIGCONT);
    ensure!(overflown > 0 && overflown < full, "{overflown} of {full} found no room");
    let of = |why, direction, local, port, count| Row { why, direction, local, port, count };
    let rows = [
        of(&["NO_SOCKET"], "ingress", "shop/api", CLOSED, closed),
        of(&["SOCKET_RCVBUFF"], "ingress", "shop/api", FULL, overflown),
        of(&UNANSWERED, "egress", "shop/db", CLOSED, lost),
        of(&UNANSWERED, "egress", "shop/web", CLOSED, inner),
    ];
    for row in &rows {
        let fits = |record: &Record| {
            let port = if row.direction == "ingress" { record.local.port } else { record.remote.port };
            record.hook == "kernel" && record.local.workload == row.local && port == row.port
        };
        let records = until(&harness, mark, fits, row.count).with_context(|| format!("{:?}", row.why))?;
        for record in &records {
            let right = record.is("deny", "kernel")
                && record.reason == "kernel"
                && row.why.contains(&&*record.kernel_reason)
                && record.direction == row.direction
                && record.policy.is_empty()
                && record.refusal.is_empty();
            ensure!(right, "{:?}: {record:?}", row.why);
        }
        println!("    {} {} of {}, in {} records", row.count, row.why.join(" or "), row.local, records.len());
    }
    let served = deaf.served()?;
    let received: u64 = served.clients.values().map(|client| client.packets).sum();
    ensure!(received + overflown == full, "{received} received and {overflown} dropped of {full}");
    let page = fetch(&harness, METRICS, "/metrics")?;
    let of_it = |line: &&str| line.starts_with("weir_program_run") && line.contains("\"kernel_drop\"");
    let runs: Vec<&str> = page.lines().filter(of_it).collect();
    ensure!(runs.len() == 2, "how often it runs, and for how long, is not told: {runs:?}");
    println!("    {}", runs.join("\n    "));
    agrees(&harness)
}

/// At each hook whose refusal the kernel carries out by a drop of its own.
fn told_once() -> Result<()> {
    let mut harness = start("told-once", true)?;
    let world = harness.world();
    let _listens = [
        world.serve(Api, &format!("udp-serve --silent --listen {}:{REFUSED}", Api.v4()))?,
        world.serve(Api, &format!("tcp-serve --listen {}:{REFUSED}", Api.v4()))?,
    ];
    let limit =
        document("RateLimit", "api", "\n  workloadSelector: {matchLabels: {app: api}}\n  packets: {perSecond: 50}");
    let mut hooks = BTreeSet::new();
    for native in [false, true] {
        if native {
            harness.apply(&(policy() + &limit))?;
            harness.wait("native mode", |harness| mode(harness, &Api.interface()).as_deref() == Some("native"))?;
        }
        let mark = Mark::now();
        let sent = send(&harness, Polite, Api.v4(), (REFUSED, 64))?;
        let to = SocketAddr::new(Api.v4(), REFUSED);
        for _ in 0..3 {
            let attempt = harness.world().attempt(Polite, &format!("tcp-connect --timeout-ms 300 --to {to}"))?;
            ensure!(attempt.result != "ok", "{attempt:?}");
        }
        let refused = |record: &Record| {
            record.verdict == "deny"
                && record.hook != "kernel"
                && record.protocol == "UDP"
                && record.local.port == REFUSED
        };
        until(&harness, mark, refused, sent)?;
        let records = harness.records_since(mark)?;
        hooks.extend(records.iter().filter(|record| record.verdict == "deny").map(|record| record.hook.clone()));
        let again: Vec<_> =
            records.iter().filter(|record| record.hook == "kernel" && record.local.port == REFUSED).collect();
        ensure!(again.is_empty(), "native {native}: told again: {again:#?}");
    }
    ensure!(hooks.iter().eq(["ingress", "sk_lookup", "xdp"]), "refused at {hooks:?} only");
    agrees(&harness)
}

/// A bridge sends everybody what is for a host that it does not know, and what is for a group.
fn copies() -> Result<()> {
    let harness = start("copies", true)?;
    let mark = Mark::now();
    let packet = udp(Polite.v4(), Api.v4(), 4000, COPIED, b"for somebody else");
    let line =
        format!("send --layer frame --bytes {}", hex(&frame(hardware(&harness, Polite)?, NOT_HERE, 0x0800, &packet)));
    for _ in 0..5 {
        let sent = harness.world().attempt(Polite, &line)?;
        ensure!(sent.result == "ok", "{sent:?}");
    }
    send(&harness, Db, GROUP, (COPIED, 64))?;
    // So that what came before has come.
    let closed = send(&harness, Polite, Api.v4(), (CLOSED, 64))?;
    until(&harness, mark, |record| record.hook == "kernel" && record.local.port == CLOSED, closed)?;
    let of_copies =
        |record: &Record| [record.local.port, record.remote.port].contains(&COPIED) && record.hook == "kernel";
    let told: Vec<_> = harness.records_since(mark)?.into_iter().filter(of_copies).collect();
    ensure!(told.is_empty(), "{told:#?}");
    agrees(&harness)
}

/// Whoever has heard that nothing more comes throws acknowledgements away, and gives no reason for that.
fn half_closed() -> Result<()> {
    let harness = start("half-closed", true)?;
    let listen = [Api.v4(), Api.v6()].map(|address| SocketAddr::new(address, HALF_CLOSED));
    let line = format!("tcp-serve --listen {} --listen {}", listen[0], listen[1]);
    let _server = harness.world().serve(Api, &line)?;
    let mark = Mark::now();
    for to in listen {
        let line = format!("tcp-connect --to {to} --bytes {HALF_CLOSED_BYTES} --half-close");
        let attempt = harness.world().attempt(Polite, &line)?;
        ensure!(attempt.result == "ok" && attempt.received == HALF_CLOSED_BYTES, "{attempt:?}");
    }
    // So that what came before has come.
    let closed = send(&harness, Polite, Api.v4(), (CLOSED, 64))?;
    until(&harness, mark, |record| record.hook == "kernel" && record.local.port == CLOSED, closed)?;
    let of_it = |record: &Record| record.local.port == HALF_CLOSED && record.verdict == "deny";
    let told: Vec<_> = harness.records_since(mark)?.into_iter().filter(of_it).collect();
    ensure!(told.is_empty(), "told as drops: {told:#?}");
    agrees(&harness)
}

fn untold() -> Result<()> {
    let harness = start("untold", false)?;
    let mark = Mark::now();
    send(&harness, Polite, Api.v4(), (CLOSED, 64))?;
    agrees(&harness)?;
    let told: Vec<_> = harness.records_since(mark)?.into_iter().filter(|record| record.hook == "kernel").collect();
    ensure!(told.is_empty(), "{told:?}");
    Ok(())
}

/// Sends datagrams for a second; how many.
fn send(harness: &Harness, from: Who, to: IpAddr, (port, size): (u16, u32)) -> Result<u64> {
    let line = format!("udp-paced --to {} --rate 1000 --size {size} --seconds 1", SocketAddr::new(to, port));
    let sent = harness.world().start("paced", harness.world().probe_line(from, &line))?.sent()?;
    ensure!(sent.ok > 100, "{sent:?}");
    Ok(sent.ok)
}

/// The same, from a cgroup below the workload's own, as containers have.
fn send_from_below(harness: &Harness, from: Who, to: IpAddr, port: u16) -> Result<u64> {
    let cgroup = harness.world().cgroup(from).join("container");
    std::fs::create_dir_all(&cgroup)?;
    let mut command = Command::new(program("weir-probe"));
    command.arg("--netns").arg(harness.world().netns(from)).arg("--cgroup").arg(&cgroup);
    let to = SocketAddr::new(to, port).to_string();
    command.args(["udp-paced", "--to", &to, "--rate", "1000", "--seconds", "1"]);
    let sent = harness.world().start("paced-below", command)?.sent()?;
    ensure!(sent.ok > 100, "{sent:?}");
    Ok(sent.ok)
}

/// What a socket of this process had no room for, as the kernel counts it at the socket.
fn dropped_at(server: &Running, port: u16) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{}/net/udp", server.pid()))?;
    let end = format!(":{port:04X}");
    let line = text.lines().find(|line| line.split_whitespace().nth(1).is_some_and(|local| local.ends_with(&end)));
    Ok(line.and_then(|line| line.split_whitespace().last()).context("no such socket")?.parse()?)
}

/// Waits until records that fit stand for as many drops as are expected, and not for more once all that was counted has come.
fn until(harness: &Harness, mark: Mark, fits: impl Fn(&Record) -> bool, expected: u64) -> Result<Vec<Record>> {
    let deadline = Instant::now() + ARRIVES;
    let found = || -> Result<(u64, Vec<Record>)> {
        let records: Vec<_> = harness.records_since(mark)?.into_iter().filter(|record| fits(record)).collect();
        Ok((records.iter().map(|record| record.count).sum(), records))
    };
    while found()?.0 < expected {
        let (counted, records) = found()?;
        ensure!(Instant::now() < deadline, "expected {expected}, counted {counted}: {records:#?}");
        sleep(Duration::from_millis(100));
    }
    agrees(harness)?;
    let (counted, records) = found()?;
    ensure!(counted == expected, "{counted} were told of {expected}");
    Ok(records)
}
