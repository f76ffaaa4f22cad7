//! Lives: weir-tests, in-kernel test runs: headers that contradict themselves or hide what they carry.
//! Called by: cargo test.
//! May touch: the bench.
//! Never: believes a drop alone: the counters must name the reason.

use weir_agent::kernel::PacketHook::{self, Egress, FromWorkload, Ingress, ToWorkload, Xdp};
use weir_common::{
    edge::ETHERTYPE,
    packet::{MAX_EXTENSIONS, MAX_TAGS, parse_frame},
    verdict::{Hook, Reason, Verdict},
};

use crate::{
    bench::Bench,
    edge::Frame,
    frames::{Piece, datagram, ethernet, extension, ip, segment, syn, tagged, udp, v4, v6},
};

/// A service nobody may call on UDP 9000 and TCP 443, as no packet is of one byte: so a verdict shows which port was read.
pub const CLOSED_PORTS: &str = r#"
apiVersion: weir.dev/v1alpha1
kind: Workload
metadata: {name: api, labels: {app: api}}
spec: {cgroup: api, addresses: [10.0.0.2, "fd00::2"]}
---
apiVersion: weir.dev/v1alpha1
kind: RateLimit
metadata: {name: closed}
spec:
  workloadSelector: {matchLabels: {app: api}}
  ports: [{protocol: UDP, port: 9000}, {protocol: TCP, port: 443}]
  bytes: {perSecond: 1, burst: 1}
"#;

pub const API: [u8; 4] = [10, 0, 0, 2];
pub const WEB: [u8; 4] = [10, 0, 0, 3];
pub const API6: &str = "fd00::2";
pub const WEB6: &str = "fd00::3";
const SYN: u8 = 2;
const EVERYWHERE: [PacketHook; 5] = [Xdp, Ingress, Egress, FromWorkload, ToWorkload];

/// That service, on an interface of its own.
pub fn closed(name: &str) -> Bench {
    Bench::on_wire(name, CLOSED_PORTS, "api")
}

/// A packet that XDP reads as going to the closed port.
fn is_read(bench: &Bench, frame: &[u8], name: &str) {
    bench.refuses(Xdp, frame, Reason::RateLimitBytes, name);
}

/// adversarial 1: a frame that ends anywhere is refused as malformed, and nothing is read behind its end.
#[test]
fn adversarial_1_a_frame_cut_at_any_byte_is_malformed_at_every_hook() {
    let bench = Bench::new("cut", CLOSED_PORTS, Verdict::Allow);
    let mut options = vec![1; 37];
    options.extend([7, 3, 4]);
    let frames = [
        ("TCP", syn(WEB, API, 443, 1)),
        ("UDP behind options", v4(WEB, API, 17, &options, Piece::default(), &datagram(1, 9000, 60))),
        ("tagged", tagged(&udp(WEB, API, 9000, 90), 2)),
        (
            "extension headers",
            v6(WEB6, API6, &[(0, extension::options(0)), (60, extension::options(2))], 6, &segment(1, 443, SYN)),
        ),
    ];
    for (name, whole) in frames {
        for end in 0..whole.len().min(129) {
            let cut = &whole[..end];
            // The kernel takes no test frame below an Ethernet header; the same code runs on the host.
            if end < 14 {
                assert_eq!(parse_frame(&Frame(cut)), Err(weir_common::packet::MALFORMED), "{name} cut at {end}");
                continue;
            }
            let before = bench.decided(Hook::Xdp, Verdict::Deny, Reason::Malformed);
            assert!(!bench.passes(Xdp, cut), "{name} cut at {end} passes XDP");
            assert_eq!(bench.decided(Hook::Xdp, Verdict::Deny, Reason::Malformed), before + 1, "{name} cut at {end}");
            // Nor, for the others, one without all of its IP header.
            let least = match cut[12..14] {
                [0x08, _] => 34,
                [0x86, _] => 54,
                _ => 15,
            };
            for hook in [FromWorkload, ToWorkload].into_iter().filter(|_| end >= least) {
                assert!(!bench.passes(hook, cut), "{name} cut at {end} passes {hook:?}");
            }
            if end > 14 + 40 && cut[12..14] != [0x81, 0] {
                assert!(
                    !bench.passes(Ingress, cut) && !bench.passes(Egress, cut),
                    "{name} cut at {end} passes a socket"
                );
            }
        }
    }
    assert_eq!(bench.refused(Xdp), bench.decided(Hook::Xdp, Verdict::Deny, Reason::Malformed));
}

/// adversarial 2, adversarial 3, adversarial 4: lengths and versions that contradict each other.
#[test]
fn adversarial_2_3_4_headers_that_contradict_themselves_are_malformed_at_every_hook() {
    let bench = Bench::new("contradictions", CLOSED_PORTS, Verdict::Allow);
    let edit = |frame: Vec<u8>, edits: &[(usize, u8)]| {
        edits.iter().fold(frame, |mut frame, (at, byte)| {
            frame[*at] = *byte;
            frame
        })
    };
    let tcp = || syn(WEB, API, 443, 1);
    let tcp6 = || v6(WEB6, API6, &[], 6, &segment(1, 443, SYN));
    let short = |protocol, length: usize| ip("10.0.0.3", "10.0.0.2", protocol, &[0x50; 20][..length]);
    let rows = [
        ("2: IHL 4", edit(tcp(), &[(14, 0x44)])),
        ("2: IHL 0", edit(tcp(), &[(14, 0x40)])),
        ("2: IHL past the end", edit(tcp(), &[(14, 0x4f)])),
        ("2: total length below the header", edit(tcp(), &[(16, 0), (17, 19)])),
        ("2: total length 0", edit(tcp(), &[(16, 0), (17, 0)])),
        ("2: total length one beyond the frame", edit(tcp(), &[(17, 41)])),
        ("2: total length far beyond the frame", edit(tcp(), &[(16, 0xff)])),
        ("2: IPv6 payload beyond the frame", edit(tcp6(), &[(18, 1)])),
        ("4: IPv6 payload 0", edit(tcp6(), &[(18, 0), (19, 0)])),
        ("4: UDP without a header", short(17, 0)),
        ("4: UDP with half a header", short(17, 4)),
        ("4: TCP without a header", short(6, 0)),
        ("4: TCP with ports only", short(6, 4)),
        ("4: TCP one byte short", short(6, 19)),
        ("4: TCP data offset 4", edit(tcp(), &[(46, 0x40)])),
        ("4: TCP data offset 0", edit(tcp(), &[(46, 0)])),
        ("4: TCP data offset past the end", edit(tcp(), &[(46, 0x60)])),
        ("4: UDP length 7", edit(udp(WEB, API, 1, 8), &[(39, 7)])),
        ("4: UDP length beyond the packet", edit(udp(WEB, API, 1, 8), &[(39, 17)])),
    ];
    for (name, frame) in rows {
        for hook in [Xdp, Ingress, Egress] {
            bench.refuses(hook, &frame, Reason::Malformed, name);
        }
        for hook in EVERYWHERE {
            assert!(!bench.passes(hook, &frame), "{name} passes {hook:?}");
        }
    }
    // The kernel gives a socket's hooks the packet by its ethertype, so the version can only contradict it on a wire.
    for (name, frame) in [
        ("3: version 6 by an IPv4 type", edit(tcp(), &[(14, 0x65)])),
        ("3: version 0", edit(tcp(), &[(14, 0x05)])),
        ("3: version 5", edit(tcp6(), &[(14, 0x50)])),
        ("3: an IPv4 packet by an IPv6 type", ethernet(0x86dd, &tcp()[14..])),
        ("3: an IPv6 packet by an IPv4 type", ethernet(0x0800, &tcp6()[14..])),
    ] {
        for hook in [Xdp, FromWorkload, ToWorkload] {
            bench.refuses(hook, &frame, Reason::Malformed, name);
        }
    }
}

/// adversarial 5: options do not move the ports, and a route that the sender chose is refused.
#[test]
fn adversarial_5_ports_behind_options_are_the_same_and_source_routes_are_refused() {
    let bench = closed("options");
    let with = |options: &[u8], port| v4(WEB, API, 17, options, Piece::default(), &datagram(1, port, 8));
    // Where ports would be without options, these have those of the closed service, and the other way round.
    let decoy = [1, 1, 0x23, 0x28, 1, 1, 0x23, 0x28];
    for words in 0..=10usize {
        is_read(&bench, &with(&vec![1; words * 4], 9000), &format!("{words} words of padding"));
        assert!(bench.passes(Xdp, &with(&vec![1; words * 4], 9001)), "{words} words, another port");
    }
    assert!(bench.passes(Xdp, &with(&[0, 0, 0x23, 0x28], 9001)), "behind the end of options nothing counts");
    bench.refuses(Xdp, &with(&decoy, 9001), Reason::Malformed, "an option longer than all of them");
    for (name, mut options) in [
        ("loose", vec![131, 7, 4, 10, 0, 0, 9, 0]),
        ("strict", vec![137, 7, 4, 10, 0, 0, 9, 0]),
        ("loose, behind another", vec![7, 3, 4, 131, 7, 4, 10, 0, 0, 9, 0, 0]),
        ("loose, used up", vec![131, 7, 8, 10, 0, 0, 9, 0]),
        ("strict, at the very end", [vec![1; 33], vec![137, 7, 4, 10, 0, 0, 9]].concat()),
    ] {
        options.resize(options.len().next_multiple_of(4), 0);
        for hook in EVERYWHERE {
            bench.refuses(hook, &with(&options, 53), Reason::SourceRoute, name);
        }
        let later = Piece { ident: 9, place: 64, more: false };
        bench.refuses(Xdp, &v4(WEB, API, 17, &options, later, &[0; 8]), Reason::SourceRoute, name);
    }
    for (name, options) in [("length 0", [7, 0, 0, 0]), ("length 1", [7, 1, 0, 0]), ("past the end", [1, 1, 7, 3])] {
        bench.refuses(Xdp, &with(&options, 53), Reason::Malformed, name);
    }
}

/// adversarial 10, adversarial 11: chains of extension headers in every order, and those that do not end.
#[test]
fn adversarial_10_11_extension_headers_lead_to_the_ports_in_every_order_or_are_refused() {
    use extension::{AUTHENTICATION, DESTINATION, FRAGMENT, HOP_BY_HOP, ROUTING};
    let bench = closed("chains");
    let kinds = [
        (HOP_BY_HOP, extension::options(0)),
        (DESTINATION, extension::options(3)),
        (ROUTING, extension::routing(0, 0)),
        (AUTHENTICATION, extension::authentication(1)),
        (FRAGMENT, extension::fragment(0, true, 77)),
    ];
    let mut tried = 0;
    for order in orders(kinds.len()) {
        let chain: Vec<_> = order.iter().map(|at| kinds[*at].clone()).collect();
        is_read(&bench, &v6(WEB6, API6, &chain, 17, &datagram(1, 9000, 8)), &format!("{order:?}"));
        is_read(&bench, &v6(WEB6, API6, &chain, 6, &segment(1, 443, SYN)), &format!("{order:?}"));
        tried += 1;
    }
    assert_eq!(tried, 120);
    assert!(bench.passes(Xdp, &v6(WEB6, API6, &kinds, 6, &segment(443, 80, SYN))), "another port");
    for depth in 0..=MAX_EXTENSIONS as usize + 3 {
        let chain = vec![(DESTINATION, extension::options(0)); depth];
        let frame = v6(WEB6, API6, &chain, 17, &datagram(1, 9000, 8));
        match depth <= MAX_EXTENSIONS as usize {
            true => is_read(&bench, &frame, &format!("{depth} headers")),
            false => bench.refuses(Xdp, &frame, Reason::ExtDepth, &format!("{depth} headers")),
        }
    }
    let longest = (DESTINATION, extension::options(255));
    is_read(&bench, &v6(WEB6, API6, &[longest], 17, &datagram(1, 9000, 8)), "a header of 2048 bytes");
    let beyond = |units| v6(WEB6, API6, &[(DESTINATION, vec![units, 0, 0, 0, 0, 0, 0])], 17, &datagram(1, 9000, 8));
    bench.refuses(Xdp, &beyond(255), Reason::Malformed, "a header that ends past the packet");
    bench.refuses(Xdp, &beyond(2), Reason::Malformed, "one that leaves no room for ports");
    let shortest = [(AUTHENTICATION, vec![0; 7])];
    bench.refuses(
        Xdp,
        &v6(WEB6, API6, &shortest, 17, &datagram(1, 9000, 8)),
        Reason::Malformed,
        "a header of no length",
    );
    // What lies behind the packet's end, in the padding of the frame, is no header of it.
    let mut padded = v6(WEB6, API6, &[], FRAGMENT, &[]);
    padded.extend([17, 0, 1, 0, 0, 0, 0, 1]);
    bench.refuses(Xdp, &padded, Reason::Malformed, "a fragment header in the padding");
    for (kind, left) in [(0, 1), (2, 1), (4, 3)] {
        let chain = [(ROUTING, extension::routing(kind, left))];
        let frame = v6(WEB6, API6, &chain, 17, &datagram(1, 53, 8));
        bench.refuses(Xdp, &frame, Reason::SourceRoute, "adversarial 5: a route to go on by");
    }
}

/// Every order of `count` things.
fn orders(count: usize) -> Vec<Vec<usize>> {
    let mut all = vec![vec![]];
    for thing in 0..count {
        let put = |order: &Vec<usize>, at: usize| [&order[..at], &[thing], &order[at..]].concat();
        all = all
            .iter()
            .flat_map(|order: &Vec<usize>| (0..=order.len()).map(|at| put(order, at)).collect::<Vec<_>>())
            .collect();
    }
    all
}

/// adversarial 16: what stands in front of a packet does not hide it.
#[test]
fn adversarial_16_tags_and_lengths_in_front_of_a_packet_do_not_hide_it() {
    let mut bench = closed("tags");
    let whole = udp(WEB, API, 9000, 8);
    let tags = |types: &[(u16, u16)]| {
        let mut frame = whole[..12].to_vec();
        for (ethertype, id) in types {
            frame.extend(ethertype.to_be_bytes());
            frame.extend(id.to_be_bytes());
        }
        frame.extend(&whole[12..]);
        frame
    };
    for (name, types) in [
        ("802.1Q", vec![(0x8100, 7)]),
        ("802.1ad", vec![(0x88a8, 7)]),
        ("QinQ", vec![(0x88a8, 7), (0x8100, 8)]),
        ("VLAN 0", vec![(0x8100, 0)]),
        ("VLAN 0 twice", vec![(0x8100, 0), (0x8100, 0)]),
        ("all bits of a tag", vec![(0x8100, 0xffff)]),
    ] {
        is_read(&bench, &tags(&types), name);
    }
    for count in MAX_TAGS as usize + 1..=8 {
        for hook in [Xdp, FromWorkload, ToWorkload] {
            bench.refuses(hook, &tags(&vec![(0x8100, 0); count]), Reason::ExtDepth, &format!("{count} tags of VLAN 0"));
        }
    }
    let llc = |length: usize, header: &[u8]| {
        let body = [header, &whole[14..]].concat();
        let length = if length == 0 { body.len() } else { length };
        ethernet(u16::try_from(length).unwrap(), &body)
    };
    let snap = [0xaa, 0xaa, 3, 0, 0, 0, 8, 0];
    let hidden = [
        ("SNAP", llc(0, &snap), Reason::Ethertype),
        ("SNAP of a bridge", llc(0, &[0xaa, 0xaa, 3, 0, 0, 0xf8, 8, 0]), Reason::Ethertype),
        ("SNAP, length too small", llc(3, &snap), Reason::Ethertype),
        ("SNAP, length too great", llc(1400, &snap), Reason::Malformed),
        ("IP by its LLC number", llc(0, &[6, 6, 3]), Reason::Ethertype),
        ("SNAP behind a tag", tagged(&llc(0, &snap), 1), Reason::Ethertype),
        ("an LLC header cut short", ethernet(2, &[0xaa, 0xaa]), Reason::Malformed),
    ];
    for (name, frame, reason) in &hidden {
        for hook in [Xdp, FromWorkload, ToWorkload] {
            bench.refuses(hook, frame, *reason, name);
        }
    }
    others_are_said_or_refused(&mut bench);
}

/// Frames that are neither IP nor ARP are never passed in silence.
fn others_are_said_or_refused(bench: &mut Bench) {
    let arp = ethernet(0x0806, &[0; 28]);
    let others = [
        ("LLDP", ethernet(0x88cc, &[1; 40])),
        ("MPLS", ethernet(0x8847, &[1; 40])),
        ("PPPoE", ethernet(0x8864, &[1; 40])),
        ("an old QinQ type", ethernet(0x9100, &[1; 40])),
        ("spanning tree", ethernet(38, &[0x42; 38])),
        ("behind a tag", tagged(&ethernet(0x88cc, &[1; 40]), 1)),
    ];
    for (name, frame) in &others {
        let before = bench.decided(Hook::Xdp, Verdict::Allow, Reason::Ethertype);
        assert!(bench.passes(Xdp, frame), "{name}");
        assert_eq!(bench.decided(Hook::Xdp, Verdict::Allow, Reason::Ethertype), before + 1, "{name} passes unsaid");
        for hook in [FromWorkload, ToWorkload] {
            bench.refuses(hook, frame, Reason::Ethertype, name);
        }
    }
    bench.edge(ETHERTYPE, 0);
    for (name, frame) in &others {
        bench.refuses(Xdp, frame, Reason::Ethertype, name);
    }
    assert!(bench.passes(Xdp, &arp), "ARP passes");
    assert!(bench.passes(Xdp, &udp(WEB, API, 53, 8)), "and so does IP");
}

/// adversarial 20: flags that no TCP sends together.
#[test]
fn adversarial_20_impossible_tcp_flags_are_refused_at_every_hook_and_possible_ones_are_not() {
    let bench = Bench::new("flags", CLOSED_PORTS, Verdict::Allow);
    let (fin, syn, rst, ack) = (1u8, 2u8, 4u8, 16u8);
    for flags in 0..=255u8 {
        let frame = v4(WEB, API, 6, &[], Piece::default(), &segment(1, 80, flags));
        let opens_and_ends = flags & syn != 0 && flags & (fin | rst) != 0;
        let does_nothing = flags & (syn | rst | ack) == 0;
        if !opens_and_ends && !does_nothing {
            assert!(bench.passes(Xdp, &frame), "flags {flags:#x}");
            continue;
        }
        bench.refuses(Xdp, &frame, Reason::TcpFlags, &format!("flags {flags:#x}"));
        if [0, fin | syn, syn | rst, fin | 0x28].contains(&flags) {
            for hook in [Ingress, Egress, FromWorkload, ToWorkload] {
                bench.refuses(hook, &frame, Reason::TcpFlags, &format!("flags {flags:#x}"));
            }
        }
    }
}

/// adversarial 26: checksums are the receiver's to verify: a wrong one changes no verdict.
#[test]
fn adversarial_26_a_wrong_checksum_changes_no_verdict() {
    let bench = closed("checksums");
    for (port, tcp) in [(9000, false), (9001, false), (443, true), (444, true)] {
        let right = if tcp { syn(WEB, API, port, 1) } else { udp(WEB, API, port, 8) };
        let transport = if tcp { 34 + 16 } else { 34 + 6 };
        for at in [24, 25, transport, transport + 1] {
            let mut wrong = right.clone();
            wrong[at] ^= 0x5a;
            for hook in EVERYWHERE {
                assert_eq!(bench.passes(hook, &wrong), bench.passes(hook, &right), "{hook:?}, port {port}, byte {at}");
            }
        }
        assert_eq!(bench.passes(Xdp, &right), port == 9001 || port == 444);
    }
}

/// adversarial 27: frames in several buffers are read and counted like others, in whole packets and in the bytes that IP says.
#[test]
fn adversarial_27_jumbo_frames_in_several_buffers_are_judged_and_their_bytes_counted() {
    let mut bench = closed("jumbo");
    let _ = bench.merged();
    for payload in [1472, 4000, 8972, 30_000, 60_000] {
        is_read(&bench, &udp(WEB, API, 9000, payload), &format!("{payload} bytes"));
        assert!(bench.passes(Xdp, &udp(WEB, API, 9001, payload)), "{payload} bytes to another port");
        let mut cut = udp(WEB, API, 9001, payload);
        cut.truncate(cut.len() - 1);
        bench.refuses(Xdp, &cut, Reason::Malformed, &format!("{payload} bytes and one missing"));
    }
    let merged = bench.merged();
    let of = |reason: Reason| merged.iter().filter(move |(key, _)| key.reason == reason as u8);
    let bytes: u64 = of(Reason::RateLimitBytes).map(|(_, value)| value.bytes).sum();
    let packets: u64 = of(Reason::RateLimitBytes).map(|(_, value)| value.count).sum();
    assert_eq!((packets, bytes), (5, 1472 + 4000 + 8972 + 30_000 + 60_000 + 5 * 28));
}
