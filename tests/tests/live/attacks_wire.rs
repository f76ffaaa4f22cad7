//! Lives: weir-tests, live attacks: what no hook of a cgroup sees, judged on the workload's interface.
//! Called by: main.
//! May touch: the stage.
//! Never: believes a verdict alone: another namespace on the same bridge must have seen the frame, or not.
#![expect(
    clippy::unwrap_used,
    reason = "a packet that cannot be made is a mistake in a test, which must fail there and then"
)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::ifaddrs::getifaddrs;
use weir_tests::documents::{document, workloads};
use weir_tests::harness::Harness;
use weir_tests::harness::ctl::Mark;
use weir_tests::process::SOON;
use weir_tests::world::Who::{self, Api, Client, Db, Node, Polite, Web};
use weir_tests::world::{WorldError, netns};

use crate::crafted::{self, arp, discovery, ethertype, frame, hex, icmp, tcp, udp};
use crate::stage::on_stage;

pub fn trials() -> Vec<Trial> {
    vec![
        on_stage(
            "adversarial 15, adversarial 18, adversarial 24, adversarial 60: frames_of_a_packet_socket_are_judged_on_the_interface",
            from_packet_socket,
        ),
        on_stage("adversarial 7: fragments_follow_their_first_and_nobody_else", fragments),
        on_stage("adversarial 22: errors_reach_a_workload_only_for_connections_it_may_have", errors),
        on_stage(
            "adversarial 60: echo_requests_and_closed_ports_are_judged_before_the_kernel_answers",
            answered_by_kernel,
        ),
        on_stage("adversarial 60: what_comes_out_of_a_tun_device_is_no_workloads_own", tun),
        on_stage("what_sockets_may_do_passes_an_interface_unhindered_and_is_recorded_once", unhindered),
        on_stage("an_interface_that_is_deleted_and_made_again_is_judged_again", made_again),
        on_stage("adversarial 60: status_names_what_no_hook_covers", status),
    ]
}

const BROADCAST: [u8; 6] = [0xff; 6];
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// The services, web with its interface.
pub fn wired() -> String {
    workloads().replace("  cgroup: web\n", "  cgroup: web\n  interface: v-web\n")
}

/// Web may reach api on TCP 8080 and UDP 5353, and is open to the client on TCP 80 and UDP 53; `more` are rules to come in.
pub fn close_web(harness: &mut Harness, more: &str) -> Result<()> {
    let spec = format!(
        "
  workloadSelector: {{matchLabels: {{app: web}}}}
  policyTypes: [Ingress, Egress]
  defaultAction: deny
  sockets: [raw]
  ingress:
  - name: client
    from: [{{ipBlock: {{cidr: 10.77.0.100/32}}}}, {{ipBlock: {{cidr: \"fd77:0:0:64::/64\"}}}}]
    ports: [{{protocol: TCP, port: 80}}, {{protocol: UDP, port: 53}}]
{more}
  egress:
  - name: to-api
    to: [{{workloadSelector: {{matchLabels: {{app: api}}}}}}]
    ports: [{{protocol: TCP, port: 8080}}, {{protocol: UDP, port: 5353}}]"
    );
    harness.apply(&format!("{}{}", wired(), document("Policy", "web", &spec)))?;
    Ok(harness.wait("web's interface to be attached", |harness| {
        harness.status().is_ok_and(|status| status.all_attached() && hooks(&status).contains(&"to_workload".to_owned()))
    })?)
}

fn hooks(status: &weir_tests::harness::Status) -> Vec<String> {
    let web = status.agent.workloads.iter().find(|workload| workload.workload == "shop/web");
    web.map(|web| web.hooks.clone()).unwrap_or_default()
}

/// The hardware address of somebody's interface.
pub fn hardware(harness: &Harness, who: Who) -> Result<[u8; 6]> {
    let found = netns::inside(&harness.world().netns(who), || {
        let all = getifaddrs().map_err(|errno| WorldError::System {
            action: "getifaddrs",
            object: who.name().to_owned(),
            source: errno,
        })?;
        let mut links = all.filter(|one| one.interface_name == "eth0");
        Ok(links.find_map(|one| one.address?.as_link_addr()?.addr()))
    })?;
    found.with_context(|| format!("{who:?} has no eth0 with a hardware address"))
}

/// What a frame must come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Passes,
    /// Refused for this reason.
    Refused(&'static str),
}

/// Why nothing at all is read of a packet.
const UNREADABLE: [&str; 3] = ["malformed", "tiny_fragment", "tcp_flags"];

/// Sends a frame to everybody on the bridge as `from`, and sees whether it arrives at `at`.
fn try_frame(harness: &Harness, (from, at): (Who, Who), name: &str, kind: u16, body: &[u8], fate: Fate) -> Result<()> {
    let world = harness.world();
    let bytes = frame(hardware(harness, from)?, BROADCAST, kind, body);
    let hook = if from == Web { "from_workload" } else { "to_workload" };
    let mark = Mark::now();
    // What the frame carries, and not its padding, which a bridge may cut off.
    let wait = if fate == Fate::Passes { 3000 } else { 250 };
    let mut sniffer =
        world.start("sniffer", world.visitor(at, &format!("sniff --holds {} --timeout-ms {wait}", hex(body))))?;
    sniffer.wait_for(SOON, |reports| (!reports.is_empty()).then_some(()))?;
    let sent = world.attempt(from, &format!("send --layer frame --bytes {}", hex(&bytes)))?;
    ensure!(sent.result == "ok", "{name}: the frame could not be sent: {sent:?}");
    let seen = sniffer.attempt()?;
    match fate {
        Fate::Passes => ensure!(seen.result == "ok", "{name}: did not arrive: {seen:?}"),
        Fate::Refused(reason) => {
            ensure!(seen.result == "ETIMEDOUT", "{name}: arrived: {seen:?}");
            // What has no headers to believe, XDP on the same interface refuses before: it knows no workload.
            harness.record(mark, name, |record| {
                let here = record.is("deny", hook) && record.local.workload == "shop/web";
                let before = UNREADABLE.contains(&reason) && record.is("deny", "xdp");
                (here || before) && record.reason == reason && record.interface == "v-web"
            })?;
        }
    }
    Ok(())
}

const fn v4(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    }
}

const fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V6(address) => address,
        IpAddr::V4(_) => Ipv6Addr::UNSPECIFIED,
    }
}

/// An unsolicited neighbour advertisement for an address (RFC 4861 section 4.4).
fn advertisement(from: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    discovery(from, "ff02::1".parse().unwrap(), 136, [0x20, 0, 0, 0], &target.octets())
}

fn from_packet_socket(harness: &mut Harness) -> Result<()> {
    use Fate::{Passes, Refused};
    close_web(harness, "")?;
    let own = hardware(harness, Web)?;
    let everybody: Ipv6Addr = "ff02::1".parse()?;
    let gateway: Ipv6Addr = "fe80::1".parse()?;
    let mut ip: Vec<(&str, Vec<u8>, Fate)> = Vec::new();
    for (web, api, db, client) in
        [(Web.v4(), Api.v4(), Db.v4(), Client.v4()), (Web.v6(), Api.v6(), Db.v6(), Client.v6())]
    {
        let (ping, pong) = if web.is_ipv4() { (8, 0) } else { (128, 129) };
        ip.extend([
            ("UDP to api", udp(web, api, 4000, 5353, b"allowed"), Passes),
            ("UDP to db", udp(web, db, 4000, 5353, b"to db"), Refused("default")),
            ("UDP to api as db", udp(db, api, 4000, 5353, b"as db"), Refused("spoofed")),
            ("UDP to api as the client", udp(client, api, 4000, 5353, b"as client"), Refused("spoofed")),
            (
                "an answer of the server that nobody has asked",
                udp(web, client, 53, 4000, b"answer"),
                Refused("default"),
            ),
            ("an answer of no server", udp(web, client, 54, 4000, b"no answer"), Refused("default")),
            ("a SYN to api", tcp(web, api, 4000, 8080, SYN), Passes),
            ("a SYN to db", tcp(web, db, 4000, 8080, SYN), Refused("default")),
            ("a segment to db", tcp(web, db, 4000, 8080, ACK), Refused("default")),
            ("a FIN to db", tcp(web, db, 4000, 8080, FIN | ACK), Refused("default")),
            ("a FIN without what every FIN has", tcp(web, api, 4000, 8080, FIN), Refused("tcp_flags")),
            ("a SYN+ACK of the server", tcp(web, client, 80, 4000, SYN | ACK), Passes),
            ("a SYN+ACK of no server", tcp(web, client, 81, 4000, SYN | ACK), Refused("default")),
            ("a SYN+ACK to api, which answers nothing", tcp(web, api, 4000, 8080, SYN | ACK), Refused("default")),
            ("a SYN from the server's port", tcp(web, client, 80, 4000, SYN), Refused("default")),
            ("a reset", tcp(web, client, 81, 4000, RST | ACK), Passes),
            ("a reset as db", tcp(db, client, 81, 4000, RST), Refused("spoofed")),
            ("an echo request", icmp(web, client, ping, 0, [9, 9, 0, 1], b"ping"), Refused("default")),
            ("an echo reply nobody asked for", icmp(web, client, pong, 0, [9, 9, 0, 1], b"pong"), Refused("default")),
        ]);
    }
    ip.extend([
        ("a redirect", icmp(Web.v4(), Client.v4(), 5, 1, [10, 77, 0, 10], b"redirect"), Refused("nd_spoof")),
        ("a router's advertisement", discovery(gateway, everybody, 134, [64, 0, 7, 8], &[0; 8]), Refused("nd_spoof")),
        (
            "one from its own address",
            discovery(v6(Web.v6()), everybody, 134, [64, 0, 7, 9], &[0; 8]),
            Refused("nd_spoof"),
        ),
        ("a redirect of IPv6", discovery(v6(Web.v6()), everybody, 137, [0; 4], &[7; 32]), Refused("nd_spoof")),
        ("an advertisement of its own address", advertisement(v6(Web.v6()), v6(Web.v6())), Passes),
        ("an advertisement of the node's address", advertisement(v6(Web.v6()), v6(Node.v6())), Refused("nd_spoof")),
        ("an advertisement as the gateway", advertisement(gateway, gateway), Refused("nd_spoof")),
    ]);
    for (name, packet, fate) in ip {
        try_frame(harness, (Web, Polite), name, ethertype(&packet), &packet, fate)?;
    }
    let nobody = ([0; 6], v4(Client.v4()));
    let others = [
        ("ARP for its own address", 0x0806, arp(2, (own, v4(Web.v4())), nobody), Passes),
        ("ARP for the node's address", 0x0806, arp(2, (own, v4(Node.v4())), nobody), Refused("nd_spoof")),
        ("LLDP", 0x88cc, b"no internet protocol".to_vec(), Refused("ethertype")),
        ("IPv6 by name, IPv4 inside", 0x86dd, udp(Web.v4(), Api.v4(), 4000, 5353, b"odd"), Refused("malformed")),
    ];
    for (name, kind, body, fate) in others {
        try_frame(harness, (Web, Polite), name, kind, &body, fate)?;
    }
    Ok(())
}

/// An IPv4 fragment of a UDP datagram: eight bytes at a time, the first with the ports.
fn fragment(to: IpAddr, ident: u16, number: u16, more: bool, bytes: &[u8]) -> Vec<u8> {
    let mut header = etherparse::Ipv4Header::new(
        u16::try_from(bytes.len()).unwrap(),
        64,
        etherparse::ip_number::UDP,
        v4(Web.v4()).octets(),
        v4(to).octets(),
    )
    .unwrap();
    header.identification = ident;
    header.more_fragments = more;
    header.fragment_offset = etherparse::IpFragOffset::try_new(number).unwrap();
    header.header_checksum = header.calc_header_checksum();
    let mut packet = header.to_bytes().to_vec();
    packet.extend(bytes);
    packet
}

fn fragments(harness: &mut Harness) -> Result<()> {
    use Fate::{Passes, Refused};
    close_web(harness, "")?;
    let head = |port| crafted::udp_payload(4000, port, b"12345678");
    let rows = [
        ("a later fragment of nothing", fragment(Api.v4(), 1, 2, false, b"later 1.."), Refused("frag_unknown")),
        ("a first fragment to api", fragment(Api.v4(), 2, 0, true, &head(5353)), Passes),
        ("what follows it", fragment(Api.v4(), 2, 2, false, b"later 2.."), Passes),
        ("what follows another", fragment(Api.v4(), 3, 2, false, b"later 3.."), Refused("frag_unknown")),
        ("what follows it, to db", fragment(Db.v4(), 2, 2, false, b"later 4.."), Refused("frag_unknown")),
        ("a first fragment to db", fragment(Db.v4(), 5, 0, true, &head(5353)), Refused("default")),
        ("what follows a refused one", fragment(Db.v4(), 5, 2, false, b"later 5.."), Refused("frag_unknown")),
        ("a first fragment without its header", fragment(Api.v4(), 6, 0, true, &[0; 4]), Refused("tiny_fragment")),
    ];
    for (name, packet, fate) in rows {
        try_frame(harness, (Web, Polite), name, 0x0800, &packet, fate)?;
    }
    Ok(())
}

/// "Destination unreachable", from anybody on the way, quoting a packet.
fn unreachable(to: IpAddr, quoted: &[u8]) -> Vec<u8> {
    let quoted = quoted.get(..quoted.len().min(64)).unwrap_or_default();
    match to {
        IpAddr::V4(_) => icmp(Polite.v4(), to, 3, 4, [0, 0, 5, 0], quoted),
        IpAddr::V6(_) => icmp(Polite.v6(), to, 2, 0, [0, 0, 5, 0], quoted),
    }
}

fn errors(harness: &mut Harness) -> Result<()> {
    use Fate::{Passes, Refused};
    close_web(harness, "")?;
    for (web, api, db, client) in
        [(Web.v4(), Api.v4(), Db.v4(), Client.v4()), (Web.v6(), Api.v6(), Db.v6(), Client.v6())]
    {
        let rows = [
            ("quotes web to api", tcp(web, api, 4000, 8080, ACK), Passes),
            ("quotes an answer of web's server", udp(web, client, 53, 4000, b"an answer"), Passes),
            ("quotes web to db", tcp(web, db, 4000, 8080, ACK), Refused("default")),
            ("quotes another's packet", tcp(api, client, 4000, 8080, ACK), Refused("spoofed")),
            ("quotes nothing", vec![], Refused("malformed")),
        ];
        for (name, quoted, fate) in rows {
            let packet = unreachable(web, &quoted);
            try_frame(harness, (Polite, Web), &format!("{name}, {web}"), ethertype(&packet), &packet, fate)?;
        }
    }
    Ok(())
}

fn answered_by_kernel(harness: &mut Harness) -> Result<()> {
    close_web(harness, "")?;
    for to in [Web.v4(), Web.v6()] {
        let mark = Mark::now();
        let unanswered = harness.world().attempt(Client, &format!("ping --to {to} --timeout-ms 300"))?;
        ensure!(unanswered.result == "ETIMEDOUT", "{to}: {unanswered:?}");
        harness.record(mark, "the echo request", |record| {
            record.is("deny", "to_workload") && record.reason == "default" && record.icmp_type == Some(kind(to))
        })?;
        // Without the interface's program the kernel says that nobody listens.
        let mark = Mark::now();
        let silent = harness.world().attempt(Client, &format!("tcp-connect --to {} --timeout-ms 300", at(to, 81)))?;
        ensure!(silent.result == "ETIMEDOUT", "a closed port told of itself: {silent:?}");
        harness.record(mark, "the SYN", |record| record.is("deny", "to_workload") && record.local.port == 81)?;
    }
    let pings =
        "  - {name: ping, ports: [{protocol: ICMP, type: echo-request}, {protocol: ICMPv6, type: echo-request}]}";
    close_web(harness, pings)?;
    for to in [Web.v4(), Web.v6()] {
        let mark = Mark::now();
        let answered = harness.world().attempt(Client, &format!("ping --to {to} --timeout-ms 2000"))?;
        ensure!(answered.result == "ok", "{to}: {answered:?}");
        let record = harness.record(mark, "the echo request", |record| {
            record.is("allow", "to_workload") && record.rule.contains("ping") && record.icmp_type == Some(kind(to))
        })?;
        ensure!(record.count == 1, "one request, one decision: {record}");
    }
    Ok(())
}

const fn kind(to: IpAddr) -> u8 {
    if to.is_ipv4() { 8 } else { 128 }
}

const fn at(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}

fn tun(harness: &mut Harness) -> Result<()> {
    let packet = udp("192.168.9.9".parse()?, Api.v4(), 4000, 5353, b"out of the tunnel");
    let attempt = |harness: &Harness| -> Result<_> {
        let world = harness.world();
        let server = world.serve(Api, "udp-serve --silent --listen 0.0.0.0:5353")?;
        let sent = world.attempt(Web, &format!("tun --bytes {}", hex(&packet)))?;
        ensure!(sent.result == "ok", "{sent:?}");
        std::thread::sleep(crate::rows::A_WHILE);
        Ok(server.served()?.clients.len())
    };
    let mark = Mark::now();
    close_web(harness, "")?;
    ensure!(attempt(harness)? == 0, "it was forwarded");
    harness.record(mark, "the forwarded packet", |record| {
        record.is("deny", "from_workload") && record.reason == "spoofed" && record.remote.address == Some(Api.v4())
    })?;
    // Without an interface nobody sees it: what status calls `forwarded`.
    harness.apply(&workloads())?;
    harness.wait("all to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
    ensure!(attempt(harness)? == 1, "without an interface nothing hinders it");
    Ok(())
}

fn unhindered(harness: &mut Harness) -> Result<()> {
    close_web(harness, "")?;
    let before = harness.status()?;
    let world = harness.world();
    let _servers = [
        world.serve(Api, "tcp-serve --listen [::]:8080")?,
        world.serve(Api, "udp-serve --listen [::]:5353")?,
        world.serve(Web, "tcp-serve --listen [::]:80")?,
        world.serve(Web, "udp-serve --listen [::]:53")?,
    ];
    for (web, api) in [(Web.v4(), Api.v4()), (Web.v6(), Api.v6())] {
        let lines = [
            (Web, format!("tcp-connect --to {} --bytes 1000000 --timeout-ms 5000", at(api, 8080))),
            (Web, format!("udp-exchange --to {} --bytes 8000", at(api, 5353))),
            (Web, format!("udp-exchange --to {} --connected", at(api, 5353))),
            (Client, format!("tcp-connect --to {} --bytes 1000000 --timeout-ms 5000", at(web, 80))),
            (Client, format!("udp-exchange --to {} --bytes 8000", at(web, 53))),
        ];
        for (who, line) in lines {
            let attempt = world.attempt(who, &line)?;
            ensure!(attempt.result == "ok" && attempt.received == attempt.sent, "{who:?} {line}: {attempt:?}");
        }
    }
    let after = harness.status()?;
    for hook in ["from_workload", "to_workload"] {
        let all = |status: &weir_tests::harness::Status| -> u64 {
            status.agent.counters.iter().filter(|counter| counter.hook == hook).map(|counter| counter.decided).sum()
        };
        ensure!(
            all(&before) == all(&after),
            "{hook} decided what sockets' hooks decide: {} {}",
            all(&before),
            all(&after)
        );
    }
    Ok(())
}

fn made_again(harness: &mut Harness) -> Result<()> {
    close_web(harness, "")?;
    let index = |harness: &Harness| {
        netns::inside(&harness.world().netns(Node), || Ok(nix::net::if_::if_nametoindex("v-web").unwrap_or(0)))
    };
    let first = index(harness)?;
    harness.world().rewire(Web)?;
    ensure!(index(harness)? != first, "the interface is the same");
    let own = hardware(harness, Web)?;
    let packet = udp(Web.v4(), Db.v4(), 4000, 5353, b"after");
    let bytes = frame(own, BROADCAST, 0x0800, &packet);
    // Attached within a second or so: until then a frame may pass.
    let refused = |harness: &Harness| harness.status().map(|status| status.counted("from_workload", "deny", "default"));
    let before = refused(harness)?;
    let line = format!("send --layer frame --bytes {}", hex(&bytes));
    harness.wait("the new interface to be judged", |harness| {
        harness.world().attempt(Web, &line).is_ok() && refused(harness).is_ok_and(|now| now > before)
    })?;
    // Another port: equal refusals are counted together, in a record as old as the first of them.
    let packet = udp(Web.v4(), Db.v4(), 4000, 5354, b"after");
    try_frame(harness, (Web, Polite), "another one", 0x0800, &packet, Fate::Refused("default"))
}

fn status(harness: &mut Harness) -> Result<()> {
    let uncovered = |harness: &Harness| -> Result<Vec<(String, Vec<String>, String)>> {
        let workloads = harness.status()?.agent.workloads;
        Ok(workloads.into_iter().map(|one| (one.workload, one.uncovered, one.detail)).collect())
    };
    close_web(harness, "")?;
    let words = ["af_packet", "forwarded", "icmp_echo", "source"].map(str::to_owned).to_vec();
    let expected: Vec<_> = [("shop/api", words.clone()), ("shop/db", words.clone()), ("shop/web", vec![])]
        .map(|(name, words)| (name.to_owned(), words, String::new()))
        .to_vec();
    let mut found = uncovered(harness)?;
    found.sort();
    ensure!(found == expected, "{found:?}");
    let shown = harness.ctl(&["status"], "")?.ok()?;
    for word in ["NOT COVERED", "icmp_echo: echo requests to it", "spec.interface"] {
        ensure!(shown.contains(word), "{word} is not in:\n{shown}");
    }
    harness.apply(&wired().replace("v-web", "v-nowhere"))?;
    harness.wait("the missing interface to be told of", |harness| {
        uncovered(harness).is_ok_and(|all| {
            all.iter().any(|(name, found, detail)| {
                name == "shop/web" && *found == words && detail == "interface v-nowhere does not exist yet"
            })
        })
    })?;
    Ok(())
}
