//! Lives: weir-tests, live tests of what records say of the process behind a socket.
//! Called by: main.
//! May touch: the stage.
//! Never: asks Weir what the truth is: /proc, sha256sum and the names of cgroups made here say it.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use etherparse::{IpNumber, Ipv4Header};
use libtest_mimic::Trial;
use weir_tests::documents::{document, workloads};
use weir_tests::harness::ctl::Mark;
use weir_tests::harness::{Harness, Options};
use weir_tests::process::{SOON, program};
use weir_tests::world::Who::{self, Api, Client, Db, Polite, Web};
use weir_tests::world::World;

use crate::attacks_wire::{close_web, hardware};
use crate::crafted::hex;
use crate::stage::{agrees, on_stage};
use crate::test;

pub fn trials() -> Vec<Trial> {
    vec![
        on_stage("a_refused_connect_is_told_with_its_command_lines_hash_and_its_container_or_unit", told),
        on_stage("a_dropped_packet_is_not_shown_by_default", |harness| dropped(harness, 0)),
        test("a_dropped_packet_is_shown_with_exactly_as_many_bytes_as_asked_for", || {
            let options = Options { drop_bytes: Some(36), ..Options::default() };
            let mut harness = Harness::start(World::new("drop-bytes")?, options)?;
            dropped(&mut harness, 36)?;
            dropped_on_the_way(&mut harness, 36)?;
            agrees(&harness)
        }),
    ]
}

const WEB_OUT: &str = "
  workloadSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  defaultAction: deny
  egress: []";

const ID: &str = "4c01db0b339c7f9ed0a5e1d6b8f1a3f0c2b4d6e8f0a1b2c3d4e5f60718293a4b";

fn told(harness: &mut Harness) -> Result<()> {
    harness.apply(&format!("{}{}", workloads(), document("Policy", "web-out", WEB_OUT)))?;
    harness
        .wait("all workloads to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
    let scope = format!("docker-{ID}.scope");
    let rows = [("", "", ""), (&*scope, ID, ""), ("nginx.service/worker", "", "nginx.service")];
    for (number, (below, container, unit)) in rows.into_iter().enumerate() {
        let cgroup = harness.world().cgroup(Web).join(below);
        std::fs::create_dir_all(&cgroup).with_context(|| format!("making {}", cgroup.display()))?;
        let to = SocketAddr::new(Client.v4(), 4000 + u16::try_from(number)?);
        let mark = Mark::now();
        let mut command = Command::new(program("weir-probe"));
        command.arg("--netns").arg(harness.world().netns(Web)).arg("--cgroup").arg(&cgroup);
        // It lives until it is stopped, so that there is a process to ask about.
        command.args(["tcp-connect-loop", "--to", &to.to_string(), "--rate", "5"]);
        let mut client = harness.world().start("client", command)?;
        let pid = client.pid();
        let record = harness.record(mark, "the refused connect", |record| {
            let by = record.process.as_ref();
            record.is("deny", "connect")
                && record.remote.port == to.port()
                // New cgroups are looked for once a second; until then the workload's own is told.
                && record.cgroup.ends_with(below)
                && by.is_some_and(|process| process.pid == pid && !process.executable.is_empty())
        })?;
        let expected = sha256(&std::fs::read(format!("/proc/{pid}/cmdline"))?)?;
        let process = record.process.clone().unwrap_or_default();
        ensure!(process.command_line_hash == expected, "{record}: {process:?}, expected {expected}");
        ensure!(process.executable == program("weir-probe").display().to_string() && process.start_ticks > 0);
        ensure!((&*record.container, &*record.unit) == (container, unit), "{record:?}");
        client.stop(SOON)?;
        for made in cgroup.ancestors().take(below.split('/').filter(|part| !part.is_empty()).count()) {
            std::fs::remove_dir(made).with_context(|| format!("removing {}", made.display()))?;
        }
    }
    Ok(())
}

const API_IN: &str = "
  workloadSelector: {matchLabels: {app: api}}
  policyTypes: [Ingress]
  defaultAction: deny
  ingress: []";

/// A datagram that the socket's hook refuses, and a segment that XDP does; both written by hand, so that every byte is known.
fn dropped(harness: &mut Harness, shown: usize) -> Result<()> {
    harness.apply(&format!("{}{}", workloads(), document("Policy", "api-in", API_IN)))?;
    harness
        .wait("all workloads to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
    let _server = harness.world().serve(Api, "udp-serve --listen [::]:53")?;
    let payload: String = b"first-bytes-of-a-dropped-packet!".iter().map(|byte| format!("{byte:02x}")).collect();
    // To port 53, 40 bytes, no checksum; again and again, as some come while the agent closes an epoch.
    for port in 4000..4005_u16 {
        dropped_one(harness, shown, (17, "ingress", "default"), &format!("{port:04x}003500280000{payload}"))?;
    }
    // Ports 4000 to 80, SYN with FIN.
    dropped_one(harness, shown, (6, "xdp", "tcp_flags"), "0fa00050000000010000000050030400000000000000")
}

fn dropped_one(harness: &Harness, shown: usize, (protocol, hook, reason): (u8, &str, &str), rest: &str) -> Result<()> {
    let mark = Mark::now();
    let packet = ipv4((Client, Api), protocol, rest)?;
    let line = format!("send --layer packet --bytes {packet} --to {}:0", Api.v4());
    let sent = harness.world().attempt(Client, &line)?;
    ensure!(sent.result == "ok", "{sent:?}");
    let record = harness.record(mark, hook, |record| record.is("deny", hook) && record.reason == reason)?;
    ensure!(Some(record.packet.as_str()) == packet.get(..2 * shown), "{hook}: {} of {packet}", record.packet);
    Ok(())
}

/// The same by TC at web's interface, both ways, and of a raw socket by the hook of its cgroup.
fn dropped_on_the_way(harness: &mut Harness, shown: usize) -> Result<()> {
    close_web(harness, "")?;
    let payload: String = b"a-packet-that-goes-nowhere".iter().map(|byte| format!("{byte:02x}")).collect();
    // Ports 4000 to 5354, 34 bytes, no checksum.
    let rest = format!("0fa014ea00220000{payload}");
    for (from, to, layer, hook, result) in [
        (Web, Db, "frame", "from_workload", "ok"),
        (Polite, Web, "frame", "to_workload", "ok"),
        (Web, Db, "packet", "egress", "EPERM"),
    ] {
        let mark = Mark::now();
        let packet = ipv4((from, to), 17, &rest)?;
        let line = if layer == "packet" {
            format!("send --layer packet --bytes {packet} --to {}:0", to.v4())
        } else {
            let ends = format!("ffffffffffff{}0800", hex(&hardware(harness, from)?));
            format!("send --layer frame --bytes {ends}{packet}")
        };
        let sent = harness.world().attempt(from, &line)?;
        ensure!(sent.result == result, "{hook}: {sent:?}");
        let record = harness.record(mark, hook, |record| {
            record.is("deny", hook)
                && record.reason == "default"
                && [record.local.port, record.remote.port].contains(&5354)
        })?;
        ensure!(Some(record.packet.as_str()) == packet.get(..2 * shown), "{hook}: {} of {packet}", record.packet);
    }
    Ok(())
}

/// A packet from one to the other as hexadecimal digits, with a header that the kernel has no reason to change.
fn ipv4((from, to): (Who, Who), protocol: u8, rest: &str) -> Result<String> {
    let (IpAddr::V4(from), IpAddr::V4(to)) = (from.v4(), to.v4()) else { bail!("not IPv4") };
    let length = u16::try_from(rest.len() / 2)?;
    let mut header = Ipv4Header::new(length, 64, IpNumber(protocol), from.octets(), to.octets())?;
    (header.identification, header.dont_fragment) = (0x1234, true);
    header.header_checksum = header.calc_header_checksum();
    let header: String = header.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{header}{rest}"))
}

/// The first 16 digits, by somebody else's program.
fn sha256(bytes: &[u8]) -> Result<String> {
    let mut child = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.take().context("sha256sum has an input")?.write_all(bytes)?;
    let said = String::from_utf8(child.wait_with_output()?.stdout)?;
    Ok(said.get(..16).context("sha256sum says a sum")?.to_owned())
}
