//! Lives: weir-tests, in-kernel test runs of SYN protection, against real listeners.
//! Called by: cargo test.
//! May touch: the bench; a network namespace of each test's own, with listeners in it.
//! Never: takes an answer for right that a listener's own stack would not.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, TcpListener},
    time::Instant,
};

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TcpOptionElement, TransportSlice};
use weir_agent::kernel::PacketHook::Xdp;
use weir_common::{
    addr::Addr,
    event::SynStats,
    verdict::{Hook, Reason, Verdict},
};
use weir_policy::{Compiler, Context, Resources, Timestamp, parse};
use weir_tests::world::{links, netns};

use crate::{
    bench::Bench,
    frames::{Piece, extension, segment, syn, tagged, v4, v6},
};

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const PORT: u16 = 8080;
const HERE: [u8; 4] = [10, 0, 0, 2];
const HERE6: &str = "fd00::2";
const SYN: u8 = 2;
const ACK: u8 = 16;

/// Runs `work` in a namespace that has the addresses above, and this setting.
fn inside(name: &str, cookies: u8, work: impl FnOnce() + Send) {
    let name = format!("weir-syn-{name}-{}", std::process::id());
    let path = netns::create(&name).unwrap();
    let addresses: [(IpAddr, u8); 2] = [(HERE.into(), 24), (HERE6.parse().unwrap(), 64)];
    let done = links::node(&path, &addresses).and_then(|()| {
        netns::inside(&path, || {
            fs::write("/proc/sys/net/ipv4/tcp_syncookies", cookies.to_string()).unwrap();
            Ok(std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)))
        })
    });
    netns::remove_all(&name).unwrap();
    if let Err(panic) = done.unwrap() {
        std::panic::resume_unwind(panic);
    }
}

/// A bench whose namespace has the addresses above, with one limit of this spec on them and a neighbour, and a blocked client.
fn bench(name: &str, spec: &str) -> Bench {
    let head = "apiVersion: weir.dev/v1alpha1\nkind:";
    let limit = format!(
        "{head} RateLimit\nmetadata: {{name: api}}\nspec: {{addresses: [10.0.0.2, 10.0.0.3, \"{HERE6}\"], {spec}}}\n"
    );
    let blocked = format!(
        "---\n{head} AddressSet\nmetadata: {{name: bad}}\nspec: {{action: block, addresses: [203.0.113.0/24]}}\n"
    );
    let mut bench = Bench::new(name, "", Verdict::Allow);
    let context = Context {
        generation: 8,
        unknown: Verdict::Allow,
        unselected: Verdict::Allow,
        host_addresses: vec![Addr::v4(HERE), Addr::v6(HERE6.parse::<std::net::Ipv6Addr>().unwrap().octets())],
        tick_ns: 0,
        now: Timestamp(0),
    };
    let mut resources = Resources::default();
    for resource in parse("test.yaml", &format!("{limit}{blocked}")).unwrap() {
        let _ = resources.insert(resource);
    }
    bench.compiled = Compiler::of(&resources, context).unwrap().compiled();
    let _ = bench.kernel.install(&bench.compiled).unwrap();
    bench
}

fn stats(bench: &Bench) -> SynStats {
    bench.kernel.shields().unwrap()[0].stats
}

fn from(host: u32) -> [u8; 4] {
    (u32::from(Ipv4Addr::new(198, 18, 0, 0)) + host).to_be_bytes()
}

/// A SYN with options as clients send them, and data, which a cookie has no room for.
fn rich(payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let options = [
        TcpOptionElement::MaximumSegmentSize(1000),
        TcpOptionElement::SelectiveAcknowledgementPermitted,
        TcpOptionElement::Timestamp(7, 0),
        TcpOptionElement::WindowScale(7),
    ];
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4(from(1), HERE, 64)
        .tcp(40_000, PORT, 1, 1000)
        .syn()
        .options(&options)
        .unwrap()
        .write(&mut frame, payload)
        .unwrap();
    frame
}

fn tcp6(flags: u8, sequence: u32, answer: u32) -> Vec<u8> {
    let octets = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let mut frame = Vec::new();
    let step = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6(octets("2001:db8::1"), octets(HERE6), 64);
    let step = step.tcp(40_000, PORT, sequence, 1000);
    let step = if flags & SYN != 0 { step.syn() } else { step.ack(answer) };
    step.write(&mut frame, &[]).unwrap();
    frame
}

/// The client's last word of the handshake.
fn ack(src: [u8; 4], from: u16, answer: u32) -> Vec<u8> {
    let mut frame = Vec::new();
    let step = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(src, HERE, 64).tcp(from, PORT, 2, 1000);
    step.ack(answer).write(&mut frame, &[]).unwrap();
    frame
}

/// Checks that `answer` is a whole answer to `syn`, and tells the cookie and the segment size in it.
fn read(name: &str, syn: &[u8], answer: &[u8]) -> (u32, u16) {
    let (asked, said) = (SlicedPacket::from_ethernet(syn).unwrap(), SlicedPacket::from_ethernet(answer).unwrap());
    assert_eq!((&answer[..6], &answer[6..12]), (&syn[6..12], &syn[..6]), "{name}: stations");
    let (Some(TransportSlice::Tcp(question)), Some(TransportSlice::Tcp(tcp))) = (&asked.transport, &said.transport)
    else {
        panic!("{name}: no TCP");
    };
    let header = tcp.to_header();
    let sum = match (asked.net.as_ref().unwrap(), said.net.as_ref().unwrap()) {
        (NetSlice::Ipv4(asked), NetSlice::Ipv4(said)) => {
            let (asked, said) = (asked.header().to_header(), said.header().to_header());
            assert_eq!((said.source, said.destination), (asked.destination, asked.source), "{name}");
            assert_eq!(said.header_checksum, said.calc_header_checksum(), "{name}");
            header.calc_checksum_ipv4(&said, tcp.payload()).unwrap()
        }
        (NetSlice::Ipv6(asked), NetSlice::Ipv6(said)) => {
            let (asked, said) = (asked.header().to_header(), said.header().to_header());
            assert_eq!((said.source, said.destination), (asked.destination, asked.source), "{name}");
            header.calc_checksum_ipv6(&said, tcp.payload()).unwrap()
        }
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!(tcp.checksum(), sum, "{name}");
    assert!(tcp.syn() && tcp.ack() && !tcp.rst() && !tcp.fin(), "{name}");
    assert_eq!(
        (tcp.source_port(), tcp.destination_port()),
        (question.destination_port(), question.source_port()),
        "{name}"
    );
    assert_eq!(tcp.acknowledgment_number(), question.sequence_number().wrapping_add(1), "{name}");
    assert!(tcp.payload().is_empty() && tcp.window_size() > 0, "{name}");
    let options: Vec<_> = tcp.options_iterator().collect();
    let [Ok(TcpOptionElement::MaximumSegmentSize(mss))] = options[..] else { panic!("{name}: {options:?}") };
    let front =
        answer.len() - said.net.as_ref().map_or(0, |net| if matches!(net, NetSlice::Ipv4(_)) { 44 } else { 64 });
    assert_eq!(answer[12..front], syn[12..front], "{name}: tags and type are kept, and nothing follows");
    (tcp.sequence_number(), mss)
}

const CONNECTIONS: &str = "ports: [{port: 8080}], synProtection: always, connections: {perSecond: 1, burst: 3}";

#[test]
fn a_syn_is_answered_by_a_cookie_that_its_listener_takes() {
    inside("answer", 2, || {
        let _listener = TcpListener::bind(("::", PORT)).unwrap();
        let bench = bench("syn-answer", CONNECTIONS);
        let plain = syn(from(1), HERE, PORT, 40_000);
        // The kernel rounds a client's segment size down to one of four; the least is what a client without the option has.
        let rows = [
            ("IPv4", plain.clone(), 536),
            ("tagged twice", tagged(&plain, 2), 536),
            ("with options", rich(b""), 536),
            ("with options and data", rich(&[7; 900]), 536),
            ("IPv6", tcp6(SYN, 1, 0), 1220),
        ];
        for (count, (name, frame, size)) in (1..).zip(rows) {
            let (said, answer) = bench.kernel.dry_run_changing(Xdp, &frame).unwrap();
            assert_eq!(said, XDP_TX, "{name}: {:?}", stats(&bench));
            let (cookie, mss) = read(name, &frame, &answer);
            assert_eq!(mss, size, "{name}");
            let last = |answer| if name == "IPv6" { tcp6(ACK, 2, answer) } else { ack(from(1), 40_000, answer) };
            assert_eq!(bench.run(Xdp, &last(cookie.wrapping_add(1001))), XDP_PASS, "{name}: the stack refuses it");
            assert_eq!(stats(&bench).completed, count - 1, "{name}: a number that is no cookie");
            assert_ne!(bench.run(Xdp, &last(cookie.wrapping_add(1))), XDP_TX, "{name}");
            assert_eq!((stats(&bench).answered, stats(&bench).completed), (count, count), "{name}");
        }
    });
}

#[test]
fn what_cannot_be_answered_goes_on_to_the_stack_and_is_counted_by_its_cause() {
    let of = |change: fn(&mut SynStats)| {
        let mut stats = SynStats::default();
        change(&mut stats);
        stats
    };
    let tcp = segment(40_000, PORT, SYN);
    let mut broadcast = syn(from(1), HERE, PORT, 40_000);
    broadcast[..6].fill(0xff);
    let pieces = Piece { more: true, ..Piece::default() };
    let unusual = of(|stats| stats.unusual = 1);
    let rows = [
        ("another port", syn(from(1), HERE, 8081, 40_000), XDP_PASS, SynStats::default()),
        ("nobody listens", syn(from(1), HERE, 8082, 40_000), XDP_PASS, of(|stats| stats.no_listener = 1)),
        ("a neighbour's address", syn(from(1), [10, 0, 0, 3], PORT, 40_000), XDP_PASS, of(|stats| stats.elsewhere = 1)),
        ("IPv4 options", v4(from(1), HERE, 6, &[1; 4], Piece::default(), &tcp), XDP_PASS, unusual),
        ("a first fragment", v4(from(1), HERE, 6, &[], pieces, &[&tcp[..], &[0; 4]].concat()), XDP_PASS, unusual),
        (
            "an extension header",
            v6("2001:db8::1", HERE6, &[(extension::DESTINATION, extension::options(0))], 6, &tcp),
            XDP_PASS,
            unusual,
        ),
        ("to all stations", broadcast, XDP_PASS, unusual),
        ("a blocked client", syn([203, 0, 113, 9], HERE, PORT, 40_000), XDP_DROP, SynStats::default()),
        (
            "flags that contradict",
            v4(from(1), HERE, 6, &[], Piece::default(), &segment(1, PORT, SYN | 1)),
            XDP_DROP,
            SynStats::default(),
        ),
        (
            "a reset",
            v4(from(1), HERE, 6, &[], Piece::default(), &segment(1, PORT, 4 | ACK)),
            XDP_PASS,
            SynStats::default(),
        ),
    ];
    inside("left", 2, || {
        let _listener = TcpListener::bind(("::", PORT)).unwrap();
        let _other = TcpListener::bind(("::", 8081)).unwrap();
        for (name, frame, passes, expected) in rows {
            let bench = bench("syn-left", "ports: [{port: 8080}, {port: 8082}], synProtection: always");
            assert_eq!(bench.run(Xdp, &frame), passes, "{name}");
            assert_eq!(stats(&bench), expected, "{name}");
        }
    });
}

#[test]
fn the_kernels_own_setting_decides_whether_there_are_cookies() {
    // While a listener has room, 1 gives none; 0 never does.
    for (setting, expected) in [(0, (0, 1, 0)), (1, (0, 1, 0)), (2, (1, 0, 0))] {
        inside("setting", setting, || {
            let _listener = TcpListener::bind(("::", PORT)).unwrap();
            let bench = bench("syn-setting", "ports: [{port: 8080}], synProtection: always");
            let said = bench.run(Xdp, &syn(from(1), HERE, PORT, 40_000));
            assert_eq!(said, if setting == 2 { XDP_TX } else { XDP_PASS }, "{setting}");
            let SynStats { answered, no_cookie, failed, .. } = stats(&bench);
            assert_eq!((answered, no_cookie, failed), expected, "net.ipv4.tcp_syncookies={setting}");
        });
    }
}

#[test]
fn auto_answers_beyond_its_threshold_and_says_so_in_one_record() {
    inside("auto", 2, || {
        let _listener = TcpListener::bind(("::", PORT)).unwrap();
        let mut bench = bench("syn-auto", "ports: [{port: 8080}], synProtection: auto, synThreshold: 100");
        let begin = Instant::now();
        let said: Vec<u32> = (0..500).map(|host| bench.run(Xdp, &syn(from(host), HERE, PORT, 40_000))).collect();
        let first = said.iter().position(|said| *said == XDP_TX).expect("none was answered");
        // What the second that has begun earns meanwhile is not known before.
        let earned = (begin.elapsed().as_secs_f64() * 100.0) as usize + 1;
        assert!((100..=100 + earned).contains(&first), "the first that was answered is {first}; {earned} were earned");
        assert!(said[..first].iter().all(|said| *said == XDP_PASS), "below the threshold nothing is answered");
        assert!(said[first..].iter().all(|said| *said == XDP_TX), "and from there on everything: no flapping");
        let answered = (500 - first) as u64;
        assert_eq!(stats(&bench).answered, answered);
        assert_eq!(bench.decided(Hook::Xdp, Verdict::Allow, Reason::SynCookie), answered);
        let merged = bench.merged();
        let [(key, value)] = merged.as_slice() else { panic!("{merged:?}") };
        assert_eq!((key.reason, key.remote, value.count), (Reason::SynCookie as u8, Addr::v4([0; 4]), answered));
        assert_eq!(bench.compiled.rules[key.rule as usize].policy, "RateLimit/default/api");
    });
}

/// adversarial 39: SYNs in somebody's name take nothing from what is his.
#[test]
fn a_flood_in_a_clients_name_leaves_the_client_what_its_limit_gives_it() {
    inside("charge", 2, || {
        let _listener = TcpListener::bind(("::", PORT)).unwrap();
        let bench = bench("syn-charge", CONNECTIONS);
        let begin = Instant::now();
        for sport in 1..300 {
            assert_eq!(bench.run(Xdp, &syn(from(1), HERE, PORT, sport)), XDP_TX, "{sport}");
        }
        let mut passed = 0;
        for sport in 40_000..40_020 {
            let frame = syn(from(1), HERE, PORT, sport);
            let (_, answer) = bench.kernel.dry_run_changing(Xdp, &frame).unwrap();
            let (cookie, _) = read("charge", &frame, &answer);
            let last = ack(from(1), sport, cookie.wrapping_add(1));
            // The next packets of one that is through look the same until the stack has made the connection.
            let again: Vec<bool> = (0..3).map(|_| bench.run(Xdp, &last) == XDP_PASS).collect();
            assert!(again.iter().all(|one| *one == again[0]) || !again[0], "{again:?}");
            passed += u64::from(again[0]);
        }
        let earned = begin.elapsed().as_secs() + 1;
        assert!((3..=3 + earned).contains(&passed), "{passed} handshakes were completed; {earned} were earned");
        let refused = bench.decided(Hook::Xdp, Verdict::Deny, Reason::RateLimitConnections);
        assert!(refused > 0, "nothing was charged");
    });
}
